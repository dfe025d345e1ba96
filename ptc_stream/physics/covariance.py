"""Covariances of a difference image at small lags, as direct sums over pixel pairs.

With some ten lags per axis a direct sum beats the Fourier transform by far, if it is arranged for the
machine: every row is followed by as many zeros as the largest lag, so that the image is one flat vector, a
lag is one shift of it, and pixels beyond an edge or a mask count as zero without being asked for.

For the mean products the lag (dx, dy) needs, over the pixel pairs p, p' = p + (dx, dy) that both count,

    n = sum w w',   S = sum D D' w w',   P = sum D w w',   Q = sum D' w w',   c = S/n - P Q/n^2

(Astier et al. 2019, section 4, written for masks that differ from lag to lag). dy runs from 0 up, dx both
ways: the other half plane is the same by symmetry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ptc_stream.physics._jit import njit
from ptc_stream.physics._products import LANES, ROWS_AT_A_TIME, multiply_shifted

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LagSums", "lag_sums", "quadrant_covariances", "window_lag_sums"]

# Above this part of masked pixels it is faster to sum w w', D w' and w D' over all pixel pairs, in float32
# (which costs 1e-7 of P and Q, of c therefore nothing), than to take out every masked pixel by itself.
_MANY_MASKED = 0.02


class LagSums(NamedTuple):
    """Sums over pixel pairs, each [R, 2 R - 1], index [dy, dx + R - 1] for R lags per axis."""

    products: NDArray[np.float64]
    """S = sum D D' w w' [ADU^2]."""
    first: NDArray[np.float64]
    """P = sum D w w' [ADU]."""
    second: NDArray[np.float64]
    """Q = sum D' w w' [ADU]."""
    counts: NDArray[np.float64]
    """n = sum w w', whole numbers."""


class _Padded(NamedTuple):
    """An image as one flat vector with zeros around every row."""

    flat: NDArray[np.float32]
    start: int
    """Index of pixel [0, 0]."""
    stride: int
    length: int
    """From pixel [0, 0] to the end of the last row and its zeros."""


def lag_sums(difference: NDArray[np.float32], weights: NDArray[np.bool_], max_lag: int) -> LagSums:
    """Sum over all pixel pairs of an image that is mostly usable.

    Only the products go over all pixel pairs. P, Q and n start from the sums over the rectangle that a lag
    leaves, and the few pixels with weight zero are taken out one by one.

    Parameters
    ----------
    difference
        D [ADU], [y, x], zero where the weight is; best with its mean taken off.
    weights
        w, [y, x], True where a pixel counts.
    max_lag
        R, number of lags per axis: 0 .. R - 1.

    Returns
    -------
    LagSums
    """
    masked = np.flatnonzero(~weights)
    if masked.size > _MANY_MASKED * weights.size:
        return window_lag_sums(difference, weights, (slice(None), slice(None)), max_lag)
    image = _pad(difference, max_lag)
    products = _products(image, image, max_lag)
    first, second, counts, squares = _rectangle_sums(difference, max_lag)
    products[0, max_lag - 1] = squares
    _take_out(masked, difference, weights, (first, second, counts))
    return LagSums(products, first, second, counts)


def window_lag_sums(
    difference: NDArray[np.float32],
    weights: NDArray[np.bool_],
    base: tuple[slice, slice],
    max_lag: int,
) -> LagSums:
    """Sum over the pixel pairs whose first pixel lies in a small base, wherever the second one lies.

    Summed over bases that tile an image, this gives `lag_sums` of the image.

    Parameters
    ----------
    difference
        D [ADU], [y, x]: a window that holds the base and, as far as the image goes, R - 1 columns on both
        sides and R - 1 rows above it. Zero where the weight is.
    weights
        w, [y, x] of the window.
    base
        Rows and columns of the window that are the base. It begins on the window's first row.
    max_lag
        R, number of lags per axis.

    Returns
    -------
    LagSums
    """
    inside = np.zeros_like(weights)
    inside[base] = weights[base]
    image = _pad(difference, max_lag)
    good = _pad(weights.astype(np.float32), max_lag)
    base_image = _pad(np.where(inside, difference, np.float32(0)), max_lag)
    base_good = _pad(inside.astype(np.float32), max_lag)
    products = _products(base_image, image, max_lag)
    # All terms of this sum are positive and its errors grow faster: it is made in float64.
    products[0, max_lag - 1] = _sum_of_squares(difference[base])
    return LagSums(
        products,
        _products(base_image, good, max_lag),
        _products(base_good, image, max_lag),
        _products(base_good, good, max_lag),
    )


