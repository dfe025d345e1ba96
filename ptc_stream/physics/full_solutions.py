"""FULLCOVARIANCE and FULLCOVARIANCE_NO_B: all covariances of the used points against Eq. 20.

The points, and what their errors are made of, come from the curve of C_00 (`ptc_stream.physics.curve`).

Lag (0, 0) is the *clipped variance* of each point, not element [0, 0] of its covariances. Both estimate the
same number. The clipped variance is the one on which selection, turnoff and floor were decided, and which the
other models are fitted to: so the models differ by what they say, not by what they were shown.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics.fits import FitNote
from ptc_stream.physics.full_covariance import coefficients_of, linear_maps, residuals_of
from ptc_stream.physics.full_solver import parameter_covariance, solve_series, transform_covariance
from ptc_stream.physics.long_range import long_range_surface
from ptc_stream.physics.models import FitModel
from ptc_stream.physics.moments import Moments, compress, variance_moments
from ptc_stream.physics.solutions import Matrices, Solution, floor_error_scale
from ptc_stream.physics.solver import curve_values
from ptc_stream.physics.weights import point_weights, solve_floor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ptc_stream.physics.curve import Candidates, Curve
    from ptc_stream.physics.fits import FitConfig

__all__ = ["LagData", "solve_full_covariance"]

# b is fitted from this number of points on. With fewer, C_00 has less than four degrees of freedom left
# beside gain, noise, a00 and b00, and more than one fit in a hundred finds no minimum.
_LEAST_POINTS_FOR_B = 8

# Scatter in the a_ij makes a(x)a too large; b takes that up. The bias of b00 in units of its error, as
# simulated for 20 to 337 pairs and ranges of 3 to 8: 0.54 (R / 10)^2.4 sqrt(6e7 / (pairs x pixels)),
# whatever the signals; that of a00 is half of it. The range is such that it stays below this. Larger: a00 and
# gain are off by more than a tenth of their errors. Smaller: long runs do not reach 8 lags (337 pairs of 1e6
# pixels: 0.133).
_LARGEST_BIAS = 0.14

# chi2 within which a minimum is found: the first one only serves to tell the errors. With the second one,
# parameters are found to 1e-7 of their errors. Larger: two minimisers no longer agree to 1e-6 of each
# parameter. Smaller: rounding keeps it from ending.
_LOOSE = 1e-2
_TIGHT = 1e-14

# chi2 of a lag beyond dof + 2 sqrt(x dof) + 2 x is no chance: probability exp(-x), in any of 100 lags 3e-5.
_CHANCE = 15.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LagData:
    """Covariances of all points of an amplifier.

    Attributes
    ----------
    covariances, pixel_count
        (M, S, S) C_ij [ADU^2] and pixel pairs behind them.
    rows
        (N,) which of the M points each candidate is.
    """

    covariances: NDArray[np.float64]
    pixel_count: NDArray[np.int64]
    rows: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Points:
    """Lag (0, 0) of the used points; `powers` (5, N) are those of the signal in units of `unit` [ADU]."""

    unit: float
    powers: NDArray[np.float64]
    variance: NDArray[np.float64]
    model: NDArray[np.float64]
    relative_variance: NDArray[np.float64]
    zero: tuple[float, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Minimum:
    """The fit of one range, in the units of `ptc_stream.physics.full_covariance`.

    `theta`, `nu` and `covariance` as from the solver; `floor` is that of C_00 and `dof` are the degrees of
    freedom behind it; `raised` tells whether other lags got one; `chi2` is that of all lags with sampling
    errors alone, `count` the points of each.
    """

    theta: NDArray[np.float64]
    nu: NDArray[np.float64]
    covariance: NDArray[np.float64]
    with_b: bool
    floor: float
    dof: int
    raised: bool
    chi2: float
    count: NDArray[np.int64]


def solve_full_covariance(
    candidates: Candidates, curve: Curve, config: FitConfig, data: LagData
) -> Solution | None:
    """Fit Eq. 20 to the points of the curve.

    Parameters
    ----------
    candidates, curve
        The points and the curve through those that are used; the curve must be `curved`.
    config
        Settings of the fit, its model among them.
    data
        Covariances of the candidates.

    Returns
    -------
    Solution or None
        Parameters a_ij [1/e-], c_ij = a_ij b_ij [1/e-^2] (where b is fitted), gain [e-/ADU], n_ij [e-^2],
        each matrix row by row; None where the points do not determine them. Notes say where less was
        fitted than was asked for.
    """
    notes = []
    mean, variance = candidates.mean[curve.used], candidates.variance[curve.used]
    rows, covariances, pixel_count = data.rows[curve.used], data.covariances, data.pixel_count
    if config.subtract_long_range:
        covariances, pixel_count = covariances[rows], pixel_count[rows]
        rows = np.arange(rows.size)
        surface = long_range_surface(
            covariances, pixel_count, start=config.long_range_start, degree=config.long_range_degree
        )
        if surface is None:
            notes.append(FitNote.LONG_RANGE_KEPT)
        else:
            covariances = covariances - surface
            variance = variance - surface[:, 0, 0]
    measured = config.weights == "measured"
    model = candidates.variance[curve.used] if measured else curve_values(curve.parameters, mean)
    unit = float(mean[-1])
    points = _Points(
        unit=unit,
        powers=np.vander(mean / unit, 5, increasing=True).T,
        variance=variance,
        model=model,
        relative_variance=candidates.relative_variance[curve.used],
        zero=(candidates.noise, candidates.noise_weight) if curve.anchored else (0.0, 0.0),
    )
    moments = compress(
        powers=points.powers,
        variance=variance,
        weight=point_weights(model, points.relative_variance, curve.floor),
        covariances=covariances,
        pixel_count=pixel_count,
        rows=rows,
        reference=model,
        lags=min(config.full_range, covariances.shape[1]),
        zero=points.zero,
    )
    minimum = None
    if config.model is FitModel.FULLCOVARIANCE:
        if mean.size >= _LEAST_POINTS_FOR_B:
            trusted = _trusted_range(points.relative_variance)
            minimum = _minimise(points, moments, curve, config, with_b=True, largest=trusted)
        if minimum is None:
            notes.append(FitNote.B_NOT_FITTED)
    if minimum is None:
        minimum = _minimise(points, moments, curve, config, with_b=False, largest=config.full_range)
    if minimum is None:
        return None
    if minimum.count.size < config.full_range**2:
        notes.append(FitNote.RANGE_REDUCED)
    if minimum.raised:
        notes.append(FitNote.COVARIANCE_FLOOR)
    return _solution(candidates, config, points, minimum, tuple(notes))


def _trusted_range(relative_variance: NDArray[np.float64]) -> int:
    """Return the number of lags per axis at which scatter in a does not yet bias b (see `_LARGEST_BIAS`)."""
    pixels = float(np.sum(2.0 / relative_variance))
    return max(1, int(10.0 * (_LARGEST_BIAS / 0.54 * math.sqrt(pixels / 6e7)) ** (1.0 / 2.4)))


def _determined_range(moments: Moments, largest: int, *, with_b: bool) -> int:
    """Return the number of lags per axis, at most `largest`, up to which each lag tells its parameters."""
    measured = math.isqrt(moments.count.size)
    # n, a (and c) of a lag need the powers 0, 2 (and 3); of lag zero, the gain needs power 1 as well.
    needed = np.diagonal(moments.triangle, axis1=1, axis2=2)[:, [0, 2, 3] if with_b else [0, 2]] > 0.0
    told = np.all(needed, axis=1).reshape(measured, measured)
    told[0, 0] &= moments.triangle[0, 1, 1] > 0.0
    size = 0
    while size < min(measured, largest) and np.all(told[: size + 1, : size + 1]):
        size += 1
    return size


def _first_lags(moments: Moments, size: int) -> Moments:
    """Return the moments of fewer lags: a copy."""
    measured = math.isqrt(moments.count.size)
    chosen = np.arange(measured**2).reshape(measured, measured)[:size, :size].ravel()
    return Moments(
        triangle=moments.triangle[chosen],
        right=moments.right[chosen],
        rest=moments.rest[chosen],
        count=moments.count[chosen],
    )


def _start(curve: Curve, moments: Moments, unit: float, *, with_b: bool) -> NDArray[np.float64]:
    """Begin with the curve at lag zero, and elsewhere with the best multiple of what a00 makes of a lag."""
    q = float(curve.parameters[1]) * unit  # p1 = 1 / g
    central = 0.5 * float(curve.parameters[2]) * unit  # kappa = 2 a00 g
    # Eq. 20 to first order in A_ij: (A(x)A)_ij = 2 A_00 A_ij + ..., (A(x)A(x)A)_ij = 3 A_00^2 A_ij + ...
    shape = np.array([0.0, 1.0, 4.0 / 3.0 * central, central**2])
    answers = np.sum(moments.triangle[:, 1:, 1:] * shape, axis=2)
    size2 = moments.count.size
    start = np.zeros((2 if with_b else 1) * size2 + 1)
    start[:size2] = np.sum(answers * moments.right[:, 1:], axis=1) / (q * np.sum(answers**2, axis=1))
    start[0] = central
    start[-1] = q
    return start


def _minimise(
    points: _Points, moments: Moments, curve: Curve, config: FitConfig, *, with_b: bool, largest: int
) -> _Minimum | None:
    """Fit lags up to `largest`, with the floors that their residuals ask for; None without a minimum."""
    size = _determined_range(moments, largest, with_b=with_b)
    if size == 0:
        return None
    moments = _first_lags(moments, size)
    # Gain, n00, a00 (and c00) are what C_00 tells; n, a (and c) what any other lag does.
    dof = points.variance.size - (4 if with_b else 3) + (1 if points.zero[1] > 0.0 else 0)
    theta = _start(curve, moments, points.unit, with_b=with_b)
    floor = curve.floor
    weaker = np.ones(size * size)
    for tolerance in (_LOOSE, _TIGHT):
        solved = solve_series(theta, moments.triangle, moments.right, with_c=with_b, tolerance=tolerance)
        if solved is None:
            return None
        theta = solved
        coefficients = coefficients_of(theta, *linear_maps(theta, size * size, with_b), with_b)
        left, _ = residuals_of(theta, coefficients, moments.triangle, moments.right)
        chi2 = (np.sum(left * left, axis=1) + moments.rest) * weaker
        bent = theta[-1] * coefficients[0]
        flat = (moments.right[0, 0] - np.sum(moments.triangle[0, 0, 1:] * bent)) / moments.triangle[0, 0, 0]
        fitted = flat + np.sum(bent[:, np.newaxis] * points.powers[1:], axis=0)
        residual = (points.variance - fitted) / points.model
        if tolerance == _LOOSE and config.floor:
            # Once more, with what the residuals say about errors.
            floor = solve_floor(residual, points.relative_variance, dof)
            weight = point_weights(points.model, points.relative_variance, floor)
            weaker = _excess(chi2, moments.count - (3 if with_b else 2))
            _weaken(moments, weaker)
            moments.triangle[0], moments.right[0], moments.rest[0] = variance_moments(
                points.powers, points.variance, weight, points.zero
            )
    found = parameter_covariance(theta, moments.triangle, moments.right, with_c=with_b)
    if found is None:
        return None
    chi2[0] = np.sum(residual**2 / points.relative_variance)
    return _Minimum(
        theta=theta,
        nu=found[0],
        covariance=found[1],
        with_b=with_b,
        floor=floor,
        dof=dof,
        raised=bool(np.any(weaker > 1.0)),
        chi2=float(np.sum(chi2)),
        count=moments.count,
    )


def _excess(chi2: NDArray[np.float64], dof: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return chi2 / dof of the lags for which it is no chance, 1 for the others and for lag zero."""
    free = np.maximum(dof, 1)
    chance = free + 2.0 * np.sqrt(_CHANCE * free) + 2.0 * _CHANCE
    excess = np.where(chi2 > chance, chi2 / free, 1.0)
    excess[0] = 1.0  # has a floor of its own
    return excess


