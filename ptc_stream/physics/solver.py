"""Least squares for the curve of Eq. 16, one amplifier at a time, in machine code.

The curve is fitted in the parameters in which it is almost linear::

    C_00(mu) = p0 + p1 mu f(kappa mu),    f(x) = (exp(x) - 1) / x

which is Eq. 16 of Astier et al. 2019 with p0 = n / g^2, p1 = 1 / g and kappa = 2 a00 g. The minimum is the
same as in (a00, g, n), the way to it is shorter: for a given kappa the problem is linear, a00 = 0 is an
ordinary point, and the read noise measured on the overscan is p0 itself, without the gain.

Every sum runs over the points of one amplifier. All kernels of Eq. 16 stand here because numba's cache does
not see changes in other files; the formulas as users know them are in `ptc_stream.physics.models`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics._jit import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["curve_values", "growth", "relative_residuals", "robust_curve", "solve_curve", "start_curve"]

# h(x) = (f(x) - 1) / x by its power series up to this |x|, by expm1 beyond. Higher: 17 terms no longer reach
# the last bit. Lower: real curves leave the loop that runs in vector units, and f(x) - 1 loses digits.
_SERIES_REACH = 1.0
_H = tuple(1.0 / math.factorial(k + 2) for k in range(17))

# |kappa| times the largest signal. Real sensors stay below 1 (a00 = -5e-6 at 1e5 e-); at 50 the curve is a
# step and no data can tell one kappa from the next.
_MAX_CURVATURE = 50.0
_MAX_STEPS = 60
# Determinant of a normal matrix of unit diagonal below which nothing but rounding is left of it.
_SINGULAR = 1e-14

# A step counts as the last one when it is this fraction of the parameters' own errors, squared.
# Larger: two minimisers no longer agree to 1e-6 of each parameter. Smaller: rounding keeps it from ending.
_STEP_TOLERANCE = 1e-16
# Steps of less than this many times that change chi2 by less than its rounding, which cannot judge them.
_UNRESOLVED = 1e8

# Growing: relative tolerance while the curve is extended upwards from the lowest points. It must let the next
# points in, which lie up to 1.3 times beyond the range that has set the curvature, and keep out a drop.
_GROWING_TOLERANCE = 0.05
_GROWING_STEP = 1.3
# Points looked at while growing; more cost time and gain nothing, since all points are used afterwards.
_GROWING_POINTS = 48
# Smallest relative scatter that the robust pass believes in. Smaller: the residuals of four or five points,
# which the fit has made small, throw out good points. Larger: points that are off by 2 % slip in.
_LEAST_SCATTER = 0.003
# Tukey's biweight gives no weight beyond this many scales; 6 keeps 97 % efficiency for Gaussian points.
_TUKEY = 6.0


@njit(reassociate=True)
def growth(kappa: float, t: NDArray[np.float64], f: NDArray[np.float64], slope: NDArray[np.float64]) -> None:
    """Evaluate f(x) = (exp(x) - 1) / x and its derivative f - h at x = kappa t, to the last bits.

    Parameters
    ----------
    kappa, t
        A number and (N,) numbers.
    f, slope
        (N,) to be filled.
    """
    largest = 0.0
    for i in range(t.size):
        x = kappa * t[i]
        largest = max(largest, abs(x))
        # Horner's rule in two halves; written out, since only so it becomes vector code.
        y = x * x
        even = (
            (((((_H[16] * y + _H[14]) * y + _H[12]) * y + _H[10]) * y + _H[8]) * y + _H[6]) * y + _H[4]
        ) * y
        odd = ((((((_H[15] * y + _H[13]) * y + _H[11]) * y + _H[9]) * y + _H[7]) * y + _H[5]) * y + _H[3]) * y
        h = (even + _H[2]) * y + _H[0] + x * (odd + _H[1])
        f[i] = 1.0 + x * h
        slope[i] = f[i] - h
    if largest > _SERIES_REACH:
        for i in range(t.size):
            x = kappa * t[i]
            if abs(x) > _SERIES_REACH:
                f[i] = math.expm1(x) / x
                slope[i] = f[i] - (f[i] - 1.0) / x


@njit
def curve_values(parameters: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate Eq. 16 in the form of this module.

    Parameters
    ----------
    parameters
        (3,): p0 [ADU^2], p1 [ADU], kappa [1/ADU].
    mean
        (N,) mean signals [ADU].

    Returns
    -------
    NDArray
        (N,) C_00 [ADU^2].
    """
    values, slope = np.empty(mean.size), np.empty(mean.size)
    growth(parameters[2], mean, values, slope)
    for i in range(mean.size):
        values[i] = parameters[0] + parameters[1] * mean[i] * values[i]
    return values


