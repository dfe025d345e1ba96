"""All points of an amplifier in 15 numbers per lag.

For fixed weights, a lag is a polynomial of degree 4 in the signal with coefficients k, so

    chi2 = sum w (C - sum_p k_p t^p)^2 = |triangle k - right|^2 + rest

where `triangle` is upper triangular, 5 x 5. Whatever the number of points, a fit needs no more of them than
that.

The powers of t are close to each other over a run, and their moments would lose half of the digits. So they
are made orthogonal first, with the weights of lag zero; the weights of the other lags differ from these
little, and their moments are nearly diagonal. Where the signals are too few to tell the powers apart (below
five different ones) the later powers vanish beside the earlier ones, and their rows are zero.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics._jit import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Moments", "compress", "variance_moments"]

_POWERS = 5

# A power is degenerate with the lower ones when less than this of it is left beside them.
_DEGENERATE = 1e-9
# Covariances beyond this are no camera's; squared in a sum they would swallow the others.
_ABSURD = 1e15


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """What is left of the points of an amplifier, L = R^2 lags.

    Attributes
    ----------
    triangle, right, rest
        (L, 5, 5), (L, 5), (L,): chi2 of a lag is |triangle k - right|^2 + rest.
    count
        (L,) points that were measured at the lag.
    """

    triangle: NDArray[np.float64]
    right: NDArray[np.float64]
    rest: NDArray[np.float64]
    count: NDArray[np.int64]


def compress(
    *,
    powers: NDArray[np.float64],
    variance: NDArray[np.float64],
    weight: NDArray[np.float64],
    covariances: NDArray[np.float64],
    pixel_count: NDArray[np.int64],
    rows: NDArray[np.int64],
    reference: NDArray[np.float64],
    lags: int,
    zero: tuple[float, float],
) -> Moments:
    """Take the moments of the used points.

    Parameters
    ----------
    powers
        (5, N) powers 0 to 4 of the mean signals of the used points, best in units of the largest.
    variance, weight
        (N,) C_00 and its weights.
    covariances, pixel_count
        (M, S, S) C_ij of all points and the pixel pairs behind them; element [0, 0] is not looked at.
    rows
        (N,) which of the M points are used, in the order of `powers`.
    reference
        (N,) C_00 of the model: the variance of C_ij is reference^2 / pixel_count.
    lags
        R, lags per axis, at most S.
    zero
        One more measurement, of C_00 at zero signal, and its weight; weight 0 for none.

    Returns
    -------
    Moments
    """
    triangle = np.zeros((lags * lags, _POWERS, _POWERS))
    right = np.zeros((lags * lags, _POWERS))
    rest = np.zeros(lags * lags)
    count = np.zeros(lags * lags, dtype=np.int64)
    if lags > 1:
        # Without the power 1, which only C_00 has (Poisson noise).
        weights = 1.0 / reference
        basis, upper = _orthogonal(powers[[0, 2, 3, 4]] * weights)
        _lag_moments(
            covariances, pixel_count, rows, basis, weights, upper, lags, triangle, right, rest, count
        )
    triangle[0], right[0], rest[0] = variance_moments(powers, variance, weight, zero)
    count[0] = variance.size
    return Moments(triangle=triangle, right=right, rest=rest, count=count)


def variance_moments(
    powers: NDArray[np.float64],
    variance: NDArray[np.float64],
    weight: NDArray[np.float64],
    zero: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Take the moments of lag zero, whose weights are its own.

    Parameters
    ----------
    powers
        (5, N) powers 0 to 4 of the signal.
    variance, weight, zero
        As for `compress`.

    Returns
    -------
    triangle, right, rest
        (5, 5), (5,), number: as in `Moments`, for one lag.
    """
    root = np.sqrt(weight)
    rows = powers * root
    values = variance * root
    if zero[1] > 0.0:
        extra = math.sqrt(zero[1])
        rows = np.hstack([rows, extra * np.eye(_POWERS, 1)])
        values = np.append(values, extra * zero[0])
    basis, upper = _orthogonal(rows)
    right, rest = _project(basis, values)
    return upper, right, rest


