from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from ptc_stream.physics.fitting import (
    AmplifierFit,
    FitConfig,
    FitNote,
    FitPoints,
    FitStatus,
    fit_amplifier,
    fit_detector,
)
from ptc_stream.physics.models import FitModel, evaluate_expapproximation, evaluate_polynomial
from ptc_stream.physics.selection import UnusedReason
from tests.curves import A00, GAIN, READ_NOISE, break_off, curve_points, eq16

MEAN = np.linspace(300.0, 9e4, 25)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def fit(points: FitPoints, **settings: Any) -> AmplifierFit:
    return fit_amplifier(points, FitConfig(**settings))


def test_exact_points_give_the_truth_back() -> None:
    result = fit(curve_points(MEAN))
    assert result.status is FitStatus.OK
    assert result.notes == ()
    assert result.gain == pytest.approx(GAIN, rel=1e-8)
    assert result.read_noise == pytest.approx(READ_NOISE, rel=1e-6)
    assert result.a00 == pytest.approx(A00, rel=1e-7)
    assert result.parameter_names == ("a00", "gain", "noise_variance")
    np.testing.assert_allclose(evaluate_expapproximation(MEAN, *result.parameters)[0], eq16(MEAN), rtol=1e-9)
    assert result.dof == 22
    assert result.floor == 0.0
    assert result.turnoff_is_lower_limit
    assert result.turnoff == result.turnoff_low == result.turnoff_last_used == MEAN[-1]
    assert result.reasons == (None,) * 25


def test_errors_are_propagated_to_what_is_reported() -> None:
    result = fit(curve_points(MEAN, rng(), lamp=0.003))
    errors = np.sqrt(np.diag(result.parameter_covariance))
    assert result.a00_error == pytest.approx(errors[0])
    assert result.gain_error == pytest.approx(errors[1])
    assert result.read_noise_error == pytest.approx(errors[2] / (2.0 * result.read_noise))
    assert result.chi2_per_dof > 2.0  # of sampling errors alone
    assert result.floor == pytest.approx(0.003, rel=0.5)


@pytest.mark.parametrize(("degree", "tolerance"), [(2, 0.03), (3, 0.003)])
def test_polynomial(degree: int, tolerance: float) -> None:
    result = fit(curve_points(MEAN), model=FitModel.POLYNOMIAL, polynomial_degree=degree)
    assert result.status is FitStatus.OK
    assert result.parameter_names == ("p0", "p1", "p2", "p3")[: degree + 1]
    assert result.gain == pytest.approx(GAIN, rel=tolerance)
    assert result.gain == 1.0 / result.parameters[1]
    assert result.read_noise == pytest.approx(np.sqrt(result.parameters[0]) * result.gain)
    if degree == 3:
        assert result.a00 == result.parameters[2] == pytest.approx(A00, rel=0.05)
    else:  # p2 of a parabola is off by 20 %: not reported as a00
        assert np.isnan(result.a00)


def test_points_on_a_polynomial_give_it_back() -> None:
    truth = np.array([22.0, 0.66, -3e-6, 1e-11])
    variance = evaluate_polynomial(MEAN, truth)[0]
    result = fit(curve_points(MEAN, variance=variance), model=FitModel.POLYNOMIAL)
    np.testing.assert_allclose(result.parameters, truth, rtol=1e-6)


def test_every_unused_point_has_its_reason() -> None:
    mean = np.linspace(300.0, 1.2e5, 30)
    points = curve_points(mean, rng(), factor=break_off(mean, 1e5, "drop"))
    flags = list(points.flags)
    flags[29] = frozenset({"SATURATED"})
    flags[3] = frozenset({"FLUX_MISMATCH"})
    flags[6] = frozenset({"NOT_GAUSSIAN"})
    variance = points.variance.copy()
    variance[10] = np.nan
    variance[15] *= 1.5
    spoiled = dataclasses.replace(points, variance=variance, flags=tuple(flags))
    result = fit(spoiled, min_mean=1000.0)
    expected: dict[int, UnusedReason] = dict.fromkeys(
        np.flatnonzero(mean > 1e5).tolist(), UnusedReason.ABOVE_TURNOFF
    )
    expected |= {
        0: UnusedReason.BELOW_MIN,
        3: UnusedReason.FLUX_MISMATCH,
        6: UnusedReason.NOT_GAUSSIAN,
        10: UnusedReason.NOT_FINITE,
        15: UnusedReason.OUTLIER,
        29: UnusedReason.SATURATED,
    }
    assert {i: reason for i, reason in enumerate(result.reasons) if reason is not None} == expected
    assert result.turnoff_low < 1e5 < result.turnoff_high
    assert abs(result.gain - GAIN) < 4.0 * result.gain_error


