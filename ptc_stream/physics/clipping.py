"""The clipped mean and variance that every measurement rests on: images, differences, overscan, row means.

Pass 1 keeps ``|v - median| <= n sigma_q`` with sigma_q from the quartiles, the later passes keep
``|v - mean| <= n sigma`` of the pass before; each pass chooses again from all usable values. The number of
passes is fixed, so that the result is a plain function of the values: no convergence test that one last
bit could tip over.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ptc_stream.physics._jit import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    # numba compiles one version of each kernel for float32 and one for float64.
    _Values: TypeAlias = NDArray[Any]

__all__ = ["ClippedStatistics", "clip_factor", "clipped_statistics"]

# sigma / (q3 - q1) of a Gaussian: 1 / (2 * 0.6744897501960817).
_SIGMA_PER_IQR = 0.741301109252802

# Below this many values numpy's selection is as fast as the two passes of `_quartiles_by_histogram`.
_HISTOGRAM_FROM = 16_384
# The sample only has to find the range of the histogram; its quartiles are good to 3 % of the IQR.
_SAMPLE = 2_048
# Range of the histogram, in IQR around the sample's median: +-0.75 IQR holds the true quartiles at +-0.5 IQR
# of a flat field with room for the sample's error. Outside it numpy's selection takes over.
_HALF_RANGE = 0.75
# 32 kB of counts stay in the first-level cache; a bin then holds some 1e-4 of the values.
_BINS = 8_192
# Values are sorted into bins in blocks that stay in the first-level cache until they are counted.
_BLOCK = 4_096
# They are searched in strips: most strips of this length hold none of the few values that are wanted.
_STRIP = 64
# A pass is left out where it would keep the same values: it moves the limits by less than half of this part
# of them, and no value is that near. 1 % is more than the passes move in noise (0.2 %); at 5.5 sigma it holds
# a value in one of 40 images of 10^6 pixels.
_ZONE = 0.01
_HALF_ZONE = 0.5 * _ZONE  # the other half is room for what is rounded
# A bin with more than this part of all values is crowded: smooth values put 4e-4 into the fullest.
_CROWDED = 1_000


class ClippedStatistics(NamedTuple):
    """Result of `clipped_statistics`."""

    mean: float
    """Mean of the values kept by the last pass [unit of the values]; NaN if none was."""
    variance: float
    """Their unbiased variance [unit squared], not corrected for clipping; NaN below two values."""
    count: int  # type: ignore[assignment]  # the field says more than the method of tuples that it hides
    """How many values the last pass kept."""


def clip_factor(n_sigma: float) -> float:
    """Return what a variance clipped at `n_sigma` must be multiplied with if the values are Gaussian.

    Parameters
    ----------
    n_sigma
        Half-width n of the interval that is kept, in standard deviations.

    Returns
    -------
    float
        F = 1 / (1 - 2 n phi(n) / (Phi(n) - Phi(-n))), the inverse variance of the Gaussian cut at +-n:
        1 + 1.185e-6 at n = 5.5.
    """
    density = math.exp(-0.5 * n_sigma * n_sigma) / math.sqrt(2.0 * math.pi)
    inside = math.erf(n_sigma / math.sqrt(2.0))
    return 1.0 / (1.0 - 2.0 * n_sigma * density / inside)


def clipped_statistics(
    values: _Values, n_sigma: float, passes: int, *, usable: NDArray[np.bool_] | None = None
) -> ClippedStatistics:
    """Mean and variance of the values that are not outliers.

    Parameters
    ----------
    values
        Floating-point array of any shape. NaN and infinities are never used.
    n_sigma
        Half-width of the interval that is kept, in standard deviations.
    passes
        Number of passes, at least 1; the first one uses median and quartiles.
    usable
        Same shape, True where a value may be used; all of them without it.

    Returns
    -------
    ClippedStatistics
        NaN, NaN, 0 when no value is usable. If the quartiles coincide (integers with very low noise), the
        first pass keeps everything.
    """
    flat = np.ravel(values)
    if usable is not None:
        flat = np.where(np.ravel(usable), flat, flat.dtype.type(np.nan))
    quartiles = _quartiles(flat)
    if quartiles is None:
        return ClippedStatistics(math.nan, math.nan, 0)
    q1, median, q3 = quartiles
    limit = n_sigma * _SIGMA_PER_IQR * (q3 - q1) if q3 > q1 else sys.float_info.max
    centre = median
    mean, variance, count, alone = _moments(flat, median, centre, limit)
    for _ in range(passes - 1):
        if count < 2:  # one value has no variance to clip with
            break
        following = n_sigma * math.sqrt(variance)
        # Where no value lies between the old limits and the new ones, the pass would keep the same values.
        moved = abs(mean - centre) + abs(following - limit)
        if alone and moved < _HALF_ZONE * limit:
            continue
        centre, limit = mean, following
        mean, variance, count, alone = _moments(flat, median, centre, limit)
    return ClippedStatistics(mean, variance, count)


def _quartiles(flat: _Values) -> tuple[float, float, float] | None:
    """Quartiles q1, median, q3, interpolated between order statistics; None if no value is finite."""
    if flat.size >= _HISTOGRAM_FROM:
        # A fixed stride that is odd, so that it does not lock onto the columns of an image.
        sample = np.sort(flat[:: (flat.size // _SAMPLE) | 1])
        sample = sample[np.isfinite(sample)].astype(np.float64)
        if sample.size >= _SAMPLE // 8:
            iqr = sample[(3 * sample.size) // 4] - sample[sample.size // 4]
            found, q1, median, q3 = _quartiles_by_histogram(flat, sample[sample.size // 2], iqr)
            if found:
                return q1, median, q3
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        return None
    positions = [(finite.size - 1) * fraction for fraction in (0.25, 0.5, 0.75)]
    ranks = [min(int(p) + step, finite.size - 1) for p in positions for step in (0, 1)]
    ordered = np.partition(finite, sorted(set(ranks)))
    q1, median, q3 = (
        float(ordered[ranks[2 * k]]) * (1.0 - positions[k] % 1.0)
        + float(ordered[ranks[2 * k + 1]]) * (positions[k] % 1.0)
        for k in range(3)
    )
    return q1, median, q3


@njit
def _quartiles_by_histogram(flat: _Values, middle: float, iqr: float) -> tuple[bool, float, float, float]:
    """Find exact quartiles in two passes over the values; False if the histogram does not hold them."""
    nothing = (False, 0.0, 0.0, 0.0)
    width = 2.0 * _HALF_RANGE * iqr / _BINS
    grid = (
        flat.dtype.type(middle - _HALF_RANGE * iqr - width),
        flat.dtype.type(1.0 / width),
        flat.dtype.type(0.0),
        flat.dtype.type(_BINS + 1.0),
    )
    low = grid[0]
    if not (iqr > 0.0 and np.isfinite(grid[1]) and np.isfinite(low)):
        return nothing

    # Bin 0 takes what lies below the range and what is not finite, the last one what lies above.
    counts = np.zeros(_BINS + 2, np.int64)
    places = np.empty(_BLOCK, np.int16)
    total = 0
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        finite = np.int32(0)
        for i in range(block.size):
            usable = abs(block[i]) < np.inf
            places[i] = _bin(block[i], grid) if usable else np.int16(0)
            finite += np.int32(usable)
        for i in range(block.size):
            counts[places[i]] += 1
        total += int(finite)
    counts[0] -= flat.size - total

    # The bins that hold the order statistics on both sides of each quartile, and how many values they skip.
    first = np.zeros(3, np.int64)
    last = np.zeros(3, np.int64)
    skipped = np.zeros(3, np.int64)
    sizes = np.zeros(3, np.int64)
    below = 0
    b = 0
    for k in range(3):
        rank = ((k + 1) * (total - 1)) // 4
        while below + counts[b] <= rank:
            below += counts[b]
            b += 1
        first[k] = b
        skipped[k] = below
        sizes[k] = counts[b]
        last[k] = b
        while below + sizes[k] <= min(rank + 1, total - 1):
            last[k] += 1
            sizes[k] += counts[last[k]]
        if first[k] == 0 or last[k] == _BINS + 1:
            return nothing

    result = np.empty(3, np.float64)
    # What a value must lie between to be in one of these bins, with room for what was rounded.
    least = np.empty(3, flat.dtype)
    most = np.empty(3, flat.dtype)
    room = 0.01 * width + 8.0 * np.finfo(flat.dtype).eps * (abs(low) + _BINS * width)
    for k in range(3):
        least[k] = low + first[k] * width - room
        most[k] = low + (last[k] + 1) * width + room

    # Integers: a bin holds one value many times over, and there is nothing to put in order.
    if np.max(sizes) > total // _CROWDED:
        for k in range(3):
            i = 0
            while not first[k] <= _bin(flat[i], grid) <= last[k]:
                i += 1
            result[k] = flat[i]
        if _hold(flat, result, sizes):
            return (True, result[0], result[1], result[2])

    held = np.empty((3, 2 * np.max(sizes) + _STRIP), flat.dtype)
    filled = np.zeros(3, np.int64)
    for start in range(0, flat.size, _STRIP):
        strip = flat[start : start + _STRIP]
        if _hit(strip, least, most):
            for k in range(3):
                end = filled[k]
                if end + _STRIP > held.shape[1]:
                    return nothing
                for i in range(strip.size):  # every value is written, those not wanted are written over
                    held[k, end] = strip[i]
                    end += np.int64((strip[i] >= least[k]) & (strip[i] <= most[k]))
                filled[k] = end

    for k in range(3):
        rank = ((k + 1) * (total - 1)) // 4
        fraction = 0.25 * (k + 1) * (total - 1) - rank
        inside = 0
        for i in range(filled[k]):
            if first[k] <= _bin(held[k, i], grid) <= last[k]:
                held[k, inside] = held[k, i]
                inside += 1
        if inside != sizes[k]:
            return nothing
        ordered = np.sort(held[k, :inside])
        lower = float(ordered[rank - skipped[k]])
        upper = float(ordered[min(rank + 1, total - 1) - skipped[k]])
        result[k] = lower + (upper - lower) * fraction
    return (True, result[0], result[1], result[2])


@njit
def _bin(value: float, grid: tuple[float, float, float, float]) -> np.int16:
    """Return the bin of a value: each step is monotonic even when it rounds, so bins are ordered as values.

    All numbers of the grid are of the type of the values: a single float64 would halve the speed.
    """
    low, scale, zero, top = grid
    position = (value - low) * scale
    position = position if position > zero else zero  # noqa: FURB136 - max() does not say what becomes of NaN
    return np.int16(position if position < top else top)  # noqa: FURB136


@njit
def _hold(flat: _Values, values: NDArray[np.float64], counts: NDArray[np.int64]) -> bool:
    """Tell whether each of three values occurs that often."""
    seen0, seen1, seen2 = np.int32(0), np.int32(0), np.int32(0)
    value0, value1, value2 = values[0], values[1], values[2]
    for i in range(flat.size):
        seen0 += np.int32(flat[i] == value0)
        seen1 += np.int32(flat[i] == value1)
        seen2 += np.int32(flat[i] == value2)
    return bool(seen0 == counts[0]) & bool(seen1 == counts[1]) & bool(seen2 == counts[2])


@njit
def _hit(strip: _Values, least: _Values, most: _Values) -> bool:
    """Tell whether any value lies in one of three ranges, in steps that all fit a vector unit."""
    least0, least1, least2 = least[0], least[1], least[2]
    most0, most1, most2 = most[0], most[1], most[2]
    hit = np.int32(0)
    for i in range(strip.size):
        in0 = (strip[i] >= least0) & (strip[i] <= most0)
        in1 = (strip[i] >= least1) & (strip[i] <= most1)
        in2 = (strip[i] >= least2) & (strip[i] <= most2)
        hit |= np.int32(in0 | in1 | in2)
    return bool(hit)


@njit(reassociate=True)
def _moments(flat: _Values, origin: float, centre: float, limit: float) -> tuple[float, float, int, bool]:
    """Mean, unbiased variance and number of the values within `limit` of `centre`, summed about `origin`.

    And whether the limits are alone: no value is nearer to one of them than `_ZONE` of the limit. The limit
    is finite, so that neither NaN nor an infinity is ever within it.
    """
    count = 0
    inside, around = 0, 0
    total = 0.0
    squares = 0.0
    inner, outer = limit * (1.0 - _ZONE), limit * (1.0 + _ZONE)
    for i in range(flat.size):
        value = float(flat[i])
        distance = abs(value - centre)
        kept = distance <= limit
        deviation = value - origin if kept else 0.0
        count += kept
        inside += distance <= inner
        around += distance <= outer
        total += deviation
        squares += deviation * deviation
    if count == 0:
        return (np.nan, np.nan, 0, False)
    variance = max((squares - total * total / count) / (count - 1), 0.0) if count > 1 else np.nan
    return (origin + total / count, variance, count, inside == around)
