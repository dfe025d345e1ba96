"""Small FITS files in the layouts that cameras write; every builder takes what a test wants to spoil."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

__all__ = [
    "LSST_DATA",
    "LSST_SHAPE",
    "SEGMENTS",
    "gzipped",
    "lsst_frame",
    "lsst_raw",
    "quadrant_camera",
    "quadrant_frame",
    "ramp",
    "write_image",
]

SEGMENTS = [f"Segment1{n}" for n in range(8)] + [f"Segment0{n}" for n in range(7, -1, -1)]
LSST_SHAPE = (60, 96)
"""Rows, columns of a raw amplifier: 4 prescan columns, 64 + 28 overscan columns, 44 rows + 16 of overscan."""
LSST_DATA = (slice(0, 44), slice(4, 68))

LSST_PRIMARY: Mapping[str, Any] = {
    "INSTRUME": "TestCam",
    "RUNNUM": "13600",
    "OBSID": "MC_C_20261122_000123",
    "IMGTYPE": "FLAT",
    "EXPTIME": 12.5,
    "SEQNUM": 123,
    "DATE-OBS": "2026-11-22T03:04:05.250",
    "RAFTBAY": "R22",
    "CCDSLOT": "S11",
    "FILTER": "SDSSi",
    "FILTER2": "ND_OD0.5",
}


def ramp(shape: tuple[int, int], start: int = 0) -> NDArray[np.int64]:
    """Every pixel another value, so that no flip, shift or transposition leaves it as it is."""
    return start + np.arange(shape[0] * shape[1]).reshape(shape)


def lsst_frame(
    generator: np.random.Generator,
    *,
    signal: float = 10_000.0,
    level: float = 1_000.0,
    noise: float = 5.0,
    row_structure: float = 3.0,
    dtype: str = "uint16",
) -> NDArray[Any]:
    """A raw amplifier: a flat above a level that wanders from row to row, with prescan and overscans."""
    frame = generator.normal(level, noise, LSST_SHAPE)
    frame += generator.normal(0.0, row_structure, (LSST_SHAPE[0], 1))
    frame[LSST_DATA] += generator.normal(signal, np.sqrt(signal), (44, 64))
    return np.round(frame).astype(dtype) if dtype != "float32" else frame.astype(np.float32)


def lsst_raw(
    path: Path,
    frames: Sequence[NDArray[Any]],
    *,
    compressed: bool = False,
    primary: Mapping[str, Any] = LSST_PRIMARY,
    amplifier: Mapping[str, Any] | None = None,
    tables: bool = True,
) -> Path:
    """A multi-extension file as LSST writes it; a table stands between the amplifiers as well as behind."""
    hdus: list[Any] = [fits.PrimaryHDU(header=fits.Header(list(primary.items())))]
    for number, (name, frame) in enumerate(zip(SEGMENTS, frames, strict=False)):
        left = 64 * number + 1
        cards = {
            "EXTNAME": name,
            "DATASEC": "[5:68,1:44]",
            "DETSEC": f"[{left + 63}:{left},1:44]" if name[7] == "1" else f"[{left}:{left + 63},44:1]",
            "DETSIZE": f"[1:{64 * len(frames)},1:44]",
            **(amplifier or {}),
        }
        header = fits.Header([(key, value) for key, value in cards.items() if value is not None])
        kind = fits.CompImageHDU if compressed else fits.ImageHDU
        hdus.append(kind(frame, header))
        if tables and number == 0:
            hdus.append(_table("REB_COND"))
    if tables:
        hdus.append(_table("AMP0.MEAS_TIMES"))
    fits.HDUList(hdus).writeto(path)
    return path


def _table(name: str) -> Any:
    column = fits.Column(name="VALUE", format="E", array=np.arange(3, dtype=np.float32))
    return fits.BinTableHDU.from_columns([column], name=name)


def write_image(path: Path, image: NDArray[Any], cards: Mapping[str, Any] | None = None) -> Path:
    """A file with one image in its primary HDU."""
    fits.PrimaryHDU(image, fits.Header(list((cards or {}).items()))).writeto(path, overwrite=True)
    return path


def gzipped(path: Path) -> Path:
    """The same file, compressed as a whole."""
    target = path.with_name(path.name + ".gz")
    target.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    return target


def quadrant_frame(taps: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Put four taps, each in its order of read-out, into one frame as their corners demand."""
    return np.block(
        [
            [taps["LL"], taps["LR"][:, ::-1]],
            [taps["UL"][::-1], taps["UR"][::-1, ::-1]],
        ]
    )


def quadrant_camera(path: Path, shape: tuple[int, int], extra: str = "", readout: str = "") -> Path:
    """A description of a frame of four taps of `shape` (rows, columns)."""
    rows, columns = shape
    boxes = {
        "LL": (1, columns, 1, rows, "lower left"),
        "LR": (columns + 1, 2 * columns, 1, rows, "lower right"),
        "UL": (1, columns, rows + 1, 2 * rows, "upper left"),
        "UR": (columns + 1, 2 * columns, rows + 1, 2 * rows, "upper right"),
    }
    lines = [f'name = "four taps"\nshape = [{2 * columns}, {2 * rows}]\n{extra}\n[readout]\n{readout}\n']
    lines += [
        f'[[amplifier]]\nname = "{name}"\nsection = "[{x0}:{x1},{y0}:{y1}]"\nreadout = "{corner}"\n'
        for name, (x0, x1, y0, y1, corner) in boxes.items()
    ]
    path.write_text("".join(lines))
    return path
