"""Exposure files to ExposureArrived records: find them, read their headers, name their run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from ptc_stream.core.matching import observation_order
from ptc_stream.errors import ConfigurationError, InvalidRecord, PtcStreamError, StorageUnavailable
from ptc_stream.images.camera import CameraDescription
from ptc_stream.images.header_map import HeaderMap
from ptc_stream.images.headers import ExposureHeader, read_exposure_header
from ptc_stream.records import ExposureArrived

__all__ = [
    "Catalogue",
    "UnreadFile",
    "find_files",
    "in_observation_order",
    "is_exposure_file",
    "read_catalogue",
    "read_file",
]

_FITS_ENDINGS = (".fits", ".fit", ".fts", ".fz", ".fits.gz", ".fit.gz", ".fts.gz", ".fits.bz2")
_READERS = 4  # header reads wait for the disk or the network, not for the processor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnreadFile:
    """A file whose header could not be used, and why."""

    uri: str
    reason: str
    message: str
    stamp: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What the headers of a set of files say.

    Attributes
    ----------
    exposures
        In observation order.
    decided
        For each URI: which keyword gave each value (for people).
    unread
        Files that could not be used.
    """

    exposures: tuple[ExposureArrived, ...]
    decided: dict[str, dict[str, str]]
    unread: tuple[UnreadFile, ...]


def find_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Expand `paths`: a file is itself, a directory every FITS file below it (hidden ones left out).

    Raises
    ------
    ConfigurationError
        A path that does not exist, or a directory without FITS files.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if is_exposure_file(file))
            if not inside:
                raise ConfigurationError(
                    f"{path}: no FITS files in this directory ({', '.join(_FITS_ENDINGS)})"
                )
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            raise ConfigurationError(f"{path}: no such file or directory")
    return list(found)


def is_exposure_file(path: Path) -> bool:
    """Tell by its name whether `path` is a FITS file that is ready (temporary names begin with a dot)."""
    return path.name.lower().endswith(_FITS_ENDINGS) and not path.name.startswith(".") and path.is_file()


def read_file(
    path: Path, *, header_map: HeaderMap, camera: CameraDescription | None, run: str | None
) -> tuple[ExposureArrived, ExposureHeader] | UnreadFile:
    """Read the header of one file.

    The name of the run is `run`, else what the header says, else the name of the parent directory.

    Raises
    ------
    StorageUnavailable
        The storage, not the file, is at fault.
    """
    uri = str(path.absolute())
    try:
        uri.encode()
    except UnicodeEncodeError:
        name = os.fsencode(uri).decode(errors="backslashreplace")
        nameless = InvalidRecord(f"{name}: this name is not UTF-8, so no record can hold it; rename the file")
        return UnreadFile(uri=name, reason=nameless.reason, message=str(nameless), stamp=_stamp(path))
    try:
        header = read_exposure_header(path, header_map=header_map, camera=camera)
    except StorageUnavailable:
        raise  # nobody's fault: the file is read again when the storage is back
    except PtcStreamError as error:
        return UnreadFile(uri=uri, reason=error.reason, message=str(error), stamp=_stamp(path))
    exposure = ExposureArrived(
        instrument=header.instrument,
        run=run or header.run or path.absolute().parent.name or "run",
        detector=header.detector,
        exposure=header.exposure,
        image_type=header.image_type,
        exposure_time=header.exposure_time,
        filter=header.filter,
        lamp=header.lamp,
        lamp_dose=header.lamp_dose,
        sequence_number=header.sequence_number,
        observation_mjd=header.observation_mjd,
        uri=uri,
        content_tag=header.content_tag,
    )
    return exposure, header


def read_catalogue(
    files: Sequence[Path],
    *,
    header_map: HeaderMap,
    camera: CameraDescription | None = None,
    run: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Catalogue:
    """Read the headers of `files`, several at a time.

    Parameters
    ----------
    files
        Exposure files.
    header_map, camera
        How to read them.
    run
        Name of the run, over what headers and directories say.
    progress
        Called with (files read, files in all).

    Returns
    -------
    Catalogue
    """
    exposures: list[ExposureArrived] = []
    decided: dict[str, dict[str, str]] = {}
    unread: list[UnreadFile] = []
    read = partial(read_file, header_map=header_map, camera=camera, run=run)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="headers") as readers:
        for done, result in enumerate(readers.map(read, files), start=1):
            if isinstance(result, UnreadFile):
                unread.append(result)
            else:
                exposure, header = result
                exposures.append(exposure)
                decided[exposure.uri] = dict(header.decided)
            if progress is not None:
                progress(done, len(files))
    return Catalogue(exposures=tuple(in_observation_order(exposures)), decided=decided, unread=tuple(unread))


def in_observation_order(exposures: Iterable[ExposureArrived]) -> list[ExposureArrived]:
    """Sort by observation time, then sequence number; never by exposure id alone, since ids may jump."""
    return sorted(exposures, key=lambda e: (observation_order(e), e.exposure, e.detector, e.uri))


def _stamp(path: Path) -> str:
    """Tell one version of an unreadable file from the next, by its size and time of change."""
    try:
        status = path.stat()
    except OSError as error:
        return f"errno {error.errno}"
    return f"{status.st_size}/{status.st_mtime_ns}"