@njit(reassociate=True)
def relative_residuals(
    parameters: NDArray[np.float64],
    covariance: NDArray[np.float64],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare points with a curve.

    Parameters
    ----------
    parameters, covariance
        (3,), (3, 3): p0, p1, kappa and their covariance.
    mean, variance
        (N,) points [ADU], [ADU^2].

    Returns
    -------
    residual : NDArray
        (N,) (C_00 - model) / model; 1000 where the model is not positive, so that nothing is near it.
    predicted : NDArray
        (N,) relative variance of the model itself.
    """
    residual, predicted = np.empty(mean.size), np.empty(mean.size)
    growth(parameters[2], mean, residual, predicted)
    c00, c11, c22 = covariance[0, 0], covariance[1, 1], covariance[2, 2]
    c01, c02, c12 = 2.0 * covariance[0, 1], 2.0 * covariance[0, 2], 2.0 * covariance[1, 2]
    for i in range(mean.size):
        g1 = mean[i] * residual[i]
        g2 = parameters[1] * mean[i] * mean[i] * predicted[i]
        model = parameters[0] + parameters[1] * g1
        sane = model > 0.0
        inverse = 1.0 / (model if sane else 1.0)
        spread = c00 + g1 * (c01 + c11 * g1) + g2 * (c02 + c12 * g1 + c22 * g2)
        predicted[i] = spread * inverse * inverse if sane else 0.0
        residual[i] = (variance[i] - model) * inverse if sane else 1e3
    return residual, predicted


@njit
def _invert(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Invert a symmetric positive 3x3 matrix, scaled to a unit diagonal; False where it is singular."""
    inverse = np.zeros((3, 3))
    if not (matrix[0, 0] > 0.0 and matrix[1, 1] > 0.0 and matrix[2, 2] > 0.0):
        return inverse, False
    s0, s1, s2 = 1.0 / math.sqrt(matrix[0, 0]), 1.0 / math.sqrt(matrix[1, 1]), 1.0 / math.sqrt(matrix[2, 2])
    a, b, c = matrix[1, 2] * s1 * s2, matrix[0, 2] * s0 * s2, matrix[0, 1] * s0 * s1
    determinant = (1.0 - a * a) - (b * b + c * c - 2.0 * a * b * c)
    if not determinant > _SINGULAR:
        return inverse, False
    t0, t1, t2 = s0 / determinant, s1 / determinant, s2 / determinant
    inverse[0, 0] = (1.0 - a * a) * s0 * t0
    inverse[1, 1] = (1.0 - b * b) * s1 * t1
    inverse[2, 2] = (1.0 - c * c) * s2 * t2
    inverse[1, 2] = inverse[2, 1] = (b * c - a) * s1 * t2
    inverse[0, 2] = inverse[2, 0] = (a * c - b) * s0 * t2
    inverse[0, 1] = inverse[1, 0] = (a * b - c) * s0 * t1
    return inverse, True


@njit
def _times(matrix: NDArray[np.float64], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.zeros(3)
    for i in range(3):
        result[i] = matrix[i, 0] * vector[0] + matrix[i, 1] * vector[1] + matrix[i, 2] * vector[2]
    return result


@njit(reassociate=True)
def _accumulate(  # noqa: PLR0917 - numba kernels take positional arguments
    q: NDArray[np.float64],
    t: NDArray[np.float64],
    y: NDArray[np.float64],
    w: NDArray[np.float64],
    reach: NDArray[np.float64],
    prior: NDArray[np.float64],
    normal: NDArray[np.float64],
    right: NDArray[np.float64],
    scratch: NDArray[np.float64],
) -> float:
    """Fill the normal equations of the scaled curve at `q`; return chi2.

    The weights are `w`; or, with a non-empty `reach`, Tukey's, put into `w`: none for a point whose squared
    relative distance from the curve is `reach` or more. `prior` holds two more measurements, of p0 and of
    kappa, with their weights; a kappa of infinite weight is held at q. `scratch` is (2, N).
    """
    f, slope = scratch[0], scratch[1]
    growth(q[2], t, f, slope)
    held = prior[3] == np.inf
    if reach.size > 0:
        for i in range(t.size):
            model = q[0] + q[1] * t[i] * f[i]
            s2 = reach[i] * model * model
            d = y[i] - model
            far = _TUKEY * (1.0 - d * d / s2)
            w[i] = far * far / s2 if far > 0.0 and model > 0.0 else 0.0
    n00, r0 = prior[1], prior[1] * (prior[0] - q[0])
    n22, r2 = (0.0, 0.0) if held else (prior[3], prior[3] * (prior[2] - q[2]))
    chi2 = float(prior[1] * (prior[0] - q[0]) ** 2)
    n01 = n02 = n11 = n12 = r1 = 0.0
    for i in range(t.size):
        g1 = t[i] * f[i]
        g2 = q[1] * t[i] * t[i] * slope[i]
        d = y[i] - q[0] - q[1] * g1
        w1, w2, wd = w[i] * g1, w[i] * g2, w[i] * d
        n00 += w[i]
        n01 += w1
        n02 += w2
        n11 += w1 * g1
        n12 += w1 * g2
        n22 += w2 * g2
        r0 += wd
        r1 += wd * g1
        r2 += wd * g2
        chi2 += wd * d
    if held:
        n02 = n12 = r2 = 0.0
        n22 = 1.0
    normal[0, 0], normal[1, 1], normal[2, 2] = n00, n11, n22
    normal[0, 1], normal[0, 2], normal[1, 2] = n01, n02, n12
    normal[1, 0], normal[2, 0], normal[2, 1] = n01, n02, n12
    right[0], right[1], right[2] = r0, r1, r2
    return chi2


@njit
def solve_curve(  # noqa: PLR0917 - numba kernels take positional arguments
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    weight: NDArray[np.float64],
    start: NDArray[np.float64],
    anchor: float,
    anchor_weight: float,
    curved: bool,  # noqa: FBT001 - numba kernels take positional arguments
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Minimise chi2 of the curve for fixed weights (Levenberg-Marquardt, analytic Jacobian).

    Parameters
    ----------
    mean, variance
        (N,) points [ADU], [ADU^2].
    weight
        (N,) weights [1/ADU^4]; 0 leaves a point out.
    start
        (3,) p0 [ADU^2], p1 [ADU], kappa [1/ADU] to begin with.
    anchor, anchor_weight
        One more measurement, of p0 itself [ADU^2], with its weight [1/ADU^4]; weight 0 for none.
    curved
        False holds kappa at the value of `start`.

    Returns
    -------
    parameters : NDArray
        (3,) p0, p1, kappa at the minimum.
    covariance : NDArray
        (3, 3) inverse of the normal matrix there. Zero for a kappa that is held.
    converged : bool
        False when the parameters are degenerate or no minimum was found within bounds.
    """
    mean_scale = 0.0
    variance_scale = 0.0
    for i in range(mean.size):
        if weight[i] > 0.0:
            mean_scale = max(mean_scale, mean[i])
            variance_scale = max(variance_scale, variance[i])
    units = np.array([variance_scale, variance_scale / mean_scale, 1.0 / mean_scale])
    t = mean / mean_scale
    y = variance / variance_scale
    w = weight * (variance_scale * variance_scale)
    square = variance_scale * variance_scale
    prior = np.array([anchor / variance_scale, anchor_weight * square, 0.0, 0.0 if curved else np.inf])
    q = start / units
    q[2] = min(max(q[2], -0.5 * _MAX_CURVATURE), 0.5 * _MAX_CURVATURE)

    total = np.sum(w * y * y)  # what chi2 can be resolved against
    count = np.sum(w > 0.0)
    given = np.empty(0)  # the weights are
    scratch = np.empty((2, t.size))
    normal, right = np.zeros((3, 3)), np.zeros(3)
    trial_normal, trial_right = np.zeros((3, 3)), np.zeros(3)
    chi2 = _accumulate(q, t, y, w, given, prior, normal, right, scratch)
    damping = 0.0
    converged = False
    for _ in range(_MAX_STEPS):
        damped = normal.copy()
        for i in range(3):
            damped[i, i] *= 1.0 + damping
        inverse, regular = _invert(damped)
        if regular:
            step = _times(inverse, right)
            trial = q + step
            length = np.sum(step * _times(normal, step))
            if abs(trial[2]) <= _MAX_CURVATURE:
                trial_chi2 = _accumulate(trial, t, y, w, given, prior, trial_normal, trial_right, scratch)
                least = (_STEP_TOLERANCE * chi2 + 1e-26 * total) / count
                small = length <= least
                if trial_chi2 <= chi2 or small or (damping == 0.0 and length <= _UNRESOLVED * least):
                    q = trial
                    chi2 = trial_chi2
                    normal, trial_normal = trial_normal, normal
                    right, trial_right = trial_right, right
                    damping = 0.1 * damping if damping > 1e-6 else 0.0
                    if small:
                        converged = True
                        break
                    continue
        damping = max(1e-4, 10.0 * damping)
        if damping > 1e12:
            break
    covariance, regular = _invert(normal)
    covariance *= np.outer(units, units)
    if not curved:
        covariance[2, 2] = 0.0
    return q * units, covariance, converged and regular


@njit
def _reweighted_steps(  # noqa: PLR0917 - numba kernels take positional arguments
    q: NDArray[np.float64],
    t: NDArray[np.float64],
    y: NDArray[np.float64],
    relative_variance: NDArray[np.float64],
    prior: float,
    prior_error: float,
    scatter: float,
    steps: int,
) -> NDArray[np.float64]:
    """Take Gauss-Newton steps with Tukey's weights; return the weights [1/relative^2] of the last one.

    Far points (a drop, an upturn, a wild point) have no weight at all, so they cannot pull the curve.
    """
    w = np.zeros(t.size)
    normal, right = np.zeros((3, 3)), np.zeros(3)
    scratch = np.empty((2, t.size))
    reach = (relative_variance + scatter * scatter) * _TUKEY**2
    # Weak knowledge that keeps a degenerate set of points in place and is lost against any real one:
    # p0 is within prior_error of the noise, |kappa mu| is within 4.
    knowledge = np.array([prior, 1.0 / prior_error**2, 0.0, 1.0 / 16.0])
    for _ in range(steps):
        _accumulate(q, t, y, w, reach, knowledge, normal, right, scratch)
        inverse, regular = _invert(normal)
        if not regular:
            break
        step = _times(inverse, right)
        # Never more than a factor of two in the slope at once, never out of bounds in the curvature.
        limit = 1.0
        if abs(step[1]) > 0.5 * q[1]:
            limit = 0.5 * q[1] / abs(step[1])
        if abs(step[2]) > 1.0:
            limit = min(limit, 1.0 / abs(step[2]))
        q += limit * step
        q[2] = min(max(q[2], -_MAX_CURVATURE), _MAX_CURVATURE)
    return w


@njit
def start_curve(
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    relative_variance: NDArray[np.float64],
    noise: float,
) -> NDArray[np.float64]:
    """Find where the curve is, from the lowest points upwards.

    Whatever happens above the turnoff, the lowest third of a run is below it. A straight line by medians
    through these, then the curve is extended by `_GROWING_STEP` in signal at a time, each time following
    only the points that are near it.

    Parameters
    ----------
    mean, variance
        (N,) points sorted by `mean`, all positive [ADU], [ADU^2].
    relative_variance
        (N,) sampling variance of `variance` over its square.
    noise
        Variance at zero signal [ADU^2]; NaN if unknown.

    Returns
    -------
    NDArray
        (3,) p0 [ADU^2], p1 [ADU], kappa [1/ADU].
    """
    stride = max(1, mean.size // _GROWING_POINTS)
    t = mean[::stride] / mean[-1]
    count = t.size
    lowest = max(3, (count + 2) // 3)
    y = variance[::stride].copy()
    e2 = relative_variance[::stride].copy()
    known = noise == noise  # noqa: PLR0124 - not NaN
    slopes = np.empty(lowest * lowest)
    number = 0
    p0 = noise if known else 0.0
    if not known:  # Theil-Sen: a line through zero would take the noise for signal
        for i in range(lowest):
            for j in range(i):
                if t[i] > t[j]:
                    slopes[number] = (y[i] - y[j]) / (t[i] - t[j])
                    number += 1
    slope = np.median(slopes[:number]) if number > 0 else 0.0
    if slope > 0.0:
        p0 = np.median(y[:lowest] - slope * t[:lowest])
    else:
        slope = np.median((y[:lowest] - p0) / t[:lowest])
    if not slope > 0.0:
        slope = np.median(y[:lowest] / t[:lowest])
    y /= slope
    q = np.array([p0 / slope, 1.0, 0.0])
    prior = q[0] if known else 0.0
    prior_error = max(prior, 1e-6) if known else max(0.1, abs(q[0]))
    reached = lowest
    while True:
        _reweighted_steps(
            q, t[:reached], y[:reached], e2[:reached], prior, prior_error, _GROWING_TOLERANCE, 4
        )
        if reached == count:
            break
        limit = _GROWING_STEP * t[reached - 1]
        reached += 1
        while reached < count and t[reached] <= limit:
            reached += 1
    return np.array([q[0] * slope, q[1] * slope / mean[-1], q[2] / mean[-1]])


@njit
def robust_curve(
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    relative_variance: NDArray[np.float64],
    start: NDArray[np.float64],
    noise: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Fit the curve to points of which some may be wild.

    Parameters
    ----------
    mean, variance, relative_variance, noise
        As for `start_curve`.
    start
        (3,) the curve to begin with; points farther from it than about 30 % do not count.

    Returns
    -------
    parameters : NDArray
        (3,) p0 [ADU^2], p1 [ADU], kappa [1/ADU].
    covariance : NDArray
        (3, 3) theirs, from the points that count.
    scatter : float
        Relative scatter of the points beyond their sampling errors, by the median of the residuals.
    """
    mean_scale = mean[-1]
    slope = start[1]
    if not slope > 0.0:
        slope = np.median(variance / mean)
    variance_scale = slope * mean_scale
    t = mean / mean_scale
    y = variance / variance_scale
    units = np.array([variance_scale, variance_scale / mean_scale, 1.0 / mean_scale])
    q = np.array([start[0], slope, start[2]]) / units
    known = noise == noise  # noqa: PLR0124 - not NaN
    prior = noise / variance_scale if known else 0.0
    prior_error = max(prior, 1e-6) if known else max(0.1, abs(q[0]))
    scatter = _GROWING_TOLERANCE
    w = _reweighted_steps(q, t, y, relative_variance, prior, prior_error, scatter, 4)
    deviations = np.empty(t.size)
    expected = np.median(relative_variance)
    for _ in range(3):
        number = 0
        model = curve_values(q, t)
        for i in range(t.size):
            if w[i] > 0.0 and model[i] > 0.0:
                deviations[number] = abs(y[i] / model[i] - 1.0)
                number += 1
        if number == 0:
            break
        # The median of |Gaussian| is sigma / 1.4826; three parameters have made the residuals smaller.
        spread = 1.4826 * np.median(deviations[:number]) * math.sqrt(number / max(number - 3.0, 1.0))
        scatter = math.sqrt(max(spread * spread - expected, 0.0))
        w = _reweighted_steps(q, t, y, relative_variance, prior, prior_error, max(scatter, _LEAST_SCATTER), 2)
    normal = np.zeros((3, 3))
    knowledge = np.array([prior, 1.0 / prior_error**2, 0.0, 1.0 / 16.0])
    _accumulate(q, t, y, w, np.empty(0), knowledge, normal, np.zeros(3), np.empty((2, t.size)))
    covariance, _regular = _invert(normal)
    covariance *= np.outer(units, units)
    return q * units, covariance, scatter
