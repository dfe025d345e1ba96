"""From points that may be anything to the curve of Eq. 16: what is used, what is not, where it ends.

::

    candidates ──robust curve──▶ turnoff ──▶ used points ──3 reweightings──▶ curve
                                                 ▲                             │
                                                 └───── outliers, judged ◀─────┘

Every model of `ptc_stream.physics.fitting` takes its points and weights from here.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics.solver import (
    curve_values,
    relative_residuals,
    robust_curve,
    solve_curve,
    start_curve,
)
from ptc_stream.physics.turnoff import Turnoff, find_turnoff
from ptc_stream.physics.weights import middle, point_weights, solve_floor, tail_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LEAST_CURVE_POINTS", "Candidates", "Curve", "find_curve"]

# Three parameters and one degree of freedom: without it nothing tells how well the points follow the curve.
LEAST_CURVE_POINTS = 4
_REWEIGHTINGS = 3
# Rounds of "fit, judge all points again". Runs settle in one or two; points on the edge may alternate.
_SELECTION_ROUNDS = 5
_TURNOFF_ROUNDS = 4
# The robust curve goes through every k-th point of so many: they tell it to a tenth of what it is needed for.
# Fewer: a turnoff between poor points moves. More: its time grows with the run.
_ROBUST_POINTS = 1000

# Where the points alone give p0 with an error beyond this part of it, they do not tell the noise: 2 errors
# include none at all. Larger: runs whose lowest level is still to come have a negative noise by chance.
_LEAST_NOISE_ERROR = 0.5
# Where the points alone do not give the gain to this, they cannot tell the curvature from the slope either.
# Larger: a00 comes from the distance between the points and an origin that was never measured (one LED pair
# in tiles, points from 6k to 19k ADU, gives the gain to 5 %). Smaller: ordinary runs of five points lose
# their a00.
_LEAST_SPAN = 0.02
# Unless they bend visibly: a straight line that is off by more than this (rms) is no fit to anything.
_VISIBLE_BEND = 0.02


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Points that may lie on the curve, sorted by signal, and what is known about zero signal.

    Attributes
    ----------
    mean, variance
        (N,) [ADU], [ADU^2].
    relative_variance
        (N,) sampling variance of `variance` over its square, 2 / n_pix.
    typical_variance
        Median of `relative_variance`.
    eligible
        (N,) False for points that help to find the turnoff and are never fitted.
    saturated
        (N,) known to be above the turnoff, whatever their variance.
    noise, noise_weight
        C_00 at zero signal as measured on overscan or bias [ADU^2], NaN if unknown; 1 / its variance.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    relative_variance: NDArray[np.float64]
    typical_variance: float
    eligible: NDArray[np.bool_]
    saturated: NDArray[np.bool_]
    noise: float
    noise_weight: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """The fitted curve and the points behind it.

    Attributes
    ----------
    parameters, covariance
        (3,), (3, 3): p0 [ADU^2], p1 [ADU], kappa [1/ADU] as in `ptc_stream.physics.solver`.
    floor
        phi, relative.
    dof
        Degrees of freedom.
    used
        (N,) candidates that were fitted.
    turnoff
        Where the curve ends.
    anchored
        p0 was held at the measured noise, since the points do not tell it.
    curved
        False: kappa was held at 0, since the points do not tell it.
    converged
        A minimum was found.
    settled
        The selection agrees with itself.
    """

    parameters: NDArray[np.float64]
    covariance: NDArray[np.float64]
    floor: float
    dof: int
    used: NDArray[np.bool_]
    turnoff: Turnoff
    anchored: bool
    curved: bool
    converged: bool
    settled: bool


def find_curve(
    candidates: Candidates,
    *,
    least_points: int,
    turnoff_fraction: float,
    outlier_sigma: float,
    measured_weights: bool,
    with_floor: bool,
) -> Curve:
    """Select points and fit Eq. 16 to them.

    Parameters
    ----------
    candidates
        At least `LEAST_CURVE_POINTS` of them eligible.
    least_points
        Smallest number of used points to fit.
    turnoff_fraction
        See `ptc_stream.physics.turnoff.find_turnoff`.
    outlier_sigma
        Points farther than this from the curve are not used.
    measured_weights
        Make weights with the measured variance instead of the model's.
    with_floor
        Add the floor to the errors. Points are always judged with it.

    Returns
    -------
    Curve
        Not converged, with NaN, where fewer than `least_points` remain.
    """
    robust, scatter, turnoff, used = _first_selection(candidates, turnoff_fraction, outlier_sigma)
    below = candidates.eligible & (np.arange(candidates.mean.size) < turnoff.first_bad)
    anchored, curved = _what_is_told(candidates, used, scatter)
    if not curved:
        robust = np.array([candidates.noise, _straight_slope(candidates, used), 0.0])
    settled = False
    for _ in range(_SELECTION_ROUNDS):
        dof = int(np.count_nonzero(used)) - (3 if curved else 2) + (1 if anchored else 0)
        if int(np.count_nonzero(used)) < least_points:
            parameters, covariance = np.full(3, np.nan), np.full((3, 3), np.nan)
            floor, converged, settled = np.nan, False, True
            break
        fitted = used
        parameters, covariance, floor, converged = _reweighted_fit(
            candidates,
            fitted,
            robust,
            scatter,
            dof,
            anchored=anchored,
            curved=curved,
            measured_weights=measured_weights,
            with_floor=True,
        )
        used = below & _near(
            candidates,
            fitted,
            parameters=parameters,
            covariance=covariance,
            floor=floor,
            dof=dof,
            outlier_sigma=outlier_sigma,
        )
        settled = bool(np.array_equal(used, fitted))
        if settled:
            break
    else:
        used = fitted
    if not with_floor and converged:
        parameters, covariance, floor, converged = _reweighted_fit(
            candidates,
            used,
            robust,
            0.0,
            dof,
            anchored=anchored,
            curved=curved,
            measured_weights=measured_weights,
            with_floor=False,
        )
    return Curve(
        parameters=parameters,
        covariance=covariance,
        floor=floor,
        dof=dof,
        used=used,
        turnoff=turnoff,
        anchored=anchored,
        curved=curved,
        converged=converged,
        settled=settled,
    )


def _first_selection(
    candidates: Candidates, turnoff_fraction: float, outlier_sigma: float
) -> tuple[NDArray[np.float64], float, Turnoff, NDArray[np.bool_]]:
    """Find curve, scatter, turnoff and used points when any of the points may be wrong."""
    eligible = np.flatnonzero(candidates.eligible)
    mean = candidates.mean[eligible]
    variance = candidates.variance[eligible]
    relative_variance = candidates.relative_variance[eligible]
    start = start_curve(mean, variance, relative_variance, candidates.noise)
    last = mean.size
    for _ in range(_TURNOFF_ROUNDS):
        some = slice(0, last, max(1, last // _ROBUST_POINTS))
        robust, covariance, scatter = robust_curve(
            np.ascontiguousarray(mean[some]),
            np.ascontiguousarray(variance[some]),
            np.ascontiguousarray(relative_variance[some]),
            start,
            candidates.noise,
        )
        residual, predicted = relative_residuals(robust, covariance, candidates.mean, candidates.variance)
        error = np.sqrt(candidates.relative_variance + scatter * scatter + predicted)
        turnoff = find_turnoff(candidates.mean, residual, error, candidates.saturated, turnoff_fraction)
        # The curve is fitted again to what is below the turnoff, until that no longer moves it.
        below = max(int(np.searchsorted(eligible, turnoff.first_bad)), LEAST_CURVE_POINTS)
        if below == last:
            break
        last = below
    used = candidates.eligible & (np.arange(candidates.mean.size) < turnoff.first_bad)
    dof = max(int(np.count_nonzero(used)) - 3, 1)
    limit = tail_quantile(outlier_sigma, dof, _floor_share(candidates, scatter))
    return robust, scatter, turnoff, used & (np.abs(residual) <= limit * error)


def _what_is_told(candidates: Candidates, used: NDArray[np.bool_], scatter: float) -> tuple[bool, bool]:
    """Decide from the errors of a free fit whether to hold p0 at the measured noise, and kappa at 0.

    The measured noise is not used where the points tell p0 themselves: noise on the overscan and noise at
    zero signal differ by some per cent in real cameras, far more than their errors, and comparing the two
    is something that users want to do.
    """
    if not np.isfinite(candidates.noise) or np.count_nonzero(used) < 2:
        return False, True
    # At kappa = 0: a curve through points that span little may be bent in any way.
    slope = _straight_slope(candidates, used)
    if not slope > 0.0:
        return True, False
    mean, relative_variance = candidates.mean[used], candidates.relative_variance[used]
    straight = candidates.noise + slope * mean
    weight = point_weights(straight, relative_variance, scatter)
    start = np.array([candidates.noise, slope, 0.0])
    _, covariance, regular = solve_curve(mean, straight, weight, start, 0.0, 0.0, True)
    if not regular:
        return True, False
    anchored = bool(covariance[0, 0] > (_LEAST_NOISE_ERROR * candidates.noise) ** 2)
    if not anchored or covariance[1, 1] <= (_LEAST_SPAN * slope) ** 2:
        return anchored, True
    bend = candidates.variance[used] / straight - 1.0
    by_chance = float(np.mean(relative_variance)) * (1.0 + 3.0 * np.sqrt(2.0 / mean.size))
    return True, bool(np.mean(bend**2) > _VISIBLE_BEND**2 + by_chance)


def _straight_slope(candidates: Candidates, used: NDArray[np.bool_]) -> float:
    """Slope of the straight line from the noise at zero through the used points, by their median."""
    return middle((candidates.variance[used] - candidates.noise) / candidates.mean[used])


def _reweighted_fit(
    candidates: Candidates,
    used: NDArray[np.bool_],
    start: NDArray[np.float64],
    floor: float,
    dof: int,
    *,
    anchored: bool,
    curved: bool,
    measured_weights: bool,
    with_floor: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, bool]:
    """Fit with weights from the model, made anew exactly three times, beginning with the robust curve."""
    mean, variance = candidates.mean[used], candidates.variance[used]
    relative_variance = candidates.relative_variance[used]
    anchor = candidates.noise if anchored else 0.0
    anchor_weight = candidates.noise_weight if anchored else 0.0
    parameters = start
    model = curve_values(parameters, mean)
    for _ in range(_REWEIGHTINGS):
        if not model.min() > 0.0:
            # A start that is negative somewhere has no error to offer there; the measured variance has.
            model = np.where(model > 0.0, model, variance)
        weight = point_weights(variance if measured_weights else model, relative_variance, floor)
        parameters, covariance, converged = solve_curve(
            mean, variance, weight, parameters, anchor, anchor_weight, curved
        )
        model = curve_values(parameters, mean)
        if not (converged and model.min() > 0.0):
            return parameters, covariance, floor, False
        if with_floor:
            reference = variance if measured_weights else model
            floor = solve_floor((variance - model) / reference, relative_variance, dof)
    return parameters, covariance, floor, True


def _near(
    candidates: Candidates,
    fitted: NDArray[np.bool_],
    *,
    parameters: NDArray[np.float64],
    covariance: NDArray[np.float64],
    floor: float,
    dof: int,
    outlier_sigma: float,
) -> NDArray[np.bool_]:
    """Tell which points are near the curve, in units of their true errors."""
    residual, predicted = relative_residuals(parameters, covariance, candidates.mean, candidates.variance)
    # The curve knows the points that it was fitted to; to the others its own error adds.
    variance = candidates.relative_variance + floor * floor + np.where(fitted, 0.0, predicted)
    limit = tail_quantile(outlier_sigma, dof, _floor_share(candidates, floor))
    near: NDArray[np.bool_] = residual * residual <= limit * limit * variance
    return near


def _floor_share(candidates: Candidates, floor: float) -> float:
    """Return how much of the variance of a typical point is the floor."""
    return floor * floor / (floor * floor + candidates.typical_variance)
