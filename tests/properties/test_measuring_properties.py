"""What must hold for the measurement of any pair, whatever its pixels are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptc_stream.physics.covariance import lag_sums, quadrant_covariances
from ptc_stream.physics.measuring import measure_amplifier_pair, measure_points
from ptc_stream.physics.points import MeasuringConfig, PointMeasurement
from ptc_stream.physics.reference import fft_lag_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPES = st.tuples(st.integers(2, 60), st.integers(2, 60))
SEEDS = st.integers(0, 2**32 - 1)
LAGS = st.integers(1, 12)
anytime = settings(deadline=None)  # the first example may have to compile the kernels
CONFIG = MeasuringConfig(max_lag=5, edge=0, min_pixels=2, min_tile_pixels=2)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two exposures with whole-number pixels, so that offsets and powers of two change no rounding."""

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    usable_first: NDArray[np.bool_]
    usable_second: NDArray[np.bool_]

    def changed(
        self, first: NDArray[np.float32] | None = None, second: NDArray[np.float32] | None = None
    ) -> Pair:
        return dataclasses.replace(
            self,
            first=self.first if first is None else first,
            second=self.second if second is None else second,
        )

    def measured(self, config: MeasuringConfig = CONFIG, read_noise: float | None = 4.0) -> PointMeasurement:
        return measure_amplifier_pair(
            self.first,
            self.second,
            usable_first=self.usable_first,
            usable_second=self.usable_second,
            read_noise=read_noise,
            config=config,
        )


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    rng = np.random.default_rng(draw(SEEDS))
    shape = draw(SHAPES)
    signal = draw(st.sampled_from([300.0, 20_000.0]))
    ratio = draw(st.sampled_from([1.0, 0.99, 1.2]))
    sigma = draw(st.sampled_from([2.0, 100.0]))
    masked = draw(st.sampled_from([0.0, 0.05, 0.5]))
    first, second = (
        np.round(rng.normal(light, sigma, shape)).astype(np.float32) for light in (signal, ratio * signal)
    )
    usable_first, usable_second = rng.random((2, *shape)) >= masked
    return Pair(first, second, usable_first, usable_second)


def assert_equal_points(a: PointMeasurement, b: PointMeasurement) -> None:
    for field in dataclasses.fields(a):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


