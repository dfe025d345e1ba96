from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ptc_stream.errors import MeasurementError
from ptc_stream.physics.clipping import clip_factor
from ptc_stream.physics.covariance import quadrant_covariances
from ptc_stream.physics.measuring import measure_amplifier_pair, measure_points, measure_tiles
from ptc_stream.physics.points import MeasuringConfig, PointFlag, PointMeasurement
from ptc_stream.physics.reference import fft_lag_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = (220, 180)
GAIN = 1.5
READ_NOISE = 5.0
CONFIG = MeasuringConfig(max_lag=4)
TILES = MeasuringConfig(max_lag=4, tiles=True, tile_size=36)


def exposure(signal: float | NDArray[np.float64], seed: int, *, rounded: bool = False) -> NDArray[np.float32]:
    """Light of `signal` ADU with the shot noise and the read noise of the gain above."""
    rng = np.random.default_rng(seed)
    light = np.broadcast_to(signal, SHAPE)
    image = rng.normal(light, np.sqrt(np.maximum(light, 0) / GAIN + READ_NOISE**2))
    return (np.round(image) if rounded else image).astype(np.float32)


def measure(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    usable_first: NDArray[np.bool_] | None = None,
    usable_second: NDArray[np.bool_] | None = None,
    **changes: Any,
) -> PointMeasurement:
    read_noise = changes.pop("read_noise", READ_NOISE)
    return measure_amplifier_pair(
        first,
        second,
        usable_first=np.ones(first.shape, bool) if usable_first is None else usable_first,
        usable_second=np.ones(second.shape, bool) if usable_second is None else usable_second,
        read_noise=read_noise,
        config=dataclasses.replace(CONFIG, **changes),
    )


def measured_in_tiles(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    usable: NDArray[np.bool_] | None = None,
    **changes: Any,
) -> list[PointMeasurement]:
    read_noise = changes.pop("read_noise", READ_NOISE)
    good = np.ones(first.shape, bool) if usable is None else usable
    return measure_points(
        first,
        second,
        usable_first=good,
        usable_second=good,
        read_noise=read_noise,
        config=dataclasses.replace(TILES, **changes),
    )


def same(a: PointMeasurement, b: PointMeasurement) -> bool:
    """Tell whether two points are the same to the last byte."""
    return all(
        np.asarray(getattr(a, f.name)).tobytes() == np.asarray(getattr(b, f.name)).tobytes()
        for f in dataclasses.fields(a)
    )


# ---------------------------------------------------------------------------------------------- one point


def test_a_flat_pair() -> None:
    point = measure(exposure(20_000, 1), exposure(20_000, 2))
    true = 20_000 / GAIN + READ_NOISE**2
    pixels = (SHAPE[0] - 40) * (SHAPE[1] - 40)
    assert point.mean == pytest.approx(20_000, abs=5 * math.sqrt(true / 2 / pixels))
    assert point.mean == (point.mean_first + point.mean_second) / 2
    assert point.variance == pytest.approx(true, rel=5 * math.sqrt(2 / pixels))
    assert point.covariances[0, 0] == pytest.approx(point.variance, rel=1e-4)
    assert point.gain_estimate == pytest.approx(GAIN, rel=5 * math.sqrt(2 / pixels))
    assert point.row_mean_variance == pytest.approx(2 * true / (SHAPE[1] - 40), rel=0.5)
    assert point.gaussianity < 0.01
    assert point.pixels_used == pixels
    assert point.pixel_count[0, 0] == pixels
    assert point.pixel_count[1, 0] == (SHAPE[0] - 40) * (SHAPE[1] - 41)
    assert point.pixel_count[2, 3] == 2 * (SHAPE[0] - 43) * (SHAPE[1] - 42)
    assert point.flags == ()