def _weaken(moments: Moments, factors: NDArray[np.float64]) -> None:
    """Divide the weights of the lags by `factors`.

    That is a floor: all points of a lag have nearly the same number of pixels, so one more relative error
    makes all of its errors larger alike.
    """
    root = np.sqrt(factors)
    moments.triangle[:] /= root[:, np.newaxis, np.newaxis]
    moments.right[:] /= root[:, np.newaxis]
    moments.rest[:] /= factors


def _solution(
    candidates: Candidates,
    config: FitConfig,
    points: _Points,
    minimum: _Minimum,
    notes: tuple[FitNote, ...],
) -> Solution:
    """Go from the units of the fit to those of the parameters."""
    theta, with_b = minimum.theta, minimum.with_b
    lags, total, unit = minimum.count.size, theta.size, points.unit
    size = math.isqrt(lags)
    # The floor of C_00 comes from few points, which only what C_00 tells must pay for: a00, c00, q and nu00.
    wider = np.ones(total + lags)
    told = [0, lags, total - 1, total] if with_b else [0, total - 1, total]
    wider[told] = floor_error_scale(candidates, minimum.floor, minimum.dof, config)
    # In this order: a = A q / s^2, c = gamma q^2 / s^4, g = s / q, n = nu s^2 / q^2.
    q = float(theta[-1])
    gain = unit / q
    factors = np.full(total + lags, gain**2)
    factors[:lags] = q / unit**2
    factors[lags : total - 1] = (q / unit**2) ** 2
    factors[total - 1] = -gain / q
    parameters = np.concatenate([theta, minimum.nu]) * factors
    by_q = parameters / q  # what each changes by with q, besides its own factor
    by_q[lags : total - 1] *= 2.0
    by_q[total:] *= -2.0
    parameters[total - 1], by_q[total - 1] = gain, 0.0
    covariance = transform_covariance(minimum.covariance, factors * wider, by_q * wider[total - 1], total - 1)
    matrices = _matrices(parameters, covariance, size, with_b=with_b)
    return Solution(
        parameters=parameters,
        covariance=covariance,
        names=_names(size, with_b),
        gain=gain,
        gain_error=math.sqrt(covariance[total - 1, total - 1]),
        noise_variance=float(matrices.noise[0, 0]),
        noise_variance_error=float(matrices.noise_error[0, 0]),
        a00=float(matrices.a[0, 0]),
        a00_error=float(matrices.a_error[0, 0]),
        chi2=minimum.chi2,
        dof=int(np.sum(minimum.count)) + (1 if points.zero[1] > 0.0 else 0) - total - lags,
        floor=minimum.floor,
        matrices=matrices,
        notes=notes,
    )


