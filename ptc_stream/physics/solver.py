"""Least squares for the curve of Eq. 16, one amplifier at a time, in machine code.

The curve is fitted in the parameters in which it is almost linear::

    C_00(mu) = p0 + p1 mu f(kappa mu),    f(x) = (exp(x) - 1) / x

which is Eq. 16 of Astier et al. 2019 with p0 = n / g^2, p1 = 1 / g and kappa = 2 a00 g. The minimum is the
same as in (a00, g, n), the way to it is shorter: for a given kappa the problem is linear, a00 = 0 is an
ordinary point, and the read noise measured on the overscan is p0 itself, without the gain.

Every sum runs over the points of one amplifier in the order given. So an amplifier has the same bytes
whether it is fitted alone or among others.

All kernels of Eq. 16 stand here because numba's cache does not see changes in other files; the formulas as
users know them are in `ptc_stream.physics.models`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics._jit import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "curve_gradient",
    "curve_values",
    "robust_curve",
    "solve_curve",
    "start_curve",
]

# f(x) by its power series below this |x|, by expm1 above. Higher: the 14 terms no longer reach the last bit.
# Lower: f'(x) = (exp(x) - f(x)) / x loses one digit for each factor of ten.
_SERIES_BELOW = 0.25
_SERIES = tuple(1.0 / math.factorial(k + 1) for k in range(13, -1, -1))

# |kappa| times the largest signal. Real sensors stay below 1 (a00 = -5e-6 at 1e5 e-); at 50 the curve is a
# step and no data can tell one kappa from the next.
_MAX_CURVATURE = 50.0

_MAX_STEPS = 60

# Determinant of a normal matrix of unit diagonal below which nothing but rounding is left of it.
_SINGULAR = 1e-14

# A step counts as the last one when it is this fraction of the parameters' own errors, squared.
# Larger: two minimisers no longer agree to 1e-6 of each parameter. Smaller: rounding keeps it from ending.
_STEP_TOLERANCE = 1e-16

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


@njit
def _growth(x: float) -> tuple[float, float]:
    """Return f(x) = (exp(x) - 1) / x and its derivative, to the last bits for every x, 0 included."""
    if abs(x) < _SERIES_BELOW:
        value = 0.0
        slope = 0.0
        for coefficient in _SERIES:
            slope = slope * x + value
            value = value * x + coefficient
        return value, slope
    grown = math.expm1(x)
    value = grown / x
    return value, (grown + 1.0 - value) / x


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
    values = np.empty(mean.size)
    for i in range(mean.size):
        f, _ = _growth(parameters[2] * mean[i])
        values[i] = parameters[0] + parameters[1] * mean[i] * f
    return values


@njit
def curve_gradient(parameters: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate the derivatives of Eq. 16 with respect to p0, p1 and kappa.

    Parameters
    ----------
    parameters
        (3,): p0 [ADU^2], p1 [ADU], kappa [1/ADU].
    mean
        (N,) mean signals [ADU].

    Returns
    -------
    NDArray
        (N, 3).
    """
    gradient = np.empty((mean.size, 3))
    for i in range(mean.size):
        f, df = _growth(parameters[2] * mean[i])
        gradient[i, 0] = 1.0
        gradient[i, 1] = mean[i] * f
        gradient[i, 2] = parameters[1] * mean[i] * mean[i] * df
    return gradient


