"""The same numbers the plain way: numpy and Fourier transforms for pixels, scipy over all points for fits.

Written to be read, and for the comparison to be fair: every array operation is one that numpy does in
compiled code, and nothing is done that the result does not need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from ptc_stream.physics.covariance import quadrant_covariances
from ptc_stream.physics.points import MeasuringConfig
from ptc_stream.physics.reference import fft_lag_sums

__all__ = ["least_squares", "measure_in_numpy"]

_SIGMA_PER_IQR = 0.741301109252802


def measure_in_numpy(
    one: NDArray[np.float32], two: NDArray[np.float32], config: MeasuringConfig
) -> tuple[float, float, NDArray[np.float64], float, float]:
    """Measure a pair of images: mean, variance, covariances, variance of row means, KS distance.

    Parameters
    ----------
    one, two
        [y, x], without masked pixels [ADU].
    config
        Number of lags, clip and edge.

    Returns
    -------
    tuple
        mean [ADU], half the clipped variance of the difference [ADU^2], C_ij [ADU^2], variance of the row
        means [ADU^2], Kolmogorov-Smirnov distance of the difference from a Gaussian.
    """
    inner = slice(config.edge, -config.edge or None)
    first, second = one[inner, inner].astype(np.float64), two[inner, inner].astype(np.float64)
    mean_first, mean_second = _clipped(first, config)[0], _clipped(second, config)[0]
    difference = (mean_second * first - mean_first * second) / np.sqrt(mean_first * mean_second)
    mean, variance = _clipped(difference, config)
    weights = np.abs(difference - mean) <= config.n_sigma * np.sqrt(variance)
    residual = np.where(weights, difference - mean, 0.0)
    covariances, _ = quadrant_covariances(fft_lag_sums(residual, weights, config.max_lag))
    row_means = residual.sum(axis=1) / weights.sum(axis=1)
    ordered = np.sort((first - second)[weights])
    expected = special.ndtr((ordered - ordered.mean()) / ordered.std())
    distance = np.abs(np.arange(1, ordered.size + 1) / ordered.size - expected).max()
    return (
        float((mean_first + mean_second) / 2),
        float(variance / 2),
        covariances,
        float(_clipped(row_means, config)[1]),
        float(distance),
    )


def _clipped(values: NDArray[np.float64], config: MeasuringConfig) -> tuple[float, float]:
    """Clipped mean and variance, as `ptc_stream.physics.clipping` defines them."""
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    kept = np.abs(values - median) <= config.n_sigma * _SIGMA_PER_IQR * (q3 - q1)
    for _ in range(config.clip_passes - 1):
        chosen = values[kept]
        kept = np.abs(values - chosen.mean()) <= config.n_sigma * chosen.std(ddof=1)
    chosen = values[kept]
    return float(chosen.mean()), float(chosen.var(ddof=1))


def least_squares(
    model: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    measured: NDArray[np.float64],
    error: NDArray[np.float64],
    start: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Minimise chi2 over all points, derivatives by differences: the batch code's way.

    Parameters
    ----------
    model
        Parameters to values.
    measured, error
        Same shape as those values.
    start, scale
        Parameters to begin with, and their order of magnitude.

    Returns
    -------
    array
        Best parameters.
    """

    def residuals(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = ((measured - model(scaled * scale)) / error).ravel()
        return found

    # Ends when chi2 changes by less than a millionth: the usual 1e-8 would make it four times slower.
    solution: Any = optimize.least_squares(residuals, start / scale, method="lm", ftol=1e-6)
    best: NDArray[np.float64] = solution.x * scale
    return best