def _matrices(
    parameters: NDArray[np.float64], covariance: NDArray[np.float64], size: int, *, with_b: bool
) -> Matrices:
    lags, square = size * size, (size, size)
    errors = np.sqrt(np.diag(covariance))
    a, a_error = parameters[:lags], errors[:lags]
    b = b_error = None
    if with_b:
        c, c_error = parameters[lags : 2 * lags], errors[lags : 2 * lags]
        divisor = np.where(a == 0.0, np.nan, a)
        shared = np.diag(covariance, lags)[:lags]  # of a_ij and c_ij
        ratio = c / divisor
        ratio_variance = c_error**2 + (ratio * a_error) ** 2 - 2.0 * ratio * shared
        b, b_error = ratio.reshape(square), (np.sqrt(ratio_variance) / np.abs(divisor)).reshape(square)
    return Matrices(
        a=a.reshape(square),
        a_error=a_error.reshape(square),
        b=b,
        b_error=b_error,
        noise=parameters[-lags:].reshape(square),
        noise_error=errors[-lags:].reshape(square),
    )


@cache
def _names(size: int, with_b: bool) -> tuple[str, ...]:  # noqa: FBT001 - cache wants positional arguments
    indices = [f"{i}_{j}" for i in range(size) for j in range(size)]
    a, c, n = ([f"{name}_{index}" for index in indices] for name in ("a", "c", "n"))
    return (*a, *(c if with_b else []), "gain", *n)