@njit
def _invert(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Invert a symmetric positive 3x3 matrix, scaled to a unit diagonal; False where it is singular."""
    inverse = np.zeros((3, 3))
    if not (matrix[0, 0] > 0.0 and matrix[1, 1] > 0.0 and matrix[2, 2] > 0.0):
        return inverse, False
    scale = 1.0 / np.sqrt(np.diag(matrix))
    a = matrix[1, 2] * scale[1] * scale[2]
    b = matrix[0, 2] * scale[0] * scale[2]
    c = matrix[0, 1] * scale[0] * scale[1]
    determinant = (1.0 - a * a) - (b * b + c * c - 2.0 * a * b * c)
    if not determinant > _SINGULAR:
        return inverse, False
    inverse[0, 0], inverse[1, 1], inverse[2, 2] = 1.0 - a * a, 1.0 - b * b, 1.0 - c * c
    inverse[1, 2] = inverse[2, 1] = b * c - a
    inverse[0, 2] = inverse[2, 0] = a * c - b
    inverse[0, 1] = inverse[1, 0] = a * b - c
    inverse *= np.outer(scale, scale) / determinant
    return inverse, True


@njit
def _accumulate(  # noqa: PLR0917 - numba kernels take positional arguments
    q: NDArray[np.float64],
    t: NDArray[np.float64],
    y: NDArray[np.float64],
    w: NDArray[np.float64],
    reach: NDArray[np.float64],
    normal: NDArray[np.float64],
    right: NDArray[np.float64],
) -> float:
    """Fill the normal equations of the scaled curve at `q`; return chi2.

    The weights are `w`; or, with a non-empty `reach`, Tukey's, put into `w`: none for a point whose squared
    relative distance from the curve is `reach` or more.
    """
    n00 = n01 = n02 = n11 = n12 = n22 = r0 = r1 = r2 = chi2 = 0.0
    for i in range(t.size):
        f, df = _growth(q[2] * t[i])
        g1 = t[i] * f
        g2 = q[1] * t[i] * t[i] * df
        model = q[0] + q[1] * g1
        d = y[i] - model
        if reach.size > 0:
            s2 = reach[i] * model * model
            far = 1.0 - d * d / s2 if model > 0.0 else 0.0
            w[i] = (_TUKEY * far) ** 2 / s2 if far > 0.0 else 0.0
        if w[i] > 0.0:
            n00 += w[i]
            n01 += w[i] * g1
            n02 += w[i] * g2
            n11 += w[i] * g1 * g1
            n12 += w[i] * g1 * g2
            n22 += w[i] * g2 * g2
            r0 += w[i] * d
            r1 += w[i] * g1 * d
            r2 += w[i] * g2 * d
            chi2 += w[i] * d * d
    normal[0, 0], normal[1, 1], normal[2, 2] = n00, n11, n22
    normal[0, 1] = normal[1, 0] = n01
    normal[0, 2] = normal[2, 0] = n02
    normal[1, 2] = normal[2, 1] = n12
    right[0], right[1], right[2] = r0, r1, r2
    return chi2


@njit
def _hold_straight(normal: NDArray[np.float64], right: NDArray[np.float64]) -> None:
    """Take kappa out of the normal equations."""
    for i in range(2):
        normal[2, i] = normal[i, 2] = 0.0
    normal[2, 2] = 1.0
    right[2] = 0.0


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
    prior = anchor / variance_scale
    prior_weight = anchor_weight * (variance_scale * variance_scale)
    q = start / units
    q[2] = min(max(q[2], -0.5 * _MAX_CURVATURE), 0.5 * _MAX_CURVATURE)

    total = 0.0  # of the squared points: what chi2 can be resolved against
    count = 0
    for i in range(t.size):
        if w[i] > 0.0:
            total += w[i] * y[i] * y[i]
            count += 1
    given = np.empty(0)  # the weights are
    normal = np.zeros((3, 3))
    right = np.zeros(3)
    trial_normal = np.zeros((3, 3))
    trial_right = np.zeros(3)
    chi2 = _accumulate(q, t, y, w, given, normal, right) + prior_weight * (prior - q[0]) ** 2
    damping = 0.0
    converged = False
    for _ in range(_MAX_STEPS):
        damped = normal.copy()
        step_right = right.copy()
        damped[0, 0] += prior_weight
        step_right[0] += prior_weight * (prior - q[0])
        if not curved:
            _hold_straight(damped, step_right)
        undamped = damped.copy()
        for i in range(3):
            damped[i, i] *= 1.0 + damping
        inverse, regular = _invert(damped)
        step = np.zeros(3)
        if regular:
            for i in range(3):
                for j in range(3):
                    step[i] += inverse[i, j] * step_right[j]
            trial = q + step
            length = 0.0
            for i in range(3):
                for j in range(3):
                    length += step[i] * undamped[i, j] * step[j]
            if abs(trial[2]) <= _MAX_CURVATURE:
                trial_chi2 = (
                    _accumulate(trial, t, y, w, given, trial_normal, trial_right)
                    + prior_weight * (prior - trial[0]) ** 2
                )
                small = length * count <= _STEP_TOLERANCE * chi2 + 1e-26 * total
                if trial_chi2 <= chi2 or small:
                    q = trial
                    chi2 = trial_chi2
                    normal, trial_normal = trial_normal, normal
                    right, trial_right = trial_right, right
                    damping *= 0.1
                    if damping < 1e-7:
                        damping = 0.0
                    if small:
                        converged = True
                        break
                    continue
        damping = max(1e-4, 10.0 * damping)
        if damping > 1e12:
            break
    normal[0, 0] += prior_weight
    if not curved:
        _hold_straight(normal, right)
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
    normal = np.zeros((3, 3))
    right = np.zeros(3)
    reach = (relative_variance + scatter * scatter) * _TUKEY**2
    for _ in range(steps):
        _accumulate(q, t, y, w, reach, normal, right)
        # Weak knowledge that keeps a degenerate set of points in place and is lost against any real one:
        # p0 is within prior_error of the noise, |kappa mu| is within 4.
        normal[0, 0] += 1.0 / prior_error**2
        right[0] += (prior - q[0]) / prior_error**2
        normal[2, 2] += 1.0 / 16.0
        right[2] -= q[2] / 16.0
        inverse, regular = _invert(normal)
        if not regular:
            break
        step = np.zeros(3)
        for i in range(3):
            for j in range(3):
                step[i] += inverse[i, j] * right[j]
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
    q = np.array([start[0] / variance_scale, slope * mean_scale / variance_scale, start[2] * mean_scale])
    known = noise == noise  # noqa: PLR0124 - not NaN
    prior = noise / variance_scale if known else 0.0
    prior_error = max(prior, 1e-6) if known else max(0.1, abs(q[0]))
    scatter = _GROWING_TOLERANCE
    w = _reweighted_steps(q, t, y, relative_variance, prior, prior_error, scatter, 4)
    deviations = np.empty(t.size)
    expected = np.empty(t.size)
    for _ in range(3):
        number = 0
        for i in range(t.size):
            f, _df = _growth(q[2] * t[i])
            model = q[0] + q[1] * t[i] * f
            if w[i] > 0.0 and model > 0.0:
                deviations[number] = abs(y[i] / model - 1.0)
                expected[number] = relative_variance[i]
                number += 1
        if number == 0:
            break
        # The median of |Gaussian| is sigma / 1.4826; three parameters have made the residuals smaller.
        spread = 1.4826 * np.median(deviations[:number]) * math.sqrt(number / max(number - 3.0, 1.0))
        scatter = math.sqrt(max(spread * spread - np.median(expected[:number]), 0.0))
        w = _reweighted_steps(q, t, y, relative_variance, prior, prior_error, max(scatter, _LEAST_SCATTER), 2)
    normal = np.zeros((3, 3))
    right = np.zeros(3)
    _accumulate(q, t, y, w, np.empty(0), normal, right)
    normal[0, 0] += 1.0 / prior_error**2
    normal[2, 2] += 1.0 / 16.0
    covariance, _regular = _invert(normal)
    units = np.array([variance_scale, variance_scale / mean_scale, 1.0 / mean_scale])
    covariance *= np.outer(units, units)
    return q * units, covariance, scatter
