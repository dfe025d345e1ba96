"""Are the errors of the full models honest? Pulls over many amplifiers drawn at the level of covariances."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ptc_stream.physics.fitting import AmplifierFit, FitConfig, FitNote, FitStatus, fit_amplifier
from ptc_stream.physics.models import FitModel
from tests.curves import GAIN, READ_NOISE, Sensor, break_off, full_points

FULL, NO_B = FitModel.FULLCOVARIANCE, FitModel.FULLCOVARIANCE_NO_B


def sensor_of(model: FitModel) -> Sensor:
    """Eq. 20 with b for FULLCOVARIANCE, without for FULLCOVARIANCE_NO_B: each model on its own truth."""
    return Sensor.of(10, b=1.0 if model is FULL else 0.0)


def pull(result: AmplifierFit, sensor: Sensor) -> list[float]:
    a, errors = result.a_matrix, result.a_matrix_error
    assert a is not None
    assert errors is not None
    return [
        (result.gain - GAIN) / result.gain_error,
        (result.read_noise - READ_NOISE) / result.read_noise_error,
        *((a[at] - sensor.a[at]) / errors[at] for at in ((0, 0), (0, 1), (1, 0), (1, 1))),
    ]


def pulls(count: int, model: FitModel, lamp: float, number: int) -> tuple[NDArray[np.float64], set[str]]:
    mean = np.linspace(300.0, 9e4, count)
    sensor = sensor_of(model)
    rng = np.random.default_rng([count, model is FULL, lamp > 0.0])
    found: list[list[float]] = []
    notes: set[str] = set()
    for _ in range(number):
        result = fit_amplifier(full_points(mean, sensor, rng, lamp=lamp), FitConfig(model=model))
        assert result.status is FitStatus.OK
        notes.update(result.notes)
        found.append(pull(result, sensor))
    return np.array(found), notes


@pytest.mark.parametrize("lamp", [0.0, 0.004])
@pytest.mark.parametrize("model", [FULL, NO_B])
@pytest.mark.parametrize(("count", "number"), [(20, 800), (60, 800), (337, 400)])
def test_pulls_of_gain_noise_and_a(count: int, number: int, model: FitModel, lamp: float) -> None:
    """8000 amplifiers in all; 800 scatter by 0.035 in the mean and by 2.5 % in the width."""
    found, notes = pulls(count, model, lamp, number)
    np.testing.assert_allclose(np.mean(found, axis=0), 0.0, atol=0.15)
    width = np.std(found, axis=0)
    assert np.all((width > 0.9) & (width < 1.1)), width
    # Too few pixels for all lags with b, and it says so.
    assert notes == ({FitNote.RANGE_REDUCED} if model is FULL and count < 337 else set())


def with_wild_points(rng: np.random.Generator, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors by which 2 % of the points are off, by 20 to 90 % to either side."""
    factor = np.ones(mean.size)
    wild = rng.choice(mean.size, mean.size // 50, replace=False)
    factor[wild] = np.exp(rng.choice([-1.0, 1.0], wild.size) * rng.uniform(0.2, 2.0, wild.size))
    return factor


@pytest.mark.parametrize("model", [FULL, NO_B])
@pytest.mark.parametrize(
    ("case", "count"),
    [("wild", 337), ("lamp step", 120), ("dip", 400), ("upturn", 400), ("drop", 60)],
)
def test_bad_runs_have_the_gain_within_1_percent_and_the_turnoff_within_2_points(
    case: str, count: int, model: FitModel
) -> None:
    truth = 9.3e4
    mean = np.linspace(300.0, 1.2e5, count)
    sensor = sensor_of(model)
    spacing = mean[1] - mean[0]
    for seed in range(6):
        rng = np.random.default_rng([seed, count])
        factor = break_off(mean, truth, "upturn" if case == "upturn" else "drop")
        if case == "wild":
            factor *= with_wild_points(rng, mean)
        if case == "dip":  # at 80 % of full well
            factor *= np.where(np.abs(mean / truth - 0.8) < 0.015, 0.93, 1.0)
        if case == "lamp step":  # pairs with unequal exposures for a third of the run
            factor *= np.where(np.arange(count) % 3 == 0, 1.006, 1.0)
        points = full_points(mean, sensor, rng, lamp=0.003, factor=factor)
        result = fit_amplifier(points, FitConfig(model=model))
        assert result.status is FitStatus.OK
        assert result.gain == pytest.approx(GAIN, rel=0.01)
        assert abs(result.turnoff - truth) < 2.0 * spacing
        assert result.a_matrix is not None
        assert result.a00 == pytest.approx(sensor.a[0, 0], rel=0.1)


@pytest.mark.parametrize("model", [FULL, NO_B])
def test_five_pairs_are_finite_flagged_and_their_errors_not_too_small(model: FitModel) -> None:
    """Without b: five pairs do not tell it, so the truth has none."""
    mean = np.array([500.0, 1e4, 3e4, 6e4, 9e4])
    sensor = sensor_of(NO_B)
    rng = np.random.default_rng(5)
    results = [
        fit_amplifier(full_points(mean, sensor, rng, lamp=0.003), FitConfig(model=model)) for _ in range(400)
    ]
    assert all((FitNote.B_NOT_FITTED in r.notes) == (model is FULL) for r in results)
    good = [r for r in results if r.status is FitStatus.OK]
    assert len(good) > 380
    found = np.array([pull(r, sensor) for r in good])
    assert np.all(np.isfinite(found))
    assert np.all(np.mean(np.abs(found) < 2.0, axis=0) > 0.935)


@pytest.mark.parametrize("model", [FULL, NO_B])
def test_a_dead_amplifier_and_one_that_saturates_early(model: FitModel) -> None:
    mean = np.linspace(300.0, 1.2e5, 60)
    rng = np.random.default_rng(0)
    sensor = sensor_of(model)
    dead = full_points(0.01 * rng.standard_normal(60), sensor, rng)
    result = fit_amplifier(dead, FitConfig(model=model))
    assert result.status is FitStatus.DEAD
    assert result.a_matrix is None
    # A gain so low that the converter ends the run at 45 % of it: all pixels alike from there on.
    stuck = np.where(mean > 5.4e4, 1e-4, 1.0)
    flags = tuple(frozenset({"SATURATED"}) if m > 5.4e4 else frozenset[str]() for m in mean)
    result = fit_amplifier(
        full_points(mean, sensor, rng, lamp=0.003, factor=stuck, flags=flags), FitConfig(model=model)
    )
    assert result.status is FitStatus.OK
    assert result.gain == pytest.approx(GAIN, rel=0.01)
    assert result.turnoff_low < 5.4e4 < result.turnoff_high