@anytime
@given(shape=SHAPES, seed=SEEDS, lags=LAGS, masked=st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
def test_direct_sums_equal_the_fourier_transform(
    shape: tuple[int, int], seed: int, lags: int, masked: float
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.random(shape) >= masked
    field = np.where(weights, rng.normal(1.0, 50.0, shape), 0.0).astype(np.float32)
    direct, expected = lag_sums(field, weights, lags), fft_lag_sums(field, weights, lags)
    np.testing.assert_array_equal(direct.counts, expected.counts)
    scale = float(np.square(field, dtype=np.float64).sum())
    np.testing.assert_allclose(direct.products, expected.products, rtol=0, atol=2e-7 * scale)
    # Of a heavily masked image all sums are made in float32, like the products.
    error = 2e-7 if masked > 0.0 else 1e-9
    for ours, theirs in ((direct.first, expected.first), (direct.second, expected.second)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=error * (1.0 + np.abs(field).sum()))
    covariances, count = quadrant_covariances(direct)
    np.testing.assert_array_equal(np.isnan(covariances), count == 0)


@anytime
@given(seed=SEEDS, lags=LAGS, shape=SHAPES)
def test_mirrored_images_have_the_same_covariances(seed: int, lags: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.random(shape) >= 0.1
    field = np.where(weights, np.round(rng.normal(0.0, 50.0, shape)), 0.0).astype(np.float32)
    covariances, count = quadrant_covariances(lag_sums(field, weights, lags))
    for flip in ((slice(None, None, -1), slice(None)), (slice(None), slice(None, None, -1))):
        mirrored, mirrored_count = quadrant_covariances(
            lag_sums(field[flip].copy(), weights[flip].copy(), lags)
        )
        np.testing.assert_array_equal(mirrored_count, count)
        np.testing.assert_allclose(mirrored, covariances, rtol=0, atol=1e-3)
    turned, turned_count = quadrant_covariances(lag_sums(field.T.copy(), weights.T.copy(), lags))
    np.testing.assert_array_equal(turned_count, count.T)
    np.testing.assert_allclose(turned, covariances.T, rtol=0, atol=1e-3)


@anytime
@given(pair=pairs())
def test_exchanging_the_exposures_changes_their_means_only(pair: Pair) -> None:
    point = pair.measured()
    other = Pair(pair.second, pair.first, pair.usable_second, pair.usable_first).measured()
    np.testing.assert_array_equal(
        [point.mean, point.mean_first, point.mean_second], [other.mean, other.mean_second, other.mean_first]
    )
    assert point.flags == other.flags
    np.testing.assert_array_equal(point.pixel_count, other.pixel_count)
    assert point.variance == pytest.approx(other.variance, rel=1e-6, abs=1e-9, nan_ok=True)
    np.testing.assert_allclose(point.covariances, other.covariances, rtol=1e-5, atol=1e-5 * 1e4)


@anytime
@given(pair=pairs(), fill=st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0]))
def test_masked_values_are_irrelevant(pair: Pair, fill: float) -> None:
    spoiled = pair.changed(
        np.where(pair.usable_first, pair.first, np.float32(fill)),
        np.where(pair.usable_second, pair.second, np.float32(fill)),
    )
    assert_equal_points(spoiled.measured(), pair.measured())


@anytime
@given(pair=pairs())
def test_a_nan_is_a_masked_pixel(pair: Pair) -> None:
    everything = np.ones(pair.first.shape, bool)
    spoiled = Pair(
        np.where(pair.usable_first, pair.first, np.float32(np.nan)),
        np.where(pair.usable_second, pair.second, np.float32(np.nan)),
        everything,
        everything,
    )
    assert_equal_points(spoiled.measured(), pair.measured())


@anytime
@given(pair=pairs(), power=st.integers(-3, 6))
def test_scaling_by_k_scales_covariances_by_k_squared(pair: Pair, power: int) -> None:
    k = 2.0**power
    point = pair.measured()
    scaled = pair.changed(pair.first * np.float32(k), pair.second * np.float32(k)).measured(
        read_noise=4.0 * k
    )
    for name, scale in (
        ("mean", k),
        ("variance", k * k),
        ("covariances", k * k),
        ("row_mean_variance", k * k),
    ):
        np.testing.assert_array_equal(getattr(scaled, name), scale * getattr(point, name), err_msg=name)
    np.testing.assert_array_equal(scaled.pixel_count, point.pixel_count)


@anytime
@given(pair=pairs(), offset=st.integers(-100, 100_000))
def test_a_common_offset_moves_the_mean_only(pair: Pair, offset: int) -> None:
    """Without flux matching, that is where neither exposure counts as lit."""
    unmatched = dataclasses.replace(CONFIG, min_signal=100.0)
    point = pair.measured(unmatched, read_noise=1e9)
    moved = pair.changed(pair.first + np.float32(offset), pair.second + np.float32(offset)).measured(
        unmatched, read_noise=1e9
    )
    assert moved.mean == pytest.approx(point.mean + offset, abs=1e-6, nan_ok=True)
    assert moved.variance == pytest.approx(point.variance, rel=1e-12, nan_ok=True)
    np.testing.assert_array_equal(moved.covariances, point.covariances)


@anytime
@given(
    first=hnp.arrays(np.float32, (24, 40), elements=st.floats(width=32)),
    second=hnp.arrays(np.float32, (24, 40), elements=st.floats(width=32)),
    usable=hnp.arrays(np.bool_, (24, 40)),
    read_noise=st.none() | st.floats(0.0, 100.0) | st.just(float("nan")),
    tiles=st.booleans(),
)
def test_no_pixels_are_so_bad_that_measuring_fails(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    usable: NDArray[np.bool_],
    read_noise: float | None,
    tiles: bool,  # noqa: FBT001 - drawn by name
) -> None:
    config = dataclasses.replace(CONFIG, tiles=tiles, tile_size=16)
    points = measure_points(
        first, second, usable_first=usable, usable_second=usable, read_noise=read_noise, config=config
    )
    assert points
    for point in points:
        assert point.covariances.shape == point.pixel_count.shape == (5, 5)
        assert point.pixels_used == point.pixel_count[0, 0]
        assert (point.pixel_count >= 0).all()


@anytime
@given(pair=pairs())
def test_tiles_of_one_size_and_signal_hold_all_pixel_pairs(pair: Pair) -> None:
    config = dataclasses.replace(CONFIG, tiles=True, tile_size=16, tile_signal_span=10.0)
    points = measure_points(
        pair.first,
        pair.second,
        usable_first=pair.usable_first,
        usable_second=pair.usable_second,
        read_noise=4.0,
        config=config,
    )
    whole = pair.measured()
    # With one ratio or with one for each tile: who is an outlier may differ at the margin.
    assert abs(sum(p.pixels_used for p in points) - whole.pixels_used) <= 2
