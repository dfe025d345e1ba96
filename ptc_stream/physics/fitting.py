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

import dataclasses
import math
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Interval

from ptc_stream.physics.curve import LEAST_CURVE_POINTS, Candidates, Curve, find_curve
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


@unique
class FitStatus(StrEnum):
    """What a fit is worth. With the first four of these the numbers may be used."""

    OK = "OK"
    """Everything was determined by the points."""

    NOISE_FIXED = "NOISE_FIXED"
    """The points span too little signal to tell the read noise; the measured one was used."""

    NEGATIVE_NOISE = "NEGATIVE_NOISE"
    """The curve meets zero signal below zero variance: gain and a00 stand, the read noise is NaN."""

    NO_ZERO_LEVEL = "NO_ZERO_LEVEL"
    """Neither overscan nor bias: gain and a00 are approximate (off by exp(2 a00 g B)), there is no noise."""

    NOT_ENOUGH_PAIRS = "NOT_ENOUGH_PAIRS"
    """Fewer points than the model has parameters, plus one."""

    NOT_CONVERGED = "NOT_CONVERGED"
    """No minimum within bounds."""

    UNDETERMINED = "UNDETERMINED"
    """The points tell the gain to no better than half of itself."""

    UNPHYSICAL = "UNPHYSICAL"
    """The points do not follow the curve of a sensor."""

    DEAD = "DEAD"
    """The amplifier gives no signal, or a variance that does not grow with it."""


