"""Fit the Photon Transfer Curve of an amplifier: from measured points to gain, read noise, a00 and turnoff.

::

    points ──judge each──▶ candidates ──find the curve──▶ used points, turnoff ──▶ model ──▶ result

Selection, turnoff and weights always come from EXPAPPROXIMATION (Eq. 16 of Astier et al. 2019), whatever
model is asked for; the other models are then fitted to the same points with the same weights.

The result is a function of the set of points: they are sorted by their values, every fit begins from the data
and not from a previous one, and no amplifier sees another.

What cannot be fitted has a status, never an exception and never a number that looks good.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics.curve import LEAST_CURVE_POINTS, Candidates, Curve, find_curve
from ptc_stream.physics.fits import AmplifierFit, FitConfig, FitNote, FitPoints, FitStatus
from ptc_stream.physics.full_solutions import LagData, solve_full_covariance
from ptc_stream.physics.models import FitModel
from ptc_stream.physics.selection import (
    ABSURD,
    VANISHING,
    UnusedReason,
    code_of,
    is_dead,
    judge_points,
    reasons_of,
)
from ptc_stream.physics.solutions import Solution, solve_expapproximation, solve_polynomial
from ptc_stream.physics.weights import middle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "AmplifierFit",
    "FitConfig",
    "FitNote",
    "FitPoints",
    "FitStatus",
    "fit_amplifier",
    "fit_detector",
]

# Beyond these the numbers are not those of a sensor: a00 twenty times stronger than the strongest known, ...
_LARGEST_A00 = 1e-4
# ... a gain not known to half of itself, ...
_LARGEST_GAIN_ERROR = 0.5
# ... points that do not follow the curve to 10 % (real lamps: 0.1 to 1 %).
_LARGEST_FLOOR = 0.1

_SATURATED = code_of(UnusedReason.SATURATED)
# By code: points that may lie on the curve, or beyond its end.
_ON_THE_CURVE = np.zeros(128, dtype=np.bool_)
_ON_THE_CURVE[[0, _SATURATED, code_of(UnusedReason.NO_VARIANCE), code_of(UnusedReason.NOT_GAUSSIAN)]] = True


def fit_detector(points: Sequence[FitPoints], config: FitConfig) -> list[AmplifierFit]:
    """Fit every amplifier of a detector, each by itself.

    Parameters
    ----------
    points
        One set of points per amplifier.
    config
        Settings.

    Returns
    -------
    list of AmplifierFit
        In the order of `points`; each the same, to the last byte, as from `fit_amplifier`.
    """
    return [fit_amplifier(one, config) for one in points]


def fit_amplifier(points: FitPoints, config: FitConfig) -> AmplifierFit:
    """Fit the curve of one amplifier.

    Parameters
    ----------
    points
        Any number of points, in any order, good or bad.
    config
        Settings.

    Returns
    -------
    AmplifierFit
        Always; `status` says what it is worth.
    """
    mean = np.ascontiguousarray(points.mean, dtype=np.float64)
    variance = np.ascontiguousarray(points.variance, dtype=np.float64)
    pixel_count = np.ascontiguousarray(points.pixel_count, dtype=np.int64)
    codes = judge_points(
        mean,
        variance,
        pixel_count,
        points.flags,
        min_mean=config.min_mean,
        max_mean=config.max_mean,
    )
    order, candidates = _candidates(points, mean, variance, pixel_count, codes)
    least = LEAST_CURVE_POINTS
    if config.model is FitModel.POLYNOMIAL:
        least = max(least, config.polynomial_degree + 2)
    eligible = candidates.eligible
    usable = candidates.mean[eligible], candidates.variance[eligible]
    if is_dead(*usable, codes, candidates.noise, LEAST_CURVE_POINTS):
        return _without_numbers(config, FitStatus.DEAD, codes)
    if usable[0].size < least:
        return _without_numbers(config, FitStatus.NOT_ENOUGH_PAIRS, codes)
    curve = find_curve(
        candidates,
        least_points=least,
        turnoff_fraction=config.turnoff_fraction,
        outlier_sigma=config.outlier_sigma,
        measured_weights=config.weights == "measured",
        with_floor=config.floor,
    )
    unused = np.flatnonzero(eligible & ~curve.used)
    codes[order[unused]] = np.where(
        unused >= curve.turnoff.first_bad, code_of(UnusedReason.ABOVE_TURNOFF), code_of(UnusedReason.OUTLIER)
    )
    if not curve.converged:
        enough = np.count_nonzero(curve.used) >= least
        status = FitStatus.NOT_CONVERGED if enough else FitStatus.NOT_ENOUGH_PAIRS
        return _without_numbers(config, status, codes, curve)
    if not curve.parameters[1] > 0.0:
        return _without_numbers(config, FitStatus.UNPHYSICAL, codes, curve)
    solution: Solution | None
    if config.model is FitModel.POLYNOMIAL:
        solution = solve_polynomial(candidates, curve, config)
    elif config.model is FitModel.EXPAPPROXIMATION or not curve.curved:
        # Without a00 there is a straight line, whatever the model.
        solution = solve_expapproximation(candidates, curve, config)
    else:
        solution = solve_full_covariance(candidates, curve, config, _lag_data(points, order))
    if solution is None:
        return _without_numbers(config, FitStatus.NOT_CONVERGED, codes, curve)
    return _with_numbers(points, config, candidates, curve, solution, codes=codes)


def _candidates(
    points: FitPoints,
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    pixel_count: NDArray[np.int64],
    codes: NDArray[np.int8],
) -> tuple[NDArray[np.int64], Candidates]:
    """Sort what may lie on the curve by signal; return also where each candidate came from."""
    # Some of the bad ones say where the curve has ended: near saturation pixels are no longer Gaussian, at
    # last all alike.
    index = np.flatnonzero(_ON_THE_CURVE[codes])
    order = _by_value(points, index, mean, variance, pixel_count)
    noise = weight = math.nan
    known = points.read_noise if points.zero_level and points.read_noise is not None else math.nan
    if VANISHING < known < math.sqrt(ABSURD):
        noise = known**2
        error = points.read_noise_error if points.read_noise_error is not None else 0.0
        error = min(error, known) if error > 0.0 else 0.0  # NaN is no knowledge either
        # At least 0.1 % of the noise: an infinite weight would swallow the others in the sums.
        weight = 1.0 / max(2.0 * known * error, 1e-3 * noise) ** 2
    relative_variance = 2.0 / pixel_count[order]  # var(C_00) = 2 C_00^2 / n_pix for Gaussian pixels
    return order, Candidates(
        mean=mean[order],
        variance=variance[order],
        relative_variance=relative_variance,
        typical_variance=middle(relative_variance) if index.size else math.nan,
        eligible=codes[order] == 0,
        saturated=codes[order] == _SATURATED,
        noise=noise,
        noise_weight=weight,
    )


def _by_value(
    points: FitPoints,
    index: NDArray[np.int64],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    pixel_count: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Sort points by value alone: the order in which they came leaves no trace, not even in the last bit."""
    order = index[np.argsort(mean[index])]
    signal = mean[order]
    if not np.any(signal[1:] == signal[:-1]):
        return order
    order = index[np.lexsort((pixel_count[index], variance[index], mean[index]))]
    covariances, lag_pixel_count = points.covariances, points.lag_pixel_count
    if covariances is None or lag_pixel_count is None:
        return order
    keys = np.stack([mean[order], variance[order], pixel_count[order].astype(np.float64)])
    starts = np.flatnonzero(np.append(True, np.any(keys[:, 1:] != keys[:, :-1], axis=0)))
    for first, last in zip(starts.tolist(), [*starts[1:].tolist(), order.size], strict=True):
        if last - first > 1:  # the same in all but the other lags
            order[first:last] = sorted(
                order[first:last].tolist(),
                key=lambda i: (covariances[i].tobytes(), lag_pixel_count[i].tobytes()),
            )
    return order


