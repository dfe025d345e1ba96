"""From two exposures of equal light to a difference image that holds noise only.

What both exposures share (illumination, pixel-to-pixel response, defects of the zero level) cancels in the
difference; outliers, which they do not share, are found and weighted out there and not in the exposures,
where the wings of an uneven illumination look like outliers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import special

from ptc_stream.physics._jit import njit
from ptc_stream.physics.clipping import clipped_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Weighed",
    "flux_factors",
    "gaussianity",
    "mask_unusable",
    "matched_difference",
    "row_mean_variance",
    "unmatched_difference",
    "weigh",
]

# Histogram of I1 - I2 in steps of 1/2 ADU. Rows of an integer image from which an overscan median was taken
# lie on integers or half-integers: bins centred on both, half of a half-integer on either side of its edge.
_STEP = 0.5
# Above 2000 ADU the integers no longer show, and the number of bins stops growing with sigma.
_SIGMAS_PER_STEP = 1.0 / 4000.0
_HALF_RANGE = 8.0  # sigma; a Gaussian of 10^7 pixels ends at 5.3
# Values are sorted into bins in blocks that stay in the first-level cache until they are counted.
_BLOCK = 2_048


def flux_factors(mean_first: float, mean_second: float) -> tuple[float, float]:
    """Return the factors f1, f2 that make both exposures equally bright: D = f1 I1 - f2 I2.

    D = (mu2 I1 - mu1 I2) / sqrt(mu1 mu2). Its variance is V1 mu2/mu1 + V2 mu1/mu2, for shot noise
    (mu1 + mu2)/g whatever the mismatch; dividing by the arithmetic mean instead makes it low by
    ((mu1 - mu2)/(mu1 + mu2))^2.

    Parameters
    ----------
    mean_first, mean_second
        Means of the two exposures, both positive [ADU].

    Returns
    -------
    tuple of float
        sqrt(mu2/mu1) and its inverse.
    """
    ratio = math.sqrt(mean_second / mean_first)
    return ratio, 1.0 / ratio


@njit
def mask_unusable(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    usable_first: NDArray[np.bool_],
    usable_second: NDArray[np.bool_],
    edge: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Copy two exposures with NaN at every pixel that is masked or not finite in either of them.

    Parameters
    ----------
    first, second
        [y, x], equal shapes [ADU].
    usable_first, usable_second
        [y, x], True where a pixel may be used; they may differ.
    edge
        Width of the frame that is left out on each side [pixels]. (To leave it out beforehand, by slices,
        would make arrays with gaps, which are five times slower to read.)

    Returns
    -------
    tuple of array
        [y, x] [ADU]. One NaN says all that later steps need to know of a pixel: comparisons with it are
        false, so no clip, weight or sum ever lets it in.
    """
    nan = np.float32(np.nan)
    shape = (max(first.shape[0] - 2 * edge, 0), max(first.shape[1] - 2 * edge, 0))
    out_first = np.empty(shape, np.float32)
    out_second = np.empty(shape, np.float32)
    inner = slice(edge, edge + shape[1])
    for y in range(shape[0]):
        one, two = first[y + edge, inner], second[y + edge, inner]
        good_one, good_two = usable_first[y + edge, inner], usable_second[y + edge, inner]
        for x in range(shape[1]):
            finite = (abs(one[x]) < np.inf) & (abs(two[x]) < np.inf)
            good = good_one[x] & good_two[x] & finite
            out_first[y, x] = one[x] if good else nan
            out_second[y, x] = two[x] if good else nan
    return out_first, out_second


@njit
def matched_difference(
    first: NDArray[np.float32], second: NDArray[np.float32], factor_first: float, factor_second: float
) -> NDArray[np.float32]:
    """Difference image D = f1 I1 - f2 I2.

    Parameters
    ----------
    first, second
        [y, x], equal shapes [ADU], NaN where unusable.
    factor_first, factor_second
        From `flux_factors`, or 1 and 1 where there is no signal to match.

    Returns
    -------
    array
        [y, x] [ADU], NaN where unusable. Products in float64: in float32 they would round at the size of the
        signal, not of the noise.
    """
    out = np.empty(first.shape, np.float32)
    for y in range(first.shape[0]):
        for x in range(first.shape[1]):
            out[y, x] = factor_first * first[y, x] - factor_second * second[y, x]
    return out


class Weighed(NamedTuple):
    """Result of `weigh`."""

    residual: NDArray[np.float32]
    """(D - m) w, [y, x] [ADU]: zero, not NaN, where a pixel does not count."""
    weights: NDArray[np.bool_]
    """w, [y, x], True where a pixel counts."""
    row_sums: NDArray[np.float64]
    """[y], sum of the residual over a row [ADU]."""
    row_counts: NDArray[np.int64]
    """[y], pixels of a row that count."""


def weigh(difference: NDArray[np.float32], mean: float, limit: float) -> Weighed:
    """Set the weight of every pixel and take the mean off.

    Parameters
    ----------
    difference
        D, [y, x] [ADU], NaN where unusable.
    mean
        m, clipped mean of D [ADU].
    limit
        Pixels count where |D - m| <= limit [ADU].

    Returns
    -------
    Weighed
    """
    return Weighed(*_weigh(difference, mean, limit))


