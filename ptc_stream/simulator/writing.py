"""Files of a simulated run, and how they appear in a directory.

Each file has random streams of its own, so a run may be written in any order, in pieces, by several
processes or again, and has the same bytes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ptc_stream.errors import StorageUnavailable
from ptc_stream.simulator.camera import draw_amplifiers
from ptc_stream.simulator.frames import raw_frame
from ptc_stream.simulator.planning import Fault, in_writing_order, plan
from ptc_stream.simulator.rawfile import raw_file
from ptc_stream.simulator.truth import Truth

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ptc_stream.simulator.planning import PlannedExposure
    from ptc_stream.simulator.scenario import Scenario

__all__ = ["TRUTH_FILE", "truth_of", "write_exposure", "write_run"]

TRUTH_FILE = "truth.json"

_UPLOADED = 0.6  # of a truncated file: the headers and more than half of the amplifiers


def truth_of(scenario: Scenario) -> Truth:
    """State the truth about a run without writing it."""
    return Truth(
        instrument=scenario.instrument,
        run=scenario.run,
        seed=scenario.seed,
        detectors={detector: dict(draw_amplifiers(scenario, detector)) for detector in scenario.detectors},
    )


def write_exposure(scenario: Scenario, planned: PlannedExposure, directory: Path) -> Path:
    """Write one file of a run: in any order, in any process, always the same bytes.

    Parameters
    ----------
    scenario
        The run.
    planned
        One entry of its plan. That of a missing file is written like any other.
    directory
        Made if it does not exist. The file appears whole, or not at all; a truncated one in one piece, too.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StorageUnavailable
        The directory cannot be written to.
    """
    amplifiers = draw_amplifiers(scenario, planned.detector)
    frames = {name: raw_frame(scenario, planned, amplifier) for name, amplifier in amplifiers.items()}
    hdus = raw_file(scenario, planned, frames)

    def write(partial: Path) -> None:
        hdus.writeto(partial)
        if planned.fault is Fault.TRUNCATED:
            os.truncate(partial, int(_UPLOADED * partial.stat().st_size))

    path = directory / planned.file_name
    _write_atomically(path, write)
    return path


def write_run(
    scenario: Scenario, directory: Path, *, progress: Callable[[int, int], None] | None = None
) -> Truth:
    """Write all files of a run, as they would appear, and the truth beside them.

    Parameters
    ----------
    scenario
        The run.
    directory
        Made if it does not exist.
    progress
        Called after each file with the number of files written and to be written.

    Returns
    -------
    Truth
        As in ``truth.json``, which is written first.

    Raises
    ------
    ConfigurationError
        The scenario cannot be planned (see `plan`).
    StorageUnavailable
        The directory cannot be written to.
    """
    planned = in_writing_order(plan(scenario))
    truth = truth_of(scenario)
    _write_atomically(
        directory / TRUTH_FILE, lambda partial: partial.write_text(truth.to_json(), encoding="utf-8")
    )
    for number, exposure in enumerate(planned, start=1):
        write_exposure(scenario, exposure, directory)
        if progress is not None:
            progress(number, len(planned))
    return truth


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a hidden file beside `path`, then put it in its place.

    Whoever watches the directory sees all of the file or nothing.

    Raises
    ------
    StorageUnavailable
        The directory cannot be written to.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StorageUnavailable(f"cannot write {path}: {error.strerror or error}") from error
