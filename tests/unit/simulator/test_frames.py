from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ptc_stream.simulator import AmplifierTruth, Saturation, Scenario, plan, truth_of
from ptc_stream.simulator.camera import detector_box
from ptc_stream.simulator.frames import raw_frame

QUIET: dict[str, Any] = {
    "shape": (160, 128),
    "amplifiers": 16,
    "levels": 3,
    "biases_every": 3,
    "darks_every": 3,
    "lamp_drift": 0.0,
    "lamp_scatter": 0.0,
    "gradient": 0.0,
    "prnu": 0.0,
    "cosmic_rays": 0.0,
    "bad_columns": 0,
    "bias_structure": 0.0,
    "highest_level": 5e4,
}


def _amplifier(scenario: Scenario, name: str = "C10") -> AmplifierTruth:
    return truth_of(scenario).detectors["R22_S11"][name]


def _frames(
    scenario: Scenario, amplifier: AmplifierTruth, image_type: str = "FLAT"
) -> list[NDArray[np.float64]]:
    """Raw frames of all exposures of one type, above the bias level."""
    return [
        raw_frame(scenario, exposure, amplifier).astype(np.float64) - amplifier.bias_level
        for exposure in plan(scenario)
        if exposure.image_type == image_type
    ]


def _imaging(scenario: Scenario, frame: NDArray[np.float64]) -> NDArray[np.float64]:
    return frame[: scenario.shape[0], scenario.prescan_columns :][:, : scenario.shape[1]]


def test_a_flat_has_light_in_its_imaging_area_only() -> None:
    scenario = Scenario(**QUIET)
    amplifier = _amplifier(scenario)
    frame = _frames(scenario, amplifier)[-1]
    assert frame.shape == (160 + 46, 10 + 128 + 54)
    mean = 5e4 / amplifier.gain
    assert _imaging(scenario, frame).mean() == pytest.approx(mean, rel=1e-3)
    noise = amplifier.read_noise / amplifier.gain
    for dark in (frame[:, :10], frame[:, 138:], frame[160:]):
        assert dark.mean() == pytest.approx(0.0, abs=4.0)  # the bias wanders by 1 ADU
        assert dark.std() == pytest.approx(noise, rel=5 / np.sqrt(2 * dark.size))


@pytest.mark.parametrize(("pixel_type", "limit"), [("int32", 2**18 - 1), ("uint16", 2**16 - 1)])
def test_pixels_are_integers_within_the_converter(pixel_type: Any, limit: int) -> None:
    scenario = Scenario(**{**QUIET, "highest_level": 190e3, "gain_range": (0.7, 0.7)}, pixel_type=pixel_type)
    # 270,000 ADU, were it not for the converter.
    amplifier = dataclasses.replace(_amplifier(scenario), turnoff=1e6)
    frame = raw_frame(scenario, plan(scenario)[-1], amplifier)
    assert frame.dtype == np.dtype(pixel_type)
    assert frame.max() == limit


def test_bias_and_dark_hold_read_noise_and_dark_current() -> None:
    scenario = Scenario(**QUIET, dark_current=2.0)
    amplifier = _amplifier(scenario)
    (bias,), (dark,) = _frames(scenario, amplifier, "BIAS"), _frames(scenario, amplifier, "DARK")
    noise = amplifier.read_noise / amplifier.gain
    assert bias.std() == pytest.approx(noise, rel=5 / np.sqrt(2 * bias.size))
    overscan = dark[:, 138:].mean()
    assert _imaging(scenario, dark).mean() - overscan == pytest.approx(60.0 / amplifier.gain, abs=0.5)
    expected = np.sqrt(60.0 + amplifier.read_noise**2) / amplifier.gain
    assert _imaging(scenario, dark).std() == pytest.approx(expected, rel=0.03)


def test_bias_structure_is_the_same_in_all_exposures_and_reaches_the_overscan() -> None:
    scenario = Scenario(**{**QUIET, "bias_structure": 40.0, "biases_every": 1})
    first, second, _ = _frames(scenario, _amplifier(scenario), "BIAS")
    noise = (first - second).std() / np.sqrt(2)
    assert first.std() > 2 * noise
    rows = first[:, 138:].mean(axis=1)
    assert rows.std() > 10.0  # a slow wave, for the overscan to take away
    assert np.corrcoef(rows, first[:, 10:138].mean(axis=1))[0, 1] > 0.9
    assert first[:, :3].mean() > first[:, 60:].mean() + 20.0  # settling of the first columns


def test_response_of_the_pixels_is_a_fixed_pattern() -> None:
    scenario = Scenario(**{**QUIET, "prnu": 0.02})
    first, second = (_imaging(scenario, frame) for frame in _frames(scenario, _amplifier(scenario))[-2:])
    assert first.std() / first.mean() > 0.018
    assert (first - second).std() / first.mean() < 0.01


