"""From a path to the pixels of each amplifier above zero, one amplifier at a time.

Order: saturation, dither, overscan, bias, crosstalk, linearity, dark, mask (the batch code's order, but the
bias before what needs a true zero). The edge of the amplifiers is left on: measuring excludes it.

With a crosstalk table all amplifiers of an exposure are in memory at once; else one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.errors import ConfigurationError, GeometryError, ImageUnreadable
from ptc_stream.images.calibration import Calibration, DetectorCalibration, calibration_tags
from ptc_stream.images.corrections import correct_linearity
from ptc_stream.images.geometry import check_equal, frame_geometry
from ptc_stream.images.headers import read_exposure_header
from ptc_stream.images.overscan import Zero
from ptc_stream.images.raw import RawAmplifier, ReductionConfig, read_raw_amplifier
from ptc_stream.images.reading import FitsFile

if TYPE_CHECKING:
    import os
    from collections.abc import Generator

    from numpy.typing import NDArray

    from ptc_stream.images.camera import CameraDescription
    from ptc_stream.images.geometry import AmplifierGeometry

__all__ = [
    "AmplifierFrame",
    "Calibration",
    "ReductionConfig",
    "amplifier_names",
    "calibration_tags",
    "read_amplifier_pair",
    "read_amplifiers",
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AmplifierFrame:
    """The imaging area of one amplifier, reduced.

    Attributes
    ----------
    name
        Name of the amplifier.
    pixels
        ``[y, x]``, float32 [ADU]: x along the serial register, (0, 0) is read first.
    usable
        Same shape: finite, not saturated, not masked.
    read_noise, read_noise_error
        From bias pairs if bias frames are configured, else from the overscan [ADU]; None without either.
    read_noise_source
        ``bias``, ``overscan`` or empty.
    overscan_level
        Mean level of the overscan that was subtracted [ADU].
    saturated_fraction
        Part of the imaging area at or above the saturation level.
    zero_level
        False if the zero is unknown: neither overscan nor bias nor the camera's word.
    problem
        Why no pixel is usable, in words; empty if some are.
    notes
        What was done differently from what was asked for, in words.
    """

    name: str
    pixels: NDArray[np.float32]
    usable: NDArray[np.bool_]
    read_noise: float | None
    read_noise_error: float | None
    read_noise_source: str
    overscan_level: float | None
    saturated_fraction: float
    zero_level: bool
    problem: str
    notes: tuple[str, ...]


def amplifier_names(path: str | os.PathLike[str], camera: CameraDescription | None = None) -> list[str]:
    """Return the names of the amplifiers in a file, in the order in which they are read.

    Raises
    ------
    ImageMissing, ImageUnreadable, GeometryError, StorageUnavailable
        As `read_amplifiers`.
    """
    with FitsFile(path) as file:
        return [amplifier.name for amplifier in frame_geometry(file, camera).amplifiers]


def read_amplifiers(
    path: str | os.PathLike[str], *, calibration: Calibration | None = None
) -> Generator[AmplifierFrame, None, None]:
    """Read and reduce an exposure, one amplifier at a time.

    Parameters
    ----------
    path
        FITS file: plain, gzip or tile-compressed.
    calibration
        Settings, calibration frames and camera description; without it, the defaults.

    Yields
    ------
    AmplifierFrame
        In the order of the file. An amplifier that cannot be decoded or has no usable pixel comes with a
        ``problem``, and the others are not affected.

    Raises
    ------
    ImageMissing
        If there is no such file.
    ImageUnreadable
        If the file is not FITS, or not all of it.
    GeometryError
        If its sections are impossible or not those of the camera description or of the bias frames.
    StorageUnavailable
        If the storage fails.
    ConfigurationError
        If a calibration file does not fit.
    """
    with FitsFile(path) as file:
        yield from _Exposure(file, calibration or Calibration()).frames()


def read_amplifier_pair(
    first_path: str | os.PathLike[str],
    second_path: str | os.PathLike[str],
    *,
    calibration: Calibration | None = None,
) -> Generator[tuple[AmplifierFrame, AmplifierFrame], None, None]:
    """Read and reduce two exposures of one detector side by side.

    Yields
    ------
    tuple of AmplifierFrame
        The same amplifier of both.

    Raises
    ------
    GeometryError
        Also if the two have different geometry; the message names the first difference.
    ImageMissing, ImageUnreadable, StorageUnavailable, ConfigurationError
        As `read_amplifiers`.
    """
    calibration = calibration or Calibration()
    with FitsFile(first_path) as first_file, FitsFile(second_path) as second_file:
        first, second = _Exposure(first_file, calibration), _Exposure(second_file, calibration)
        check_equal(first.geometry, second.geometry, first_file.path, second_file.path)
        with contextlib.closing(first.frames()) as ours, contextlib.closing(second.frames()) as theirs:
            yield from zip(ours, theirs, strict=True)


class _Exposure:
    """An open file and what is needed to reduce it."""

    def __init__(self, file: FitsFile, calibration: Calibration) -> None:
        self._file = file
        self._calibration = calibration
        self._config = calibration.config
        self.geometry = frame_geometry(file, calibration.camera)
        header = read_exposure_header(file.path, header_map=calibration.header_map, camera=calibration.camera)
        self._exposure = header.exposure
        self._exposure_time = header.exposure_time
        self._masters: DetectorCalibration = calibration.detector(header.detector)
        if self._masters.dark_rate and self._exposure_time is None:
            raise ImageUnreadable(f"{file.path}: no exposure time, which the dark needs; see --map")
        self._check_tables()

    def _check_tables(self) -> None:
        names = {amplifier.name for amplifier in self.geometry.amplifiers}
        for what, table in (
            ("linearity", self._calibration.linearity),
            ("crosstalk", self._calibration.crosstalk),
        ):
            if table is not None and set(table) != names:
                raise ConfigurationError(
                    f"the {what} table has rows for {', '.join(sorted(table))}; "
                    f"{self._file.path} has amplifiers {', '.join(sorted(names))}"
                )
        for victim, aggressors in (self._calibration.crosstalk or {}).items():
            if not set(aggressors) <= names:
                missing = ", ".join(sorted(set(aggressors) - names))
                raise ConfigurationError(
                    f"the crosstalk table names aggressors of {victim} unknown: {missing}"
                )

    def frames(self) -> Generator[AmplifierFrame, None, None]:
        if self._calibration.crosstalk is None:
            for amplifier in self.geometry.amplifiers:
                raw, problem = self._above_zero(amplifier)
                yield self._finish(amplifier, raw, problem)
            return
        raws = {amplifier.name: self._above_zero(amplifier) for amplifier in self.geometry.amplifiers}
        corrected = {name: self._without_crosstalk(name, raws) for name in raws}
        for amplifier in self.geometry.amplifiers:
            raw, problem = raws[amplifier.name]
            raw.pixels = corrected[amplifier.name]
            yield self._finish(amplifier, raw, problem)

    def _above_zero(self, amplifier: AmplifierGeometry) -> tuple[RawAmplifier, str]:
        try:
            raw = read_raw_amplifier(
                self._file,
                amplifier,
                config=self._config,
                camera=self._calibration.camera,
                exposure=self._exposure,
            )
        except ImageUnreadable as error:
            # The file is whole (FitsFile has checked), so this is one damaged HDU: the others still count.
            shape = amplifier.data.shape
            nothing = Zero(level=None, read_noise=None, read_noise_error=None, method="none")
            return (
                RawAmplifier(
                    pixels=np.full(shape, np.nan, np.float32),
                    saturated=np.zeros(shape, np.bool_),
                    zero=nothing,
                ),
                str(error),
            )
        if self._masters.bias:
            bias = self._masters.bias.get(amplifier.name)
            if bias is None or bias.shape != raw.pixels.shape:
                raise GeometryError(
                    f"{self._file.path}: amplifier {amplifier.name} is not that of the bias frames"
                )
            raw.pixels -= bias
        return raw, ""

    def _without_crosstalk(
        self, victim: str, raws: dict[str, tuple[RawAmplifier, str]]
    ) -> NDArray[np.float32]:
        pixels = raws[victim][0].pixels.copy()
        for aggressor, coefficient in (self._calibration.crosstalk or {})[victim].items():
            source = raws[aggressor][0].pixels
            if source.shape != pixels.shape:
                raise ConfigurationError(
                    f"crosstalk between {victim} and {aggressor} of {self._file.path}, which differ in size"
                )
            # A pixel that is not finite leaks an unknown amount: the victim must not become NaN for it.
            pixels -= np.float32(coefficient) * np.where(np.isfinite(source), source, np.float32(0.0))
        return pixels

    def _finish(self, amplifier: AmplifierGeometry, raw: RawAmplifier, problem: str) -> AmplifierFrame:
        name = amplifier.name
        pixels = raw.pixels
        if self._calibration.linearity is not None:
            pixels = correct_linearity(pixels, self._calibration.linearity[name])
        if self._masters.dark_rate and self._exposure_time is not None:
            rate = self._masters.dark_rate.get(name)
            if rate is None or rate.shape != pixels.shape:
                raise GeometryError(f"{self._file.path}: amplifier {name} is not that of the dark frames")
            pixels = pixels - np.float32(self._exposure_time) * rate
        usable = np.isfinite(pixels)
        if not problem and not usable.any():
            problem = "no finite pixel"
        usable &= ~raw.saturated
        if not problem and not usable.any():
            problem = "every pixel is saturated"
        if self._masters.mask is not None:
            usable &= ~self._masters.mask.bad_pixels(
                amplifier, self.geometry, self._file.shape(amplifier.hdu)
            )
        if not problem and not usable.any():
            problem = "every pixel is masked, saturated or not finite"
        camera = self._calibration.camera
        zero = raw.zero
        source = "" if zero.read_noise is None else "overscan"
        read_noise, read_noise_error = zero.read_noise, zero.read_noise_error
        if name in self._masters.read_noise:
            read_noise, read_noise_error = self._masters.read_noise[name]
            source = "bias"
        return AmplifierFrame(
            name=name,
            pixels=pixels,
            usable=usable,
            read_noise=read_noise,
            read_noise_error=read_noise_error,
            read_noise_source=source,
            overscan_level=zero.level,
            saturated_fraction=float(np.count_nonzero(raw.saturated)) / raw.saturated.size,
            zero_level=bool(
                zero.method != "none" or self._masters.bias or (camera is not None and camera.offset_removed)
            ),
            problem=problem,
            notes=zero.notes,
        )
