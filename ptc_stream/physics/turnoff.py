"""Where a curve leaves its model for good: an interval, never a single point.

Real curves above saturation drop sharply, or fall and turn up again; below it they may dip and recover, and any
point can be wild. So no single point decides. Each point gives evidence for "off the model" or "on the model";
what one point can say is bounded; the turnoff is the cut for which the evidence of all points above it is
largest. A dip is outvoted by as many good points above it, the crossing of an upturn is not.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Turnoff", "find_turnoff"]

# Distances from the model are measured in units of the error of the point, but never finer than this part of
# the turnoff fraction. Smaller: systematic deviations of 1 % in good data would exhaust the bound below.
_SOFTNESS = 0.4
# No point is farther away than this; then one point has at most half the square, 12.5, to say.
_BOUND = 5.0
# Evidence needed: more than one point can give, so that it takes two or more.
_LEAST_EVIDENCE = 15.0
# Cuts whose evidence is within this of the best are possible too: 95 % for a likelihood ratio.
_EVIDENCE_RANGE = 2.0
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
        A point is off the model when its variance is this fraction below it, or twice as much above.

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
    scale = np.sqrt(error * error + (_SOFTNESS * fraction) ** 2)
    from_good = np.minimum(np.abs(residual) / scale, _BOUND)
    # Equally far from "on the model" and from "off it" is a point at -fraction or at +2 fraction.
    from_low = np.maximum(residual + 2.0 * fraction, 0.0)
    from_high = np.maximum(4.0 * fraction - residual, 0.0)
    from_bad = np.minimum(np.minimum(from_low, from_high) / scale, _BOUND)
    evidence = 0.5 * (from_good * from_good - from_bad * from_bad)
    evidence[saturated] = 0.5 * _BOUND * _BOUND

    above = np.zeros(count + 1)
    above[:count] = np.cumsum(evidence[::-1])[::-1]
    best = float(np.max(above))
    bad = (residual < -fraction) | (residual > 2.0 * fraction) | saturated
    cuts = np.flatnonzero(above >= best - _EVIDENCE_RANGE)
    first, last = int(cuts[0]), int(cuts[-1])
    if best < _LEAST_EVIDENCE or first < _LEAST_POINTS or last > count - 2:
        # One or two bad points at the end may be wild ones: the last good one is a limit in either case.
        ending = count
        while ending > max(count - 2, 1) and bad[ending - 1]:
            ending -= 1
        first_bad = min(first, count) if best >= _LEAST_EVIDENCE and first >= _LEAST_POINTS else count
        low = float(mean[min(first_bad, ending) - 1])
        return Turnoff(
            value=low, error=math.nan, is_lower_limit=True, low=low, high=math.nan, first_bad=first_bad
        )
    low, high = float(mean[first - 1]), float(mean[last])
    return Turnoff(
        value=0.5 * (low + high),
        error=(high - low) / math.sqrt(12.0),
        is_lower_limit=False,
        low=low,
        high=high,
        first_bad=first,
    )