def test_every_step_follows_the_definition() -> None:
    """The whole measurement once more in double precision, from the formulas, with the Fourier transform."""
    first, second = exposure(20_000, 1), exposure(19_800, 2)
    rng = np.random.default_rng(3)
    usable_first, usable_second = rng.random((2, *SHAPE)) > 0.02
    first[60, 60:70] += 5_000
    first[100, 100] = np.nan
    point = measure(first, second, usable_first, usable_second)

    inner = (slice(20, -20), slice(20, -20))
    one, two = first[inner].astype(float), second[inner].astype(float)
    usable = (usable_first & usable_second)[inner] & np.isfinite(one) & np.isfinite(two)

    def clipped(v: NDArray[np.float64]) -> tuple[float, float]:
        q1, median, q3 = np.percentile(v, [25, 50, 75])
        kept = np.abs(v - median) <= 5.5 * 0.741301109252802 * (q3 - q1)
        for _ in range(2):
            kept = np.abs(v - v[kept].mean()) <= 5.5 * v[kept].std(ddof=1)
        return v[kept].mean(), v[kept].var(ddof=1)

    m1, m2 = clipped(one[usable])[0], clipped(two[usable])[0]
    difference = (m2 * one - m1 * two) / math.sqrt(m1 * m2)
    m, s2 = clipped(difference[usable])
    weights = usable & (np.abs(difference - m) <= 5.5 * math.sqrt(s2))
    factor = clip_factor(5.5)
    covariances, count = quadrant_covariances(fft_lag_sums(difference, weights, 4))
    covariances *= factor**2
    covariances[0, 0] /= factor

    assert (point.mean_first, point.mean_second) == pytest.approx((m1, m2), rel=1e-12)
    assert point.variance == pytest.approx(factor * s2 / 2, rel=1e-7)
    np.testing.assert_array_equal(point.pixel_count, count)
    np.testing.assert_allclose(point.covariances, covariances, rtol=0, atol=3e-9 * covariances[0, 0])
    rows = np.where(weights, difference, 0).sum(axis=1) / weights.sum(axis=1)
    assert point.row_mean_variance == pytest.approx(clipped(rows)[1], rel=1e-6)
    assert point.pixels_used == weights.sum()
    assert point.flags == ()


@pytest.mark.parametrize("fill", [math.nan, math.inf, 1e30, -1e30, 0.0])
def test_masked_values_do_not_matter(fill: float) -> None:
    first, second = exposure(20_000, 1), exposure(20_000, 2)
    rng = np.random.default_rng(3)
    usable_first, usable_second = rng.random((2, *SHAPE)) > 0.05
    expected = measure(first, second, usable_first, usable_second)
    spoiled_first = np.where(usable_first, first, np.float32(fill))
    spoiled_second = np.where(usable_second, second, np.float32(fill))
    assert same(measure(spoiled_first, spoiled_second, usable_first, usable_second), expected)
    assert expected.flags == ()


def test_one_nan_pixel_costs_one_pixel() -> None:
    first, second = exposure(20_000, 1), exposure(20_000, 2)
    whole = measure(first, second)
    first[100, 100] = np.nan
    point = measure(first, second)
    assert point.pixels_used == whole.pixels_used - 1
    assert point.variance == pytest.approx(whole.variance, rel=1e-3)
    np.testing.assert_allclose(point.covariances, whole.covariances, atol=1e-3 * whole.variance)
    assert point.flags == ()


def test_which_exposure_has_the_mask_does_not_matter() -> None:
    first, second = exposure(20_000, 1), exposure(20_000, 2)
    mask = np.random.default_rng(3).random(SHAPE) > 0.05
    everything = np.ones(SHAPE, bool)
    assert same(measure(first, second, mask, everything), measure(first, second, everything, mask))


def test_cosmic_rays_do_not_count() -> None:
    first, second = exposure(20_000, 1), exposure(20_000, 2)
    whole = measure(first, second)
    hits = np.random.default_rng(3).integers(20, 160, (2, 40))
    first[hits[0, :20], hits[1, :20]] += 5_000
    second[hits[0, 20:], hits[1, 20:]] += 30_000
    point = measure(first, second)
    assert whole.pixels_used - 40 <= point.pixels_used <= whole.pixels_used - 38
    assert point.variance == pytest.approx(whole.variance, rel=4e-3)
    assert point.flags == ()


@pytest.mark.parametrize("mismatch", [0.02, 0.05, 0.2])
def test_a_mismatch_of_the_fluxes_leaves_no_bias(mismatch: float) -> None:
    """The same noise under unequal light: variance over mean stays what it was."""
    rng = np.random.default_rng(1)
    noise_one, noise_two = rng.normal(0, 1, (2, 240, 200))
    # exactly equal variances and no correlation: what is left to differ is the arithmetic
    noise_two -= noise_one * (noise_one * noise_two).sum() / (noise_one**2).sum()
    noise_one, noise_two = noise_one / noise_one.std(), noise_two / noise_two.std()

    def variance_over_mean(relative: float) -> float:
        lights = 20_000 * (1 + relative / 2), 20_000 * (1 - relative / 2)
        first, second = (
            (light + np.sqrt(light / GAIN) * z).astype(np.float32)
            for light, z in zip(lights, (noise_one, noise_two), strict=True)
        )
        point = measure(first, second, read_noise=0.0, edge=0)
        assert (PointFlag.FLUX_MISMATCH in point.flags) == (relative > 0.02)
        assert point.gain_estimate == pytest.approx(point.mean / point.variance)
        return point.variance / point.mean

    assert variance_over_mean(mismatch) == pytest.approx(variance_over_mean(0.0), rel=1e-5)


