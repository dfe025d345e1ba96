from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from ptc_stream.physics.clipping import clip_factor, clipped_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL, LARGE = 1_001, 60_000  # below and above the size at which quartiles come from a histogram


def by_definition(values: NDArray[Any], n_sigma: float, passes: int) -> tuple[float, float, int]:
    """Follow the definition word by word, in plain numpy and double precision."""
    v = values[np.isfinite(values)].astype(np.float64)
    q1, median, q3 = np.percentile(v, [25, 50, 75])
    kept = np.abs(v - median) <= n_sigma * 0.741301109252802 * (q3 - q1)
    for _ in range(passes - 1):
        mean, sigma = v[kept].mean(), v[kept].std(ddof=1)
        kept = np.abs(v - mean) <= n_sigma * sigma
    return v[kept].mean(), v[kept].var(ddof=1), int(kept.sum())


def flat(size: int, dtype: type, *, rounded: bool) -> NDArray[Any]:
    rng = np.random.default_rng(size)
    values = rng.normal(20_000, 120, size)
    values[::97] += rng.exponential(5_000, values[::97].size)
    values[5] = np.nan
    return (np.round(values) if rounded else values).astype(dtype)


@pytest.mark.parametrize("size", [SMALL, LARGE, LARGE + 1, LARGE + 2, LARGE + 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(("n_sigma", "passes"), [(5.5, 3), (3.0, 1), (4.0, 6)])
def test_follows_the_definition(size: int, dtype: type, rounded: bool, n_sigma: float, passes: int) -> None:  # noqa: FBT001 - a parameter of the test
    values = flat(size, dtype, rounded=rounded)
    mean, variance, count = clipped_statistics(values, n_sigma, passes)
    expected = by_definition(values, n_sigma, passes)
    assert count == expected[2]
    assert mean == pytest.approx(expected[0], rel=1e-13)
    assert variance == pytest.approx(expected[1], rel=1e-11)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_what_is_not_usable_does_not_matter(size: int, bad: float) -> None:
    values = flat(size, np.float32, rounded=False)
    usable = np.random.default_rng(1).random(size) < 0.7
    filled = np.where(usable, values, np.float32(bad))
    assert clipped_statistics(filled, 5.5, 3, usable=usable) == clipped_statistics(values[usable], 5.5, 3)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_used(size: int, bad: float) -> None:
    values = flat(size, np.float32, rounded=False)
    values[5] = 20_000.0
    filled = values.copy()
    filled[::3] = bad
    expected = by_definition(filled, 5.5, 3)
    assert clipped_statistics(filled, 5.5, 3) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_two_dimensional_with_mask(size: int) -> None:
    values = flat(size, np.float32, rounded=True)[: size // 10 * 10].reshape(-1, 10)
    usable = np.ones(values.shape, bool)
    usable[:, 3] = False
    columns = [0, 1, 2, *range(4, 10)]
    assert clipped_statistics(values, 5.5, 3, usable=usable) == clipped_statistics(
        np.ascontiguousarray(values[:, columns]), 5.5, 3
    )


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_coinciding_quartiles_keep_everything_in_the_first_pass(size: int) -> None:
    values = np.zeros(size, np.float32)
    values[: size // 5] = 1.0
    assert clipped_statistics(values, 5.5, 1) == pytest.approx(
        (values.mean(), values.var(ddof=1), size), rel=1e-6
    )
    values[0] = 1e4  # and still the passes that follow find the outlier
    assert clipped_statistics(values, 5.5, 3).count == size - 1


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_constant(size: int) -> None:
    assert clipped_statistics(np.full(size, 0.1, np.float32), 5.5, 3) == (float(np.float32(0.1)), 0.0, size)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_range_far_wider_than_the_core(size: int) -> None:
    """Quartiles that the range of the sample does not hold are still exact."""
    rng = np.random.default_rng(3)
    values = np.where(rng.random(size) < 0.5, rng.normal(0, 1, size), rng.normal(1e6, 1, size)).astype(
        np.float32
    )
    assert clipped_statistics(values, 5.5, 3) == pytest.approx(by_definition(values, 5.5, 3), rel=1e-9)


def test_a_sample_that_misleads_costs_time_only() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(1e6, 1.0, LARGE).astype(np.float32)
    values[:: (LARGE // 2_048) | 1] = rng.normal(0.0, 1.0, values[:: (LARGE // 2_048) | 1].size)
    assert clipped_statistics(values, 5.5, 3) == pytest.approx(by_definition(values, 5.5, 3), rel=1e-11)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_ordered_values_do_not_mislead_the_sample(size: int) -> None:
    values = np.sort(flat(size, np.float64, rounded=False))
    assert clipped_statistics(values, 5.5, 3) == pytest.approx(by_definition(values, 5.5, 3), rel=1e-11)


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
def test_nothing_usable(size: int) -> None:
    result = clipped_statistics(np.full(size, np.nan, np.float32), 5.5, 3)
    assert math.isnan(result.mean)
    assert math.isnan(result.variance)
    assert result.count == 0


def test_one_and_two_values() -> None:
    one = clipped_statistics(np.array([7.0]), 5.5, 3)
    assert (one.mean, one.count) == (7.0, 1)
    assert math.isnan(one.variance)
    assert clipped_statistics(np.array([1.0, 3.0]), 5.5, 3) == (2.0, 2.0, 2)


@pytest.mark.parametrize("n_sigma", [2.0, 3.0, 4.0, 5.5, 8.0])
def test_clip_factor_is_the_inverse_variance_of_a_cut_gaussian(n_sigma: float) -> None:
    assert clip_factor(n_sigma) == pytest.approx(1.0 / stats.truncnorm(-n_sigma, n_sigma).var(), rel=1e-9)


def test_clip_factor_at_the_default() -> None:
    assert clip_factor(5.5) - 1.0 == pytest.approx(1.185e-6, rel=1e-3)


@pytest.mark.parametrize("place", [5.3, 5.45, 5.499, 5.5005, 5.51, 5.6, 6.0])
@pytest.mark.parametrize("tail", [0.0, 0.02, 0.2])
def test_a_pass_that_is_left_out_would_have_changed_nothing(place: float, tail: float) -> None:
    """Values on both sides of where the limits come to lie, and limits that move by little or by much."""
    rng = np.random.default_rng(3)
    values = rng.normal(1000.0, 10.0, 20_000)
    values[: int(tail * values.size)] *= 1.03
    for sign in (-1.0, 1.0):
        spoiled = values.copy()
        spoiled[rng.integers(0, values.size, 5)] = values.mean() + sign * place * values.std()
        for passes in (1, 2, 3, 6):
            result = clipped_statistics(spoiled, 5.5, passes)
            expected = by_definition(spoiled, 5.5, passes)
            assert result.count == expected[2]
            assert result.mean == pytest.approx(expected[0], rel=1e-13)
            assert result.variance == pytest.approx(expected[1], rel=1e-11)
