"""Eq. 20 of Astier et al. 2019 and its least squares, one amplifier at a time, in machine code.

In units of the largest signal s, with t = mu / s, each lag is a polynomial of degree 4::

    C(t) = nu + q [ delta t + A t^2 + (2/3) (A(x)A + gamma) t^3 + ( A(x)A(x)A / 3 + (5/6) A(x)gamma ) t^4 ]

    q = s / g    A = a g s    gamma = c (g s)^2    nu = n / g^2    c = a * b elementwise

where (x) is the convolution of the arrays mirrored into four quadrants. So `A` and `gamma` are small numbers
without unit, nu and q enter linearly, and all pairs together are 15 numbers per lag
(`ptc_stream.physics.moments`). A convolution with a given array is a linear map of the other one, a matrix
of R^2 x R^2: the Jacobian is made of two of these, those of A and of A(x)A + (5/6) gamma. Lag zero is
element [0, 0] of every array, so that no centre has to be looked for, and supports grow with each
convolution: nothing is cut off before it has been used.

All kernels of Eq. 20 stand here because numba's cache does not see changes in other files; the formula as
users know it is `ptc_stream.physics.models.evaluate_full_covariance`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics._jit import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "add_product",
    "coefficients_of",
    "factorise",
    "gradient_of",
    "linear_maps",
    "normal_matrix",
    "residuals_of",
    "solve_factorised",
]

# A pivot below this part of its diagonal is rounding: what the parameter does, others do as well.
_SINGULAR = 1e-13


@njit
def _operator(x: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the matrix of "convolve with x": (size^2, size^2), lags [i, j] flattened.

    `x` is a quadrant of at least 2 size - 1 lags per axis.
    """
    matrix = np.empty((size * size, size * size))
    line = np.empty(2 * size - 1)
    for i in range(size):
        for k in range(size):
            # What reaches lag i from the lags +k and -k.
            for j in range(2 * size - 1):
                line[j] = x[abs(i - k), j]
                if k > 0:
                    line[j] += x[i + k, j]
            for j in range(size):
                row = matrix[i * size + j]
                row[k * size] = line[j]
                for l in range(1, size):
                    row[k * size + l] = line[abs(j - l)] + line[j + l]
    return matrix