def test_the_gain_of_a_mismatched_pair() -> None:
    """2 % at 2000 ADU: the batch formula gives 0.94 here."""
    point = measure(exposure(2_020, 1), exposure(1_980, 2), max_flux_mismatch=0.05)
    assert point.gain_estimate == pytest.approx(GAIN, rel=5 * math.sqrt(2 / point.pixels_used))


def test_read_noise_is_taken_off_the_gain() -> None:
    first, second = exposure(100, 1), exposure(100, 2)
    expected = 5 * math.sqrt(2 / 25_200) * (1 + READ_NOISE**2 * GAIN / 100)
    assert measure(first, second).gain_estimate == pytest.approx(GAIN, rel=expected)
    for unknown in (None, math.nan):
        assert measure(first, second, read_noise=unknown).gain_estimate == pytest.approx(
            100 / (100 / GAIN + READ_NOISE**2), rel=0.05
        )
    assert math.isnan(measure(first, second, read_noise=20.0, min_signal=0.0).gain_estimate)


@pytest.mark.parametrize("read_noise", [READ_NOISE, None])
def test_bias_pairs_have_no_signal_but_a_variance(read_noise: float | None) -> None:
    point = measure(exposure(0, 1, rounded=True), exposure(0, 2, rounded=True), read_noise=read_noise)
    assert point.flags == (PointFlag.NO_SIGNAL,)
    assert point.variance == pytest.approx(READ_NOISE**2 + 1 / 12, rel=0.05)
    assert np.isfinite(point.covariances).all()
    assert math.isnan(point.gain_estimate)


def test_a_low_flux_is_a_signal() -> None:
    assert measure(exposure(20, 1), exposure(20, 2)).flags == ()


def test_one_dark_exposure_has_no_signal_and_no_match() -> None:
    point = measure(exposure(0, 1), exposure(20_000, 2))
    assert point.flags == (PointFlag.FLUX_MISMATCH, PointFlag.NO_SIGNAL)
    assert math.isfinite(point.variance)


def test_a_dead_amplifier_that_reads_one_number() -> None:
    constant = np.full(SHAPE, 7.0, np.float32)
    point = measure(constant, constant, read_noise=None)
    assert point.variance == 0.0
    assert (point.covariances == 0.0).all()
    assert point.pixels_used == 180 * 140
    assert math.isnan(measure(constant, constant).gain_estimate)
    assert PointFlag.NO_SIGNAL in measure(constant, constant).flags


def test_quartiles_that_coincide() -> None:
    """Integers of so little noise that the quartiles of the difference are one number."""
    rng = np.random.default_rng(0)
    first, second = ((rng.random(SHAPE) < 0.05).astype(np.float32) + 100 for _ in range(2))
    point = measure(first, second, read_noise=0.1)
    assert point.variance == pytest.approx(0.05 * 0.95, rel=0.05)
    assert point.flags == ()


def test_too_few_pixels() -> None:
    first, second = exposure(20_000, 1), exposure(20_000, 2)
    usable = np.zeros(SHAPE, bool)
    usable[20:120, 20:119] = True
    point = measure(first, second, usable, usable)
    assert point.flags == (PointFlag.TOO_FEW_PIXELS,)
    assert point.variance == pytest.approx(20_000 / GAIN, rel=0.1)
    usable[20:120, 119] = True
    assert measure(first, second, usable, usable, n_sigma=10.0).flags == ()


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("case", ["masked", "nan", "edge", "empty"])
@pytest.mark.parametrize("read_noise", [READ_NOISE, None])
def test_nothing_to_measure_is_one_flagged_point(tiles: bool, case: str, read_noise: float | None) -> None:  # noqa: FBT001 - a parameter of the test
    shape = {"edge": (40, 300), "empty": (0, 0)}.get(case, SHAPE)
    image = np.full(shape, np.nan if case == "nan" else 20_000.0, np.float32)
    usable = np.full(shape, case != "masked")
    points = measure_points(
        image,
        image,
        usable_first=usable,
        usable_second=usable,
        read_noise=read_noise,
        config=TILES if tiles else CONFIG,
    )
    (point,) = points
    assert point.flags == (PointFlag.TOO_FEW_PIXELS, PointFlag.NOT_FINITE)
    assert math.isnan(point.mean)
    assert math.isnan(point.variance)
    assert np.isnan(point.covariances).all()
    assert point.covariances.shape == point.pixel_count.shape == (4, 4)
    assert not point.pixel_count.any()
    assert point.pixels_used == 0


