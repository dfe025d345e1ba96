"""Least squares for Eq. 20 on moments: the way to the minimum, and the errors there.

Steps are those of Gauss and Newton with Levenberg's damping. What costs is J^T J with its factors, four
fifths of the time of a step, and it hardly changes near the minimum: it is kept for as long as the steps
become shorter fast with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics._jit import njit
from ptc_stream.physics.full_covariance import (
    coefficients_of,
    factorise,
    gradient_of,
    linear_maps,
    normal_matrix,
    solve_factorised,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["parameter_covariance", "solve_series", "transform_covariance"]

_MAX_STEPS = 200
# Changes of chi2 below this part of the squared data are not resolved by doubles.
_ROUNDING = 1e-28
# Steps that change chi2 by less than this are taken whatever chi2 says: its rounding is larger.
_NEAR = 1e-6
# J^T J is made anew when a step is not this much shorter than the one before (squared: a factor of ten).
_FAST = 1e-2
# No parameter beyond this: the series is long out of hand (real sensors: A_00 = -0.5 at 1.5e5 e-).
_LARGEST = 100.0
_MOST_DAMPING = 1e12


def solve_series(
    start: NDArray[np.float64],
    triangle: NDArray[np.float64],
    right: NDArray[np.float64],
    *,
    with_c: bool,
    tolerance: float,
) -> NDArray[np.float64] | None:
    """Minimise chi2 of Eq. 20 for fixed weights.

    Parameters
    ----------
    start
        (K,) A, gamma where it is fitted, and q to begin with, as for
        `ptc_stream.physics.full_covariance.residuals_of`.
    triangle, right
        As for it.
    with_c
        False holds gamma at 0 (FULLCOVARIANCE_NO_B).
    tolerance
        The last step is one that changes chi2 by less than this.

    Returns
    -------
    NDArray or None
        (K,) the parameters at the minimum; None when they are degenerate or there is none within bounds.
    """
    theta = start
    gradient, chi2 = gradient_of(theta, triangle, right, with_c)
    # Squared points: what chi2 can be resolved against.
    last = tolerance + _ROUNDING * float(np.sum(right * right))
    bounds = np.full(start.size, _LARGEST)
    bounds[-1] *= start[-1]
    factor: NDArray[np.float64] | None = None
    damping = before = 0.0
    for _ in range(_MAX_STEPS):
        if factor is None:
            factor = normal_matrix(theta, triangle, with_c)
            fresh = True
            factor[np.diag_indices_from(factor)] *= 1.0 + damping
            if not factorise(factor):
                factor = None
                damping = max(1e-4, 10.0 * damping)
                if damping > _MOST_DAMPING:
                    break
                continue
        step = solve_factorised(factor, gradient)
        length = float(np.sum(step * gradient))  # in the metric of the errors, squared
        trial = theta - step
        near = damping == 0.0 and length <= _NEAR
        if np.all(np.abs(trial) <= bounds) and trial[-1] > 0.0:
            trial_gradient, trial_chi2 = gradient_of(trial, triangle, right, with_c)
            if trial_chi2 <= chi2 or near:
                theta, gradient, chi2 = trial, trial_gradient, trial_chi2
                if damping == 0.0 and length <= last:
                    return theta
                if damping > 0.0 or length > _FAST * before > 0.0:
                    factor = None
                    damping = 0.1 * damping if damping > 1e-5 else 0.0
                before, fresh = length, False
                continue
        if fresh:
            damping = max(1e-4, 10.0 * damping)
            if damping > _MOST_DAMPING:
                break
        factor = None
    return None


def parameter_covariance(
    theta: NDArray[np.float64],
    triangle: NDArray[np.float64],
    right: NDArray[np.float64],
    *,
    with_c: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return nu at the minimum and the covariance of all parameters, nu among them.

    Parameters
    ----------
    theta
        (K,) as from `solve_series`.
    triangle, right, with_c
        As for it.

    Returns
    -------
    nu : NDArray
        (L,) the constants.
    covariance : NDArray
        (K + L, K + L) of A, gamma, q, nu.

    Both are None together where the parameters are degenerate.
    """
    lags, total = triangle.shape[0], theta.size
    factor = normal_matrix(theta, triangle, with_c)
    if not factorise(factor):
        return None
    q = theta[-1]
    cubic, quartic = linear_maps(theta, lags, with_c)
    coefficients = coefficients_of(theta, cubic, quartic, with_c)
    # nu = (right_0 - q sum_p triangle_0p k_p) / triangle_00, and what it answers to the other parameters.
    scale = 1.0 / triangle[:, 0, 0]
    row = triangle[:, 0, 1:] * scale[:, np.newaxis]
    by_q = -np.sum(row * coefficients, axis=1)
    nu = right[:, 0] * scale + q * by_q
    answers = np.zeros((total, lags))  # column l: d nu_l / d theta
    diagonal = np.arange(lags)
    answers[:lags] = -q * (row[:, 2] * cubic.T + row[:, 3] * quartic.T)
    answers[diagonal, diagonal] -= q * row[:, 1]
    if with_c:
        answers[lags : 2 * lags] = -q * 0.625 * row[:, 3] * cubic.T
        answers[lags + diagonal, diagonal] -= q * 2.0 / 3.0 * row[:, 2]
    answers[-1] = by_q
    return nu, _joint_covariance(factor, answers, scale * scale)


