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

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ptc_stream.physics._jit import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LagSums", "lag_sums", "quadrant_covariances", "window_lag_sums"]

# Five rows times two columns of lags are summed at a time: each load then feeds enough multiply-adds to keep
# both units of a core busy, and ten sums still fit into the vector registers.
_ROWS_AT_A_TIME = 5
_COLUMNS_AT_A_TIME = 2
# float32 sums run over this many pixels before they are added up in float64. With 256 the error of a lag is
# 2e-10 of C_00 at 10^6 pixels, far below its sampling error of 1e-3; 2048 would be 20 % faster and double it.
# At lag (0, 0) all terms are positive and errors grow faster: that one sum is made in float64.
_CHAIN = 256
# Rows begin on a cache line (16 float32): a load that straddles two lines costs twice.
_LINE = 16


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
    image = _pad(difference, max_lag)
    good = _pad(weights.astype(np.float32), max_lag)
    products = _products(image, image, max_lag)
    products[0, max_lag - 1] = _sum_of_squares(difference)
    first, second = _rectangle_sums(difference, max_lag)
    counts, _ = _rectangle_sums(weights, max_lag)
    rows, columns = np.divmod(np.flatnonzero(~weights), weights.shape[1])
    masked = image.start + rows * image.stride + columns
    _take_out(masked, image.flat, good.flat, image.stride, (first, second, counts))
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
    stride = -(-(columns + max_lag) // _LINE) * _LINE
    # Before the first row: the rows that the last group of y lags looks back to, one more for the x lags.
    blocks = -(-max_lag // _ROWS_AT_A_TIME) * _ROWS_AT_A_TIME
    start = (blocks + 1) * stride
    raw = np.zeros(start + (rows + blocks + 1) * stride + _LINE, np.float32)
    skip = (-raw.ctypes.data // raw.itemsize) % _LINE
    flat = raw[skip : raw.size - _LINE + skip]
    flat[start : start + rows * stride].reshape(rows, stride)[:, :columns] = image
    return _Padded(flat, start, stride, rows * stride)


def _products(base: _Padded, partner: _Padded, max_lag: int) -> NDArray[np.float64]:
    out = _multiply_shifted(base.flat, partner.flat, (base.start, base.length, base.stride), max_lag)
    return out[:max_lag, : 2 * max_lag - 1]


@njit(reassociate=True)
def _multiply_shifted(
    base: NDArray[np.float32],
    partner: NDArray[np.float32],
    layout: tuple[int, int, int],
    max_lag: int,
) -> NDArray[np.float64]:
    """Sum base[q - dy stride] partner[q + dx] over q; index [dy, dx + R - 1], rounded up to whole blocks."""
    start, length, stride = layout
    blocks = (max_lag + _ROWS_AT_A_TIME - 1) // _ROWS_AT_A_TIME
    out = np.zeros((blocks * _ROWS_AT_A_TIME, _COLUMNS_AT_A_TIME * max_lag))
    zero = np.float32(0)
    for begin in range(start, start + length, _CHAIN):
        size = min(_CHAIN, start + length - begin)
        for pair in range(max_lag):
            shift = begin + _COLUMNS_AT_A_TIME * pair - max_lag + 1
            u = partner[shift : shift + size]
            v = partner[shift + 1 : shift + 1 + size]
            for dy in range(0, max_lag, _ROWS_AT_A_TIME):
                row = begin - dy * stride
                a0 = base[row : row + size]
                a1 = base[row - stride : row - stride + size]
                a2 = base[row - 2 * stride : row - 2 * stride + size]
                a3 = base[row - 3 * stride : row - 3 * stride + size]
                a4 = base[row - 4 * stride : row - 4 * stride + size]
                s0 = s1 = s2 = s3 = s4 = zero
                t0 = t1 = t2 = t3 = t4 = zero
                for i in range(size):
                    s0 += u[i] * a0[i]
                    s1 += u[i] * a1[i]
                    s2 += u[i] * a2[i]
                    s3 += u[i] * a3[i]
                    s4 += u[i] * a4[i]
                    t0 += v[i] * a0[i]
                    t1 += v[i] * a1[i]
                    t2 += v[i] * a2[i]
                    t3 += v[i] * a3[i]
                    t4 += v[i] * a4[i]
                left = _COLUMNS_AT_A_TIME * pair
                out[dy, left] += s0
                out[dy + 1, left] += s1
                out[dy + 2, left] += s2
                out[dy + 3, left] += s3
                out[dy + 4, left] += s4
                out[dy, left + 1] += t0
                out[dy + 1, left + 1] += t1
                out[dy + 2, left + 1] += t2
                out[dy + 3, left + 1] += t3
                out[dy + 4, left + 1] += t4
    return out


@njit(reassociate=True)
def _sum_of_squares(image: NDArray[np.float32]) -> float:
    total = 0.0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            total += float(image[y, x]) * float(image[y, x])
    return total


@njit
def _rectangle_sums(image: NDArray[Any], max_lag: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum, for each lag, the pixels that have a partner inside the frame, and the pixels that are one."""
    rows, columns = image.shape
    shape = (max_lag, 2 * max_lag - 1)
    first = np.zeros(shape)
    second = np.zeros(shape)
    lower = np.zeros(columns)  # column sums without the last dy rows: these pixels have a partner above
    for y in range(rows):
        for x in range(columns):
            lower[x] += image[y, x]
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
    return first, second


@njit
def _take_out(
    masked: NDArray[np.int64],
    image: NDArray[np.float32],
    good: NDArray[np.float32],
    stride: int,
    sums: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
) -> None:
    """Take the pairs with a masked pixel out of the rectangle sums (what is masked is zero in `image`)."""
    first, second, counts = sums
    max_lag, width = first.shape
    # Flat index p - lag runs against dx: sums of P and n are kept mirrored, so that all loads go forwards.
    mirrored_first = np.zeros((max_lag, width))
    mirrored_counts = np.zeros((max_lag, width))
    for pixel in masked:
        for dy in range(max_lag):
            low = pixel - dy * stride - max_lag + 1
            high = pixel + dy * stride - max_lag + 1
            for i in range(width):
                mirrored_first[dy, i] += image[low + i]
                mirrored_counts[dy, i] += good[low + i]
                second[dy, i] -= image[high + i]
    for dy in range(max_lag):
        for i in range(width):
            first[dy, i] -= mirrored_first[dy, width - 1 - i]
            counts[dy, i] -= mirrored_counts[dy, width - 1 - i]
