"""The simulated camera: where its amplifiers lie on a detector, and what each of them is like."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.simulator.fields import random_stream
from ptc_stream.simulator.truth import AmplifierTruth, Saturation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ptc_stream.simulator.scenario import Scenario

__all__ = ["AMPLIFIER_NAMES", "Box", "converter_limit", "detector_box", "draw_amplifiers", "pixel_type"]

AMPLIFIER_NAMES = tuple(f"C1{n}" for n in range(8)) + tuple(f"C0{n}" for n in range(7, -1, -1))
"""In the order of the extensions of an LSST raw file."""

# 16 bits, or the 18 bits of LSST's converters.
_CONVERTER_LIMITS = {"uint16": 2.0**16 - 1.0, "int32": 2.0**18 - 1.0, "float32": 2.0**18 - 1.0}

# A gain drawn from beta(4, 2) lies most often at 3/4 of its range: 1.5 for the default 0.7 to 1.8.
_GAIN_SHAPE = (4.0, 2.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """Where the imaging area of an amplifier lies on the detector, in its order of read-out.

    FITS pixels, both ends included; a first pixel above the last one means read out backwards.
    """

    x_first: int
    x_last: int
    y_first: int
    y_last: int

    def __str__(self) -> str:
        return f"[{self.x_first}:{self.x_last},{self.y_first}:{self.y_last}]"


def detector_box(name: str, shape: tuple[int, int]) -> Box:
    """Place an amplifier on its detector as LSST's e2v sensors do.

    Two rows of eight: C10 .. C17 from the left, read out towards -x and +y, and C00 .. C07 opposite to them
    in both directions.

    Parameters
    ----------
    name
        One of `AMPLIFIER_NAMES`.
    shape
        Rows and columns of its imaging area.
    """
    rows, columns = shape
    left = int(name[2]) * columns
    if name[1] == "1":
        return Box(left + columns, left + 1, 1, rows)
    return Box(left + 1, left + columns, 2 * rows, rows + 1)


def pixel_type(scenario: Scenario, detector: str) -> str:
    """Name of the numpy type of a detector's pixels: integers cannot be NaN."""
    has_nan = scenario.nan_pixels or any(name.startswith(f"{detector}/") for name in scenario.nan_amplifiers)
    return "float32" if has_nan else scenario.pixel_type


def converter_limit(scenario: Scenario) -> float:
    """Highest number that the converter gives [ADU]."""
    return _CONVERTER_LIMITS[scenario.pixel_type]


@functools.lru_cache(maxsize=256)
def draw_amplifiers(scenario: Scenario, detector: str) -> Mapping[str, AmplifierTruth]:
    """Draw the amplifiers of one detector.

    Returns
    -------
    Mapping
        Amplifiers by name, in the order of the file's extensions.
    """
    names = AMPLIFIER_NAMES[: scenario.amplifiers]
    amplifiers = {name: _draw_amplifier(scenario, detector, name) for name in names}
    generator = random_stream(scenario.seed, "bad columns", detector)
    for number in range(scenario.bad_columns):
        name = str(generator.choice(names))
        column = int(generator.integers(scenario.shape[1]))
        struck = amplifiers[name]
        if number % 2:
            columns = tuple(sorted({*struck.hot_columns, column}))
            amplifiers[name] = dataclasses.replace(struck, hot_columns=columns)
        else:
            columns = tuple(sorted({*struck.weak_columns, column}))
            amplifiers[name] = dataclasses.replace(struck, weak_columns=columns)
    return amplifiers


def _draw_amplifier(scenario: Scenario, detector: str, name: str) -> AmplifierTruth:
    generator = random_stream(scenario.seed, "amplifier", detector, name)
    low, high = scenario.gain_range
    gain = low + (high - low) * generator.beta(*_GAIN_SHAPE)
    read_noise = generator.uniform(*scenario.read_noise_range)
    a_scale, b_scale = 1.0 + scenario.kernel_scatter * np.clip(generator.standard_normal(2), -3.0, 3.0)
    noise_matrix = np.zeros((len(scenario.a_matrix),) * 2)
    noise_matrix[0, 0] = read_noise**2
    if scenario.serial_noise_correlation:
        noise_matrix[1, 0] = scenario.serial_noise_correlation * read_noise**2
    bias_level = scenario.bias_level * generator.uniform(0.9, 1.1)
    full_well = generator.uniform(*scenario.full_well_range) / gain
    # The converter clips at a level that cuts the tails of the distribution 1 % below it.
    turnoff = min(full_well, 0.99 * (converter_limit(scenario) - bias_level))
    saturation = scenario.saturation[generator.integers(len(scenario.saturation))]
    full_name = f"{detector}/{name}"
    return AmplifierTruth(
        name=name,
        gain=gain,
        read_noise=read_noise,
        a_matrix=a_scale * np.array(scenario.a_matrix),
        b_matrix=b_scale * np.array(scenario.b_matrix),
        noise_matrix=noise_matrix,
        turnoff=turnoff,
        saturation=Saturation(saturation),
        bias_level=bias_level,
        dead=full_name in scenario.dead_amplifiers,
        weak_columns=(),
        hot_columns=(),
    )