@unique
class FitNote(StrEnum):
    """What else to know about a fit."""

    NOISE_FIXED = "NOISE_FIXED"
    """p0 was held at the measured read noise (also where the status says something else)."""

    A00_UNKNOWN = "A00_UNKNOWN"
    """The points span too little signal to tell a00: a straight line was fitted. The gain is the one at the
    signal of the points, larger than the true one by about -a00 g mu; its error allows for |a00| of 3e-6."""

    GAIN_APPROXIMATE = "GAIN_APPROXIMATE"
    """Without a zero level an unknown offset B remains in the signal."""

    SELECTION_UNSETTLED = "SELECTION_UNSETTLED"
    """Points at the edge of being outliers alternate; the last selection was taken."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """Settings of a fit; all of them are part of its identity."""

    model: FitModel = dataclasses.field(
        default=FitModel.EXPAPPROXIMATION, metadata={"unit": "", "meaning": "model of the curve"}
    )
    polynomial_degree: Annotated[int, Interval(ge=2, le=3)] = dataclasses.field(
        default=3, metadata={"unit": "", "meaning": "degree of POLYNOMIAL"}
    )
    min_mean: Annotated[float, Ge(0.0)] = dataclasses.field(
        default=0.0, metadata={"unit": "ADU", "meaning": "smallest mean signal used, inclusive"}
    )
    max_mean: Annotated[float, Gt(0.0)] = dataclasses.field(
        default=1e6, metadata={"unit": "ADU", "meaning": "largest mean signal used, inclusive"}
    )
    weights: Literal["model", "measured"] = dataclasses.field(
        default="model",
        metadata={
            "unit": "",
            "meaning": "variance behind the weights; `measured` is the (biased) way of the batch code",
        },
    )
    floor: bool = dataclasses.field(
        default=True,
        metadata={
            "unit": "",
            "meaning": "add a relative error to C_00 such that chi2/dof is 1; off: sampling errors alone",
        },
    )
    turnoff_fraction: Annotated[float, Interval(ge=0.002, le=0.2)] = dataclasses.field(
        default=0.02,
        metadata={"unit": "1", "meaning": "a variance this far below the model is above the turnoff"},
    )
    outlier_sigma: Annotated[float, Interval(ge=3.0, le=100.0)] = dataclasses.field(
        default=5.0,
        metadata={"unit": "sigma", "meaning": "points farther from the curve than this are not used"},
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitPoints:
    """All points of ONE amplifier.

    Attributes
    ----------
    mean
        (N,) float64 mean signals [ADU].
    variance
        (N,) float64 C_00 [ADU^2].
    pixel_count
        (N,) int64 pixels behind C_00.
    flags
        N sets of names of flags of the measurement.
    read_noise, read_noise_error
        Read noise measured on overscan or bias frames [ADU], None if unknown.
    zero_level
        False if there was neither overscan nor bias, so that an unknown offset remains in `mean`.

    Raises
    ------
    ValueError
        The arrays differ in length: a defect of the caller.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    pixel_count: NDArray[np.int64]
    flags: tuple[frozenset[str], ...]
    read_noise: float | None = None
    read_noise_error: float | None = None
    zero_level: bool = True

    def __post_init__(self) -> None:
        shapes = {
            np.shape(self.mean),
            np.shape(self.variance),
            np.shape(self.pixel_count),
            (len(self.flags),),
        }
        if len(shapes) != 1:
            raise ValueError(f"points of one amplifier differ in length: {sorted(shapes)}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AmplifierFit:
    """Result for one amplifier. What is not determined is NaN.

    Attributes
    ----------
    model, status, notes
        What was fitted, what it is worth, what else to know (names of `FitNote`).
    gain, gain_error
        [e-/ADU].
    read_noise, read_noise_error
        [e-]. Never the root of a negative number: NaN then, with status NEGATIVE_NOISE.
    a00, a00_error
        [1/e-].
    parameters, parameter_names, parameter_covariance
        (K,), K names and (K, K): all parameters of the model, also where the status is not good.
        Errors here and above are such that 2 of them hold 95 % (`ptc_stream.physics.weights.error_scale`).
    turnoff, turnoff_error, turnoff_is_lower_limit, turnoff_low, turnoff_high
        [ADU]. Midpoint, width / sqrt(12) and ends of the interval between the last good and the first bad
        point; or the last good point, NaN, True, the last good point and NaN, where the run ends before.
    turnoff_last_used
        Mean of the highest used point [ADU], the convention of the field's batch code.
    chi2_per_dof
        With sampling errors alone, without the floor.
    dof
        Degrees of freedom.
    floor
        phi, relative error added to C_00 in quadrature.
    reasons
        Per point, in the order given: why it was not used, or None.
    """

    model: FitModel
    status: FitStatus
    notes: tuple[str, ...]
    gain: float
    gain_error: float
    read_noise: float
    read_noise_error: float
    a00: float
    a00_error: float
    parameters: NDArray[np.float64]
    parameter_names: tuple[str, ...]
    parameter_covariance: NDArray[np.float64]
    turnoff: float
    turnoff_error: float
    turnoff_is_lower_limit: bool
    turnoff_low: float
    turnoff_high: float
    turnoff_last_used: float
    chi2_per_dof: float
    dof: int
    floor: float
    reasons: tuple[UnusedReason | None, ...]


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
    if is_dead(mean, variance, codes, candidates.noise, LEAST_CURVE_POINTS):
        return _without_numbers(config, FitStatus.DEAD, codes)
    if np.count_nonzero(codes == 0) < least:
        return _without_numbers(config, FitStatus.NOT_ENOUGH_PAIRS, codes)
    curve = find_curve(
        candidates,
        least_points=least,
        turnoff_fraction=config.turnoff_fraction,
        outlier_sigma=config.outlier_sigma,
        measured_weights=config.weights == "measured",
        with_floor=config.floor,
    )
    above = np.arange(order.size) >= curve.turnoff.first_bad
    unused = candidates.eligible & ~curve.used
    codes[order[unused]] = np.where(
        above, code_of(UnusedReason.ABOVE_TURNOFF), code_of(UnusedReason.OUTLIER)
    )[unused]
    if not curve.converged:
        enough = np.count_nonzero(curve.used) >= least
        status = FitStatus.NOT_CONVERGED if enough else FitStatus.NOT_ENOUGH_PAIRS
        return _without_numbers(config, status, codes, curve)
    if not curve.parameters[1] > 0.0:
        return _without_numbers(config, FitStatus.UNPHYSICAL, codes, curve)
    solution: Solution | None
    if config.model is FitModel.POLYNOMIAL:
        solution = solve_polynomial(candidates, curve, config)
    else:
        solution = solve_expapproximation(candidates, curve, config)
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
    # These say where the curve has ended: near saturation pixels are no longer Gaussian, at last all alike.
    saturated = codes == code_of(UnusedReason.SATURATED)
    ending = (codes == code_of(UnusedReason.NO_VARIANCE)) | (codes == code_of(UnusedReason.NOT_GAUSSIAN))
    index = np.flatnonzero((codes == 0) | ending | saturated)
    # By value alone, so that the order in which points came leaves no trace, not even in the last bit.
    order = index[np.lexsort((pixel_count[index], variance[index], mean[index]))]
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
        saturated=saturated[order],
        noise=noise,
        noise_weight=weight,
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
    status = _judge(points, curve, solution)
    usable = status not in (FitStatus.UNPHYSICAL, FitStatus.UNDETERMINED)
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
