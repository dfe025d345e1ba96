"""Errors of points and of parameters: weights, the floor, and honest errors from few points.

A measured C_00 has the relative sampling variance 2 / n_pix; lamp drift and non-linearity add the floor phi
in quadrature. Weights are made with the variance of the MODEL. With the measured one, points that came out
low get more weight, which biases the gain by +4 / n_pix, and one tenfold low point wrecks a fit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from ptc_stream.physics._jit import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["error_scale", "middle", "point_weights", "solve_floor", "tail_quantile"]

# Probability of a Gaussian below +2 sigma.
_TWO_SIGMA = 0.9772498680518208

# Newton's steps for the floor; each at least halves the distance, and doubles the digits near the root.
_FLOOR_STEPS = 60


def point_weights(
    variance: NDArray[np.float64], relative_variance: NDArray[np.float64], floor: float
) -> NDArray[np.float64]:
    """Return the weights of C_00.

    Parameters
    ----------
    variance
        (N,) C_00 of the model, or as measured [ADU^2].
    relative_variance
        (N,) 2 / n_pix.
    floor
        phi, relative error added in quadrature.

    Returns
    -------
    NDArray
        (N,) 1 / (C_00^2 (2 / n_pix + phi^2)) [1/ADU^4].
    """
    weights: NDArray[np.float64] = 1.0 / (variance * variance * (relative_variance + floor * floor))
    return weights


def middle(values: NDArray[np.float64]) -> float:
    """Return the median, the upper one where there are two: a fifth of the time that np.median takes.

    Parameters
    ----------
    values
        (N,) at least one, none of them NaN.

    Returns
    -------
    float
    """
    half = values.size // 2
    return float(np.partition(values, half)[half])


@njit
def solve_floor(residual: NDArray[np.float64], relative_variance: NDArray[np.float64], dof: int) -> float:
    """Find phi >= 0 with which chi2 / dof is 1.

    Parameters
    ----------
    residual
        (N,) relative residuals (C_00 - model) / model.
    relative_variance
        (N,) 2 / n_pix.
    dof
        Degrees of freedom.

    Returns
    -------
    float
        phi; 0 when the sampling errors alone explain the residuals, or nothing is left to judge by.
    """
    if dof <= 0:
        return 0.0
    # chi2(phi^2) falls and is convex: Newton's steps from below never pass the root. The guess is below it,
    # and is the root where all points have the same n_pix.
    squares = 0.0
    largest = 0.0
    smallest = np.inf
    for i in range(residual.size):
        squares += residual[i] * residual[i]
        largest = max(largest, relative_variance[i])
        smallest = min(smallest, relative_variance[i])
    floor2 = max(0.0, squares / dof - largest)
    for _ in range(_FLOOR_STEPS):
        chi2 = 0.0
        slope = 0.0
        for i in range(residual.size):
            inverse = 1.0 / (relative_variance[i] + floor2)
            term = residual[i] * residual[i] * inverse
            chi2 += term
            slope += term * inverse
        if chi2 <= dof:  # at the first step: the sampling errors alone explain the residuals
            break
        step = (chi2 - dof) / slope
        floor2 += step
        if step <= 1e-14 * (floor2 + smallest):
            break
    return math.sqrt(floor2)


def tail_quantile(sigma: float, dof: int, floor_share: float) -> float:
    """Return the multiple of a point's error that is as rare as `sigma` for a Gaussian.

    Parameters
    ----------
    sigma
        Wanted Gaussian multiple.
    dof
        Degrees of freedom behind the scatter.
    floor_share
        phi^2 / (phi^2 + 2 / n_pix), 0 to 1: how much of the error was estimated from the residuals.

    Returns
    -------
    float
        Quantile of Student's t with the effective degrees of freedom (see `error_scale`).
    """
    # Quantiles of the lower tail, where probabilities near zero keep their digits.
    probability = 0.5 * math.erfc(sigma / math.sqrt(2.0))
    return -float(stdtrit(_effective_dof(dof, floor_share), probability))


def error_scale(dof: int, floor_share: float) -> float:
    """Return the factor by which errors grow because the floor itself comes from few points.

    The floor is estimated from the residuals of the same points, so with few of them a pull follows Student's
    t rather than a Gaussian: with one degree of freedom 2 errors would hold 70 % of the cases. Errors are
    therefore quoted such that 2 of them hold 95.4 %: times t_nu(0.977) / 2, which also makes the width of the
    pulls 1 from nu = 3 on.

    Pooling the floor over the amplifiers of a detector would be the alternative. It is not done: lamp drift
    is common to all of them, so sixteen amplifiers say no more than one, and an amplifier's result would
    depend on its neighbours.

    Parameters
    ----------
    dof
        Degrees of freedom of the fit, at least 1.
    floor_share
        phi^2 / (phi^2 + 2 / n_pix), 0 to 1.

    Returns
    -------
    float
        7.0 at dof = 1, 1.65 at 3, 1.08 at 17, 1 in the limit.

    Notes
    -----
    Where phi came out as 0 the sampling errors are known, but with few points phi can be 0 by luck although
    the scatter is real. The effective degrees of freedom nu + (nu - 1)^2 (1 - floor_share)^4 go from nu,
    where all of the error was estimated, to about nu^2. Simulated for true scatter of 1 to 6 times the
    sampling error: 2 errors hold 94.5 to 100 % of the cases at every nu from 1 on; width of the pulls 0.91
    to 1.03 from nu = 8 on.
    """
    return float(stdtrit(_effective_dof(dof, floor_share), _TWO_SIGMA)) / 2.0


def _effective_dof(dof: int, floor_share: float) -> float:
    return dof + (dof - 1) ** 2 * (1.0 - floor_share) ** 4
