from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.simulator import Saturation, Scenario, Truth, covariances_eq20, truth_of


def test_eq20_of_one_coefficient_is_the_closed_form() -> None:
    mean, gain, a, b, noise = 5e4, 1.5, -3e-6, 8e-7, 25.0
    m = gain * mean
    expected = (
        mean / gain
        + noise / gain**2
        + m / gain**2 * (a * m + 2 / 3 * m**2 * (a * a + a * b) + m**3 * (a**3 / 3 + 5 / 6 * a * a * b))
    )
    result = covariances_eq20(mean, gain, np.array([[a]]), np.array([[b]]), np.array([[noise]]))
    assert result.item() == pytest.approx(expected, rel=1e-14)


def test_eq20_without_b_is_eq16_to_fourth_order() -> None:
    mean, gain, a = 1e4, 1.5, -3e-6
    eq16 = math.expm1(2 * a * mean * gain) / (2 * a * gain**2)
    result = covariances_eq20(mean, gain, np.array([[a]]), np.zeros((1, 1)), np.zeros((1, 1))).item()
    # The first difference is (2/15) a^4 g^3 mu^5.
    assert eq16 - result == pytest.approx(2 / 15 * a**4 * gain**3 * mean**5, rel=0.03)


def _convolved(first: np.ndarray, second: np.ndarray, i: int, j: int) -> float:
    """One element of the convolution of two mirrored arrays, by the sum that defines it."""
    reach = len(first) - 1
    return sum(
        float(first[abs(k), abs(m)] * second[abs(i - k), abs(j - m)])
        for k in range(-reach, reach + 1)
        for m in range(-reach, reach + 1)
        if max(abs(i - k), abs(j - m)) < len(second)
    )


def test_eq20_convolves_over_all_four_quadrants() -> None:
    a = np.array([[-3e-6, 4e-7], [1e-7, 5e-8]])
    b = np.array([[8e-7, 3e-7], [-2e-7, 1e-7]])
    noise = np.array([[30.0, 1.0], [3.0, 0.5]])
    mean, gain = 6e4, 1.3
    m, c = gain * mean, a * b
    aa = np.array([[_convolved(a, a, i, j) for j in range(3)] for i in range(3)])
    result = covariances_eq20(mean, gain, a, b, noise, size=4)
    for i in range(4):
        for j in range(4):
            inside = i < 2 and j < 2
            brighter_fatter = (
                (a[i, j] * m if inside else 0.0)
                + 2 / 3 * m**2 * (_convolved(a, a, i, j) + (c[i, j] if inside else 0.0))
                + m**3 * (_convolved(aa, a, i, j) / 3 + 5 / 6 * _convolved(a, c, i, j))
            )
            expected = m / gain**2 * brighter_fatter + (noise[i, j] / gain**2 if inside else 0.0)
            expected += mean / gain if i == j == 0 else 0.0
            assert result[i, j] == pytest.approx(expected, rel=1e-12)
    assert np.array_equal(covariances_eq20(mean, gain, a, b, noise), result[:2, :2])


def test_variance_is_the_first_covariance_for_numbers_and_images() -> None:
    amplifier = truth_of(Scenario(amplifiers=1)).detectors["R22_S11"]["C10"]
    means = np.array([[10.0, 1e3], [2e4, 9e4]], dtype=np.float32)
    expected = [[amplifier.covariances(float(mean))[0, 0] for mean in row] for row in means]
    np.testing.assert_allclose(amplifier.eq20.variance(means), expected, rtol=1e-5)
    assert amplifier.eq20.variance(2e4) == pytest.approx(expected[1][0], rel=1e-12)


@pytest.mark.parametrize("saturation", list(Saturation))
def test_saturation_begins_at_turnoff(saturation: Saturation) -> None:
    turnoff = 8e4
    below = np.array([10.0, 7e4, turnoff], dtype=np.float32)
    np.testing.assert_allclose(saturation.response(below, turnoff), below, rtol=1e-6)
    np.testing.assert_allclose(saturation.variance_factor(below, turnoff), 1.0, rtol=1e-6)
    above = np.array([1.03, 1.15]) * np.float32(turnoff)
    assert (saturation.variance_factor(above.astype(np.float32), turnoff) < 0.95).all()


def test_saturation_drops_turns_up_or_dips() -> None:
    mean = (1.0 + np.array([0.1, 0.3, 1.2])).astype(np.float32)
    assert (Saturation.DROP.variance_factor(mean, 1.0) < 0.1).all()
    low, rising, high = Saturation.UPTURN.variance_factor(mean, 1.0)
    assert low < rising < 1.0 < high
    first, deepest, last = Saturation.DIP.variance_factor(mean, 1.0)
    assert deepest < first < 1.0
    assert 0.9 < last < 1.0
    assert (Saturation.DROP.response(mean, 1.0) < 1.1).all()
    assert np.array_equal(Saturation.DIP.response(mean, 1.0), mean)


def test_truth_survives_json() -> None:
    truth = truth_of(
        Scenario(detectors=("R22_S11", "R01_SG0"), dead_amplifiers=("R22_S11/C05",), bad_columns=3)
    )
    text = truth.to_json()
    again = Truth.from_json(text)
    assert again.to_json() == text
    for detector, amplifiers in truth.detectors.items():
        assert list(again.detectors[detector]) == list(amplifiers)
        for name, amplifier in amplifiers.items():
            back = again.detectors[detector][name]
            for field in dataclasses.fields(amplifier):
                assert np.array_equal(getattr(back, field.name), getattr(amplifier, field.name))
            assert isinstance(back.saturation, Saturation)
    assert again.detectors["R22_S11"]["C05"].dead
    assert sum(amplifier.dead for amplifier in again.detectors["R22_S11"].values()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"instrument": "a", "run": "b", "seed": 1, "detectors": {"R22_S11": {"C10": {}}}}',
    ],
)
def test_a_file_that_is_no_truth_is_a_typed_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not the truth file"):
        Truth.from_json(text)


def test_a_matrix_that_is_not_square_is_a_typed_error() -> None:
    text = truth_of(Scenario(amplifiers=1, a_matrix=((-3e-6,),), b_matrix=((0.0,),))).to_json()
    broken = text.replace('"b_matrix": [\n', '"b_matrix": [\n[1.0],\n')
    assert broken != text
    with pytest.raises(ConfigurationError, match="square"):
        Truth.from_json(broken)


def test_a_truth_file_that_is_not_there_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        Truth.read(tmp_path / "truth.json")
