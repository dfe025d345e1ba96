"""What the simulator draws has the statistics that it claims, to the precision of some million pixels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.fft
from numpy.typing import NDArray

from ptc_stream.simulator import AmplifierTruth, Scenario, covariances_eq20, plan, truth_of
from ptc_stream.simulator.frames import raw_frame

LAGS = 10
PAIRS = 30
CLEAN: dict[str, Any] = {
    "seed": 11,
    "amplifiers": 1,
    "overscan_columns": 0,
    "overscan_rows": 0,
    "prescan_columns": 0,
    "pairs_per_level": PAIRS,
    "biases_every": 0,
    "darks_every": 0,
    "dark_current": 0.0,
    "lamp_drift": 0.0,
    "lamp_scatter": 0.0,
    "gradient": 0.0,
    "cosmic_rays": 0.0,
    "bad_columns": 0,
    "full_well_range": (300e3, 300e3),
}


def _flats(scenario: Scenario) -> tuple[AmplifierTruth, list[NDArray[np.float64]]]:
    amplifier = truth_of(scenario).detectors["R22_S11"]["C10"]
    frames = [raw_frame(scenario, exposure, amplifier).astype(np.float64) for exposure in plan(scenario)]
    return amplifier, frames


def _pair_covariances(frames: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Half the covariances of the differences at lags (i, j) = (x, y), and their errors over C_00."""
    rows, columns = frames[0].shape
    # Padded by the longest lag, the circular products are those of real neighbours.
    padded = (rows + LAGS, columns + LAGS)
    power = np.zeros((padded[0], padded[1] // 2 + 1))
    for first, second in zip(frames[::2], frames[1::2], strict=True):
        difference = first - second
        power += np.abs(scipy.fft.rfft2(difference - difference.mean(), padded)) ** 2
    products = scipy.fft.irfft2(power, padded)
    lag = np.arange(LAGS)
    counts = np.outer(columns - lag, rows - lag) * (len(frames) // 2)
    sums = products[:LAGS, :LAGS].T.copy()
    sums[1:, 1:] += products[-lag[1:], 1:LAGS].T  # the same lag towards the other side
    counts[1:, 1:] *= 2
    errors = 1.0 / np.sqrt(counts)
    errors[0, 0] *= np.sqrt(2.0)
    return sums / counts / 2.0, errors


@pytest.mark.parametrize("electrons", [20.0, 1.5e3, 3e4, 1.3e5])
@pytest.mark.parametrize("pixel_type", ["int32", "float32"])
def test_pair_covariances_are_those_of_eq20(electrons: float, pixel_type: Any) -> None:
    scenario = Scenario(
        **CLEAN,
        levels=1,
        lowest_level=electrons,
        highest_level=electrons,
        pixel_type=pixel_type,
        shape=(256, 256),
    )
    amplifier, frames = _flats(scenario)
    mean = electrons / amplifier.gain
    expected = amplifier.covariances(mean, size=LAGS)
    measured, errors = _pair_covariances(frames)
    pulls = (measured - expected) / (errors * expected[0, 0])
    assert abs(pulls[0, 0]) < 4.0
    assert np.abs(pulls).max() < 4.5
    # 100 lags; correlated pixels widen the errors by up to 3 %.
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1.0, abs=0.25)
    if electrons > 1e5:
        # The lags stand where they belong: exchanged, they would not fit.
        exchanged = (measured.T - expected) / (errors * expected[0, 0])
        assert np.abs(exchanged).max() > 8.0


def test_read_noise_may_be_correlated_along_rows() -> None:
    scenario = Scenario(
        **{**CLEAN, "biases_every": 1, "levels": 24, "pairs_per_level": 1},
        shape=(256, 256),
        serial_noise_correlation=0.13,
        highest_level=5e3,
    )
    amplifier = truth_of(scenario).detectors["R22_S11"]["C10"]
    biases = [
        raw_frame(scenario, exposure, amplifier).astype(np.float64)
        for exposure in plan(scenario)
        if exposure.image_type == "BIAS"
    ]
    measured, errors = _pair_covariances(biases)
    noise = covariances_eq20(
        0.0, amplifier.gain, np.zeros((2, 2)), np.zeros((2, 2)), amplifier.noise_matrix[:2, :2], size=LAGS
    )
    assert noise[1, 0] == pytest.approx(0.13 * noise[0, 0], rel=1e-12)
    pulls = (measured - noise) / (errors * noise[0, 0])
    assert np.abs(pulls).max() < 4.5


@pytest.mark.parametrize("electrons", [20.0, 2e3])
def test_third_moment_is_that_of_poisson_charge(electrons: float) -> None:
    scenario = Scenario(
        **{**CLEAN, "prnu": 0.0, "bias_structure": 0.0},
        levels=1,
        lowest_level=electrons,
        highest_level=electrons,
        shape=(512, 256),
    )
    amplifier, frames = _flats(scenario)
    variance = float(amplifier.covariances(electrons / amplifier.gain)[0, 0])
    expected = electrons / amplifier.gain**3 / variance**1.5
    standardised = [(frame - frame.mean()) / np.sqrt(variance) for frame in frames]
    skewness = float(np.mean([np.mean(frame**3) for frame in standardised]))
    error = np.sqrt(6.0 / (len(frames) * frames[0].size))
    assert skewness == pytest.approx(expected, abs=4.5 * error)
    assert expected > 10 * error  # so a Gaussian would fail


def test_mean_of_a_flat_is_its_signal_whatever_the_pattern() -> None:
    scenario = Scenario(
        **{**CLEAN, "pairs_per_level": 1, "gradient": 0.02, "bias_structure": 0.0}, levels=6, shape=(512, 256)
    )
    amplifier, frames = _flats(scenario)
    light = frames[-1].mean() - amplifier.bias_level
    for exposure, frame in zip(plan(scenario), frames, strict=True):
        # One amplifier lies off the centre of the gradient: compare the shares of the brightest flat.
        share = (frame.mean() - amplifier.bias_level) / light
        assert share == pytest.approx(exposure.signal / 190e3, abs=5.0 / light)


def test_the_truth_is_not_touched_by_what_is_done_with_it() -> None:
    scenario = Scenario(**CLEAN, levels=1, shape=(64, 64))
    amplifier, _ = _flats(scenario)
    before = dataclasses.replace(amplifier, noise_matrix=amplifier.noise_matrix.copy())
    _flats(scenario)
    assert np.array_equal(before.noise_matrix, amplifier.noise_matrix)


@pytest.mark.parametrize("image_type", ["BIAS", "FLAT"])
def test_rounding_to_integers_adds_nothing_even_to_little_noise(image_type: str) -> None:
    # 0.8 ADU of read noise and 3 e-: rounding alone has 4 to 13 % of the variance.
    scenario = Scenario(
        **{**CLEAN, "biases_every": 1, "levels": 40, "pairs_per_level": 1, "lamp_rate": 1.0, "prnu": 0.0},
        lowest_level=3.0,
        highest_level=3.1,
        gain_range=(1.5, 1.5),
        read_noise_range=(1.2, 1.2),
        shape=(256, 256),
    )
    amplifier = truth_of(scenario).detectors["R22_S11"]["C10"]
    frames = [
        raw_frame(scenario, exposure, amplifier).astype(np.float64)
        for exposure in plan(scenario)
        if exposure.image_type == image_type
    ]
    pairs = list(zip(frames[::2], frames[1::2], strict=True))
    variance = float(np.mean([np.var(first - second) / 2 for first, second in pairs]))
    error = np.sqrt(2 / (len(pairs) * frames[0].size))
    expected = amplifier.covariances(0.0 if image_type == "BIAS" else 3.05 / amplifier.gain)[0, 0]
    assert variance == pytest.approx(expected, rel=5 * error)
    assert 5 * error < 0.3 / 12 / expected  # a third of the rounding would be seen
