"""Points of Photon Transfer Curves for tests: drawn from Eq. 16 at the level of covariances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptc_stream.physics.fitting import FitPoints

__all__ = ["A00", "GAIN", "READ_NOISE", "break_off", "curve_points", "eq16"]

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
