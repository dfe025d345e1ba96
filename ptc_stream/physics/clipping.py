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
# Range of the histogram, in IQR around the sample's median: +-1.5 IQR holds the true quartiles at +-0.5 IQR
# of any sane distribution with room for the sample's error. Outside it numpy's selection takes over.
_HALF_RANGE = 1.5
# 32 kB of counts stay in the first-level cache; a bin then holds some 1e-4 of the values.
_BINS = 8_192
# Values are looked at in strips: most strips of this length hold none of the few values that are wanted.
_STRIP = 128
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
    mean, variance, count = _moments(flat, median, median, limit)
    for _ in range(passes - 1):
        if count < 2:  # one value has no variance to clip with
            break
        mean, variance, count = _moments(flat, median, mean, n_sigma * math.sqrt(variance))
    return ClippedStatistics(mean, variance, count)


def _quartiles(flat: _Values) -> tuple[float, float, float] | None:
    """Quartiles q1, median, q3, interpolated between order statistics; None if no value is finite."""
    if flat.size >= _HISTOGRAM_FROM:
        found, q1, median, q3 = _quartiles_by_histogram(flat)
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
def _quartiles_by_histogram(flat: _Values) -> tuple[bool, float, float, float]:
    """Find exact quartiles in two passes over the values; False if the histogram does not hold them."""
    nothing = (False, 0.0, 0.0, 0.0)
    sample = np.empty(_SAMPLE, np.float64)
    size = 0
    # A fixed stride that is odd, so that it does not lock onto the columns of an image.
    for i in range(0, flat.size, (flat.size // _SAMPLE) | 1):
        if np.isfinite(flat[i]) and size < _SAMPLE:
            sample[size] = flat[i]
            size += 1
    if size < _SAMPLE // 8:
        return nothing
    sample = np.sort(sample[:size])
    iqr = sample[(3 * size) // 4] - sample[size // 4]
    scale = flat.dtype.type(_BINS / (2.0 * _HALF_RANGE * iqr))
    low = flat.dtype.type(sample[size // 2] - _HALF_RANGE * iqr)
    if not (iqr > 0.0 and np.isfinite(scale) and np.isfinite(low)):
        return nothing

    # Each step of value -> bin is monotonic even when it rounds, so the bins are in the order of the values.
    # Bin 0 takes what lies below the range and NaN, the last one what lies above.
    bins = np.empty(flat.size, np.int16)
    total = 0
    above = 0
    for i in range(flat.size):
        position = (flat[i] - low) * scale + flat.dtype.type(1.0)
        position = position if position > 0.0 else flat.dtype.type(0.0)
        position = position if position < _BINS + 1.0 else flat.dtype.type(_BINS + 1.0)
        bins[i] = np.int16(position)
        total += 1 if abs(flat[i]) < np.inf else 0
        above += 1 if flat[i] == np.inf else 0
    counts = np.zeros(_BINS + 2, np.int64)
    for i in range(bins.size):
        counts[bins[i]] += 1
    counts[0] -= flat.size - total - above

    # The bins that hold the order statistics on both sides of each quartile, and how many values they skip.
    first = np.zeros(3, np.int64)
    last = np.zeros(3, np.int64)
    skipped = np.zeros(3, np.int64)
    sizes = np.zeros(3, np.int64)
    for k in range(3):
        rank = ((k + 1) * (total - 1)) // 4
        below = 0
        b = 0
        while below + counts[b] <= rank:
            below += counts[b]
            b += 1
        first[k] = b
        skipped[k] = below
        while below + counts[b] <= min(rank + 1, total - 1):
            below += counts[b]
            b += 1
        last[k] = b
        sizes[k] = below + counts[b] - skipped[k]
        if first[k] == 0 or last[k] == _BINS + 1:
            return nothing

    result = np.empty(3, np.float64)
    # Integers: a bin holds one value many times over, and there is nothing to put in order.
    if np.max(sizes) > total // _CROWDED:
        seen = np.zeros(3, np.int64)
        for k in range(3):
            i = 0
            while not first[k] <= bins[i] <= last[k]:
                i += 1
            result[k] = flat[i]
        for i in range(flat.size):
            seen[0] += flat[i] == result[0]
            seen[1] += flat[i] == result[1]
            seen[2] += flat[i] == result[2]
        if seen[0] == sizes[0] and seen[1] == sizes[1] and seen[2] == sizes[2]:
            return (True, result[0], result[1], result[2])

    held = np.empty((3, np.max(sizes)), flat.dtype)
    filled = np.zeros(3, np.int64)
    for start in range(0, flat.size, _STRIP):
        strip = bins[start : start + _STRIP]
        hits = 0
        for i in range(strip.size):
            hits += 1 if first[0] <= strip[i] <= last[0] else 0
            hits += 1 if first[1] <= strip[i] <= last[1] else 0
            hits += 1 if first[2] <= strip[i] <= last[2] else 0
        if hits:
            for i in range(strip.size):
                for k in range(3):
                    if first[k] <= strip[i] <= last[k]:
                        held[k, filled[k]] = flat[start + i]
                        filled[k] += 1

    for k in range(3):
        rank = ((k + 1) * (total - 1)) // 4
        fraction = 0.25 * (k + 1) * (total - 1) - rank
        ordered = np.sort(held[k, : sizes[k]])
        lower = float(ordered[rank - skipped[k]])
        upper = float(ordered[min(rank + 1, total - 1) - skipped[k]])
        result[k] = lower + (upper - lower) * fraction
    return (True, result[0], result[1], result[2])


@njit(reassociate=True)
def _moments(flat: _Values, origin: float, centre: float, limit: float) -> tuple[float, float, int]:
    """Mean, unbiased variance and number of the values within `limit` of `centre`, summed about `origin`.

    The limit is finite, so that neither NaN nor an infinity is ever within it.
    """
    count = 0
    total = 0.0
    squares = 0.0
    for i in range(flat.size):
        value = float(flat[i])
        kept = abs(value - centre) <= limit
        deviation = value - origin if kept else 0.0
        count += kept
        total += deviation
        squares += deviation * deviation
    if count == 0:
        return (np.nan, np.nan, 0)
    variance = max((squares - total * total / count) / (count - 1), 0.0) if count > 1 else np.nan
    return (origin + total / count, variance, count)
