"""The models of the covariances C_ij(mu), most of them of C_00 alone, in the parameters that the field knows.

Source: Astier et al. 2019, A&A 629 A36 (arXiv:1905.08677). Signals in ADU, a00 in 1/e-, gain in e-/ADU,
noise variance n in e-^2.
"""

from __future__ import annotations

from enum import StrEnum, unique
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics.full_covariance import coefficients_of, linear_maps
from ptc_stream.physics.solver import curve_values, growth

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "FitModel",
    "curve_gradient",
    "evaluate_expapproximation",
    "evaluate_full_covariance",
    "evaluate_polynomial",
]


@unique
class FitModel(StrEnum):
    """Names of the models, as the field's batch code has them."""

    POLYNOMIAL = "POLYNOMIAL"
    """C_00 = sum_k p_k mu^k, degree 2 or 3."""

    EXPAPPROXIMATION = "EXPAPPROXIMATION"
    """Eq. 16: C_00 = (exp(2 a00 mu g) - 1) / (2 a00 g^2) + n / g^2."""

    FULLCOVARIANCE = "FULLCOVARIANCE"
    """Eq. 20: every C_ij, with a_ij, b_ij and n_ij."""

    FULLCOVARIANCE_NO_B = "FULLCOVARIANCE_NO_B"
    """Eq. 20 with b = 0."""


def evaluate_expapproximation(
    mean: NDArray[np.float64], a00: float, gain: float, noise_variance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evaluate EXPAPPROXIMATION (Eq. 16) and its gradient.

    Exact for every sign of a00 and for a00 = 0, where it is mu / g + n / g^2.

    Parameters
    ----------
    mean
        (N,) mean signals [ADU].
    a00
        Strength of the brighter-fatter effect [1/e-], negative in real CCDs.
    gain
        [e-/ADU].
    noise_variance
        Square of the read noise [e-^2].

    Returns
    -------
    variance : NDArray
        (N,) C_00 [ADU^2].
    gradient : NDArray
        (N, 3), derivatives with respect to a00, gain and noise_variance.
    """
    mean = np.ascontiguousarray(mean, dtype=np.float64)
    # Eq. 16 with p0 = n / g^2, p1 = 1 / g, kappa = 2 a00 g.
    parameters = np.array([noise_variance / gain**2, 1.0 / gain, 2.0 * a00 * gain])
    inner = np.array(
        [
            [0.0, -2.0 * noise_variance / gain**3, 1.0 / gain**2],
            [0.0, -1.0 / gain**2, 0.0],
            [2.0 * gain, 2.0 * a00, 0.0],
        ]
    )
    return curve_values(parameters, mean), curve_gradient(parameters, mean) @ inner


def curve_gradient(parameters: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate the derivatives of Eq. 16 in the form of `ptc_stream.physics.solver`.

    Parameters
    ----------
    parameters
        (3,): p0 [ADU^2], p1 [ADU], kappa [1/ADU].
    mean
        (N,) mean signals [ADU].

    Returns
    -------
    NDArray
        (N, 3), derivatives with respect to p0, p1 and kappa.
    """
    f, slope = np.empty(mean.size), np.empty(mean.size)
    growth(float(parameters[2]), mean, f, slope)
    return np.stack([np.ones(mean.size), mean * f, parameters[1] * mean * mean * slope], axis=1)


def evaluate_polynomial(
    mean: NDArray[np.float64], coefficients: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evaluate POLYNOMIAL and its gradient.

    Parameters
    ----------
    mean
        (N,) mean signals [ADU].
    coefficients
        (K,) p_0 [ADU^2], p_1 [ADU], ... lowest power first.

    Returns
    -------
    variance : NDArray
        (N,) C_00 [ADU^2].
    gradient : NDArray
        (N, K), the powers of `mean`.
    """
    powers = np.vander(np.asarray(mean, dtype=np.float64), len(coefficients), increasing=True)
    return powers @ np.asarray(coefficients, dtype=np.float64), powers


def evaluate_full_covariance(
    mean: NDArray[np.float64],
    *,
    gain: float,
    a_matrix: NDArray[np.float64],
    b_matrix: NDArray[np.float64] | None,
    noise_matrix: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Evaluate FULLCOVARIANCE (Eq. 20), or FULLCOVARIANCE_NO_B without a `b_matrix`.

    A series in mu up to its fourth power, good to 2e-3 of C_00 at 1.5e5 e-.

    Parameters
    ----------
    mean
        (N,) mean signals [ADU].
    gain
        [e-/ADU].
    a_matrix, b_matrix
        (R, R) [1/e-], index [x lag, y lag]. Nothing is assumed about which element is the largest.
    noise_matrix
        (R, R) [e-^2].

    Returns
    -------
    NDArray
        (N, R, R) C_ij [ADU^2].

    Raises
    ------
    ValueError
        The matrices are not square and of one size.
    """
    a = np.ascontiguousarray(a_matrix, dtype=np.float64)
    b = np.zeros_like(a) if b_matrix is None else np.asarray(b_matrix, dtype=np.float64)
    noise = np.asarray(noise_matrix, dtype=np.float64)
    if a.ndim != 2 or not a.shape == a.shape[::-1] == b.shape == noise.shape:
        raise ValueError(f"matrices must be square and of one size: {a.shape}, {b.shape}, {noise.shape}")
    signal = gain * np.asarray(mean, dtype=np.float64)[:, np.newaxis, np.newaxis]  # M = g mu [e-]
    theta = np.concatenate([a.ravel(), (a * b).ravel()])
    bent = coefficients_of(theta, *linear_maps(theta, a.size, True), True).reshape(*a.shape, 4)
    # Horner's rule for mu, mu^2, mu^3 and mu^4, in electrons.
    covariances = signal * (bent[..., 2] + signal * bent[..., 3])
    covariances = noise + signal * (bent[..., 0] + signal * (bent[..., 1] + covariances))
    return covariances / gain**2