@pytest.mark.parametrize("flag", ["SATURATED", "NOT_GAUSSIAN"])
def test_points_that_are_not_fitted_still_end_the_curve(flag: str) -> None:
    mean = np.linspace(300.0, 1.2e5, 30)
    points = curve_points(mean, rng(), factor=break_off(mean, 1e5, "step"))
    flags = tuple(frozenset({flag}) if m > 1e5 else frozenset[str]() for m in mean)
    result = fit(dataclasses.replace(points, flags=flags))
    assert not result.turnoff_is_lower_limit
    assert result.turnoff_low < 1e5 < result.turnoff_high


def test_stuck_converter_above_the_turnoff() -> None:
    mean = np.concatenate([MEAN, [95e3, 95.1e3, 95.2e3]])
    variance = np.concatenate([eq16(MEAN), np.zeros(3)])
    result = fit(curve_points(mean, variance=variance))
    assert result.status is FitStatus.OK
    assert result.turnoff_high == 95e3
    assert result.reasons[-3:] == (UnusedReason.NO_VARIANCE,) * 3


def test_coarse_and_dense_runs_agree_on_the_turnoff() -> None:
    truth = 93_217.0
    found = []
    for spacing in (250.0, 2750.0):
        mean = np.arange(500.0, 1.2e5, spacing)
        result = fit(curve_points(mean, rng(3), lamp=0.003, factor=break_off(mean, truth, "drop")))
        assert result.turnoff_low <= truth <= result.turnoff_high
        assert result.turnoff_error == pytest.approx(
            (result.turnoff_high - result.turnoff_low) / np.sqrt(12.0)
        )
        found.append(result)
    assert abs(found[0].turnoff - found[1].turnoff) < 2.0 * found[1].turnoff_error


def test_a_dip_at_80_percent_is_left_out_and_passed() -> None:
    mean = np.linspace(300.0, 1.2e5, 60)
    dip = np.where((mean > 7.8e4) & (mean < 8.3e4), 0.9, 1.0)
    result = fit(curve_points(mean, rng(2), lamp=0.003, factor=dip * break_off(mean, 1e5, "drop")))
    assert result.turnoff_low < 1e5 < result.turnoff_high
    assert [r for r, d in zip(result.reasons, dip, strict=True) if d < 1.0] == [UnusedReason.OUTLIER] * 2
    assert abs(result.gain - GAIN) < 4.0 * result.gain_error


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("model", FitModel)
def test_not_enough_pairs(count: int, model: FitModel) -> None:
    result = fit(curve_points(MEAN[:count]), model=model)
    assert result.status is FitStatus.NOT_ENOUGH_PAIRS
    assert np.isnan(result.gain)
    assert np.isnan(result.gain_error)
    assert result.reasons == (None,) * count
    assert result.parameters.size == 0


def test_four_points_have_a_chi2() -> None:
    result = fit(curve_points(np.array([300.0, 1e4, 4e4, 8e4]), rng()))
    assert result.status is FitStatus.OK
    assert result.dof == 1
    assert np.isfinite(result.chi2_per_dof)
    assert abs(result.gain - GAIN) < 2.0 * result.gain_error
    assert fit(curve_points(np.array([300.0, 1e4, 4e4, 8e4])), model=FitModel.POLYNOMIAL).status is (
        FitStatus.NOT_ENOUGH_PAIRS
    )


def test_dead_amplifier() -> None:
    variance = np.full(25, 25.0) * (1.0 + 1e-3 * rng().standard_normal(25))
    assert fit(curve_points(MEAN, variance=variance)).status is FitStatus.DEAD
    no_signal = (frozenset({"NO_SIGNAL"}),) * 25
    dead = fit(curve_points(0.01 * rng().standard_normal(25), variance=variance, flags=no_signal))
    assert dead.status is FitStatus.DEAD
    assert np.isnan(dead.gain)
    assert np.isnan(dead.turnoff)


def test_negative_noise_is_never_rooted() -> None:
    result = fit(curve_points(MEAN, variance=eq16(MEAN) - 60.0, read_noise=None))
    assert result.status is FitStatus.NEGATIVE_NOISE
    assert np.isnan(result.read_noise)
    assert np.isnan(result.read_noise_error)
    assert result.parameters[2] < 0.0
    assert result.gain == pytest.approx(GAIN, rel=1e-6)


def test_without_a_zero_level_there_is_no_noise() -> None:
    offset = 5000.0
    points = curve_points(MEAN + offset, variance=eq16(MEAN), zero_level=False)
    result = fit(points)
    assert result.status is FitStatus.NO_ZERO_LEVEL
    assert FitNote.GAIN_APPROXIMATE in result.notes
    assert np.isnan(result.read_noise)
    # exactly degenerate in Eq. 16: off by exp(2 a00 g B)
    assert result.gain == pytest.approx(GAIN * np.exp(2.0 * A00 * GAIN * offset), rel=1e-6)


