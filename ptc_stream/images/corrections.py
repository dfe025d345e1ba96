"""Mask, linearity and crosstalk: files that the configuration names, applied to one amplifier.

Linearity is a CSV table, ``amplifier,c2,c3,...``: corrected = S + c2 S^2 + c3 S^3 + ..., S in ADU above
zero. Crosstalk is a CSV table with a row per victim and a column per aggressor::

    victim,C10,C11
    C10,0,1.5e-4
    C11,1.3e-4,0

corrected victim = S_victim - sum over aggressors of coefficient * S_aggressor, pixel by pixel in the order of
read-out: amplifiers are read at the same time, so charge leaks between pixels of equal index.
"""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptc_stream.errors import ConfigurationError, ImageError
from ptc_stream.images.reading import FitsFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ptc_stream.images.geometry import AmplifierGeometry, FrameGeometry

__all__ = ["MaskFile", "correct_linearity", "load_crosstalk", "load_linearity", "oriented"]


def oriented(pixels: NDArray[Any], amplifier: AmplifierGeometry) -> NDArray[Any]:
    """Return an amplifier's section of its HDU in the order of read-out: a view, ``[y, x]``."""
    return _flipped(pixels[amplifier.section.slices], amplifier.flip_x, amplifier.flip_y)


def _flipped(pixels: NDArray[Any], flip_x: bool, flip_y: bool) -> NDArray[Any]:  # noqa: FBT001 - a pair of axes
    rows = slice(None, None, -1) if flip_y else slice(None)
    columns = slice(None, None, -1) if flip_x else slice(None)
    return pixels[rows, columns]


class MaskFile:
    """Bad pixels from a FITS file; pixels above 0 are bad.

    An image HDU named as the amplifier (``C10``, or ``Segment10``) is its mask; it has the size of the raw
    HDU or of the imaging area, and the orientation of the raw HDU. Else a single image is the mask of the
    whole frame: of the size of the raw HDU, or of the detector (DETSIZE), where DETSEC tells the place.

    Parameters
    ----------
    path
        The file; read at once, as one bool per pixel.

    Raises
    ------
    ConfigurationError
        If it cannot be read, or has no image.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            with FitsFile(path) as file:
                self._images = {
                    _amplifier_key(file.name(index)): np.asarray(file.pixels(index) > 0)
                    for index in range(len(file))
                    if len(file.shape(index)) == 2
                }
        except ImageError as error:
            raise ConfigurationError(f"mask {error}") from error
        if not self._images:
            raise ConfigurationError(f"mask {self.path}: no image in it")

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(image.nbytes for image in self._images.values())

    def bad_pixels(
        self, amplifier: AmplifierGeometry, frame: FrameGeometry, hdu_shape: tuple[int, ...]
    ) -> NDArray[np.bool_]:
        """Return the bad pixels of an amplifier's imaging area, in the order of read-out.

        Raises
        ------
        ConfigurationError
            If the file has no mask that fits this amplifier.
        """
        mask = self._images.get(_amplifier_key(amplifier.name))
        if mask is None:
            mask = self._whole_frame(frame, hdu_shape)
        if mask is None:
            raise ConfigurationError(
                f"mask {self.path}: no image named {amplifier.name}, nor one image of the whole frame; "
                f"it has {', '.join(name or '(no name)' for name in self._images)}"
            )
        if mask.shape == hdu_shape:
            return oriented(mask, amplifier)[amplifier.data.slices]
        place = amplifier.detector_section
        if frame.detector_box is not None and place is not None and mask.shape == frame.detector_box.shape:
            # Descending DETSEC: the raw image runs against the detector; flip: read-out against it.
            flips = place.descending_x != amplifier.flip_x, place.descending_y != amplifier.flip_y
            mask = mask[place.box.slices]
        else:
            flips = amplifier.flip_x, amplifier.flip_y
        if mask.shape != amplifier.data.shape:
            raise ConfigurationError(
                f"mask {self.path}: {mask.shape} (rows, columns) for amplifier {amplifier.name}; "
                f"{hdu_shape} or {amplifier.data.shape} expected"
            )
        return _flipped(mask, *flips)

    def _whole_frame(self, frame: FrameGeometry, hdu_shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        if len(self._images) != 1:
            return None
        mask = next(iter(self._images.values()))
        one_hdu = len({amplifier.hdu for amplifier in frame.amplifiers}) == 1
        detector = frame.detector_box
        whole = (one_hdu and mask.shape == hdu_shape) or (
            detector is not None and mask.shape == detector.shape
        )
        return mask if whole else None


def _amplifier_key(name: str) -> str:
    lowered = name.lower()
    return f"c{lowered.removeprefix('segment')}" if lowered.startswith("segment") else lowered


def correct_linearity(pixels: NDArray[np.float32], coefficients: tuple[float, ...]) -> NDArray[np.float32]:
    """Return S + c2 S^2 + c3 S^3 + ... for `coefficients` (c2, c3, ...), S in ADU above zero."""
    correction = np.zeros_like(pixels)
    for coefficient in reversed(coefficients):
        correction = (correction + np.float32(coefficient)) * pixels
    return pixels + correction * pixels


def load_linearity(path: str | os.PathLike[str]) -> dict[str, tuple[float, ...]]:
    """Read a linearity table: (c2, c3, ...) by amplifier.

    Raises
    ------
    ConfigurationError
        If it is no such table.
    """
    rows = _table(path, "linearity", "amplifier")
    return {name: tuple(values.values()) for name, values in rows.items()}


def load_crosstalk(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Read a crosstalk table: coefficients by victim, then by aggressor, those that are not zero.

    Raises
    ------
    ConfigurationError
        If it is no such table.
    """
    rows = _table(path, "crosstalk", "victim")
    for victim, values in rows.items():
        if values.get(victim, 0.0) != 0.0:
            raise ConfigurationError(f"crosstalk {path}: {victim} on itself must be 0")
    return {
        victim: {aggressor: value for aggressor, value in values.items() if value != 0.0}
        for victim, values in rows.items()
    }


def _table(path: str | os.PathLike[str], what: str, first_column: str) -> Mapping[str, dict[str, float]]:
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line and not line[0].startswith("#")]
    except OSError as error:
        raise ConfigurationError(f"{what} {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{what} {path} is not CSV: {error}") from error
    head = [cell.strip() for cell in lines[0]] if lines else []
    if len(head) < 2 or head[0] != first_column:
        raise ConfigurationError(f"{what} {path}: the first line must begin with {first_column},")
    rows: dict[str, dict[str, float]] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            values = {key: float(cell) for key, cell in zip(head[1:], line[1:], strict=True)}
        except ValueError as error:
            raise ConfigurationError(f"{what} {path}, row {number}: {error}") from error
        name = line[0].strip()
        if not all(map(math.isfinite, values.values())) or name in rows:
            raise ConfigurationError(f"{what} {path}, row {number}: {name} twice, or a value not finite")
        rows[name] = values
    if not rows:
        raise ConfigurationError(f"{what} {path}: no rows")
    return rows
