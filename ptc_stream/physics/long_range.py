"""Covariances that reach far: a smooth surface under the brighter-fatter effect.

Drifts of the bias level, interference and structure of the lamp correlate pixels over tens of lags, where the
brighter-fatter effect has vanished. Per pair, a low polynomial in both lags through the large ones is what
they are worth; the batch code of the field subtracts it at all lags, as is done here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["long_range_surface"]


def long_range_surface(
    covariances: NDArray[np.float64], pixel_count: NDArray[np.int64], *, start: int, degree: int
) -> NDArray[np.float64] | None:
    """Fit sum k_pq i^p j^q, with p and q up to `degree`, to the large lags of every pair.

    Parameters
    ----------
    covariances
        (N, R, R) C_ij [ADU^2], NaN where not measured.
    pixel_count
        (N, R, R) pixel pairs behind them: the weights.
    start
        Lags with i or j of at least this count.
    degree
        Of the surface, in each lag.

    Returns
    -------
    NDArray or None
        (N, R, R) the surface [ADU^2]; 0 for a pair of which too few lags were measured, None where that is so
        for all of them.
    """
    size = covariances.shape[1]
    lags = np.arange(size) / size  # comparable powers
    powers = np.vander(lags, degree + 1, increasing=True)
    terms = np.einsum("ip,jq->ijpq", powers, powers).reshape(size * size, -1)
    i, j = np.indices((size, size))
    far = ((i >= start) | (j >= start)).ravel()
    if np.linalg.matrix_rank(terms[far]) < terms.shape[1]:
        return None
    values = covariances.reshape(-1, size * size)
    usable = far & np.isfinite(values) & (pixel_count.reshape(values.shape) > 0)
    weights = np.where(usable, pixel_count.reshape(values.shape), 0) / 1e6
    # Sums over lags in a fixed order, pair by pair: no result depends on the other pairs.
    normal = np.einsum("nl,lp,lq->npq", weights, terms, terms)
    sides = np.einsum("nl,lp->np", weights * np.where(usable, values, 0.0), terms)
    told = np.linalg.cond(normal) < 1e12
    coefficients = np.zeros_like(sides)
    coefficients[told] = np.linalg.solve(normal[told], sides[told, :, np.newaxis])[..., 0]
    if not np.any(told):
        return None
    surface: NDArray[np.float64] = np.einsum("np,lp->nl", coefficients, terms).reshape(covariances.shape)
    return surface
