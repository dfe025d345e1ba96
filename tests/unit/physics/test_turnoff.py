from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ptc_stream.physics.turnoff import Turnoff, find_turnoff

MEAN = np.arange(1.0, 41.0) * 2500.0


def find(residual: Any, error: float = 2e-3, saturated: tuple[int, ...] = ()) -> Turnoff:
    residual = np.asarray(residual, dtype=np.float64)
    mask = np.zeros(residual.size, dtype=np.bool_)
    mask[list(saturated)] = True
    return find_turnoff(MEAN[: residual.size], residual, np.full(residual.size, error), mask, 0.02)


def residuals(**bad: float) -> NDArray[np.float64]:
    """Forty good points; `_12=-0.3` makes point 12 bad."""
    residual: NDArray[np.float64] = 3e-3 * np.cos(np.arange(40.0))
    for name, value in bad.items():
        residual[int(name[1:])] = value
    return residual


def test_an_interval_from_the_last_good_to_the_first_bad_point() -> None:
    residual = residuals()
    residual[30:] = -0.4
    found = find(residual)
    assert (found.low, found.high, found.first_bad) == (MEAN[29], MEAN[30], 30)
    assert found.value == pytest.approx(0.5 * (MEAN[29] + MEAN[30]))
    assert found.error == pytest.approx(2500.0 / math.sqrt(12.0))
    assert not found.is_lower_limit


def test_without_a_break_the_last_point_is_a_lower_limit() -> None:
    found = find(residuals())
    assert found.is_lower_limit
    assert found.value == found.low == MEAN[-1]
    assert math.isnan(found.error)
    assert math.isnan(found.high)
    assert found.first_bad == 40


def test_one_bad_point_at_the_end_is_no_turnoff_two_are() -> None:
    one = find(residuals(_39=-0.5))
    assert one.is_lower_limit
    assert one.value == MEAN[38]
    two = find(residuals(_38=-0.5, _39=-0.5))
    assert not two.is_lower_limit
    assert (two.low, two.high) == (MEAN[37], MEAN[38])


def test_a_dip_that_recovers_is_no_turnoff() -> None:
    residual = residuals(_24=-0.06, _25=-0.15, _26=-0.05)
    assert find(residual).is_lower_limit
    residual[34:] = -0.3
    assert (find(residual).low, find(residual).high) == (MEAN[33], MEAN[34])


@pytest.mark.parametrize("wild", [-0.9, -0.03, 0.5, 1e6])
def test_a_wild_point_is_no_turnoff(wild: float) -> None:
    assert find(residuals(_20=wild)).is_lower_limit
    residual = residuals(_28=wild)
    residual[30:] = -0.4
    assert (find(residual).low, find(residual).high) == (MEAN[29], MEAN[30])


def test_an_upturn_that_crosses_the_model_does_not_bring_it_back() -> None:
    residual = residuals()
    residual[28:] = [-0.1, -0.3, -0.4, -0.35, -0.2, -0.1, 0.005, 0.1, 0.3, 0.6, 1.0, 2.0]
    assert (find(residual).low, find(residual).high) == (MEAN[27], MEAN[28])


def test_saturated_points_end_a_curve_whatever_their_variance() -> None:
    found = find(residuals(), saturated=tuple(range(35, 40)))
    assert (found.low, found.high) == (MEAN[34], MEAN[35])


def test_many_poor_points_show_together_what_none_shows_alone() -> None:
    rng = np.random.default_rng(4)
    mean = np.linspace(100.0, 1e5, 400)
    residual = 0.03 * rng.standard_normal(400)
    none = np.zeros(400, dtype=np.bool_)
    error = np.full(400, 0.03)
    assert find_turnoff(mean, residual, error, none, 0.02).is_lower_limit
    residual[300:] -= 0.1
    found = find_turnoff(mean, residual, error, none, 0.02)
    assert found.low <= mean[300] <= found.high
    assert found.high - found.low < 5000.0


def test_residuals_within_the_fraction_are_good_for_ever() -> None:
    residual = residuals()
    residual[20:] = -0.015
    assert find(residual).is_lower_limit


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_hardly_any_points(count: int) -> None:
    found = find(np.full(count, -0.5))
    assert found.is_lower_limit
    assert found.first_bad == count
