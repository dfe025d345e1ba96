"""Pixels of one amplifier in one exposure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ptc_stream.simulator.camera import converter_limit, detector_box, pixel_type
from ptc_stream.simulator.fields import gaussian_field, random_stream, skewed_field

if TYPE_CHECKING:
    from ptc_stream.simulator.planning import PlannedExposure
    from ptc_stream.simulator.scenario import Scenario
    from ptc_stream.simulator.truth import AmplifierTruth

__all__ = ["raw_frame"]

Float32Array: TypeAlias = NDArray[np.float32]

# Variance that rounding to integers adds [ADU^2]; the noise drawn is smaller by as much.
_ROUNDING_VARIANCE = 1.0 / 12.0

_WEAK_RESPONSE = 0.5
_HOT_RATE = 2000.0  # [e-/s]; two fifths of the default lamp, so it shows in every dark and flat

# A muon in 100 um of silicon leaves about 80 e- per um, 10 um pixels: 800 e- per pixel.
_COSMIC_CHARGE = 800.0
_COSMIC_LENGTH = 6.0  # [pixels], mean

_SETTLING_COLUMNS = 10.0
_BIAS_WANDER = 1.0  # [ADU], rms of the whole frame from exposure to exposure


def raw_frame(
    scenario: Scenario, planned: PlannedExposure, amplifier: AmplifierTruth
) -> NDArray[np.integer[Any]] | Float32Array:
    """Simulate one amplifier of one exposure, in the order of read-out.

    Parameters
    ----------
    scenario
        The run.
    planned
        Which exposure, of which detector.
    amplifier
        What is true of the amplifier.

    Returns
    -------
    ndarray, (rows + overscan rows, prescan + columns + overscan columns)
        [ADU], of the scenario's pixel type, or float32 where the exposure holds NaN.

    Raises
    ------
    ConfigurationError
        The signal is too high for the scenario's a matrix.
    """
    detector, name = planned.detector, amplifier.name
    fixed = random_stream(scenario.seed, "fixed pattern", detector, name)
    chance = random_stream(scenario.seed, "exposure", planned.exposure, planned.revision, detector, name)
    frame_type = pixel_type(scenario, detector)
    rounding = 0.0 if frame_type == "float32" else _ROUNDING_VARIANCE
    read_noise = amplifier.noise_matrix / amplifier.gain**2
    read_noise[0, 0] -= rounding

    frame = _bias(scenario, amplifier, fixed)
    frame += np.float32(_BIAS_WANDER * chance.standard_normal())
    rows, columns = scenario.shape
    imaging = frame[:rows, scenario.prescan_columns :][:, :columns]  # a view
    if planned.exposure_time == 0.0 or amplifier.dead:
        frame += gaussian_field(read_noise, frame.shape, chance)
    else:
        # The pixels' own field holds their read noise.
        pixels = _exposed(scenario, planned, amplifier, rounding, fixed=fixed, chance=chance)
        pixels += imaging
        frame += gaussian_field(read_noise, frame.shape, chance)
        imaging[:] = pixels
    if planned.image_type == "FLAT":
        if f"{detector}/{name}" in scenario.nan_amplifiers:
            imaging[:] = np.nan
        scattered = (
            chance.integers(rows, size=scenario.nan_pixels),
            chance.integers(columns, size=scenario.nan_pixels),
        )
        imaging[scattered] = np.nan
    if frame_type == "float32":
        return frame
    np.rint(frame, out=frame)
    np.clip(frame, 0.0, converter_limit(scenario), out=frame)
    return frame.astype(frame_type)


def _bias(scenario: Scenario, amplifier: AmplifierTruth, fixed: np.random.Generator) -> Float32Array:
    """Bias of one amplifier [ADU], the same in every exposure."""
    rows = scenario.shape[0] + scenario.overscan_rows
    columns = scenario.prescan_columns + scenario.shape[1] + scenario.overscan_columns
    y, x = np.arange(rows), np.arange(columns)
    # Rows share a slow wave and differ a little; columns start high and settle, as after a clock pulse.
    wave = 0.5 * np.sin(2.0 * np.pi * (y / scenario.shape[0] + fixed.uniform()))
    row_pattern = wave + 0.2 * fixed.standard_normal(rows)
    column_pattern = np.exp(-x / _SETTLING_COLUMNS) + 0.05 * fixed.standard_normal(columns)
    structure = scenario.bias_structure * (row_pattern[:, None] + column_pattern)
    return (amplifier.bias_level + structure).astype(np.float32)


def _exposed(
    scenario: Scenario,
    planned: PlannedExposure,
    amplifier: AmplifierTruth,
    rounding: float,
    *,
    fixed: np.random.Generator,
    chance: np.random.Generator,
) -> Float32Array:
    """Signal, shot noise and read noise of the imaging area above bias [ADU], (rows, columns)."""
    gain, turnoff = amplifier.gain, amplifier.turnoff
    smooth = _illumination(scenario, amplifier.name)
    smooth *= np.float32(planned.signal / gain)
    smooth += np.float32(scenario.dark_current * planned.exposure_time / gain)
    mean = float(smooth.mean(dtype=np.float64))
    covariances = amplifier.eq20.covariances(mean)
    covariances[0, 0] -= rounding
    variance = float(covariances[0, 0])
    # Third cumulant of Poisson charge: M e-^3, which is mu / g^2 in ADU^3; the read noise adds none.
    skewness = mean / gain**2 / variance**1.5
    noise = skewed_field(covariances, skewness, scenario.shape, chance)

    # Eq. 20 holds at the mean of each place: along a gradient the variance follows the light.
    local_variance = amplifier.eq20.variance(smooth) - np.float32(rounding)
    saturated = float(smooth.max()) > turnoff
    if saturated:
        dark_variance = np.float32(amplifier.read_noise**2 / gain**2 - rounding)
        left = amplifier.saturation.variance_factor(smooth, turnoff)
        local_variance = left * (local_variance - dark_variance) + dark_variance
    noise *= np.sqrt(local_variance / np.float32(variance))

    response = fixed.standard_normal(scenario.shape, dtype=np.float32)
    response *= np.float32(scenario.prnu)
    response += np.float32(1.0)
    signal = smooth
    signal *= response
    for column in amplifier.weak_columns:
        signal[:, column] *= _WEAK_RESPONSE
        noise[:, column] *= np.sqrt(_WEAK_RESPONSE)
    for column in amplifier.hot_columns:
        extra = _HOT_RATE * planned.exposure_time
        signal[:, column] += extra / gain
        noise[:, column] *= np.sqrt(1.0 + extra / gain**2 / variance)
    for _ in range(chance.poisson(scenario.cosmic_rays)):
        _add_cosmic_ray(signal, gain, chance)
    if saturated or float(signal.max()) > turnoff:
        signal = amplifier.saturation.response(signal, turnoff)
    signal += noise
    return signal


def _illumination(scenario: Scenario, name: str) -> Float32Array:
    """Light on each pixel of one amplifier relative to the centre of its detector, (rows, columns)."""
    box = detector_box(name, scenario.shape)
    rows, columns = scenario.shape
    x = np.linspace(box.x_first, box.x_last, columns) / (8.0 * columns) - 0.5
    y = np.linspace(box.y_first, box.y_last, rows) / (2.0 * rows) - 0.5
    along_x, along_y = 1.0 + scenario.gradient * x, 1.0 + 0.5 * scenario.gradient * y
    return np.outer(along_y, along_x).astype(np.float32)


def _add_cosmic_ray(signal: Float32Array, gain: float, chance: np.random.Generator) -> None:
    """Add a straight track to `signal` [ADU], in place."""
    rows, columns = signal.shape
    length = chance.exponential(_COSMIC_LENGTH)
    angle = chance.uniform(0.0, 2.0 * np.pi)
    step = np.arange(int(length) + 1)
    y = (chance.uniform(0, rows) + step * np.sin(angle)).astype(np.intp)
    x = (chance.uniform(0, columns) + step * np.cos(angle)).astype(np.intp)
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    charge = _COSMIC_CHARGE * chance.uniform(0.5, 3.0, size=len(step))
    signal[y[inside], x[inside]] += (charge[inside] / gain).astype(np.float32)
