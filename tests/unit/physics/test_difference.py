from __future__ import annotations

import math

import numpy as np
import pytest

from ptc_stream.physics.difference import (
    flux_factors,
    gaussianity,
    mask_unusable,
    matched_difference,
    row_mean_variance,
    unmatched_difference,
    weigh,
)


def test_flux_factors_make_both_exposures_equal() -> None:
    one, two = flux_factors(10_000.0, 8_000.0)
    assert one * 10_000.0 == pytest.approx(two * 8_000.0)
    assert one * two == pytest.approx(1.0)


def test_a_pixel_bad_in_one_exposure_is_bad_in_both() -> None:
    first = np.arange(12, dtype=np.float32).reshape(3, 4)
    second = first + 100
    first[0, 0], second[0, 1], first[0, 2], second[0, 3] = np.nan, np.inf, -np.inf, np.nan
    usable_first, usable_second = np.ones((3, 4), bool), np.ones((3, 4), bool)
    usable_first[1, 1] = usable_second[2, 2] = False
    one, two = mask_unusable(first, second, usable_first, usable_second, 0)
    expected = np.ones((3, 4), bool)
    expected[0] = expected[1, 1] = expected[2, 2] = False
    np.testing.assert_array_equal(np.isfinite(one), expected)
    np.testing.assert_array_equal(np.isfinite(two), expected)
    np.testing.assert_array_equal(one[expected], first[expected])
    np.testing.assert_array_equal(two[expected], second[expected])


def test_the_edge_is_left_out() -> None:
    image = np.arange(30, dtype=np.float32).reshape(5, 6)
    usable = np.ones((5, 6), bool)
    one, two = mask_unusable(image, image + 1, usable, usable, 2)
    np.testing.assert_array_equal(one, image[2:3, 2:4])
    np.testing.assert_array_equal(two, image[2:3, 2:4] + 1)
    assert mask_unusable(image, image, usable, usable, 3)[0].size == 0


def test_the_unmatched_difference_keeps_integers() -> None:
    first, second = np.array([[70_001, 3, np.nan]], np.float32), np.array([[70_000, 5, 1]], np.float32)
    delta = unmatched_difference(first, second, np.array([[True, False, True]]))
    np.testing.assert_array_equal(delta, np.array([[1, np.nan, np.nan]], np.float32))


def test_difference_rounds_at_the_size_of_the_noise() -> None:
    first = np.full((2, 3), 50_000.0, np.float32)
    second = np.full((2, 3), 49_999.0, np.float32)
    f1, f2 = flux_factors(50_000.0, 49_999.0)
    difference = matched_difference(first, second, f1, f2)
    assert difference.dtype == np.float32
    assert np.abs(difference).max() < 1e-10  # float32 products would leave 4e-3


def test_weights_and_residual() -> None:
    difference = np.array([[1.0, np.nan, 8.0], [-5.0, 3.5, 1e30]], np.float32)
    residual, weights, row_sums, row_counts = weigh(difference, 2.0, 6.0)
    np.testing.assert_array_equal(weights, [[True, False, True], [False, True, False]])
    np.testing.assert_array_equal(residual, np.array([[-1.0, 0.0, 6.0], [0.0, 1.5, 0.0]], np.float32))
    np.testing.assert_array_equal(row_sums, [5.0, 1.5])
    np.testing.assert_array_equal(row_counts, [2, 1])


def test_no_weight_without_a_limit() -> None:
    residual, weights, *_ = weigh(np.zeros((2, 2), np.float32), math.nan, math.nan)
    assert not weights.any()
    assert not residual.any()


def test_row_means_of_white_noise_and_of_row_noise() -> None:
    rng = np.random.default_rng(0)
    rows, columns = 4_000, 50
    white = rng.normal(0.0, 10.0, (rows, columns))
    counts = np.full(rows, columns)
    expected = 10.0**2 / columns
    assert row_mean_variance(white.sum(axis=1), counts, 5.5, 3) == pytest.approx(expected, rel=0.1)
    banded = white + rng.normal(0.0, 3.0, (rows, 1))
    assert row_mean_variance(banded.sum(axis=1), counts, 5.5, 3) == pytest.approx(expected + 9.0, rel=0.1)


def test_every_row_counts_and_nearly_empty_ones_do_not() -> None:
    sums = np.array([0.0, 20.0, 0.0, 20.0, 100.0])
    counts = np.array([10, 10, 10, 10, 4])
    assert row_mean_variance(sums, counts, 20.0, 1) == pytest.approx(np.var([0, 2, 0, 2], ddof=1))
    counts[4] = 5
    assert row_mean_variance(sums, counts, 20.0, 1) == pytest.approx(np.var([0, 2, 0, 2, 20], ddof=1))
    assert math.isnan(row_mean_variance(np.zeros(3), np.zeros(3, int), 5.5, 3))
    assert math.isnan(row_mean_variance(np.zeros(0), np.zeros(0, int), 5.5, 3))


@pytest.mark.parametrize(
    ("sigma", "offsets"),
    [
        (1.5, (0.0,)),
        (8.0, (0.0,)),
        (300.0, (0.0,)),
        (20_000.0, (0.0,)),
        (4.0, (0.0, 0.5)),
        (80.0, (0.0, 0.5)),
    ],
)
def test_integers_pass_for_gaussian(sigma: float, offsets: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    first, second = np.round(rng.normal(1_000.2, sigma / 2**0.5, (2, 300, 500)))
    first += rng.choice(offsets, size=(300, 1))  # an overscan median per row
    assert gaussianity((first - second).astype(np.float32)) < 1.5 / math.sqrt(first.size)


def test_gaussianity_sees_a_cut_a_pile_and_a_mixture() -> None:
    rng = np.random.default_rng(2)
    size = 200_000
    one, two = rng.normal(0.0, 70.0, (2, size))
    assert gaussianity((one - two).astype(np.float32)) < 0.003
    assert gaussianity((np.minimum(one, 60) - np.minimum(two, 60)).astype(np.float32)) > 0.015
    assert gaussianity(np.where(np.arange(size) < size // 50, 0.0, one - two).astype(np.float32)) > 0.008
    assert gaussianity(np.concatenate([one, 3 * two]).astype(np.float32)) > 0.05


def test_gaussianity_leaves_nan_out() -> None:
    delta = np.random.default_rng(3).normal(0.0, 30.0, 20_000).astype(np.float32)
    spoiled = np.insert(delta, slice(0, None, 2), np.nan)
    assert gaussianity(spoiled) == pytest.approx(gaussianity(delta), abs=1e-12)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0], [math.nan, math.nan]])
def test_gaussianity_without_scatter_is_nan(values: list[float]) -> None:
    assert math.isnan(gaussianity(np.array(values, np.float32)))
