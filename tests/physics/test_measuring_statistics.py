"""Is the measurement unbiased, and does it scatter as its sampling variance says?"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import signal

from ptc_stream.physics.difference import gaussianity
from ptc_stream.physics.measuring import measure_amplifier_pair, measure_points
from ptc_stream.physics.points import MeasuringConfig, PointMeasurement

if TYPE_CHECKING:
    from numpy.typing import NDArray

GAIN = 1.5
CONFIG = MeasuringConfig(max_lag=6, edge=0, min_pixels=2, min_tile_pixels=2)
MEASURING = MeasuringConfig()


def measured(
    first: NDArray[np.float64], second: NDArray[np.float64], config: MeasuringConfig = CONFIG
) -> list[PointMeasurement]:
    usable = np.ones(first.shape, bool)
    return measure_points(
        first.astype(np.float32),
        second.astype(np.float32),
        usable_first=usable,
        usable_second=usable,
        read_noise=4.0,
        config=config,
    )


def test_white_noise_has_no_covariance_and_the_stated_sampling_variance() -> None:
    """var(C_ij) = C_00^2 / n_ij, twice that at (0, 0), with different masks and means in the exposures."""
    rng = np.random.default_rng(1)
    shape, pairs = (120, 130), 400
    pulls = np.empty((pairs, 6, 6))
    for k in range(pairs):
        usable_first, usable_second = rng.random((2, *shape)) >= 0.02
        point = measure_amplifier_pair(
            rng.normal(20_100, 120, shape).astype(np.float32),
            rng.normal(19_900, 120, shape).astype(np.float32),
            usable_first=usable_first,
            usable_second=usable_second,
            read_noise=4.0,
            config=CONFIG,
        )
        pulls[k] = point.covariances / (120.0**2 / np.sqrt(point.pixel_count))
        pulls[k, 0, 0] = (point.covariances[0, 0] / 120.0**2 - 1) / math.sqrt(2 / point.pixels_used)
    assert np.abs(pulls.mean(axis=0)).max() < 4 / math.sqrt(pairs)
    widths = pulls.std(axis=0)
    assert np.abs(widths - 1).max() < 4.5 / math.sqrt(2 * pairs)
    assert widths.mean() == pytest.approx(1, abs=4 / math.sqrt(2 * pairs * 36))


def test_an_asymmetric_kernel_lands_at_its_index() -> None:
    rng = np.random.default_rng(2)
    kernel = np.zeros((5, 7))  # [y, x]
    kernel[2, 3], kernel[2, 5], kernel[3, 3] = 1.0, 0.2, 0.1  # 0.2 at dx = 2, 0.1 at dy = 1
    sums = np.zeros((6, 6))
    for _ in range(10):
        first, second = (
            20_000 + signal.fftconvolve(rng.normal(0, 100, (506, 408)), kernel, mode="valid")
            for _ in range(2)
        )
        (point,) = measured(first, second)
        sums += point.covariances / 10
    expected = np.zeros((6, 6))
    expected[0, 0], expected[2, 0], expected[0, 1] = 1.05, 0.2, 0.1
    expected[2, 1] = 0.2 * 0.1 / 2  # on one of two diagonals
    np.testing.assert_allclose(sums / 100.0**2, expected, rtol=0, atol=5 * 1.05 * math.sqrt(2 / 2e6))


def test_poisson_light_gives_gain_and_noise() -> None:
    rng = np.random.default_rng(3)
    electrons = 30_000 * (1 + 0.02 * rng.normal(size=(700, 600)))  # pixels of unequal response
    first, second = (
        np.round(rng.poisson(electrons) / GAIN + rng.normal(0, 4, electrons.shape)) for _ in range(2)
    )
    (point,) = measured(first, second)
    true = electrons.mean() / GAIN**2 + 4**2 + 1 / 12  # and the steps of the integers
    assert point.variance == pytest.approx(true, rel=4 * math.sqrt(2 / electrons.size))
    assert point.gain_estimate == pytest.approx(GAIN, rel=4 * math.sqrt(2 / electrons.size))
    assert point.flags == ()


def test_small_tiles_leave_no_bias() -> None:
    """Tiles of 256 pixels would lack 1/256 of the variance, 25 sigma here, and of each covariance nearby."""
    rng = np.random.default_rng(4)
    tiles = dataclasses.replace(CONFIG, tiles=True, tile_size=16, tile_signal_span=0.2)
    differences = []
    for _ in range(4):
        first, second = rng.normal(20_000, 120, (2, 640, 640))
        (whole,), (tiled,) = measured(first, second), measured(first, second, tiles)
        assert tiled.pixels_used == whole.pixels_used
        differences.append((tiled.covariances - whole.covariances) / 120.0**2)
        assert tiled.variance == pytest.approx(tiled.covariances[0, 0], rel=1e-5)
    mean = np.mean(differences, axis=0)
    tile_noise = math.sqrt(2 * 1600) / 640**2  # of sum N_t m_t^2 over 1600 tiles
    assert np.abs(mean).max() < 5 * tile_noise / math.sqrt(4)


def test_tiles_of_a_gradient_lie_on_the_curve() -> None:
    """Poisson light falling from 26,000 to 5,000 ADU, one exposure 1 % brighter, and a lamp that moved."""
    rng = np.random.default_rng(5)
    shape = (520, 1024)
    y, x = np.indices(shape) / np.array(shape)[:, np.newaxis, np.newaxis]
    light = 26_000 - 15_000 * y - 6_000 * x
    config = dataclasses.replace(MEASURING, tiles=True)
    shot, weight = 0.0, 0.0
    for _ in range(4):
        lights = light, light * (1.01 + 0.01 * x)
        first, second = (
            np.round(rng.poisson(level * GAIN) / GAIN + rng.normal(0, 4, shape)) for level in lights
        )
        points = measured(first, second, config)
        assert 20 < len(points) <= 40
        for p in points:
            assert not set(p.flags) - {"TOO_FEW_PIXELS", "FLUX_MISMATCH"}
            pull = (p.variance / (p.mean / GAIN + 16 + 1 / 12) - 1) / math.sqrt(2 / p.pixels_used)
            assert abs(pull) < 4.5
            shot += (p.variance - 16 - 1 / 12) * GAIN / p.mean * p.pixels_used
            weight += p.pixels_used
    assert shot / weight == pytest.approx(1, abs=3.5 * math.sqrt(2 / weight))


@pytest.mark.parametrize(("sigma", "offsets"), [(3.0, (0.0,)), (30.0, (0.0, 0.5)), (150.0, (0.0,))])
def test_the_limit_of_gaussianity(sigma: float, offsets: tuple[float, ...]) -> None:
    """The simulation behind ``gaussianity_factor``: undithered integers, mean and sigma fitted.

    1.2 / sqrt(n) is the 99.9 % quantile (0.90 .. 1.24 for sigma 3 .. 100 and n = 10^4 .. 10^6).
    """
    rng = np.random.default_rng(6)
    pixels, trials = 10_000, 1_000
    first, second = (np.round(rng.normal(500.3, sigma / 2**0.5, (trials, pixels))) for _ in range(2))
    first += rng.choice(offsets, size=(trials, pixels))
    distances = np.array(
        [gaussianity((a - b).astype(np.float32)) for a, b in zip(first, second, strict=True)]
    )
    scaled = distances * math.sqrt(pixels)
    assert np.quantile(scaled, 0.99) < 1.1
    assert (scaled > MEASURING.gaussianity_factor).sum() <= 5
    assert 0.3 < np.median(scaled) < 0.7


@pytest.mark.parametrize(("low", "passes"), [(0.5, True), (0.2, False)])
def test_what_an_uneven_illumination_does_to_gaussianity(low: float, passes: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The floor lets a factor of two pass; a factor of five is no single point of the curve."""
    rng = np.random.default_rng(7)
    light = np.broadcast_to(np.linspace(low, 1.0, 1_000) * 40_000, (600, 1_000))
    first, second = (np.round(rng.normal(light, np.sqrt(light / GAIN))) for _ in range(2))
    (point,) = measured(first, second)
    assert (point.flags == ()) is passes
    assert passes or point.flags == ("NOT_GAUSSIAN",)
