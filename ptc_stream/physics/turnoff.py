"""Where a curve leaves its model for good: an interval, never a single point.

Real curves above saturation drop sharply, or fall and turn up again; below it they may dip and recover, and
any point can be wild. So no single point decides. Each point gives evidence for "off the model" or "on the
model"; what one point can say is bounded; the turnoff is the cut for which the evidence of all points above
it is largest. A dip is outvoted by as many good points above it, the crossing of an upturn is not.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics._jit import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Turnoff", "find_turnoff"]

# The error of a point never counts as smaller than this part of the turnoff fraction. Smaller: systematic
# deviations of 1 % in good data have their full say.
_SOFTNESS = 0.4
# What one point can say at most: the evidence of a point on the model with the smallest error.
_BOUND = 2.0 / _SOFTNESS**2
# Sigma by which a point must be above the limit to be off.
_FAR_ABOVE = 3.0
# Evidence needed: more than one point can give, so that it takes two or more.
_LEAST_EVIDENCE = 15.0
# Neighbouring cuts whose evidence is within this of the best are possible too. Where errors are small, one
# more point changes it by 12, and no other cut is; in tiles with poor points the interval spans a few of
# them and holds the truth in 95 % of simulated runs. Smaller: less than 95 %.
_EVIDENCE_RANGE = 3.0
# Below this many points there is no curve to leave.
_LEAST_POINTS = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Turnoff:
    """Signal above which the variance leaves the model.

    Attributes
    ----------
    value, error
        Midpoint and width / sqrt(12) of the interval [ADU]. For a lower limit: the last good point, NaN.
    is_lower_limit
        The run ends before there is a turnoff, or at most one point after it.
    low, high
        Mean of the last good and of the first bad point [ADU]; `high` is NaN for a lower limit.
    first_bad
        Index of the first point that is not known to be good; the number of points if there is none.
    """

    value: float
    error: float
    is_lower_limit: bool
    low: float
    high: float
    first_bad: int


def find_turnoff(
    mean: NDArray[np.float64],
    residual: NDArray[np.float64],
    error: NDArray[np.float64],
    saturated: NDArray[np.bool_],
    fraction: float,
) -> Turnoff:
    """Find the turnoff from the residuals of a curve that fits the points below it.

    Parameters
    ----------
    mean
        (N,) mean signals, ascending [ADU].
    residual
        (N,) relative residuals (C_00 - model) / model.
    error
        (N,) their relative errors: sampling, scatter and prediction by the model.
    saturated
        (N,) True for points known to be saturated, whatever their variance.
    fraction
        A point is off the model when its variance is more than this fraction below it, or clearly more than
        twice as much above.

    Returns
    -------
    Turnoff
        For N = 0 a lower limit of NaN.
    """
    count = mean.size
    if count == 0:
        return Turnoff(
            value=math.nan, error=math.nan, is_lower_limit=True, low=math.nan, high=math.nan, first_bad=0
        )
    first, last, ending = _best_cut(residual, error, saturated, fraction)
    if last >= 0:
        low, high = float(mean[first - 1]), float(mean[last])
        return Turnoff(
            value=0.5 * (low + high),
            error=(high - low) / math.sqrt(12.0),
            is_lower_limit=False,
            low=low,
            high=high,
            first_bad=first,
        )
    low = float(mean[ending])
    return Turnoff(value=low, error=math.nan, is_lower_limit=True, low=low, high=math.nan, first_bad=count)


@njit
def _best_cut(
    residual: NDArray[np.float64], error: NDArray[np.float64], saturated: NDArray[np.bool_], fraction: float
) -> tuple[int, int, int]:
    """Return the first and the last point that may be the first bad one (-1: none), and the last good one."""
    count = residual.size
    off = np.empty(count, dtype=np.bool_)
    above = np.empty(count + 1)  # evidence of a point and of all above it
    above[count] = 0.0
    for i in range(count - 1, -1, -1):
        # Log of the likelihood ratio of "2 fractions below the model" to "on it"; undecided at -fraction.
        # Linear in the residual, so that noise in many poor points averages out by itself.
        softened = error[i] * error[i] + (_SOFTNESS * fraction) ** 2
        evidence = -2.0 * fraction * (residual[i] + fraction) / softened
        evidence = min(max(evidence, -_BOUND), _BOUND)
        # What is far above the model is not on it either, as in an upturn: decided point by point.
        if saturated[i] or residual[i] - 2.0 * fraction > _FAR_ABOVE * error[i]:
            evidence = _BOUND
        off[i] = evidence > 0.0
        above[i] = above[i + 1] + evidence
    # A curve ends with two bad points in succession: a wild point, then a good one is no end.
    best = -1
    for i in range(_LEAST_POINTS, count - 1):
        if off[i] and off[i + 1] and (best < 0 or above[i] > above[best]):
            best = i
    if best >= 0 and above[best] >= _LEAST_EVIDENCE:
        # The neighbours on either side, as far as they are nearly as good an end.
        first = last = best
        while first > _LEAST_POINTS and above[first - 1] >= above[best] - _EVIDENCE_RANGE:
            first -= 1
        while last < count - 1 and above[last + 1] >= above[best] - _EVIDENCE_RANGE:
            last += 1
        return first, last, first - 1
    # One or two bad points at the end may be wild ones: the last good one is a limit in either case.
    ending = count - 1
    while ending > max(count - 3, 0) and off[ending]:
        ending -= 1
    return -1, -1, ending