@njit(reassociate=True)
def _weigh(
    difference: NDArray[np.float32], mean: float, limit: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    rows = difference.shape[0]
    residual = np.empty(difference.shape, np.float32)
    weights = np.empty(difference.shape, np.bool_)
    row_sums = np.empty(rows, np.float64)
    row_counts = np.empty(rows, np.int64)
    for y in range(rows):
        total = 0.0
        count = 0
        for x in range(difference.shape[1]):
            value = np.float32(difference[y, x] - mean)
            kept = abs(difference[y, x] - mean) <= limit
            weights[y, x] = kept
            residual[y, x] = value if kept else np.float32(0.0)
            total += float(value if kept else np.float32(0.0))
            count += kept
        row_sums[y] = total
        row_counts[y] = count
    return residual, weights, row_sums, row_counts


@njit
def unmatched_difference(
    first: NDArray[np.float32], second: NDArray[np.float32], weights: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """I1 - I2, not scaled, for `gaussianity`: integers stay integers.

    Parameters
    ----------
    first, second
        [y, x], equal shapes [ADU].
    weights
        [y, x], True where a pixel counts.

    Returns
    -------
    array
        [y, x] [ADU], NaN where a pixel does not count.
    """
    out = np.empty(first.shape, np.float32)
    for y in range(first.shape[0]):
        for x in range(first.shape[1]):
            out[y, x] = first[y, x] - second[y, x] if weights[y, x] else np.float32(np.nan)
    return out


def row_mean_variance(
    row_sums: NDArray[np.floating[Any]], row_counts: NDArray[np.integer[Any]], n_sigma: float, passes: int
) -> float:
    """Clipped variance of the row means of D, which shows noise that a whole row shares.

    White noise gives 2 C_00 / (pixels per row). Rows with less than half as many pixels as the fullest one
    are left out: their means scatter more and would pass for correlated noise.

    Parameters
    ----------
    row_sums, row_counts
        [y]: sum of D - m over the pixels of a row that count [ADU], and their number.
    n_sigma, passes
        Of the clip over rows.

    Returns
    -------
    float
        [ADU^2]; NaN with fewer than two rows.
    """
    full = row_counts * 2 >= max(int(row_counts.max(initial=0)), 1)
    return clipped_statistics(row_sums[full] / row_counts[full], n_sigma, passes).variance


def gaussianity(delta: NDArray[np.float32]) -> float:
    """Kolmogorov-Smirnov distance of I1 - I2 from the Gaussian of its own mean and variance.

    The distance is taken at half-integers, where the staircase of undithered integers meets a smooth curve;
    anywhere else it would be off by up to half a step. Integers also get Sheppard's correction (variance -
    1/12) for the width of their steps. By simulation (``tests/physics/test_measuring_statistics.py``) perfect
    data then reach 1.2 / sqrt(pixels) in one of 1000 points, for a sigma of 3 ADU and more.

    Parameters
    ----------
    delta
        I1 - I2, not scaled, so that integers stay integers; any shape [ADU]. NaN are left out.

    Returns
    -------
    float
        Largest |F_data - F_Gauss|; NaN without any scatter.
    """
    flat = np.ravel(delta)
    mean, variance, count, on_steps = _moments(flat)
    if not variance > 0.0:
        return math.nan
    sigma = math.sqrt(variance)
    step = max(_STEP, sigma * _SIGMAS_PER_STEP)
    # Bin k is centred on (lowest + k) step; odd multiples of the step are the half-integers.
    lowest = 2 * math.floor((mean - _HALF_RANGE * sigma) / (2.0 * step)) + 1
    bins = math.ceil(2.0 * _HALF_RANGE * sigma / step) + 3
    counts = _histogram(flat, 1.0 / step, lowest, bins)
    below = np.cumsum(counts) - 0.5 * counts
    edges = (lowest + np.arange(0, bins, 2)) * step
    # Sheppard's correction needs a distribution that is wider than the steps.
    stepped = on_steps == count and variance > 1.0
    expected = special.ndtr((edges - mean) / math.sqrt(variance - 1.0 / 12.0 if stepped else variance))
    return float(np.max(np.abs(below[::2] / count - expected)))


@njit(reassociate=True)
def _moments(flat: NDArray[np.float32]) -> tuple[float, float, int, int]:
    """Mean, unbiased variance, number of values that are not NaN, number of those on multiples of 1/2."""
    count = 0
    on_steps = 0
    total = 0.0
    squares = 0.0
    for i in range(flat.size):
        kept = abs(flat[i]) < np.inf
        value = float(flat[i]) if kept else 0.0
        count += kept
        on_steps += kept & (np.floor(2.0 * value) == 2.0 * value)
        total += value
        squares += value * value
    if count < 2:
        return (np.nan, np.nan, count, on_steps)
    return (total / count, (squares - total * total / count) / (count - 1), count, on_steps)


@njit
def _histogram(flat: NDArray[np.float32], scale: float, lowest: int, bins: int) -> NDArray[np.int64]:
    """Count values into bins centred on multiples of 1 / scale; the outermost bins take what is outside."""
    counts = np.zeros(bins + 1, np.int64)  # the last one is for NaN
    places = np.empty(_BLOCK, np.int32)
    last = bins - 1.0
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        for i in range(block.size):
            position = np.floor(block[i] * scale + 0.5) - lowest
            inside = min(max(position, 0.0), last)
            places[i] = np.int32(inside if abs(block[i]) < np.inf else bins)
        for i in range(block.size):
            counts[places[i]] += 1
    return counts[:bins]