def _lag_data(points: FitPoints, order: NDArray[np.int64]) -> LagData:
    """Give the covariances of the candidates to who asks for them; C_00 alone where there are none."""
    covariances, pixel_count = points.covariances, points.lag_pixel_count
    if covariances is None or pixel_count is None:
        covariances = np.zeros((len(points.flags), 1, 1))
        pixel_count = np.zeros((len(points.flags), 1, 1), dtype=np.int64)
    return LagData(
        covariances=np.ascontiguousarray(covariances, dtype=np.float64),
        pixel_count=np.ascontiguousarray(pixel_count, dtype=np.int64),
        rows=order,
    )


def _with_numbers(
    points: FitPoints,
    config: FitConfig,
    candidates: Candidates,
    curve: Curve,
    solution: Solution,
    *,
    codes: NDArray[np.int8],
) -> AmplifierFit:
    """Judge the numbers and put them together."""
    notes = []
    if not points.zero_level:
        notes.append(FitNote.GAIN_APPROXIMATE)
    if curve.anchored:
        notes.append(FitNote.NOISE_FIXED)
    if not curve.curved:
        notes.append(FitNote.A00_UNKNOWN)
    if not curve.settled:
        notes.append(FitNote.SELECTION_UNSETTLED)
    notes.extend(solution.notes)
    status = _judge(points, curve, solution)
    usable = status not in (FitStatus.UNPHYSICAL, FitStatus.UNDETERMINED)
    matrices = solution.matrices if usable else None
    read_noise = read_noise_error = math.nan
    if usable and points.zero_level and solution.noise_variance > 0.0:
        read_noise = math.sqrt(solution.noise_variance)
        read_noise_error = solution.noise_variance_error / (2.0 * read_noise)  # d sqrt(n) = dn / (2 sqrt(n))
    return AmplifierFit(
        model=config.model,
        status=status,
        notes=tuple(str(note) for note in notes),
        gain=solution.gain if usable else math.nan,
        gain_error=solution.gain_error if usable else math.nan,
        read_noise=read_noise,
        read_noise_error=read_noise_error,
        a00=solution.a00 if usable and curve.curved else math.nan,
        a00_error=solution.a00_error if usable and curve.curved else math.nan,
        parameters=solution.parameters,
        parameter_names=solution.names,
        parameter_covariance=solution.covariance,
        turnoff=curve.turnoff.value,
        turnoff_error=curve.turnoff.error,
        turnoff_is_lower_limit=curve.turnoff.is_lower_limit,
        turnoff_low=curve.turnoff.low,
        turnoff_high=curve.turnoff.high,
        turnoff_last_used=float(np.max(candidates.mean[curve.used])),
        chi2_per_dof=solution.chi2 / solution.dof,
        dof=solution.dof,
        floor=solution.floor,
        reasons=reasons_of(codes),
        a_matrix=None if matrices is None else matrices.a,
        a_matrix_error=None if matrices is None else matrices.a_error,
        b_matrix=None if matrices is None else matrices.b,
        b_matrix_error=None if matrices is None else matrices.b_error,
        noise_matrix=None if matrices is None else matrices.noise,
        noise_matrix_error=None if matrices is None else matrices.noise_error,
    )


