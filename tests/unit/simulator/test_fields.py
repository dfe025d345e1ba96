from __future__ import annotations

import numpy as np
import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.simulator.fields import (
    gaussian_field,
    power_spectrum,
    random_stream,
    skew_coefficient,
    skewed_field,
)

# i along x, j along y: stronger along y, and no two lags alike.
COVARIANCES = np.array([[4.0, 0.8, 0.1], [0.4, 0.2, 0.0], [-0.3, 0.0, 0.05]])


def test_streams_repeat_and_differ_by_seed_and_by_path() -> None:
    first = random_stream(1, "exposure", "a", 2).integers(2**60, size=4)
    assert (random_stream(1, "exposure", "a", 2).integers(2**60, size=4) == first).all()
    for other in (random_stream(2, "exposure", "a", 2), random_stream(1, "exposure", "a", "2")):
        assert (other.integers(2**60, size=4) != first).all()


def test_power_spectrum_transforms_back_into_the_mirrored_covariances() -> None:
    torus = np.fft.irfft2(power_spectrum(COVARIANCES, (12, 9)), s=(12, 9))
    for j in range(-2, 3):
        for i in range(-2, 3):
            assert torus[j, i] == pytest.approx(COVARIANCES[abs(i), abs(j)], abs=1e-6)
    assert torus[5, 4] == pytest.approx(0.0, abs=1e-6)


def test_covariances_that_no_field_can_have_are_refused() -> None:
    # Neighbours in x correlated by 0.9, next neighbours not at all.
    with pytest.raises(ConfigurationError, match="no random field"):
        power_spectrum(np.array([[1.0, 0.0], [0.9, 0.0]]), (16, 16))


def test_not_a_number_in_the_covariances_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no random field"):
        power_spectrum(np.array([[1.0, np.nan], [0.0, 0.0]]), (16, 16))


def _sample_covariances(fields: list[np.ndarray[tuple[int, int], np.dtype[np.float32]]]) -> list[list[float]]:
    """Covariance at lag i along x and j along y, for a known mean of zero."""
    rows, columns = fields[0].shape
    return [
        [
            float(np.mean([f[: rows - j, : columns - i] * f[j:, i:] for f in fields], dtype=np.float64))
            for j in range(5)
        ]
        for i in range(5)
    ]


def test_gaussian_field_has_its_covariances_and_none_around_the_edges() -> None:
    generator = random_stream(3, "test")
    fields = [gaussian_field(COVARIANCES, (120, 100), generator) for _ in range(200)]
    assert fields[0].shape == (120, 100)
    assert fields[0].dtype == np.float32
    expected = np.zeros((5, 5))
    expected[:3, :3] = COVARIANCES
    # The error of a covariance from 2.4e6 pixels is 1e-3 of the variance, more as they correlate.
    np.testing.assert_allclose(_sample_covariances(fields), expected, atol=5 * 1.5e-3 * 4.0)
    # First and last row would be neighbours on a torus without margin.
    around = np.mean([f[0] * f[-1] for f in fields])
    assert around == pytest.approx(0.0, abs=5 * 1.5 * 4.0 / np.sqrt(200 * 100))


def test_white_field_needs_no_transform_and_has_its_variance() -> None:
    field = gaussian_field(np.diag([9.0, 0.0]), (400, 500), random_stream(3, "white"))
    assert field.var() == pytest.approx(9.0, rel=5 * np.sqrt(2 / 2e5))


@pytest.mark.parametrize("skewness", [0.0, 1e-4, 0.066, 0.2, -0.1])
def test_skew_coefficient_solves_its_equation(skewness: float) -> None:
    c = skew_coefficient(skewness)
    assert (6 * c + 8 * c**3) / (1 + 2 * c**2) ** 1.5 == pytest.approx(skewness, rel=1e-5, abs=1e-12)


def test_skewed_field_has_its_skewness_and_the_same_covariances() -> None:
    # So skewed and correlated that without the inversion C_10 would come out low by 2 c^2 (1 - C) C = 0.003.
    covariances = np.array([[1.0, 0.2], [0.35, 0.07]])
    generator = random_stream(4, "skew")
    fields = [skewed_field(covariances, 0.49, (250, 200), generator) for _ in range(200)]
    expected = np.zeros((5, 5))
    expected[:2, :2] = covariances
    np.testing.assert_allclose(_sample_covariances(fields), expected, atol=0.0015)
    assert np.mean([np.mean(f**3, dtype=np.float64) for f in fields]) == pytest.approx(0.49, abs=0.01)
