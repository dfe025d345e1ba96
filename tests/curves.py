"""Points of Photon Transfer Curves for tests: drawn from Eq. 16 or Eq. 20 at the level of covariances."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import convolve2d

from ptc_stream.physics.fitting import FitPoints

__all__ = ["A00", "GAIN", "READ_NOISE", "Sensor", "break_off", "curve_points", "eq16", "eq20", "full_points"]

GAIN = 1.5
READ_NOISE = 7.0
A00 = -3e-6


def eq16(
    mean: NDArray[np.float64], a00: float = A00, gain: float = GAIN, read_noise: float = READ_NOISE
) -> NDArray[np.float64]:
    """Eq. 16 as it stands in the paper (shares no line with the package; a00 must not be 0)."""
    result: NDArray[np.float64] = (np.exp(2.0 * a00 * mean * gain) - 1.0) / (
        2.0 * a00 * gain**2
    ) + read_noise**2 / gain**2
    return result


def curve_points(
    mean: NDArray[np.float64],
    rng: np.random.Generator | None = None,
    *,
    pixels: int = 1_000_000,
    lamp: float = 0.0,
    factor: NDArray[np.float64] | float = 1.0,
    **changes: Any,
) -> FitPoints:
    """Points at `mean`; with `rng`, scattered by their sampling error and by `lamp` (relative)."""
    variance = eq16(mean) * factor
    if rng is not None:
        variance = variance * (1.0 + rng.standard_normal(mean.size) * np.sqrt(2.0 / pixels))
        variance = variance * (1.0 + rng.standard_normal(mean.size) * lamp)
    fields: dict[str, Any] = {
        "mean": mean,
        "variance": variance,
        "pixel_count": np.full(mean.size, pixels, dtype=np.int64),
        "flags": (frozenset(),) * mean.size,
        "read_noise": READ_NOISE / GAIN,
        "read_noise_error": 0.02,
        "zero_level": True,
    }
    return FitPoints(**(fields | changes))


def break_off(mean: NDArray[np.float64], turnoff: float, shape: str) -> NDArray[np.float64]:
    """Factor by which the variance leaves the model above `turnoff`."""
    above = np.maximum(mean - turnoff, 0.0)
    shapes = {
        "step": np.where(above > 0.0, 0.5, 1.0),
        "drop": np.where(above > 0.0, 0.95 * np.exp(-above / 3000.0) + 0.02, 1.0),
        # falls to a third within 4 kADU, then turns up and crosses the model
        "upturn": np.where(above > 0.0, 0.95 * np.exp(-above / 3000.0) + 2.0 * (above / 20_000.0) ** 2, 1.0),
    }
    return shapes[shape]


class Sensor(NamedTuple):
    """Matrices of Eq. 20 [1/e-, 1/e-, e-^2]: asymmetric, with the signs and sizes of real sensors."""

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    noise: NDArray[np.float64]

    @classmethod
    def of(cls, lags: int, b: float = 1.0) -> Sensor:
        """Return `lags` x `lags` of them, with b times the usual one."""
        i, j = np.indices((lags, lags))
        distance = np.maximum(i * i + j * j, 1)
        a = 2.2e-7 / distance**1.35
        a[0, 0] = -2.4e-6
        a[0, 1:2] *= 1.6
        a[1:2, 0] *= 0.5
        bend = np.where(i + j == 0, 1e-6, -5e-7)
        noise = np.where(i + j == 0, READ_NOISE**2, 0.3 / distance)
        return cls(a, b * bend, noise)


def eq20(mean: NDArray[np.float64], sensor: Sensor, gain: float = GAIN) -> NDArray[np.float64]:
    """Eq. 20 as it stands in the paper, with whole arrays (shares no line with the package)."""
    lags = sensor.a.shape[0]
    mirror = np.abs(np.arange(-lags + 1, lags))
    a, c = (x[np.ix_(mirror, mirror)] for x in (sensor.a, sensor.a * sensor.b))

    def centre(x: NDArray[np.float64]) -> NDArray[np.float64]:
        middle = x.shape[0] // 2
        return x[middle : middle + lags, middle : middle + lags]

    twice = convolve2d(a, a)
    m = gain * mean[:, np.newaxis, np.newaxis]
    brackets = (
        centre(a) * m
        + 2.0 / 3.0 * (centre(twice) + centre(c)) * m**2
        + (centre(convolve2d(twice, a)) / 3.0 + 5.0 / 6.0 * centre(convolve2d(a, c))) * m**3
    )
    delta = np.zeros((lags, lags))
    delta[0, 0] = 1.0
    result: NDArray[np.float64] = m / gain**2 * (delta + brackets) + sensor.noise / gain**2
    return result


def full_points(
    mean: NDArray[np.float64],
    sensor: Sensor,
    rng: np.random.Generator | None = None,
    *,
    pixels: int = 1_000_000,
    lamp: float = 0.0,
    factor: NDArray[np.float64] | float = 1.0,
    **changes: Any,
) -> FitPoints:
    """Points at `mean` with all covariances; with `rng`, scattered by their sampling errors and by `lamp`."""
    covariances = eq20(mean, sensor)
    truth = covariances[:, 0, 0].copy()
    if rng is not None:
        covariances += (
            rng.standard_normal(covariances.shape) * truth[:, np.newaxis, np.newaxis] / np.sqrt(pixels)
        )
    covariances *= np.reshape(factor, (-1, 1, 1))
    points = curve_points(mean, rng, pixels=pixels, lamp=lamp, factor=truth / eq16(mean) * factor)
    covariances[:, 0, 0] = points.variance
    return dataclasses.replace(
        points,
        covariances=covariances,
        lag_pixel_count=np.full(covariances.shape, pixels, dtype=np.int64),
        **changes,
    )
