from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ptc_stream.images.overscan import clipped_medians, subtract_parallel, subtract_serial
from ptc_stream.images.sections import Box

ROWS, DATA, OVERSCAN = 300, 50, 40
BOX = Box(DATA, DATA + OVERSCAN, 0, ROWS)


def frame(
    seed: int = 3, noise: float = 5.0, wander: float = 10.0
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    levels = 1000.0 + generator.normal(0.0, wander, ROWS)
    pixels = generator.normal(levels[:, np.newaxis], noise, (ROWS, DATA + OVERSCAN))
    return pixels.astype(np.float32), levels


def test_every_row_loses_the_median_of_its_own_overscan() -> None:
    pixels, _ = frame()
    expected = pixels - np.median(pixels[:, DATA + 3 : -3], axis=1, keepdims=True)
    zero = subtract_serial(pixels, BOX, method="row", skip=3, n_sigma=20.0)  # nothing is clipped
    np.testing.assert_allclose(pixels, expected, atol=2e-4)
    assert zero.method == "row"
    assert zero.level == pytest.approx(1000.0, abs=3.0)
    assert zero.notes == ()


def test_the_columns_at_both_ends_do_not_count() -> None:
    pixels, _ = frame()
    clean = pixels.copy()
    subtract_serial(clean, BOX, method="row", skip=3, n_sigma=3.0)
    pixels[:, [DATA, DATA + 1, DATA + 2, -3, -2, -1]] += 500.0
    subtract_serial(pixels, BOX, method="row", skip=3, n_sigma=3.0)
    np.testing.assert_array_equal(pixels[:, :DATA], clean[:, :DATA])


def test_outliers_move_neither_level_nor_noise() -> None:
    pixels, levels = frame()
    pixels[5, DATA + 10 : DATA + 20] = 1100.0  # a third of the row: its plain median moves by 0.7 sigma
    pixels[7, DATA + 12] = 60_000.0
    pixels[9, DATA + 15] = np.nan
    zero = subtract_serial(pixels, BOX, method="row", skip=3, n_sigma=3.0)
    assert zero.read_noise == pytest.approx(5.0, rel=0.04)
    assert abs(np.mean(pixels[5, :DATA])) < 4.0
    assert np.isfinite(pixels[9, :DATA]).all()
    assert levels.std() > 5.0


def test_the_noise_is_unbiased_for_what_the_row_levels_take_away() -> None:
    """14 used columns: uncorrected, the residual's sigma is 1.5 % low (2 - pi/2 over n in variance)."""
    noises, errors = [], []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        pixels = generator.normal(0.0, 5.0, (200, 20)).astype(np.float32)
        zero = subtract_serial(pixels, Box(0, 20, 0, 200), method="row", skip=3, n_sigma=3.0)
        assert zero.read_noise is not None
        assert zero.read_noise_error is not None
        noises.append(zero.read_noise)
        errors.append(zero.read_noise_error)
    assert np.mean(noises) == pytest.approx(5.0, abs=4.0 * np.mean(errors) / np.sqrt(40))
    assert np.std(noises) == pytest.approx(np.mean(errors), rel=0.35)


def test_a_pattern_along_the_columns_is_no_noise() -> None:
    pixels, _ = frame()
    pixels[:, DATA:] += 20.0 * np.exp(-np.arange(OVERSCAN) / 5.0).astype(np.float32)
    zero = subtract_serial(pixels, BOX, method="row", skip=3, n_sigma=3.0)
    assert zero.read_noise == pytest.approx(5.0, rel=0.03)


def test_integers_of_very_low_noise_keep_their_level() -> None:
    pixels = np.full((50, 40), 100.0, np.float32)
    pixels[::7, 25] = 101.0
    zero = subtract_serial(pixels, Box(20, 40, 0, 50), method="row", skip=3, n_sigma=3.0)
    assert zero.level == 100.0
    assert zero.read_noise is not None
    assert zero.read_noise < 0.2


def test_rows_without_overscan_of_their_own_take_that_of_their_neighbours() -> None:
    pixels, _ = frame(wander=0.0)
    pixels[40:43, DATA:] = 50_000.0  # charge of a saturated row ran into the overscan
    zero = subtract_serial(pixels, BOX, method="row", skip=3, n_sigma=3.0)
    assert abs(np.mean(pixels[40:43, :DATA])) < 3.0
    assert "3 rows" in zero.notes[0]


@pytest.mark.parametrize("columns", [1, 2, 5, 13])
def test_too_few_columns_give_one_level_and_say_so(columns: int) -> None:
    pixels, _ = frame(wander=0.0)
    narrow = np.ascontiguousarray(pixels[:, : DATA + columns])
    before = narrow.copy()
    zero = subtract_serial(narrow, Box(DATA, DATA + columns, 0, ROWS), method="row", skip=3, n_sigma=3.0)
    assert zero.method == "level"
    assert "too few for a level per row" in zero.notes[0]
    np.testing.assert_allclose(before - narrow, np.full_like(before, 1000.0), atol=2.0)
    assert zero.read_noise == pytest.approx(5.0, rel=0.15)


def test_two_columns_leave_out_the_one_with_the_charge_of_the_image() -> None:
    pixels, _ = frame(wander=0.0)
    narrow = np.ascontiguousarray(pixels[:, : DATA + 2])
    narrow[:, DATA] += 40.0
    zero = subtract_serial(narrow, Box(DATA, DATA + 2, 0, ROWS), method="row", skip=3, n_sigma=3.0)
    assert zero.level == pytest.approx(1000.0, abs=1.5)


def test_one_level_for_all_rows_if_asked_for_from_the_box_alone() -> None:
    pixels, _ = frame(wander=0.0)
    pixels[:10, DATA:] += 300.0
    zero = subtract_serial(pixels, Box(DATA, DATA + OVERSCAN, 10, ROWS), method="level", skip=3, n_sigma=3.0)
    assert zero.method == "level"
    assert zero.notes == ()
    assert zero.level == pytest.approx(1000.0, abs=0.3)


def test_an_overscan_without_a_usable_pixel_subtracts_nothing() -> None:
    pixels, _ = frame()
    pixels[:, DATA:] = np.nan
    before = pixels.copy()
    for method in ("row", "level"):
        zero = subtract_serial(pixels, BOX, method=method, skip=3, n_sigma=3.0)
        assert zero.method == "none"
        assert zero.level is None
        assert zero.read_noise is None
        assert zero.notes == ("no usable pixel in the overscan",)
    np.testing.assert_array_equal(pixels, before)


def test_columns_lose_the_median_of_their_parallel_overscan() -> None:
    generator = np.random.default_rng(2)
    pixels = generator.normal(0.0, 4.0, (120, 60)).astype(np.float32)
    pattern = generator.normal(0.0, 15.0, 50).astype(np.float32)
    pixels[:, 5:55] += pattern
    untouched = pixels.copy()
    data, box = Box(5, 55, 0, 80), Box(5, 55, 80, 120)
    assert subtract_parallel(pixels, data, box, skip=3, n_sigma=3.0) == ()
    assert pixels[data.slices].mean(axis=0).std() < 1.5
    np.testing.assert_array_equal(pixels[:, :5], untouched[:, :5])
    np.testing.assert_array_equal(pixels[80:], untouched[80:])


def test_a_column_that_bleeds_into_the_parallel_overscan_is_interpolated() -> None:
    pixels = np.random.default_rng(2).normal(0.0, 1.0, (120, 60)).astype(np.float32)
    pixels[:, 30] = 50_000.0
    subtract_parallel(pixels, Box(5, 55, 0, 80), Box(5, 55, 80, 120), skip=3, n_sigma=3.0)
    np.testing.assert_allclose(pixels[:80, 30], 50_000.0, atol=2.0)


def test_a_parallel_overscan_full_of_charge_or_too_short_is_not_used() -> None:
    pixels = np.full((120, 60), 5_000.0, np.float32)
    (note,) = subtract_parallel(pixels, Box(5, 55, 0, 80), Box(5, 55, 80, 120), skip=3, n_sigma=3.0)
    assert "filled with charge" in note
    (note,) = subtract_parallel(pixels, Box(5, 55, 0, 110), Box(5, 55, 110, 120), skip=3, n_sigma=3.0)
    assert "10 rows of parallel overscan are too few" in note
    assert (pixels == 5_000.0).all()


def test_clipped_medians_against_the_plain_definition() -> None:
    generator = np.random.default_rng(8)
    region = np.round(generator.normal(100.0, 6.0, (200, 31))).astype(np.float32)
    region[generator.random(region.shape) < 0.05] += 80.0
    usable = generator.random(region.shape) > 0.1
    medians, good = clipped_medians(region, usable, 3.0)
    rows = [region[k][usable[k]] for k in range(200)]
    quartiles = [np.subtract(*np.percentile(row, [75, 25])) for row in rows]
    limit = 3.0 * 0.741301109252802 * np.median(quartiles)
    expected = [np.median(row[np.abs(row - np.median(row)) <= limit]) for row in rows]
    np.testing.assert_allclose(medians, expected, atol=1e-5)
    assert good.all()