def test_gradient_follows_the_detector_not_the_read_out() -> None:
    scenario = Scenario(**{**QUIET, "gradient": 0.4})
    truth = truth_of(scenario).detectors["R22_S11"]
    planned = [exposure for exposure in plan(scenario) if exposure.image_type == "FLAT"][-1]
    detector = np.zeros((320, 1024))
    for name, amplifier in truth.items():
        frame = raw_frame(scenario, planned, amplifier).astype(np.float64) - amplifier.bias_level
        box = detector_box(name, scenario.shape)
        light = _imaging(scenario, frame) * amplifier.gain / 5e4
        flipped_x, flipped_y = box.x_first > box.x_last, box.y_first > box.y_last
        light = light[:: -1 if flipped_y else 1, :: -1 if flipped_x else 1]
        y, x = min(box.y_first, box.y_last) - 1, min(box.x_first, box.x_last) - 1
        detector[y : y + 160, x : x + 128] = light
    np.testing.assert_allclose(detector.mean(axis=0), 1 + 0.4 * (np.arange(1024) / 1023 - 0.5), atol=0.003)
    np.testing.assert_allclose(detector.mean(axis=1), 1 + 0.2 * (np.arange(320) / 319 - 0.5), atol=0.003)


def test_along_a_gradient_the_variance_follows_the_light() -> None:
    scenario = Scenario(**{**QUIET, "gradient": 0.8, "shape": (1500, 64)})
    amplifier = _amplifier(scenario)
    first, second = (_imaging(scenario, frame) for frame in _frames(scenario, amplifier)[-2:])
    for part in (slice(0, 300), slice(1200, 1500)):
        variance = (first[part] - second[part]).var() / 2
        mean = (first[part].mean() + second[part].mean()) / 2
        expected = amplifier.covariances(mean)[0, 0]
        assert variance == pytest.approx(expected, rel=5 * np.sqrt(2 / (300 * 64)))
    # The two ends differ by more than that.
    assert first[:300].var() < 0.9 * first[1200:].var()


def test_a_dead_amplifier_sees_nothing() -> None:
    scenario = Scenario(**QUIET, dead_amplifiers=("R22_S11/C10",))
    amplifier = _amplifier(scenario)
    for frame in _frames(scenario, amplifier):
        assert frame.mean() == pytest.approx(0.0, abs=4.0)
        assert frame.std() == pytest.approx(amplifier.read_noise / amplifier.gain, rel=0.05)


def test_not_a_number_fills_an_amplifier_or_strikes_pixels_of_flats_only() -> None:
    scenario = Scenario(**QUIET, nan_amplifiers=("R22_S11/C10",))
    for name, count in (("C10", 160 * 128), ("C11", 0)):
        frame = _frames(scenario, _amplifier(scenario, name))[0]
        assert np.isnan(frame).sum() == count
        assert np.isfinite(frame[160:]).all()
        assert np.isfinite(_frames(scenario, _amplifier(scenario, name), "BIAS")[0]).all()
        exposure = plan(scenario)[0]
        assert raw_frame(scenario, exposure, _amplifier(scenario, name)).dtype == np.float32
    scattered = Scenario(**QUIET, nan_pixels=5)
    assert 1 <= np.isnan(_frames(scattered, _amplifier(scattered))[0]).sum() <= 5


def test_weak_columns_lose_light_and_hot_ones_gain_charge() -> None:
    scenario = Scenario(**QUIET)
    amplifier = dataclasses.replace(_amplifier(scenario), weak_columns=(30,), hot_columns=(60,))
    frame = _imaging(scenario, _frames(scenario, amplifier)[-1])
    normal = 5e4 / amplifier.gain
    assert frame[:, 30].mean() == pytest.approx(0.5 * normal, rel=0.01)
    assert frame[:, 60].mean() == pytest.approx(normal * 1.4, rel=0.01)  # 2000 of 5000 e-/s more
    assert frame[:, 31].mean() == pytest.approx(normal, rel=0.01)
    dark = _imaging(scenario, _frames(scenario, amplifier, "DARK")[0])
    assert dark[:, 60].mean() == pytest.approx(60000.0 / amplifier.gain, rel=0.01)


def test_cosmic_rays_leave_tracks_that_differ_between_exposures() -> None:
    scenario = Scenario(**{**QUIET, "highest_level": 1000.0, "cosmic_rays": 5.0})
    amplifier = _amplifier(scenario)
    hit = [_imaging(scenario, f) > 1000 / amplifier.gain + 300 for f in _frames(scenario, amplifier)[-2:]]
    assert 3 < hit[0].sum() < 200
    assert (hit[0] != hit[1]).any()


@pytest.mark.parametrize("saturation", list(Saturation))
def test_above_turnoff_mean_and_variance_are_those_of_the_behaviour(saturation: Saturation) -> None:
    scenario = Scenario(**QUIET)
    signal = 5e4 / _amplifier(scenario).gain
    amplifier = dataclasses.replace(_amplifier(scenario), turnoff=signal / 1.2, saturation=saturation)
    first, second = (_imaging(scenario, frame) for frame in _frames(scenario, amplifier)[-2:])
    mean = np.array([signal], dtype=np.float32)
    assert first.mean() == pytest.approx(saturation.response(mean, amplifier.turnoff)[0], rel=1e-3)
    noise = amplifier.noise_matrix[0, 0] / amplifier.gain**2
    shot = amplifier.covariances(signal)[0, 0] - noise
    expected = saturation.variance_factor(mean, amplifier.turnoff)[0] * shot + noise
    assert (first - second).var() / 2 == pytest.approx(expected, rel=5 * np.sqrt(2 / first.size))
    assert expected < 0.75 * shot