@njit
def _squared(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return A(x)A at all lags where it is not zero: (2 R - 1, 2 R - 1)."""
    size = a.shape[0]
    reach = 2 * size - 1
    padded = np.zeros((reach + size, reach + size))
    padded[:size, :size] = a
    result = np.zeros((reach, reach))
    line = np.empty(reach + size)
    mirrored = np.empty(reach + size)  # element j + size - 1 is at lag j, which may be negative
    for i in range(reach):
        for k in range(size):
            # What reaches lag i from the lags +k and -k.
            for j in range(reach + size):
                line[j] = padded[abs(i - k), j] + (padded[i + k, j] if k > 0 else 0.0)
            for j in range(reach + size):
                mirrored[j] = line[abs(j - size + 1)]
            to = result[i]
            for l in range(size):
                factor = a[k, l]
                left, right = mirrored[size - 1 - l :], line[l:]
                if l > 0:
                    for j in range(to.size):
                        to[j] += factor * (left[j] + right[j])
                else:
                    for j in range(to.size):
                        to[j] += factor * left[j]
    return result


@njit
def linear_maps(
    theta: NDArray[np.float64],
    lags: int,
    with_c: bool,  # noqa: FBT001 - numba kernels take positional arguments
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the coefficients of t^3 and t^4 change by with A, in units of q.

    d (A(x)A) / dA = 2 T(A) and d (A(x)A(x)A) / dA = 3 T(A(x)A), T(x) being the matrix of "convolve with x".
    With gamma, they change by 2/3 and by (5/6) T(A), which is 5/8 of the first matrix.

    Parameters
    ----------
    theta, with_c
        As for `gradient_of`.
    lags
        L.

    Returns
    -------
    cubic, quartic : NDArray
        (L, L).
    """
    size = round(math.sqrt(lags))
    a = np.zeros((2 * size - 1, 2 * size - 1))
    a[:size, :size] = theta[:lags].copy().reshape(size, size)
    twice = _squared(a[:size, :size].copy())
    if with_c:
        twice[:size, :size] += 5.0 / 6.0 * theta[lags : 2 * lags].copy().reshape(size, size)
    cubic = _operator(a, size)
    cubic *= 4.0 / 3.0
    return cubic, _operator(twice, size)


@njit
def coefficients_of(
    theta: NDArray[np.float64],
    cubic: NDArray[np.float64],
    quartic: NDArray[np.float64],
    with_c: bool,  # noqa: FBT001 - numba kernels take positional arguments
) -> NDArray[np.float64]:
    """Return the coefficients of t, t^2, t^3 and t^4 of every lag, in units of q.

    Parameters
    ----------
    theta, with_c
        As for `gradient_of`.
    cubic, quartic
        (L, L) as from `linear_maps`.

    Returns
    -------
    NDArray
        (L, 4).
    """
    lags = cubic.shape[0]
    coefficients = np.zeros((lags, 4))
    coefficients[0, 0] = 1.0  # delta: Poisson noise, mu / g
    for l in range(lags):
        # Eq. 20 in the brackets. Of what is quadratic in the parameters the maps give twice, of what is cubic
        # three times the value: (2/3) A(x)A is half of cubic A; quartic A holds A(x)A(x)A + (5/6) gamma(x)A.
        third = fourth = 0.0
        for b in range(lags):
            third += cubic[l, b] * theta[b]
            fourth += quartic[l, b] * theta[b]
        coefficients[l, 1] = theta[l]
        coefficients[l, 2] = 0.5 * third
        coefficients[l, 3] = fourth / 3.0
        if with_c:
            mixed = 0.0
            for b in range(lags):
                mixed += cubic[l, b] * theta[lags + b]
            coefficients[l, 2] += 2.0 / 3.0 * theta[lags + l]
            coefficients[l, 3] += 5.0 / 12.0 * mixed  # 5/6 - 5/18 of A(x)gamma, which is 3/4 of cubic gamma
    return coefficients


@njit
def residuals_of(
    theta: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    triangle: NDArray[np.float64],
    right: NDArray[np.float64],
) -> tuple[NDArray[np.float64], float]:
    """Compare parameters with moments, nu left out: whatever the others are, it makes its residual zero.

    Parameters
    ----------
    theta
        (K,) A, gamma where it is fitted, and q: K = 2 L + 1 or L + 1, with L = R^2 lags.
    coefficients
        (L, 4) as from `coefficients_of`.
    triangle, right
        (L, 5, 5), (L, 5): chi2 of a lag is |triangle k - right|^2 plus a constant, where k are the
        coefficients of 1, t, .. t^4. Upper triangles.

    Returns
    -------
    residuals : NDArray
        (L, 4) what is left.
    chi2 : float
        Sum of their squares.
    """
    lags = coefficients.shape[0]
    residuals = np.zeros((lags, 4))
    chi2 = 0.0
    for l in range(lags):
        for r in range(4):
            value = -right[l, r + 1]
            for p in range(r, 4):
                value += theta[-1] * triangle[l, r + 1, p + 1] * coefficients[l, p]
            residuals[l, r] = value
            chi2 += value * value
    return residuals, chi2


@njit(reassociate=True)
def add_product(
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    out: NDArray[np.float64],
    symmetric: bool,  # noqa: FBT001 - numba kernels take positional arguments
) -> None:
    """Add left^T right to `out`, in one thread and a fixed order.

    Parameters
    ----------
    left, right
        (N, K), (N, M).
    out
        (K, M).
    symmetric
        The product is known to be symmetric: its upper triangle is enough.
    """
    count, rows = left.shape
    whole = count - count % 4
    for i in range(rows):
        first = i if symmetric else 0
        line = out[i, first:]
        for k in range(0, whole, 4):
            f0, f1, f2, f3 = left[k, i], left[k + 1, i], left[k + 2, i], left[k + 3, i]
            r0, r1, r2, r3 = (
                right[k, first:],
                right[k + 1, first:],
                right[k + 2, first:],
                right[k + 3, first:],
            )
            for j in range(line.size):
                line[j] += f0 * r0[j] + f1 * r1[j] + f2 * r2[j] + f3 * r3[j]
        for k in range(whole, count):
            f0, r0 = left[k, i], right[k, first:]
            for j in range(line.size):
                line[j] += f0 * r0[j]


@njit(reassociate=True)
def factorise(matrix: NDArray[np.float64]) -> bool:
    """Replace the upper triangle of a positive matrix by U with U^T U = matrix.

    Parameters
    ----------
    matrix
        (K, K), of which the lower triangle is not looked at.

    Returns
    -------
    bool
        False where it is singular.
    """
    size = matrix.shape[0]
    least = np.diag(matrix).copy() * _SINGULAR
    for first in range(0, size, 4):
        last = min(first + 4, size)
        for k in range(first, last):
            line = matrix[k, k:]
            for i in range(first, k):
                factor = matrix[i, k]
                other = matrix[i, k:]
                for j in range(line.size):
                    line[j] -= factor * other[j]
            if not line[0] > least[k]:
                return False
            inverse = 1.0 / math.sqrt(line[0])
            for j in range(line.size):
                line[j] *= inverse
        if last - first < 4:
            break
        for i in range(last, size):
            line = matrix[i, i:]
            f0, f1, f2, f3 = (
                matrix[first, i],
                matrix[first + 1, i],
                matrix[first + 2, i],
                matrix[first + 3, i],
            )
            r0, r1, r2, r3 = (
                matrix[first, i:],
                matrix[first + 1, i:],
                matrix[first + 2, i:],
                matrix[first + 3, i:],
            )
            for j in range(line.size):
                line[j] -= f0 * r0[j] + f1 * r1[j] + f2 * r2[j] + f3 * r3[j]
    return True


@njit
def solve_factorised(factor: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve U^T U x = right.

    Parameters
    ----------
    factor, right
        (K, K) as from `factorise`, (K,).

    Returns
    -------
    NDArray
        (K,) x.
    """
    size = right.size
    x = right.copy()
    for i in range(size):
        x[i] /= factor[i, i]
        line = factor[i, i:]
        rest = x[i:]
        for j in range(1, line.size):
            rest[j] -= line[j] * rest[0]
    for i in range(size - 1, -1, -1):
        line = factor[i, i:]
        rest = x[i:]
        value = rest[0]
        for j in range(1, line.size):
            value -= line[j] * rest[j]
        x[i] = value / line[0]
    return x


@njit
def _pull_back(
    answers: NDArray[np.float64],
    cubic: NDArray[np.float64],
    quartic: NDArray[np.float64],
    q: float,
    out: NDArray[np.float64],
) -> None:
    """Fill `out` with J^T answers: from derivatives by coefficients to those by A (and gamma)."""
    lags = answers.shape[0]
    out[:] = 0.0
    for l in range(lags):
        out[l] += q * answers[l, 1]
        for b in range(lags):
            out[b] += q * (cubic[l, b] * answers[l, 2] + quartic[l, b] * answers[l, 3])
    if out.size > lags:
        for l in range(lags):
            out[lags + l] += q * 2.0 / 3.0 * answers[l, 2]
            for b in range(lags):
                out[lags + b] += q * 0.625 * cubic[l, b] * answers[l, 3]


@njit
def gradient_of(
    theta: NDArray[np.float64],
    triangle: NDArray[np.float64],
    right: NDArray[np.float64],
    with_c: bool,  # noqa: FBT001 - numba kernels take positional arguments
) -> tuple[NDArray[np.float64], float]:
    """Return the derivatives of chi2 / 2 by the parameters, and chi2.

    Parameters
    ----------
    theta, triangle, right
        As for `residuals_of`.
    with_c
        False holds gamma at 0 (FULLCOVARIANCE_NO_B).

    Returns
    -------
    gradient : NDArray
        (K,).
    chi2 : float
    """
    lags = triangle.shape[0]
    cubic, quartic = linear_maps(theta, lags, with_c)
    coefficients = coefficients_of(theta, cubic, quartic, with_c)
    residuals, chi2 = residuals_of(theta, coefficients, triangle, right)
    slopes = np.zeros((lags, 4))  # by the coefficients
    gradient = np.empty(theta.size)
    gradient[-1] = 0.0
    for l in range(lags):
        for p in range(4):
            for r in range(p + 1):
                slopes[l, p] += triangle[l, r + 1, p + 1] * residuals[l, r]
            gradient[-1] += slopes[l, p] * coefficients[l, p]
    _pull_back(slopes, cubic, quartic, theta[-1], gradient[:-1])
    return gradient, chi2


@njit
def normal_matrix(
    theta: NDArray[np.float64],
    triangle: NDArray[np.float64],
    with_c: bool,  # noqa: FBT001 - numba kernels take positional arguments
) -> NDArray[np.float64]:
    """Return J^T J, the inverse of the covariance of the parameters.

    Parameters
    ----------
    theta, triangle
        As for `residuals_of`.
    with_c
        As for `gradient_of`.

    Returns
    -------
    NDArray
        (K, K) of which the upper triangle is filled.
    """
    lags = triangle.shape[0]
    cubic, quartic = linear_maps(theta, lags, with_c)
    coefficients = coefficients_of(theta, cubic, quartic, with_c)
    normal = np.zeros((theta.size, theta.size))
    # Of each lag, without the constant.
    gram = np.zeros((lags, 4, 4))
    cross = np.zeros((lags, 4))
    for l in range(lags):
        for p in range(4):
            for o in range(4):
                for r in range(min(p, o) + 1):
                    gram[l, p, o] += triangle[l, r + 1, p + 1] * triangle[l, r + 1, o + 1]
                cross[l, p] += gram[l, p, o] * coefficients[l, o]
            normal[-1, -1] += cross[l, p] * coefficients[l, p]
    _pull_back(cross, cubic, quartic, theta[-1], normal[:-1, -1])

    # The blocks of A and gamma: per lag, J = q [e_l; cubic_l; quartic_l] for A and, for gamma,
    # q [0; 2/3 e_l; 5/8 cubic_l], weighted with the gram matrix of the powers 2, 3, 4.
    gram *= theta[-1] * theta[-1]
    weighted3 = np.empty((lags, lags))
    weighted4 = np.empty((lags, lags))
    linear = np.empty((lags, lags))
    block = np.zeros((lags, lags))
    for l in range(lags):
        for b in range(lags):
            weighted3[l, b] = gram[l, 2, 2] * cubic[l, b] + gram[l, 2, 3] * quartic[l, b]
            weighted4[l, b] = gram[l, 2, 3] * cubic[l, b] + gram[l, 3, 3] * quartic[l, b]
            linear[l, b] = gram[l, 1, 2] * cubic[l, b] + gram[l, 1, 3] * quartic[l, b]
    add_product(cubic, weighted3, block, True)
    add_product(quartic, weighted4, block, True)
    for l in range(lags):
        for b in range(l, lags):
            normal[l, b] = block[l, b] + linear[l, b] + linear[b, l]
        normal[l, l] += gram[l, 1, 1]
    if with_c:
        block[:] = 0.0
        add_product(weighted4, cubic, block, False)
        for l in range(lags):
            for b in range(lags):
                normal[l, lags + b] = (
                    0.625 * (block[l, b] + gram[l, 1, 3] * cubic[l, b]) + 2.0 / 3.0 * weighted3[b, l]
                )
            normal[l, lags + l] += 2.0 / 3.0 * gram[l, 1, 2]
        for l in range(lags):
            for b in range(lags):
                weighted4[l, b] = 0.625 * 0.625 * gram[l, 3, 3] * cubic[l, b]
                linear[l, b] = 0.625 * 2.0 / 3.0 * gram[l, 2, 3] * cubic[l, b]
        block[:] = 0.0
        add_product(cubic, weighted4, block, True)
        for l in range(lags):
            for b in range(l, lags):
                normal[lags + l, lags + b] = block[l, b] + linear[l, b] + linear[b, l]
            normal[lags + l, lags + l] += 4.0 / 9.0 * gram[l, 2, 2]
    return normal
