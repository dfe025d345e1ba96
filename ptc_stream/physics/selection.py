"""Which points of a curve count, and why the others do not."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics._jit import njit
from ptc_stream.physics.weights import middle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ABSURD", "VANISHING", "UnusedReason", "code_of", "is_dead", "judge_points", "reasons_of"]

# Signals and variances beyond this are no camera's; squared in a sum they would swallow the others.
ABSURD = 1e15
# And below this they are zero: dividing by them would overflow.
VANISHING = 1e-9

# An amplifier is dead when its variance grows by less than this share of itself over the whole run. A live
# one with so little signal has no gain to be measured either.
_LEAST_GROWTH = 0.05


@unique
class UnusedReason(StrEnum):
    """Why a point is not used by a fit."""

    NOT_FINITE = "NOT_FINITE"
    """Mean or variance is NaN, infinite or beyond any camera."""

    TOO_FEW_PIXELS = "TOO_FEW_PIXELS"
    """Too few usable pixels (flag of the measurement)."""

    NO_SIGNAL = "NO_SIGNAL"
    """The mean is zero within the noise (bias pair, dead amplifier), or negative."""

    SATURATED = "SATURATED"
    """Pixels at or above the saturation level (flag of the measurement)."""

    NO_VARIANCE = "NO_VARIANCE"
    """The variance is zero or negative: a stuck or fully saturated converter."""

    NOT_GAUSSIAN = "NOT_GAUSSIAN"
    """The difference image is not Gaussian (flag of the measurement)."""

    FLUX_MISMATCH = "FLUX_MISMATCH"
    """The two flats differ too much in signal (flag of the measurement)."""

    BELOW_MIN = "BELOW_MIN"
    """The mean is below the configured range."""

    ABOVE_MAX = "ABOVE_MAX"
    """The mean is above the configured range."""

    ABOVE_TURNOFF = "ABOVE_TURNOFF"
    """The curve has left the model for good."""

    OUTLIER = "OUTLIER"
    """Too far from the curve in units of the true error of the point."""


# Reasons as small numbers, so that a curve of hundreds of points is judged by whole arrays; 0 is "used".
_BY_CODE: tuple[UnusedReason | None, ...] = (None, *UnusedReason)
_REASONS = np.array(_BY_CODE, dtype=object)
_CODES: dict[UnusedReason | None, int] = {reason: code for code, reason in enumerate(_BY_CODE)}
# Flags of the measurement that keep a point from being used; where there are several the first one counts.
_NOT_FINITE = _CODES[UnusedReason.NOT_FINITE]
_TOO_FEW_PIXELS = _CODES[UnusedReason.TOO_FEW_PIXELS]
_NO_SIGNAL = _CODES[UnusedReason.NO_SIGNAL]
_NO_VARIANCE = _CODES[UnusedReason.NO_VARIANCE]
_BELOW_MIN = _CODES[UnusedReason.BELOW_MIN]
_ABOVE_MAX = _CODES[UnusedReason.ABOVE_MAX]
_FLAGS = (
    UnusedReason.NOT_FINITE,
    UnusedReason.TOO_FEW_PIXELS,
    UnusedReason.NO_SIGNAL,
    UnusedReason.SATURATED,
    UnusedReason.NOT_GAUSSIAN,
    UnusedReason.FLUX_MISMATCH,
)


def code_of(reason: UnusedReason | None) -> int:
    """Return the number that stands for `reason` in arrays."""
    return _CODES[reason]


def reasons_of(codes: NDArray[np.int8]) -> tuple[UnusedReason | None, ...]:
    """Return the reasons that the numbers of `judge_points` stand for."""
    return tuple(_REASONS[codes].tolist())


def judge_points(
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    pixel_count: NDArray[np.int64],
    flags: Sequence[frozenset[str]],
    *,
    min_mean: float,
    max_mean: float,
) -> NDArray[np.int8]:
    """Judge each point by itself, before any curve is known.

    Parameters
    ----------
    mean, variance, pixel_count
        (N,) points: [ADU], [ADU^2], pixels behind C_00.
    flags
        N sets of flags of the measurement; names that are no `UnusedReason` do not count against a point.
    min_mean, max_mean
        Range of signal, inclusive [ADU].

    Returns
    -------
    NDArray
        (N,) `code_of` the reason not to use the point, or of None.
    """
    codes = np.zeros(mean.size, dtype=np.int8)
    if any(flags):
        for i in [i for i, found in enumerate(flags) if found]:
            flag = next((flag for flag in _FLAGS if flag in flags[i]), None)
            codes[i] = _CODES[flag]
    _judge(mean, variance, pixel_count, float(min_mean), float(max_mean), codes)
    return codes


@njit
def _judge(  # noqa: PLR0917 - numba kernels take positional arguments
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    pixel_count: NDArray[np.int64],
    min_mean: float,
    max_mean: float,
    codes: NDArray[np.int8],
) -> None:
    """Fill `codes`, which hold those of flags: the gravest reason first. Comparisons with NaN are False."""
    for i in range(mean.size):
        if not (abs(mean[i]) < ABSURD and abs(variance[i]) < ABSURD):
            codes[i] = _NOT_FINITE
        elif pixel_count[i] < 2:
            codes[i] = _TOO_FEW_PIXELS
        elif mean[i] < VANISHING:
            codes[i] = _NO_SIGNAL
        elif codes[i] == 0:
            if variance[i] < VANISHING:
                codes[i] = _NO_VARIANCE
            elif mean[i] < min_mean:
                codes[i] = _BELOW_MIN
            elif mean[i] > max_mean:
                codes[i] = _ABOVE_MAX


def is_dead(
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    codes: NDArray[np.int8],
    noise: float,
    min_points: int,
) -> bool:
    """Tell whether an amplifier gives no signal at all.

    Dead is an amplifier with no signal (or no variance) in three of four points, or with a variance that does
    not grow with the signal. Fewer than `min_points` points kill nobody: a run may begin with bias frames.

    Parameters
    ----------
    mean, variance
        (N,) the points that `judge_points` found good, sorted by signal [ADU], [ADU^2].
    codes
        What it found of all points.
    noise
        Variance at zero signal [ADU^2]; NaN if unknown.
    min_points
        Smallest number of points to judge by.

    Returns
    -------
    bool
    """
    number = mean.size
    if number < min_points:
        silent = int(np.count_nonzero((codes == _NO_SIGNAL) | (codes == _NO_VARIANCE)))
        return silent >= min_points and 4 * silent >= 3 * codes.size
    # The middle third counts as well: above the turnoff the variance of a live one may fall to nothing.
    third = max(1, number // 3)
    bottom = middle(variance[:third])
    highest = max(middle(variance[third:-third]), middle(variance[-third:]))
    if highest - noise < _LEAST_GROWTH * noise:  # False where the noise is not known
        return True
    spans = mean[-third] > 1.5 * mean[third - 1]
    # Neither does it fall: that is a live one of which most points so far are above the turnoff.
    return bool(spans and abs(highest - bottom) < _LEAST_GROWTH * bottom)
