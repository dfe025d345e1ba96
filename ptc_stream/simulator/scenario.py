"""Everything that can be chosen about a simulated run."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from annotated_types import Ge, Gt, Interval, Len

from ptc_stream.errors import ConfigurationError
from ptc_stream.simulator.camera import AMPLIFIER_NAMES

__all__ = ["Scenario"]

Matrix: TypeAlias = tuple[tuple[float, ...], ...]
PixelType: TypeAlias = Literal["int32", "uint16", "float32"]
SaturationName: TypeAlias = Literal["drop", "upturn", "dip"]
Fraction: TypeAlias = Annotated[float, Interval(ge=0.0, le=1.0)]

_HEADER_TEXT = re.compile(r"[!-~](?:[ -~]{0,38}[!-~])?")
_DETECTOR_NAME = re.compile(r"R[0-9A-Za-z]+_S[0-9A-Za-z]+")
# Below this read noise [ADU] rounding to integers is no longer white noise of variance 1/12.
_LEAST_NOISE = 0.75


def _kernel(lags: int = 8) -> tuple[Matrix, Matrix]:
    """Brighter-fatter coefficients a and b [1/e-], in size like published ones of LSST's sensors."""
    i, j = np.meshgrid(np.arange(lags), np.arange(lags), indexing="ij")
    r_squared = np.maximum(i**2 + j**2, 1)
    anisotropy = 1.0 + 0.3 * (j**2 - i**2) / r_squared  # repulsion is stronger along the columns
    a = 2.5e-7 * anisotropy * r_squared**-1.5
    a[0, 0], a[0, 1], a[1, 0], a[1, 1] = -3.0e-6, 2.4e-7, 1.2e-7, 9.0e-8
    b = 8.0e-7 * anisotropy / (1.0 + i**2 + j**2)
    return _matrix(a), _matrix(b)


def _matrix(values: np.ndarray[Any, Any]) -> Matrix:
    return tuple(tuple(float(f"{value:.4g}") for value in row) for row in values)