def test_noise_fixed_where_the_points_do_not_tell_it() -> None:
    high = np.linspace(3e4, 9e4, 12)
    result = fit(curve_points(high, rng(1), lamp=0.002))
    assert result.status is FitStatus.NOISE_FIXED
    assert result.notes == (FitNote.NOISE_FIXED,)
    assert result.read_noise == pytest.approx(READ_NOISE, rel=0.02)
    assert abs(result.gain - GAIN) < 2.0 * result.gain_error
    assert abs(result.a00 - A00) < 2.0 * result.a00_error
    free = fit(curve_points(high, rng(1), lamp=0.002, read_noise=None))
    assert free.gain_error > 1.5 * result.gain_error


@pytest.mark.parametrize("model", FitModel)
def test_one_pair_in_tiles_of_nearly_equal_signal(model: FitModel) -> None:
    """The tap UL of the LED pair: 21k-26k DN, 4000 pixels per point, a00 of such a sensor about -1e-6."""
    mean = np.linspace(21_600.0, 25_700.0, 112)
    variance = eq16(mean, -1e-6, 2.5, 10.0) * (1.0 + rng(5).standard_normal(112) * np.sqrt(2.0 / 4000.0))
    points = curve_points(mean, variance=variance, pixel_count=np.full(112, 4000), read_noise=4.0)
    result = fit(points, model=model)
    assert result.status is FitStatus.NOISE_FIXED
    assert result.notes == (FitNote.NOISE_FIXED, FitNote.A00_UNKNOWN)
    assert np.isnan(result.a00)
    # The gain at this signal: what the ratio of mean and variance gives ...
    assert result.gain == pytest.approx(np.sum(mean) / np.sum(variance - 16.0), rel=2e-3)
    # ... which is off by a00 g mu, as its error says.
    assert 1.0 < result.gain_error / (result.gain - 2.5) < 6.0
    assert result.parameters.size == len(result.parameter_names)


def test_points_off_any_curve_are_unphysical() -> None:
    result = fit(curve_points(MEAN, variance=eq16(MEAN) * np.exp(rng(3).normal(0.0, 0.7, 25))))
    assert result.status not in (FitStatus.OK, FitStatus.NOISE_FIXED, FitStatus.NEGATIVE_NOISE)
    assert np.isnan(result.gain)


def test_a_positive_a00_is_fitted_too() -> None:
    variance = evaluate_expapproximation(MEAN, 1e-6, GAIN, 49.0)[0]
    result = fit(curve_points(MEAN, variance=variance))
    assert result.a00 == pytest.approx(1e-6, rel=1e-6)


def test_an_amplifier_has_the_same_bytes_alone_and_among_others() -> None:
    many = [curve_points(MEAN, rng(seed), lamp=0.004) for seed in range(4)]
    many[2] = curve_points(MEAN, variance=np.full(25, np.nan))
    together = fit_detector(many, FitConfig())
    for points, result in zip(many, together, strict=True):
        alone = fit_amplifier(points, FitConfig())
        assert as_bytes(alone) == as_bytes(result)
    assert [r.status for r in together] == ["OK", "OK", "NOT_ENOUGH_PAIRS", "OK"]


def as_bytes(result: AmplifierFit) -> list[bytes]:
    return [
        np.asarray(getattr(result, field.name)).tobytes()
        for field in dataclasses.fields(result)
        if field.name != "reasons"
    ]


def test_points_are_neither_changed_nor_kept() -> None:
    points = curve_points(MEAN, rng())
    before = points.variance.copy()
    fit(points)
    np.testing.assert_array_equal(points.variance, before)


def test_arrays_of_different_length_are_the_callers_fault() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        curve_points(MEAN, pixel_count=np.ones(3, dtype=np.int64))


def test_every_setting_says_its_unit_and_meaning() -> None:
    for field in dataclasses.fields(FitConfig):
        assert set(field.metadata) == {"unit", "meaning"}


@pytest.mark.parametrize(
    ("covariances", "counts"),
    [((25, 3, 3), None), (None, (25, 3, 3)), ((24, 3, 3),) * 2, ((25, 3, 2),) * 2, ((25, 0, 0),) * 2],
)
def test_covariances_come_with_their_counts_one_square_per_point(
    covariances: tuple[int, ...] | None, counts: tuple[int, ...] | None
) -> None:
    with pytest.raises(ValueError, match=r"must be \(N, R, R\)"):
        curve_points(
            MEAN,
            covariances=None if covariances is None else np.zeros(covariances),
            lag_pixel_count=None if counts is None else np.ones(counts, dtype=np.int64),
        )
