"""``bench run``: a whole run of one CCD, from plain files to fitted gains, as `ptc-stream run` does it."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ptc_stream.bench.figures import Figure, cpu_seconds
from ptc_stream.bench.frames import write_flats
from ptc_stream.bench.measuring import fourier_seconds
from ptc_stream.bus.api import Topics
from ptc_stream.config import load_settings
from ptc_stream.errors import PtcStreamError
from ptc_stream.images.reading import FitsFile
from ptc_stream.ingest.announcing import Announcer
from ptc_stream.ingest.files import find_files, read_catalogue
from ptc_stream.records import GroupKey
from ptc_stream.services.measuring import MeasuringSettings
from ptc_stream.services.session import open_store, run_pipeline

__all__ = ["running_figures"]

_WHOLE_RUN = 337  # pairs of the notebook that this replaces
_NOTEBOOK_S = 5400.0
_AMPLIFIERS = 16
_TARGET_S = 180.0
_CORES = 2


def running_figures(*, pairs: int = 8, shape: tuple[int, int] = (2000, 512)) -> Iterator[Figure]:
    """Time a run on two cores, and extrapolate to 337 pairs.

    Parameters
    ----------
    pairs
        How many are written and processed, at least 2.
    shape
        Rows and columns of the imaging area of an amplifier.

    Yields
    ------
    Figure
    """
    workers = min(_CORES, len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="ptc-bench-") as folder:
        directory = Path(folder) / "files"
        directory.mkdir()
        files = write_flats(directory, pairs=pairs, shape=shape)
        seconds, fitted = asyncio.run(_process(directory, Path(folder) / "ptc.sqlite", workers))
        if len(fitted) != pairs:
            raise PtcStreamError(f"{len(fitted)} of {pairs} pairs were fitted: the benchmark is broken")
        reading = cpu_seconds(lambda: _read(files[:2]), repeats=3)
    # Between the first fit and the last one the stages are all busy; before, processes start.
    per_pair = (fitted[-1] - fitted[0]) / (pairs - 1)
    whole = fitted[0] + per_pair * (_WHOLE_RUN - 1) + (seconds - fitted[-1])
    fourier = fourier_seconds(shape)
    yield Figure(
        name=f"run of {pairs} pairs of one CCD, from plain files to fits",
        value=seconds,
        unit="s",
        note=f"wall time, {workers} workers; {fitted[0]:.1f} s until the first fit",
    )
    yield Figure(
        name=f"run of {_WHOLE_RUN} pairs of one CCD, from plain files to fits",
        value=whole,
        unit="s",
        reference=_WHOLE_RUN * _AMPLIFIERS * fourier / workers,
        reference_is="the sums over lags alone, by Fourier transform, on as many cores; "
        f"the notebook took {_NOTEBOOK_S:.0f} s",
        limit=_WHOLE_RUN * reading / workers,
        limit_is="reading the files",
        target=f"<= {_TARGET_S:.0f} s on {_CORES} cores",
        met=whole <= _TARGET_S,
        note="" if pairs == _WHOLE_RUN else f"extrapolated from {pairs} pairs",
    )


async def _process(directory: Path, store: Path, workers: int) -> tuple[float, list[float]]:
    """Return the wall time of the run, and when each fit was committed [s]."""
    start = time.perf_counter()
    fits = _Fits(start)
    settings = load_settings(environment={})
    catalogue = read_catalogue(find_files([directory]), header_map=settings.headers, camera=None, run=None)
    async with (
        open_store(store, purpose="ptc-stream bench run") as bus,
        run_pipeline(
            bus, settings, MeasuringSettings.from_settings(settings), workers=workers, observer=fits
        ) as pipeline,
    ):
        announcer = Announcer(bus, Topics(), on_committed=fits.on_committed)

        async def announce() -> None:
            await announcer.open()
            await announcer.announce(catalogue.exposures, catalogue.unread)

        await pipeline.alongside(announce())
        await pipeline.drained()
        await announcer.close()
    return time.perf_counter() - start, fits.times


class _Fits:
    """Notes when fits are committed."""

    def __init__(self, start: float) -> None:
        self._start = start
        self.times: list[float] = []

    def on_committed(self, stage: str, partition: int, next_offset: int, records: Sequence[Any]) -> None:  # noqa: ARG002 - an Observer
        if stage.startswith("fitting"):
            self.times += [time.perf_counter() - self._start] * len(records)

    def on_job(self, stage: str, seconds: float, *, ok: bool) -> None: ...

    def on_waiting(self, group: GroupKey, count: int) -> None: ...

    def on_storage_wait(self, stage: str, message: str | None) -> None: ...

    def on_restart(self, stage: str, partition: int, error: BaseException) -> None: ...


def _read(paths: Sequence[Path]) -> None:
    for path in paths:
        with FitsFile(path) as file:
            for index in range(1, _AMPLIFIERS + 1):
                file.pixels(index)