@njit(reassociate=True)
def _dot(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    value = 0.0
    for i in range(one.size):
        value += one[i] * two[i]
    return value


@njit(reassociate=True)
def _orthogonal(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Make rows orthonormal, first to last: rows = upper^T basis. One that depends on earlier ones becomes 0.

    Gram and Schmidt's method with every projection done twice, which is as good as Householder's.
    """
    count = rows.shape[0]
    basis = rows.copy()
    upper = np.zeros((count, count))
    for k in range(count):
        line = basis[k]
        whole = math.sqrt(_dot(line, line))
        for _ in range(2):
            for i in range(k):
                other = basis[i]
                part = _dot(other, line)
                upper[i, k] += part
                for n in range(line.size):
                    line[n] -= part * other[n]
        left = math.sqrt(_dot(line, line))
        if left > _DEGENERATE * whole:
            upper[k, k] = left
            inverse = 1.0 / left
            for n in range(line.size):
                line[n] *= inverse
        else:
            line[:] = 0.0
    return basis, upper


@njit(reassociate=True)
def _project(basis: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the components of `values` along the basis and the square of what is left."""
    left = values.copy()
    parts = np.empty(basis.shape[0])
    for k in range(basis.shape[0]):
        line = basis[k]
        parts[k] = _dot(line, left)
        for n in range(left.size):
            left[n] -= parts[k] * line[n]
    return parts, _dot(left, left)


@njit(reassociate=True)
def _lag_moments(  # noqa: PLR0917 - numba kernels take positional arguments
    covariances: NDArray[np.float64],
    pixel_count: NDArray[np.int64],
    rows: NDArray[np.int64],
    basis: NDArray[np.float64],
    weights: NDArray[np.float64],
    upper: NDArray[np.float64],
    size: int,
    triangle: NDArray[np.float64],
    right: NDArray[np.float64],
    rest: NDArray[np.float64],
    count: NDArray[np.int64],
) -> int:
    """Fill the moments of all lags; those of lag zero are not to be used. The result is of no use either."""
    # Whole rows of lags along y, also those that nobody asks for: long loops, one after the other in memory.
    measured = covariances.shape[1]
    lags = size * measured
    flat, numbers = covariances.reshape(-1, measured * measured), pixel_count.reshape(-1, measured * measured)
    grams = np.zeros((10, lags))  # sum of n_pix Q_j Q_k
    sides = np.zeros((4, lags))  # sum of n_pix (C / reference) Q_j
    squares = np.zeros(lags)
    missing = np.zeros(lags)
    fetched = 0
    # Four points at a time, so that a sum is loaded and stored once for four products.
    pixels = np.zeros((4, lags))
    values = np.zeros((4, lags))
    factors = np.zeros((14, 4))
    for first in range(0, rows.size, 4):
        together = min(4, rows.size - first)
        if together < 4:
            pixels[:] = 0.0
            values[:] = 0.0
            factors[:] = 0.0
        # Fetch the rows of the next four, one number per line of the cache: they lie anywhere in memory.
        for n in range(first + 4, min(first + 8, rows.size)):
            for l in range(0, lags, 8):
                fetched += (flat[rows[n], l] > _ABSURD) + (numbers[rows[n], l] < 0)
        for n in range(together):
            point = first + n
            weight = weights[point]
            line, counts = flat[rows[point], :lags], numbers[rows[point], :lags]
            to_pixels, to_values = pixels[n], values[n]
            for l in range(line.size):
                known = abs(line[l]) < _ABSURD and counts[l] > 0  # False for NaN
                number = float(counts[l]) if known else 0.0
                value = weight * line[l] if known else 0.0
                to_pixels[l] = number
                to_values[l] = number * value
                squares[l] += number * value * value
                missing[l] += 0.0 if known else 1.0
            m = 0
            for j in range(4):
                factors[10 + j, n] = basis[j, point]
                for k in range(j, 4):
                    factors[m, n] = basis[j, point] * basis[k, point]
                    m += 1
        for m in range(14):
            sums, lines = (grams[m], pixels) if m < 10 else (sides[m - 10], values)
            p0, p1, p2, p3 = lines[0], lines[1], lines[2], lines[3]
            f0, f1, f2, f3 = factors[m, 0], factors[m, 1], factors[m, 2], factors[m, 3]
            for l in range(sums.size):
                sums[l] += f0 * p0[l] + f1 * p1[l] + f2 * p2[l] + f3 * p3[l]
    for i in range(size):
        for j in range(size):
            l, k = i * size + j, i * measured + j
            count[l] = rows.size - int(missing[k])
            _triangulate(grams[:, k], sides[:, k], squares[k], upper, triangle[l], right[l], rest[l : l + 1])
    return fetched  # else the compiler takes the fetching for useless


@njit
def _triangulate(  # noqa: PLR0917 - numba kernels take positional arguments
    gram: NDArray[np.float64],
    side: NDArray[np.float64],
    square: float,
    upper: NDArray[np.float64],
    triangle: NDArray[np.float64],
    right: NDArray[np.float64],
    rest: NDArray[np.float64],
) -> None:
    """Turn the moments of one lag into its triangle: Cholesky of its gram matrix times that of the powers."""
    factor = np.zeros((4, 4))
    parts = np.zeros(4)
    m = 0
    for j in range(4):
        for k in range(j, 4):
            factor[j, k] = gram[m]
            m += 1
    for j in range(4):
        whole = factor[j, j]
        for i in range(j):
            factor[j, j] -= factor[i, j] * factor[i, j]
        if not factor[j, j] > _DEGENERATE * whole:
            factor[j, :] = 0.0
            continue
        factor[j, j] = math.sqrt(factor[j, j])
        parts[j] = side[j]
        for i in range(j):
            parts[j] -= factor[i, j] * parts[i]
        parts[j] /= factor[j, j]
        square -= parts[j] * parts[j]
        for k in range(j + 1, 4):
            for i in range(j):
                factor[j, k] -= factor[i, j] * factor[i, k]
            factor[j, k] /= factor[j, j]
    for j in range(4):
        row = j if j == 0 else j + 1  # the row of power 1 stays empty
        right[row] = parts[j]
        for k in range(j, 4):
            column = k if k == 0 else k + 1
            value = 0.0
            for i in range(j, k + 1):
                value += factor[j, i] * upper[i, k]
            triangle[row, column] = value
    rest[0] = max(square, 0.0)