def test_one_usable_pixel_has_no_variance() -> None:
    usable = np.zeros(SHAPE, bool)
    usable[100, 100] = True
    point = measure(exposure(20_000, 1), exposure(20_000, 2), usable, usable)
    assert math.isfinite(point.mean)
    assert math.isnan(point.variance)
    assert point.flags == (PointFlag.TOO_FEW_PIXELS, PointFlag.NOT_FINITE)


def test_lags_beyond_the_frame_have_no_pairs() -> None:
    point = measure(exposure(20_000, 1)[:46], exposure(20_000, 2)[:46], max_lag=8)
    np.testing.assert_array_equal(np.isnan(point.covariances), point.pixel_count == 0)
    assert (point.pixel_count[:, :6] > 0).all()
    assert not point.pixel_count[:, 6:].any()


def test_saturation_is_not_gaussian() -> None:
    first, second = exposure(20_000, 1), exposure(20_000, 2)
    point = measure(np.minimum(first, 20_050), np.minimum(second, 20_050))
    assert point.flags == (PointFlag.NOT_GAUSSIAN,)


@pytest.mark.parametrize("dtype", [np.float64, ">f4", np.int32, np.uint16])
def test_other_number_types_are_taken(dtype: Any) -> None:
    first, second = exposure(20_000, 1, rounded=True), exposure(20_000, 2, rounded=True)
    assert same(measure(first.astype(dtype), second.astype(dtype)), measure(first, second))


def test_views_are_taken() -> None:
    first, second = exposure(20_000, 1), exposure(20_000, 2)
    assert same(
        measure(first[::-1, ::2], second[::-1, ::2], min_pixels=100),
        measure(first[::-1, ::2].copy(), second[::-1, ::2].copy(), min_pixels=100),
    )


def test_inputs_stay_as_they_were() -> None:
    arrays = [exposure(20_000, 1), exposure(20_000, 2), np.ones(SHAPE, bool), np.ones(SHAPE, bool)]
    copies = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    measure(*arrays)
    measured_in_tiles(*arrays[:3])
    for a, b in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(a, b)


def test_shapes_that_differ_cannot_be_measured() -> None:
    image, usable = exposure(20_000, 1), np.ones(SHAPE, bool)
    for first, second, mask in (
        (image, image[1:], usable),
        (image, image, usable[:, 1:]),
        (image.ravel(), image.ravel(), usable.ravel()),
    ):
        for function in (measure_amplifier_pair, measure_tiles, measure_points):
            with pytest.raises(MeasurementError, match="not one amplifier"):
                function(first, second, usable_first=mask, usable_second=mask, read_noise=None, config=CONFIG)


# -------------------------------------------------------------------------------------------------- tiles


def gradient(low: float, high: float) -> NDArray[np.float64]:
    y, x = np.indices(SHAPE)
    return low + (high - low) * (0.7 * y / SHAPE[0] + 0.3 * x / SHAPE[1])


def test_a_gradient_gives_many_points_on_the_curve() -> None:
    light = gradient(5_000, 26_000)
    points = measured_in_tiles(exposure(light, 1), exposure(light, 2))
    means = [p.mean for p in points]
    assert means == sorted(means)
    assert means[0] < 9_500
    assert means[-1] > 21_500
    assert len(points) > 8
    assert sum(p.pixels_used for p in points) >= 180 * 140 - 2
    assert all(p.flags in {(), (PointFlag.TOO_FEW_PIXELS,)} for p in points)
    pulls = [
        (p.variance / (p.mean / GAIN + READ_NOISE**2) - 1) / math.sqrt(2 / p.pixels_used) for p in points
    ]
    assert np.abs(pulls).max() < 4
    for p in points:
        assert p.covariances[0, 0] == pytest.approx(p.variance, rel=1e-3)
        assert p.gain_estimate == pytest.approx(GAIN, rel=5 * math.sqrt(2 / p.pixels_used))