def quadrant_covariances(
    sums: LagSums, *, lost_means: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Turn sums into covariances, lags of both signs of dx averaged.

    Parameters
    ----------
    sums
        From `lag_sums`, or several of them added up.
    lost_means
        [R, 2 R - 1]: for every lag, the part kappa of C_00 that went missing because means of parts of the
        image were taken off; added back as kappa C_00. Nothing without it.

    Returns
    -------
    covariances
        [R, R], index [i, j] = [x lag, y lag], half the covariance of D [ADU^2]; NaN where no pixel pair is.
    pixel_count
        [R, R], pixel pairs behind each of them, both signs of dx together.
    """
    n = sums.counts
    with np.errstate(invalid="ignore", divide="ignore"):
        c = sums.products / n - sums.first * sums.second / (n * n)
    centre = n.shape[0] - 1
    if lost_means is not None:
        # c_00 itself lacks kappa_00 C_00: C_00 = c_00 / (1 - kappa_00).
        c = c + lost_means * (c[0, centre] / (1.0 - lost_means[0, centre]))
    # On the axes the two signs of dx are one lag or, for dy = 0, the same pixel pairs.
    signs = np.stack([c[:, centre:], c[:, centre::-1]])
    pairs = np.stack([n[:, centre:], n[:, centre::-1]])
    pairs[1, 0, :] = pairs[1, :, 0] = 0
    used = pairs > 0
    with np.errstate(invalid="ignore"):  # no pixel pair of either sign: 0 / 0 is the NaN that says so
        covariances = np.where(used, signs, 0.0).sum(axis=0) / used.sum(axis=0) / 2
    count = pairs.sum(axis=0)
    return np.ascontiguousarray(covariances.T), np.ascontiguousarray(count.T.round().astype(np.int64))


def _pad(image: NDArray[np.float32], max_lag: int) -> _Padded:
    rows, columns = image.shape
    stride = -(-(columns + max_lag) // LANES) * LANES
    # Before the first row: the rows that the last group of y lags looks back to, one more for the x lags.
    blocks = -(-max_lag // ROWS_AT_A_TIME) * ROWS_AT_A_TIME
    start = (blocks + 1) * stride
    raw = np.empty(start + (rows + blocks + 1) * stride + LANES, np.float32)
    skip = (-raw.ctypes.data // raw.itemsize) % LANES
    flat = raw[skip : raw.size - LANES + skip]
    _fill(flat, image, start, stride)
    return _Padded(flat, start, stride, rows * stride)


@njit
def _fill(flat: NDArray[np.float32], image: NDArray[np.float32], start: int, stride: int) -> None:
    """Write the rows of an image, each followed by zeros, and zeros before and after: every number once."""
    rows, columns = image.shape
    flat[:start] = 0.0
    for y in range(rows):
        row = flat[start + y * stride : start + (y + 1) * stride]
        for x in range(columns):
            row[x] = image[y, x]
        row[columns:] = 0.0
    flat[start + rows * stride :] = 0.0


def _products(base: _Padded, partner: _Padded, max_lag: int) -> NDArray[np.float64]:
    out = multiply_shifted(base.flat, partner.flat, (base.start, base.length, base.stride), max_lag)
    return out[:max_lag, : 2 * max_lag - 1]


@njit(reassociate=True)
def _sum_of_squares(image: NDArray[np.float32]) -> float:
    total = 0.0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            total += float(image[y, x]) * float(image[y, x])
    return total


@njit
def _rectangle_sums(
    image: NDArray[np.float32], max_lag: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Sum, for each lag, the pixels that have a partner inside the frame, and the pixels that are one.

    Also how many they are, and the sum of all squares. Column by column in float64, so that the order is the
    same on every CPU and a vector unit has a lane for each.
    """
    rows, columns = image.shape
    shape = (max_lag, 2 * max_lag - 1)
    first = np.zeros(shape)
    second = np.zeros(shape)
    counts = np.zeros(shape)
    lower = np.zeros(columns)  # column sums without the last dy rows: these pixels have a partner above
    squares = np.zeros(columns)
    for y in range(rows):
        for x in range(columns):
            value = float(image[y, x])
            lower[x] += value
            squares[x] += value * value
    upper = lower.copy()  # column sums without the first dy rows: these pixels are a partner
    for dy in range(min(max_lag, rows)):
        if dy > 0:
            for x in range(columns):
                lower[x] -= image[rows - dy, x]
                upper[x] -= image[dy - 1, x]
        for dx in range(-min(max_lag, columns) + 1, min(max_lag, columns)):
            cut = abs(dx)
            begin, end = (0, columns - cut) if dx >= 0 else (cut, columns)
            first[dy, dx + max_lag - 1] = np.sum(lower[begin:end])
            begin, end = (cut, columns) if dx >= 0 else (0, columns - cut)
            second[dy, dx + max_lag - 1] = np.sum(upper[begin:end])
            counts[dy, dx + max_lag - 1] = (rows - dy) * (columns - cut)
    return first, second, counts, np.sum(squares)


@njit
def _take_out(
    masked: NDArray[np.int64],
    image: NDArray[np.float32],
    weights: NDArray[np.bool_],
    sums: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
) -> None:
    """Take the pairs with a masked pixel out of the rectangle sums (what is masked is zero in `image`)."""
    first, second, counts = sums
    max_lag = first.shape[0]
    rows, columns = image.shape
    zero = max_lag - 1  # index of dx = 0
    for pixel in masked:
        y, x = divmod(pixel, columns)
        for dy in range(max_lag):
            if y + dy < rows:  # the masked pixel is p
                for dx in range(max(-zero, -x), min(max_lag, columns - x)):
                    second[dy, dx + zero] -= image[y + dy, x + dx]
                    counts[dy, dx + zero] -= 1.0
            if y - dy >= 0:  # it is p'; where both are masked, the pair is out already
                for dx in range(max(-zero, x - columns + 1), min(max_lag, x + 1)):
                    first[dy, dx + zero] -= image[y - dy, x - dx]
                    counts[dy, dx + zero] -= weights[y - dy, x - dx]
