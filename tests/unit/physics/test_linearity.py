from __future__ import annotations

import numpy as np
import pytest

from ptc_stream.physics.linearity import LinearityConfig, LinearityFit, fit_linearity

CONFIG = LinearityConfig()
TIMES = np.geomspace(0.05, 10.0, 24)


def fit(
    mean: np.ndarray[tuple[int], np.dtype[np.float64]],
    times: np.ndarray[tuple[int], np.dtype[np.float64]] = TIMES,
    *,
    settings: list[str] | None = None,
    turnoff: float = 1e9,
) -> LinearityFit:
    found = fit_linearity(
        mean, times, settings or ["r"] * mean.size, below_turnoff=mean < turnoff, config=CONFIG
    )
    assert found is not None
    return found


def test_a_straight_line_is_linear() -> None:
    found = fit(8_000.0 * TIMES)
    assert found.slope == pytest.approx(8_000.0)
    assert found.offset == pytest.approx(0.0, abs=1e-9)
    assert found.max_deviation < 1e-9
    assert found.turnoff == 80_000.0
    assert found.turnoff_is_lower_limit


def test_a_slow_shutter_is_an_offset_and_no_deviation() -> None:
    found = fit(8_000.0 * (TIMES + 0.012))
    assert found.offset == pytest.approx(0.012)
    assert found.max_deviation < 1e-9


def test_the_turnoff_lies_between_the_last_good_and_the_first_bad_point() -> None:
    mean = 8_000.0 * TIMES
    saturated = np.minimum(mean, 50_000.0)
    found = fit(saturated, turnoff=45_000.0)
    bad = mean > 50_000.0 * 1.02
    assert mean[~bad].max() * 0.9 < found.turnoff <= 50_000.0
    assert not found.turnoff_is_lower_limit


def test_a_quadratic_deviation_is_reported_with_its_size() -> None:
    mean = 8_000.0 * TIMES
    bent = mean * (1.0 - 0.03 * mean / 80_000.0)
    found = fit(bent)
    assert 0.005 < found.max_deviation < 0.03


def test_wild_points_do_not_shape_the_line() -> None:
    mean = 8_000.0 * TIMES * (1 + 1e-3 * np.sin(np.arange(TIMES.size)))
    mean[[3, 17]] *= [1.5, 0.7]
    found = fit(mean)
    assert found.slope == pytest.approx(8_000.0, rel=2e-3)
    assert found.points_used == TIMES.size - 2
    assert found.deviation[3] == pytest.approx(0.5, abs=0.01)


def test_each_setting_of_the_light_has_a_line_of_its_own() -> None:
    times = np.concatenate([TIMES, TIMES])
    mean = np.concatenate([8_000.0 * TIMES, 2_500.0 * TIMES])
    found = fit(mean, times, settings=["r"] * TIMES.size + ["r~ND"] * TIMES.size)
    assert found.max_deviation < 1e-9


def test_scaling_the_signal_or_the_time_changes_no_deviation() -> None:
    mean = 8_000.0 * TIMES * (1 + 2e-3 * np.cos(np.arange(TIMES.size)))
    one, scaled = fit(mean), fit(2.0 * mean, 3.0 * TIMES)
    both = one.deviation[np.isfinite(one.deviation)]
    assert both == pytest.approx(scaled.deviation[np.isfinite(one.deviation)], abs=1e-12)


@pytest.mark.parametrize(
    ("mean", "times"),
    [
        (np.array([]), np.array([])),
        (np.array([1e3, 2e3]), np.array([1.0, 2.0])),
        (np.array([1e3, 1e3, 1e3]), np.array([1.0, 1.0, 1.0])),
        (np.array([np.nan, 1e3, 2e3, 3e3]), np.array([1.0, np.nan, 2.0, np.nan])),
        (np.array([3e3, 2e3, 1e3]), np.array([1.0, 2.0, 3.0])),
        (np.array([1e30, -1e30, 5e3, 1e3]), np.array([1.0, 2.0, 1e300, 1e-300])),
    ],
)
def test_what_tells_nothing_gives_nothing(
    mean: np.ndarray[tuple[int], np.dtype[np.float64]], times: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> None:
    found = fit_linearity(
        mean, times, [""] * mean.size, below_turnoff=np.ones(mean.size, dtype=np.bool_), config=CONFIG
    )
    assert found is None or np.isfinite(found.slope)