_DEFAULT_A, _DEFAULT_B = _kernel()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One simulated run, completely.

    Raises
    ------
    ConfigurationError
        Settings that contradict each other or that no camera could have.
    """

    # What is run
    seed: int = dataclasses.field(default=1, metadata={"unit": "", "meaning": "Root of all random streams."})
    instrument: str = dataclasses.field(
        default="PTCSim", metadata={"unit": "", "meaning": "INSTRUME in the headers."}
    )
    run: str = dataclasses.field(default="sim1", metadata={"unit": "", "meaning": "RUNNUM in the headers."})
    start: str = dataclasses.field(
        default="2025-03-01T20:00:00", metadata={"unit": "UTC", "meaning": "First exposure, ISO 8601."}
    )

    # Detectors and files
    detectors: Annotated[tuple[str, ...], Len(1)] = dataclasses.field(
        default=("R22_S11",), metadata={"unit": "", "meaning": "Names, raft and slot."}
    )
    amplifiers: Annotated[int, Interval(ge=1, le=16)] = dataclasses.field(
        default=16, metadata={"unit": "", "meaning": "Amplifiers per detector."}
    )
    shape: tuple[Annotated[int, Ge(32)], Annotated[int, Ge(32)]] = dataclasses.field(
        default=(512, 256),
        metadata={"unit": "pixels", "meaning": "Rows and columns of the imaging area of one amplifier."},
    )
    prescan_columns: Annotated[int, Ge(0)] = dataclasses.field(
        default=10, metadata={"unit": "pixels", "meaning": "Columns read before the imaging area."}
    )
    overscan_columns: Annotated[int, Ge(0)] = dataclasses.field(
        default=54, metadata={"unit": "pixels", "meaning": "Columns read after it."}
    )
    overscan_rows: Annotated[int, Ge(0)] = dataclasses.field(
        default=46, metadata={"unit": "pixels", "meaning": "Rows read after it."}
    )
    pixel_type: PixelType = dataclasses.field(
        default="int32",
        metadata={
            "unit": "",
            "meaning": "Type of the pixels; int32 is an 18 bit converter; where there are NaN it is float32.",
        },
    )
    compressed: bool = dataclasses.field(
        default=False, metadata={"unit": "", "meaning": "Tile compression, RICE_1."}
    )

    # Order
    levels: Annotated[int, Ge(1)] = dataclasses.field(
        default=25, metadata={"unit": "", "meaning": "Number of flux levels, log-spaced."}
    )
    lowest_level: Annotated[float, Gt(0.0)] = dataclasses.field(
        default=500.0, metadata={"unit": "e-", "meaning": "Signal of the faintest level."}
    )
    highest_level: Annotated[float, Gt(0.0)] = dataclasses.field(
        default=190e3, metadata={"unit": "e-", "meaning": "Signal of the brightest level."}
    )
    pairs_per_level: Annotated[int, Ge(1)] = dataclasses.field(
        default=1, metadata={"unit": "", "meaning": "Flat pairs of equal exposure time."}
    )
    shuffle_levels: bool = dataclasses.field(
        default=False, metadata={"unit": "", "meaning": "Levels in random order instead of rising."}
    )
    filters: Annotated[tuple[str, ...], Len(1)] = dataclasses.field(
        default=("r",),
        metadata={
            "unit": "",
            "meaning": "Every level is taken in each of these, at the same exposure times.",
        },
    )
    filter_transmission: tuple[Annotated[float, Gt(0.0)], ...] = dataclasses.field(
        default=(1.0,), metadata={"unit": "", "meaning": "Light in each filter relative to the level."}
    )
    biases_every: Annotated[int, Ge(0)] = dataclasses.field(
        default=5, metadata={"unit": "", "meaning": "Levels from one bias to the next, 0 for no biases."}
    )
    darks_every: Annotated[int, Ge(0)] = dataclasses.field(
        default=10, metadata={"unit": "", "meaning": "Levels from one dark to the next, 0 for no darks."}
    )
    dark_time: Annotated[float, Gt(0.0)] = dataclasses.field(
        default=30.0, metadata={"unit": "s", "meaning": "Exposure time of a dark."}
    )

    # Light
    lamp_rate: Annotated[float, Gt(0.0)] = dataclasses.field(
        default=5000.0, metadata={"unit": "e-/s", "meaning": "Light of the lamp per pixel."}
    )
    lamp_drift: Annotated[float, Interval(ge=-0.5, le=1.0)] = dataclasses.field(
        default=0.01,
        metadata={"unit": "", "meaning": "Relative change of the lamp from the first to the last exposure."},
    )
    lamp_scatter: Annotated[float, Interval(ge=0.0, le=0.1)] = dataclasses.field(
        default=0.002,
        metadata={"unit": "", "meaning": "Relative scatter of the lamp between exposures, rms."},
    )
    gradient: Fraction = dataclasses.field(
        default=0.02,
        metadata={
            "unit": "",
            "meaning": "Relative change of the light across the detector in x; half of it in y.",
        },
    )
    prnu: Fraction = dataclasses.field(
        default=0.005,
        metadata={
            "unit": "",
            "meaning": "Relative scatter of the pixels' response, rms, the same in all exposures.",
        },
    )

    # Amplifiers
    gain_range: tuple[float, float] = dataclasses.field(
        default=(0.7, 1.8), metadata={"unit": "e-/ADU", "meaning": "Most often at 3/4 of it."}
    )
    read_noise_range: tuple[float, float] = dataclasses.field(
        default=(4.0, 9.0), metadata={"unit": "e-", "meaning": "Uniform."}
    )
    serial_noise_correlation: Annotated[float, Interval(gt=-0.5, lt=0.5)] = dataclasses.field(
        default=0.0, metadata={"unit": "", "meaning": "Correlation of the read noise of neighbours in a row."}
    )
    a_matrix: Matrix = dataclasses.field(
        default=_DEFAULT_A,
        metadata={"unit": "1/e-", "meaning": "Brighter-fatter coefficients, [x lag][y lag]."},
    )
    b_matrix: Matrix = dataclasses.field(
        default=_DEFAULT_B, metadata={"unit": "1/e-", "meaning": "Their change with charge, [x lag][y lag]."}
    )
    kernel_scatter: Annotated[float, Interval(ge=0.0, le=0.2)] = dataclasses.field(
        default=0.05,
        metadata={
            "unit": "",
            "meaning": "Relative scatter of a and of b between amplifiers, rms, cut at 3 sigma.",
        },
    )
    full_well_range: tuple[float, float] = dataclasses.field(
        default=(95e3, 130e3), metadata={"unit": "e-", "meaning": "Charge at turnoff, uniform."}
    )
    saturation: Annotated[tuple[SaturationName, ...], Len(1)] = dataclasses.field(
        default=("drop", "drop", "upturn", "dip"),
        metadata={"unit": "", "meaning": "Variance above turnoff; each amplifier draws one."},
    )
    dark_current: Annotated[float, Ge(0.0)] = dataclasses.field(
        default=0.02, metadata={"unit": "e-/s", "meaning": "Per pixel."}
    )
    bias_level: Annotated[float, Ge(100.0)] = dataclasses.field(
        default=1000.0, metadata={"unit": "ADU", "meaning": "Within 10 % per amplifier."}
    )
    bias_structure: Annotated[float, Interval(ge=0.0, le=50.0)] = dataclasses.field(
        default=3.0, metadata={"unit": "ADU", "meaning": "Height of the row and column pattern of the bias."}
    )

    # Faults
    bad_columns: Annotated[int, Ge(0)] = dataclasses.field(
        default=1, metadata={"unit": "", "meaning": "Weak and hot columns, in turn, per detector."}
    )
    cosmic_rays: Annotated[float, Ge(0.0)] = dataclasses.field(
        default=0.1, metadata={"unit": "", "meaning": "Mean number per amplifier and exposure."}
    )
    dead_amplifiers: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"unit": "", "meaning": "Bias and read noise only, such as R22_S11/C05."}
    )
    nan_amplifiers: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"unit": "", "meaning": "All pixels NaN in every flat, such as R22_S11/C05."}
    )
    nan_pixels: Annotated[int, Ge(0)] = dataclasses.field(
        default=0,
        metadata={"unit": "", "meaning": "NaN pixels per amplifier in every flat, at random places."},
    )
    missing: Annotated[int, Ge(0)] = dataclasses.field(
        default=0, metadata={"unit": "", "meaning": "Flats of one detector whose file never comes."}
    )
    late: Annotated[int, Ge(0)] = dataclasses.field(
        default=0, metadata={"unit": "", "meaning": "Flats whose file comes after the end of the run."}
    )
    doubled: Annotated[int, Ge(0)] = dataclasses.field(
        default=0, metadata={"unit": "", "meaning": "Flats whose file comes again under another name."}
    )
    truncated: Annotated[int, Ge(0)] = dataclasses.field(
        default=0, metadata={"unit": "", "meaning": "Flats whose file is cut short, and comes again in full."}
    )
    revised: Annotated[int, Ge(0)] = dataclasses.field(
        default=0, metadata={"unit": "", "meaning": "Flats whose file comes again with other content."}
    )

    def __post_init__(self) -> None:
        for name in ("gain_range", "read_noise_range", "full_well_range"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise ConfigurationError(f"{name} must rise and be positive, not {low} to {high}")
        if not self.lowest_level <= self.highest_level:
            raise ConfigurationError("lowest_level must not lie above highest_level")
        if len(set(self.level_times)) < self.levels:
            raise ConfigurationError(
                f"{self.levels} levels from {self.lowest_level:g} to {self.highest_level:g} e- do not differ "
                "by 0.1 ms of exposure time: fewer levels, or a weaker lamp_rate"
            )
        if not self.level_times[0] > 0.0:
            raise ConfigurationError(
                "the faintest level is shorter than 0.1 ms: raise it, or lower lamp_rate"
            )
        if len(self.filters) != len(self.filter_transmission):
            raise ConfigurationError("filters and filter_transmission must be equally many")
        if len(set(self.detectors)) < len(self.detectors):
            raise ConfigurationError("a detector is named twice")
        for text in (self.instrument, self.run, *self.filters):
            if not _HEADER_TEXT.fullmatch(text):
                raise ConfigurationError(
                    f"{text!r} does not fit a FITS header: 1 to 40 printable ASCII characters"
                )
        for detector in self.detectors:
            if not _DETECTOR_NAME.fullmatch(detector):
                raise ConfigurationError(f"detector {detector!r} is not a raft and a slot, such as R22_S11")
        lags = len(self.a_matrix)
        if (
            not lags
            or any(len(row) != lags for row in (*self.a_matrix, *self.b_matrix))
            or lags != len(self.b_matrix)
        ):
            raise ConfigurationError("a_matrix and b_matrix must be square and of one size")
        if self.serial_noise_correlation and lags < 2:
            raise ConfigurationError("serial_noise_correlation needs an a_matrix of at least 2 x 2 lags")
        least_noise = self.read_noise_range[0] / self.gain_range[1]
        if self.pixel_type != "float32" and least_noise < _LEAST_NOISE:
            raise ConfigurationError(
                f"a read noise of {least_noise:.2g} ADU is below {_LEAST_NOISE} ADU, where rounding to "
                "integers is no longer noise: raise read_noise_range, lower gain_range or take float32 pixels"
            )
        known = {f"{detector}/{name}" for detector in self.detectors for name in self.amplifier_names}
        if unknown := sorted({*self.dead_amplifiers, *self.nan_amplifiers} - known):
            raise ConfigurationError(
                f"no such amplifiers: {', '.join(unknown)}; they are named like {min(known)}"
            )
        try:
            start = dt.datetime.fromisoformat(self.start)
        except ValueError as error:
            raise ConfigurationError(f"start is not a time: {error}") from error
        if start.tzinfo is not None:
            raise ConfigurationError("start is UTC and must name no other time zone")

    @property
    def amplifier_names(self) -> tuple[str, ...]:
        """Amplifiers of a detector in the order of the file's extensions."""
        return AMPLIFIER_NAMES[: self.amplifiers]

    @property
    def level_times(self) -> tuple[float, ...]:
        """Exposure times of the levels [s], rising."""
        electrons = np.geomspace(self.lowest_level, self.highest_level, self.levels)
        return tuple(round(float(value) / self.lamp_rate, 4) for value in electrons)
