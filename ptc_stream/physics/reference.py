"""The sums of `ptc_stream.physics.covariance` once more, by Fourier transform in double precision.

Slower at small lags and short enough to be read at a glance: the tests and ``ptc-stream bench`` hold the
direct sums to it. By the correlation theorem, sum over p of A(p) B(p + lag) is the inverse transform of
conj(F A) F B, once the images have zeros enough around them that nothing wraps around.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import fft

from ptc_stream.physics.covariance import LagSums

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fft_lag_sums"]


def fft_lag_sums(difference: NDArray[np.floating], weights: NDArray[np.bool_], max_lag: int) -> LagSums:
    """Sum over all pixel pairs by Fourier transform.

    Parameters
    ----------
    difference
        D [ADU], [y, x]; values where the weight is zero are not used.
    weights
        w, [y, x], True where a pixel counts.
    max_lag
        R, number of lags per axis.

    Returns
    -------
    LagSums
    """
    shape = tuple(fft.next_fast_len(size + max_lag, real=True) for size in weights.shape)
    w = fft.rfft2(weights.astype(np.float64), shape)
    d = fft.rfft2(np.where(weights, difference, 0.0).astype(np.float64), shape)
    dy = np.arange(max_lag)[:, np.newaxis]
    dx = np.arange(-max_lag + 1, max_lag)[np.newaxis, :]

    def correlated(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> NDArray[np.float64]:
        whole: NDArray[np.float64] = fft.irfft2(a.conj() * b, shape)
        return whole[dy, dx]

    return LagSums(correlated(d, d), correlated(d, w), correlated(w, d), correlated(w, w).round())