def test_without_a_gradient_tiles_are_one_point() -> None:
    first, second = exposure(20_000, 1), exposure(20_000, 2)
    (point,) = measured_in_tiles(first, second)
    whole = measure(first, second)
    assert point.pixels_used == whole.pixels_used
    np.testing.assert_array_equal(point.pixel_count, whole.pixel_count)
    assert point.mean == pytest.approx(whole.mean, rel=1e-6)
    assert point.variance == pytest.approx(whole.variance, rel=5e-4)
    np.testing.assert_allclose(point.covariances, whole.covariances, atol=2e-3 * whole.variance)
    assert point.flags == ()


def test_the_wings_of_the_illumination_stay_in() -> None:
    """A tile with a steep dark corner: a clip of the exposures would cut it and move the mean."""
    light = np.full(SHAPE, 20_000.0)
    light[20:40, 20:30] = 3_000.0
    first, second = exposure(light, 1), exposure(light, 2)
    points = measured_in_tiles(first, second, tile_signal_span=3.0)
    assert sum(p.pixels_used for p in points) >= 180 * 140 - 2
    total = sum(p.mean * p.pixels_used for p in points) / sum(p.pixels_used for p in points)
    assert total == pytest.approx(light[20:-20, 20:-20].mean(), abs=3)


def test_a_ratio_that_varies_across_the_amplifier_leaves_no_pattern() -> None:
    ratio = 1.0 + 0.02 * (np.indices(SHAPE)[0] / SHAPE[0] - 0.5)
    first, second = exposure(20_000, 1), exposure(20_000 * ratio, 2)
    (point,) = measured_in_tiles(first, second)
    assert point.variance == pytest.approx(20_000 / GAIN, rel=5 * math.sqrt(2 / point.pixels_used))
    assert measure(first, second).variance > 1.2 * point.variance


def test_a_cosmic_ray_does_not_move_the_ratio_of_its_tile() -> None:
    light = gradient(15_000, 16_000)
    first, second = exposure(light, 1), exposure(light, 2)
    usable = np.ones(SHAPE, bool)
    usable[40:44, 50:60] = False
    (expected,) = measured_in_tiles(first, second, usable, tile_signal_span=1.0)
    first[40:44, 50:60] += 40_000
    (point,) = measured_in_tiles(first, second, tile_signal_span=1.0)
    assert point.pixels_used == expected.pixels_used
    assert point.mean == pytest.approx(expected.mean, rel=1e-12)
    assert point.variance == pytest.approx(expected.variance, rel=1e-9)


def test_dark_tiles_are_a_point_of_their_own() -> None:
    light = np.full(SHAPE, 20_000.0)
    light[:92] = 0.0
    dark, bright = measured_in_tiles(exposure(light, 1), exposure(light, 2))
    assert dark.flags == (PointFlag.NO_SIGNAL,)
    assert dark.variance == pytest.approx(READ_NOISE**2, rel=0.1)
    assert dark.mean == pytest.approx(0, abs=1)
    assert bright.flags == ()
    assert bright.variance == pytest.approx(20_000 / GAIN, rel=0.1)


def test_tiles_without_usable_pixels_are_left_out() -> None:
    usable = np.ones(SHAPE, bool)
    usable[:100] = False
    first, second = exposure(20_000, 1), exposure(20_000, 2)
    first[:100] = np.nan
    (point,) = measured_in_tiles(first, second, usable)
    assert point.pixels_used == 100 * 140
    assert point.flags == ()


def test_tiles_repeat_to_the_last_byte() -> None:
    light = gradient(5_000, 26_000)
    first, second = exposure(light, 1), exposure(light, 2)
    for a, b in zip(measured_in_tiles(first, second), measured_in_tiles(first, second), strict=True):
        assert same(a, b)
    assert same(measure(first, second), measure(first, second))


def test_dispatch_follows_the_configuration() -> None:
    first, second = exposure(20_000, 1), exposure(20_000, 2)
    (point,) = measured_in_tiles(first, second, tiles=False, min_pixels=CONFIG.min_pixels)
    assert same(point, measure(first, second))


# ------------------------------------------------------------------------------------------------- settings


def test_every_setting_has_a_unit_and_a_meaning() -> None:
    for field in dataclasses.fields(MeasuringConfig):
        assert field.metadata["unit"]
        assert field.metadata["meaning"]
