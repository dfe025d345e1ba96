"""Linearity: mean signal against exposure time or lamp dose.

For each setting of the light (filter, lamp) the signal should be ``mean = slope * (exposure + offset)``; the
offset is the shutter's or the lamp's. What is left, as a fraction of the line, is the deviation from
linearity. The line comes from points below the turnoff of the Photon Transfer Curve alone, with equal
relative weights, so that each decade of signal counts alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Gt, Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LinearityConfig", "LinearityFit", "fit_linearity"]

# Two parameters and one degree of freedom per setting.
_LEAST_POINTS = 3
# Rounds of "leave out what is far off, fit again". Runs settle in two.
_ROUNDS = 5
# Points farther from the line than this many robust sigmas do not shape it (they are judged all the same).
_OUTLIER_SIGMA = 5.0
# Robust sigmas below this are rounding, not scatter: without it a perfect run rejects its own points.
_LEAST_SCATTER = 1e-6
_MAD_TO_SIGMA = 1.482602218505602


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinearityConfig:
    """What counts as linear."""

    linearity_limit: Annotated[float, Interval(gt=0.0, le=0.5)] = dataclasses.field(
        default=0.02, metadata={"unit": "1", "meaning": "deviation beyond which the response is not linear"}
    )
    linearity_min_mean: Annotated[float, Ge(0.0)] = dataclasses.field(
        default=200.0,
        metadata={
            "unit": "ADU",
            "meaning": "points below are not judged and shape no line: a zero wrong by 1 ADU is 0.5 % there",
        },
    )
    linearity_max_mean: Annotated[float, Gt(0.0)] = dataclasses.field(
        default=1e6, metadata={"unit": "ADU", "meaning": "points above do not shape the line"}
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearityFit:
    """How linear an amplifier is.

    Attributes
    ----------
    slope
        Of the setting with most points [ADU per unit of exposure].
    offset
        Of the same setting [unit of exposure].
    max_deviation, max_deviation_mean
        Largest |deviation| of the points that shaped the line [1], and the signal where it is [ADU].
    turnoff
        Signal above which every point deviates by more than the limit: middle between the last good and the
        first bad point, or the last point if none is bad [ADU].
    turnoff_is_lower_limit
        No point is bad.
    points_used
        Points that shaped the lines.
    deviation
        (N,) mean / line - 1 of every point; NaN where its setting has no line.
    """

    slope: float
    offset: float
    max_deviation: float
    max_deviation_mean: float
    turnoff: float
    turnoff_is_lower_limit: bool
    points_used: int
    deviation: NDArray[np.float64]


def fit_linearity(
    mean: NDArray[np.float64],
    exposure: NDArray[np.float64],
    settings: Sequence[str],
    *,
    below_turnoff: NDArray[np.bool_],
    config: LinearityConfig,
) -> LinearityFit | None:
    """Fit mean signal against exposure time or lamp dose.

    Parameters
    ----------
    mean
        (N,) mean signals [ADU].
    exposure
        (N,) exposure times [s] or lamp doses; NaN where unknown.
    settings
        N names of the setting of the light; a line is fitted for each.
    below_turnoff
        (N,) points that may shape a line.
    config
        Limits.

    Returns
    -------
    LinearityFit or None
        None if no setting has three points at three different exposures.
    """
    deviation = np.full(mean.shape, np.nan)
    shaped = np.zeros(mean.shape, dtype=np.bool_)
    lines: list[tuple[int, float, float]] = []
    known = np.isfinite(mean) & np.isfinite(exposure) & (mean >= config.linearity_min_mean) & (exposure > 0)
    for setting in sorted(set(settings)):
        own = known & np.array([name == setting for name in settings], dtype=np.bool_)
        candidates = own & below_turnoff & (mean <= config.linearity_max_mean)
        if np.unique(exposure[candidates]).size < _LEAST_POINTS:
            continue
        line = _robust_line(exposure[candidates], mean[candidates])
        if line is None:
            continue
        slope, intercept, used = line
        deviation[own] = mean[own] / (slope * exposure[own] + intercept) - 1.0
        shaped[np.flatnonzero(candidates)[used]] = True
        lines.append((int(np.count_nonzero(used)), slope, intercept / slope))
    if not lines:
        return None
    _, slope, offset = max(lines, key=lambda line: line[0])
    worst = int(np.argmax(np.where(shaped, np.abs(deviation), -1.0)))
    turnoff, is_limit = _turnoff(mean, deviation, config.linearity_limit)
    return LinearityFit(
        slope=slope,
        offset=offset,
        max_deviation=float(abs(deviation[worst])),
        max_deviation_mean=float(mean[worst]),
        turnoff=turnoff,
        turnoff_is_lower_limit=is_limit,
        points_used=int(np.count_nonzero(shaped)),
        deviation=deviation,
    )


def _robust_line(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[float, float, NDArray[np.bool_]] | None:
    """Fit y = slope x + intercept with equal relative errors, leaving out wild points; None if it falls."""
    # From the median ratio, which no minority of wild points moves, not from a first fit, which each does.
    slope, intercept = float(np.median(y / x)), 0.0
    used = np.ones(x.shape, dtype=np.bool_)
    for _ in range(_ROUNDS):
        residual = y / (slope * x + intercept) - 1.0
        centre = float(np.median(residual))
        scatter = max(_MAD_TO_SIGMA * float(np.median(np.abs(residual - centre))), _LEAST_SCATTER)
        used = np.abs(residual - centre) <= _OUTLIER_SIGMA * scatter
        if np.unique(x[used]).size < _LEAST_POINTS:
            return None
        # Minimise sum ((slope x + intercept) / y - 1)^2.
        a, b = x[used] / y[used], 1.0 / y[used]
        aa, ab, bb = float(a @ a), float(a @ b), float(b @ b)
        determinant = aa * bb - ab * ab
        if determinant <= 1e-12 * aa * bb:
            return None
        slope = (float(a.sum()) * bb - float(b.sum()) * ab) / determinant
        intercept = (float(b.sum()) * aa - float(a.sum()) * ab) / determinant
        if slope <= 0 or np.any(slope * x + intercept <= 0):
            return None
    return slope, intercept, used


def _turnoff(mean: NDArray[np.float64], deviation: NDArray[np.float64], limit: float) -> tuple[float, bool]:
    """Find where the deviation goes beyond the limit for good; a single wild point is none."""
    order = np.argsort(mean, kind="stable")
    order = order[np.isfinite(deviation[order])]
    signals, bad = mean[order], np.abs(deviation[order]) > limit
    first_bad = bad.size
    while first_bad > 0 and bad[first_bad - 1]:
        first_bad -= 1
    if first_bad == bad.size:
        return float(signals[-1]), True
    if first_bad == 0:
        return float("nan"), False
    return 0.5 * float(signals[first_bad - 1] + signals[first_bad]), False
