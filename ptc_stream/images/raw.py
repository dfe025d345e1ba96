"""One amplifier from its file, above the zero that its overscan tells."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

import annotated_types
import numpy as np

from ptc_stream.images.cards import header_value
from ptc_stream.images.corrections import oriented
from ptc_stream.images.overscan import Zero, subtract_parallel, subtract_serial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ptc_stream.images.camera import CameraDescription
    from ptc_stream.images.geometry import AmplifierGeometry
    from ptc_stream.images.reading import FitsFile

__all__ = ["RawAmplifier", "ReductionConfig", "read_raw_amplifier"]

# Highest value of a 16-bit converter: nothing above it was recorded, whatever headers say.
_CONVERTER_16_BIT = 65_535.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReductionConfig:
    """How raw frames become pixels above zero."""

    overscan_method: Literal["auto", "row", "level", "none"] = dataclasses.field(
        default="auto",
        metadata={
            "unit": "",
            "meaning": "zero from the serial overscan: median per row, one level per amplifier, or none; "
            "auto: as the camera description says, else row",
        },
    )
    overscan_skip: Annotated[int, annotated_types.Interval(ge=0, le=100)] = dataclasses.field(
        default=3,
        metadata={
            "unit": "pixels",
            "meaning": "left out at both ends of the overscan: the first hold charge the image left behind",
        },
    )
    overscan_n_sigma: Annotated[float, annotated_types.Interval(ge=1.5, le=20.0)] = dataclasses.field(
        default=3.0,
        metadata={
            "unit": "sigma",
            "meaning": "overscan pixels farther from the median of their row are dropped",
        },
    )
    overscan_parallel: bool = dataclasses.field(
        default=True,
        metadata={
            "unit": "",
            "meaning": "subtract the column medians of the parallel overscan, if there is one",
        },
    )
    saturation: Annotated[float, annotated_types.Gt(0.0)] | None = dataclasses.field(
        default=None,
        metadata={
            "unit": "raw ADU",
            "meaning": "pixels at or above it are masked; none: of the camera description, else SATURATE",
        },
    )
    mask: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "unit": "",
            "meaning": "FITS files of bad pixels (> 0): one for all detectors, or one per detector",
        },
    )
    bias: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "unit": "",
            "meaning": "bias frames: their mean is subtracted, their differences give the read noise",
        },
    )
    dark: tuple[str, ...] = dataclasses.field(
        default=(),
        metadata={
            "unit": "",
            "meaning": "dark frames: their mean per second is subtracted, times exposure time",
        },
    )
    linearity: str | None = dataclasses.field(
        default=None,
        metadata={"unit": "", "meaning": "CSV file amplifier,c2,c3,...: S + c2 S^2 + c3 S^3 + ..."},
    )
    crosstalk: str | None = dataclasses.field(
        default=None,
        metadata={
            "unit": "",
            "meaning": "CSV file of coefficients, a row per victim, a column per aggressor",
        },
    )
    dither: bool = dataclasses.field(
        default=False,
        metadata={
            "unit": "",
            "meaning": "add uniform [-0.5, 0.5) to integer pixels, seeded by the exposure",
        },
    )


@dataclasses.dataclass(slots=True, kw_only=True)
class RawAmplifier:
    """The imaging area of an amplifier, above the level of its overscan.

    Attributes
    ----------
    pixels
        ``[y, x]``, float32 [ADU].
    saturated
        Same shape: at or above the saturation level in the raw frame.
    zero
        What the overscan told.
    """

    pixels: NDArray[np.float32]
    saturated: NDArray[np.bool_]
    zero: Zero


def read_raw_amplifier(
    file: FitsFile,
    amplifier: AmplifierGeometry,
    *,
    config: ReductionConfig,
    camera: CameraDescription | None,
    exposure: str,
) -> RawAmplifier:
    """Read one amplifier and subtract what its overscan holds.

    Parameters
    ----------
    file
        Open file.
    amplifier
        Which pixels.
    config, camera
        Settings, and what is known of the camera.
    exposure
        Identifier of the exposure; seeds the dither.

    Returns
    -------
    RawAmplifier

    Raises
    ------
    ImageUnreadable
        If the pixels cannot be decoded.
    StorageUnavailable
        If the storage fails.
    """
    stored = oriented(file.pixels(amplifier.hdu), amplifier)
    pixels = np.array(stored, dtype=np.float32, order="C")
    notes: list[str] = []
    level = _saturation_level(file, amplifier, config=config, camera=camera, stored=stored.dtype)
    saturated: NDArray[np.bool_] = pixels[amplifier.data.slices] >= level
    if config.dither and stored.dtype.kind in "iu":
        seed = hashlib.sha256(f"{exposure}|{amplifier.name}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(seed[:16], "big"))
        pixels += generator.random(pixels.shape, dtype=np.float32) - np.float32(0.5)
    elif config.dither:
        notes.append("not dithered: its pixels are not integers")
    zero = _subtract_overscan(pixels, amplifier, config=config, camera=camera)
    return RawAmplifier(
        pixels=np.ascontiguousarray(pixels[amplifier.data.slices]),
        saturated=saturated,
        zero=dataclasses.replace(zero, notes=(*notes, *zero.notes)),
    )


def _subtract_overscan(
    pixels: NDArray[np.float32],
    amplifier: AmplifierGeometry,
    *,
    config: ReductionConfig,
    camera: CameraDescription | None,
) -> Zero:
    method: str = config.overscan_method
    if method == "auto":
        method = (camera.overscan_method if camera is not None else None) or "row"
    if method == "none" or amplifier.serial_overscan is None:
        return Zero(level=None, read_noise=None, read_noise_error=None, method="none")
    zero = subtract_serial(
        pixels,
        amplifier.serial_overscan,
        method=method,
        skip=config.overscan_skip,
        n_sigma=config.overscan_n_sigma,
    )
    if zero.method == "none" or amplifier.parallel_overscan is None or not config.overscan_parallel:
        return zero
    notes = subtract_parallel(
        pixels,
        amplifier.data,
        amplifier.parallel_overscan,
        skip=config.overscan_skip,
        n_sigma=config.overscan_n_sigma,
    )
    return dataclasses.replace(zero, notes=(*zero.notes, *notes))


def _saturation_level(
    file: FitsFile,
    amplifier: AmplifierGeometry,
    *,
    config: ReductionConfig,
    camera: CameraDescription | None,
    stored: np.dtype[Any],
) -> float:
    """Return the level that the settings say, else the camera description, else the header [raw ADU]."""
    limit = _CONVERTER_16_BIT if stored == np.uint16 else np.inf
    if config.saturation is not None:
        return min(config.saturation, limit)
    if camera is not None:
        own = next((a.saturation for a in camera.amplifiers if a.name == amplifier.name), None)
        described = own if own is not None else camera.saturation
        if described is not None:
            return min(described, limit)
    for index in (amplifier.hdu, 0):
        value = header_value(file.header(index), "SATURATE")
        if isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < np.inf:
            return min(float(value), limit)
    return limit