@njit(reassociate=True)
def _joint_covariance(
    factor: NDArray[np.float64], answers: NDArray[np.float64], own: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the covariance of parameters and of constants that answer to them, (K + L, K + L).

    `factor` (K, K) is U with U^T U = J^T J, `answers` (K, L) the derivatives of the constants by the
    parameters, `own` (L,) the variance that the constants have at fixed parameters.
    """
    total, lags = answers.shape
    width = total + lags
    # Rows of U^-T [1, answers], by substitution; the covariance is the product of this with itself. Rows of
    # zeros make their number a multiple of four, so that an element is loaded and stored once for four.
    count = (total + 3) // 4 * 4
    root = np.zeros((count, width))
    for i in range(total):
        root[i, i] = 1.0
        root[i, total:] = answers[i]
        whole = i - i % 4
        for first, last in ((0, i + 1), (total, width)):  # between these the row is zero
            line = root[i, first:last]
            for k in range(0, whole, 4):
                f0, f1, f2, f3 = factor[k, i], factor[k + 1, i], factor[k + 2, i], factor[k + 3, i]
                r0, r1 = root[k, first:last], root[k + 1, first:last]
                r2, r3 = root[k + 2, first:last], root[k + 3, first:last]
                for j in range(line.size):
                    line[j] -= f0 * r0[j] + f1 * r1[j] + f2 * r2[j] + f3 * r3[j]
            for k in range(whole, i):
                f0, r0 = factor[k, i], root[k, first:last]
                for j in range(line.size):
                    line[j] -= f0 * r0[j]
        root[i] /= factor[i, i]
    covariance = np.zeros((width, width))
    for i in range(width):
        line = covariance[i, i:]
        start = i - i % 4 if i < total else 0  # a column of U^-T is zero above the diagonal
        for k in range(start, count, 4):
            f0, f1, f2, f3 = root[k, i], root[k + 1, i], root[k + 2, i], root[k + 3, i]
            r0, r1, r2, r3 = root[k, i:], root[k + 1, i:], root[k + 2, i:], root[k + 3, i:]
            for j in range(line.size):
                line[j] += f0 * r0[j] + f1 * r1[j] + f2 * r2[j] + f3 * r3[j]
    for i in range(width):
        if i >= total:
            covariance[i, i] += own[i - total]
        for j in range(i):
            covariance[i, j] = covariance[j, i]
    return covariance


@njit(reassociate=True)
def transform_covariance(
    covariance: NDArray[np.float64], factors: NDArray[np.float64], slopes: NDArray[np.float64], pivot: int
) -> NDArray[np.float64]:
    """Return the covariance of parameters that are the old ones times a factor, and depend on one of them.

    Parameters
    ----------
    covariance
        (K, K) of the old parameters x.
    factors, slopes
        (K,) f and s of d new_i = f_i dx_i + s_i dx_pivot.
    pivot
        Which of the old ones the others depend on.

    Returns
    -------
    NDArray
        (K, K).
    """
    along = covariance[pivot] * factors + 0.5 * covariance[pivot, pivot] * slopes
    result = np.empty_like(covariance)
    for i in range(factors.size):
        line, old = result[i], covariance[i]
        factor, slope, share = factors[i], slopes[i], along[i]
        for j in range(line.size):
            line[j] = factor * old[j] * factors[j] + slope * along[j] + share * slopes[j]
    return result
