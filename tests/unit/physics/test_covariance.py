from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import signal

from ptc_stream.physics.covariance import LagSums, lag_sums, quadrant_covariances, window_lag_sums
from ptc_stream.physics.reference import fft_lag_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

KERNEL = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.3], [0.0, 0.1, 0.0]])  # [y, x]: stronger along x


def noise(
    shape: tuple[int, int], masked: float, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    field = signal.convolve2d(rng.normal(3.0, 100.0, shape), KERNEL, mode="same").astype(np.float32)
    weights = rng.random(shape) >= masked
    return np.where(weights, field, np.float32(0)), weights


@pytest.mark.parametrize(
    ("shape", "masked", "max_lag"),
    [
        ((700, 512), 0.002, 10),
        ((400, 331), 0.3, 10),
        ((500, 300), 0.0, 7),
        ((420, 333), 0.95, 4),
        ((300, 401), 0.01, 1),
    ],
)
def test_direct_sums_equal_the_fourier_transform(shape: tuple[int, int], masked: float, max_lag: int) -> None:
    field, weights = noise(shape, masked)
    covariances, count = quadrant_covariances(lag_sums(field, weights, max_lag))
    expected, expected_count = quadrant_covariances(fft_lag_sums(field, weights, max_lag))
    np.testing.assert_array_equal(count, expected_count)
    # float32 products, rounded independently: their error falls with the square root of the pixels
    tolerance = 1e-9 * max(1.0, (1e5 / weights.sum()) ** 0.5)
    np.testing.assert_allclose(covariances, expected, rtol=0, atol=tolerance * expected[0, 0])


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (9, 40), (40, 9), (12, 12)])
def test_frames_smaller_than_the_lags(shape: tuple[int, int]) -> None:
    field, weights = noise(shape, 0.1)
    covariances, count = quadrant_covariances(lag_sums(field, weights, 10))
    expected, expected_count = quadrant_covariances(fft_lag_sums(field, weights, 10))
    np.testing.assert_array_equal(count, expected_count)
    np.testing.assert_array_equal(np.isnan(covariances), count == 0)
    np.testing.assert_allclose(covariances, expected, rtol=0, atol=1e-5 * 1e4)


def test_nothing_usable() -> None:
    shape = (30, 40)
    covariances, count = quadrant_covariances(lag_sums(np.zeros(shape, np.float32), np.zeros(shape, bool), 3))
    assert not count.any()
    assert np.isnan(covariances).all()


def test_first_index_is_the_lag_along_x() -> None:
    field, weights = noise((600, 500), 0.0)
    covariances, _ = quadrant_covariances(lag_sums(field, weights, 3))
    # Half the autocorrelation of the kernel: (1, 0.3) along x, (1, 0.1) along y, and 0.3 x 0.1 on one
    # diagonal, of which the average over both diagonals is half.
    sigma2 = 100.0**2
    expected = {(0, 0): 1.10, (1, 0): 0.3, (0, 1): 0.1, (1, 1): 0.3 * 0.1 / 2}
    for (i, j), value in expected.items():
        assert covariances[i, j] == pytest.approx(value * sigma2 / 2, abs=6e-3 * sigma2 / 2)


@pytest.mark.parametrize("masked", [0.0, 0.3])
def test_windows_add_up_to_the_image(masked: float) -> None:
    field, weights = noise((150, 210), masked)
    lags = 10
    total: LagSums | None = None
    for top in range(0, 150, 50):
        for left in range(0, 210, 70):
            begin = max(left - lags + 1, 0)
            window = (slice(top, top + 50 + lags - 1), slice(begin, left + 70 + lags - 1))
            base = (slice(0, 50), slice(left - begin, left - begin + 70))
            part = window_lag_sums(field[window], weights[window], base, lags)
            total = part if total is None else LagSums(*(a + b for a, b in zip(total, part, strict=True)))
    assert total is not None
    whole = fft_lag_sums(field, weights, lags)
    np.testing.assert_array_equal(total.counts, whole.counts)
    for part_sums, whole_sums in zip(total, whole, strict=True):
        np.testing.assert_allclose(part_sums, whole_sums, rtol=0, atol=1e-8 * whole.products.max())


def test_a_lag_with_pixel_pairs_of_one_sign_only_is_that_sign() -> None:
    weights = np.zeros((2, 3), bool)
    weights[0, 0] = weights[1, 1] = weights[0, 2] = True
    field = np.array([[1.0, 0.0, 5.0], [0.0, 2.0, 0.0]], np.float32)
    sums = lag_sums(field, weights, 3)
    sums.products[1, 1] = sums.first[1, 1] = sums.second[1, 1] = sums.counts[1, 1] = 0.0
    covariances, count = quadrant_covariances(sums)
    assert count[1, 1] == 1
    assert covariances[1, 1] == 0.0  # one pair: its product less the product of its means
    assert count[2, 1] == 0
    assert np.isnan(covariances[2, 1])


def test_lost_means_are_given_back() -> None:
    """Noise whose mean was taken off in blocks lacks C_00 / N within each block, and only there."""
    blocks, side, lags = 40_000, 4, 3
    rng = np.random.default_rng(2)
    field = rng.normal(0.0, 1.0, (blocks, side, side))
    field -= field.mean(axis=(1, 2), keepdims=True)
    weights = np.ones((side, side), bool)
    total = LagSums(*(np.zeros((lags, 2 * lags - 1)) for _ in range(4)))
    for block in field.astype(np.float32):
        total = LagSums(*(a + b for a, b in zip(total, lag_sums(block, weights, lags), strict=True)))
    kappa = np.full(total.counts.shape, 1.0 / side**2)  # all pixel pairs are within one block
    expected = np.zeros((lags, lags))
    expected[0, 0] = 0.5
    covariances, _ = quadrant_covariances(total, lost_means=kappa)
    np.testing.assert_allclose(covariances, expected, rtol=0, atol=4e-3)
    biased, _ = quadrant_covariances(total)
    assert biased[0, 0] < 0.48
    assert (biased.ravel()[1:] < -0.02).all()


def test_the_same_bytes_each_time() -> None:
    field, weights = noise((300, 200), 0.05)
    first = lag_sums(field, weights, 10)
    again = lag_sums(field.copy(), weights.copy(), 10)
    for a, b in zip(first, again, strict=True):
        assert a.tobytes() == b.tobytes()