def _judge(points: FitPoints, curve: Curve, solution: Solution) -> FitStatus:
    if (
        not solution.gain > 0.0
        or abs(solution.a00) > _LARGEST_A00
        or solution.floor > _LARGEST_FLOOR
        or not np.all(np.isfinite(solution.covariance))
    ):
        return FitStatus.UNPHYSICAL
    if solution.gain_error > _LARGEST_GAIN_ERROR * solution.gain:
        return FitStatus.UNDETERMINED
    if not points.zero_level:
        return FitStatus.NO_ZERO_LEVEL
    if curve.anchored:
        return FitStatus.NOISE_FIXED
    return FitStatus.OK if solution.noise_variance > 0.0 else FitStatus.NEGATIVE_NOISE


def _without_numbers(
    config: FitConfig,
    status: FitStatus,
    codes: NDArray[np.int8],
    curve: Curve | None = None,
) -> AmplifierFit:
    """Return a result in which nothing is determined but, where there was a curve, its turnoff."""
    turnoff = None if curve is None else curve.turnoff
    nan = math.nan
    return AmplifierFit(
        model=config.model,
        status=status,
        notes=(),
        gain=nan,
        gain_error=nan,
        read_noise=nan,
        read_noise_error=nan,
        a00=nan,
        a00_error=nan,
        parameters=np.empty(0),
        parameter_names=(),
        parameter_covariance=np.empty((0, 0)),
        turnoff=nan if turnoff is None else turnoff.value,
        turnoff_error=nan if turnoff is None else turnoff.error,
        turnoff_is_lower_limit=True if turnoff is None else turnoff.is_lower_limit,
        turnoff_low=nan if turnoff is None else turnoff.low,
        turnoff_high=nan if turnoff is None else turnoff.high,
        turnoff_last_used=nan,
        chi2_per_dof=nan,
        dof=0,
        floor=nan,
        reasons=reasons_of(codes),
    )
