from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ptc_stream.physics.points import PointFlag
from ptc_stream.physics.selection import UnusedReason, code_of, is_dead, judge_points, reasons_of
from tests.curves import eq16


def judge(mean: float, variance: float, pixel_count: int = 10_000, *flags: str) -> UnusedReason | None:
    codes = judge_points(
        np.array([mean]),
        np.array([variance]),
        np.array([pixel_count]),
        (frozenset(flags),),
        min_mean=50.0,
        max_mean=9e4,
    )
    return reasons_of(codes)[0]


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ((5e3, 3e3), None),
        ((50.0, 60.0), None),
        ((9e4, 4e4), None),
        ((49.9, 60.0), UnusedReason.BELOW_MIN),
        ((9.1e4, 4e4), UnusedReason.ABOVE_MAX),
        ((np.nan, 4e4), UnusedReason.NOT_FINITE),
        ((5e3, np.inf), UnusedReason.NOT_FINITE),
        ((5e3, 1e30), UnusedReason.NOT_FINITE),
        ((-1e30, 10.0), UnusedReason.NOT_FINITE),
        ((-3.0, 20.0), UnusedReason.NO_SIGNAL),
        ((5e3, 0.0), UnusedReason.NO_VARIANCE),
        ((5e3, -4.0), UnusedReason.NO_VARIANCE),
        ((5e3, 3e3, 0), UnusedReason.TOO_FEW_PIXELS),
    ],
)
def test_a_point_by_itself(point: tuple[Any, ...], reason: UnusedReason | None) -> None:
    assert judge(*point) is reason


@pytest.mark.parametrize("flag", PointFlag)
def test_every_flag_of_the_measurement_has_its_reason(flag: PointFlag) -> None:
    assert judge(5e3, 3e3, 10_000, flag) is UnusedReason(flag)


def test_a_flag_that_nobody_here_knows_costs_nothing() -> None:
    assert judge(5e3, 3e3, 10_000, "PRETTY") is None


def test_one_reason_per_point_the_gravest_first() -> None:
    assert judge(np.nan, 3e3, 0, "SATURATED", "NO_SIGNAL") is UnusedReason.NOT_FINITE
    assert judge(5e3, 3e3, 10_000, "FLUX_MISMATCH", "SATURATED") is UnusedReason.SATURATED


def test_codes_and_reasons_are_one_to_one() -> None:
    reasons: tuple[UnusedReason | None, ...] = (None, *UnusedReason)
    assert reasons_of(np.array([code_of(reason) for reason in reasons], dtype=np.int8)) == reasons


MEAN = np.linspace(500.0, 9e4, 12)


def dead(mean: np.ndarray, variance: np.ndarray, noise: float = np.nan) -> bool:
    codes = judge_points(
        mean, variance, np.full(mean.size, 10**5), (frozenset(),) * mean.size, min_mean=0.0, max_mean=1e6
    )
    good = codes == 0
    return is_dead(mean[good], variance[good], codes, noise, 4)


def test_dead_amplifiers() -> None:
    flat = 25.0 * (1.0 + 1e-3 * np.cos(np.arange(12.0)))
    assert dead(MEAN, flat, 25.0)
    assert dead(MEAN, flat)
    assert dead(-np.ones(12), flat)
    assert dead(np.full(12, 65_535.0), np.zeros(12))


def test_live_amplifiers_are_not_dead() -> None:
    variance = eq16(MEAN)
    assert not dead(MEAN, variance, 21.8)
    assert not dead(MEAN, variance)
    variance[4:] *= 0.02  # most points above the turnoff
    assert not dead(MEAN, variance, 21.8)
    assert not dead(MEAN, variance)


def test_a_few_bias_pairs_kill_nobody() -> None:
    assert not dead(np.array([-0.1, 0.2 - 0.3, -1.0]), np.full(3, 25.0))
    mean = np.concatenate([-np.ones(5), MEAN])
    assert not dead(mean, np.concatenate([np.full(5, 25.0), eq16(MEAN)]), 25.0)
