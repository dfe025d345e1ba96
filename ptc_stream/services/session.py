"""One process, one store, all stages: what `run`, `watch`, `demo` and `replay` have in common."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from ptc_stream.bus.api import Topics
from ptc_stream.bus.sqlite import MEMORY, SqliteBus
from ptc_stream.config import RunnerConfig, Settings
from ptc_stream.core.matching import PairingConfig
from ptc_stream.core.watching import WatchingConfig
from ptc_stream.offload import InlineOffload, ProcessOffload, ThreadOffload
from ptc_stream.records import GroupKey
from ptc_stream.services.fitting import FittingSettings, fitting_stage
from ptc_stream.services.measuring import MeasuringSettings, measuring_stage, warm_up
from ptc_stream.services.pairing import pairing_stage
from ptc_stream.services.pipeline import Pipeline
from ptc_stream.services.runner import Observer, Stage
from ptc_stream.services.watching import watching_stage

__all__ = ["Observers", "measuring_processes", "open_store", "run_pipeline", "run_stages"]

_MEASURING_MEMORY_BYTES = (
    4_000_000_000  # two frames of the largest CCDs (10k x 10k, float32) with their masks
)


class Observers:
    """Tells several observers."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def on_committed(self, stage: str, partition: int, next_offset: int, records: Sequence[Any]) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_committed(stage, partition, next_offset, records)

    def on_job(self, stage: str, seconds: float, *, ok: bool) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_job(stage, seconds, ok=ok)

    def on_waiting(self, group: GroupKey, count: int) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_waiting(group, count)

    def on_storage_wait(self, stage: str, message: str | None) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_storage_wait(stage, message)

    def on_restart(self, stage: str, partition: int, error: BaseException) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_restart(stage, partition, error)


@contextlib.asynccontextmanager
async def open_store(
    path: str | os.PathLike[str], *, purpose: str, partitions: int | None = None
) -> AsyncIterator[SqliteBus]:
    """Open the store at `path` (making it and its directory if need be) and close it again."""
    if str(path) != MEMORY:
        await asyncio.to_thread(Path(path).parent.mkdir, parents=True, exist_ok=True)
    bus = await SqliteBus.open(path, purpose=purpose, partitions=partitions)
    try:
        yield bus
    finally:
        await bus.close()


def measuring_processes(workers: int, runner: RunnerConfig) -> ProcessOffload:
    """Make the processes that read and measure pixels, with their limits of time and memory."""
    return ProcessOffload(
        workers,
        deadline_s=runner.job_deadline_s,
        memory_limit_bytes=_MEASURING_MEMORY_BYTES,
        initializer=warm_up,
    )


@contextlib.asynccontextmanager
async def run_pipeline(
    bus: SqliteBus,
    settings: Settings,
    measuring: MeasuringSettings,
    *,
    workers: int,
    observer: Observer,
) -> AsyncIterator[Pipeline]:
    """Start the stages that read pixels, fit and watch; on leaving, drain and stop them.

    Parameters
    ----------
    bus
        An open store.
    settings, measuring
        What is done, and with which pixels.
    workers
        Processes that measure.
    observer
        Who is told.
    """
    processes = measuring_processes(workers, settings.runner)
    try:
        async with run_stages(
            bus,
            pairing=settings.pairing,
            measuring_digest=measuring.digest,
            measuring=measuring_stage(measuring, offload=processes),
            fitting=[FittingSettings(settings.fitting, settings.linearity)],
            watching=settings.watching,
            runner=settings.runner,
            observer=observer,
        ) as pipeline:
            yield pipeline
    finally:
        await processes.close()


@contextlib.asynccontextmanager
async def run_stages(
    bus: SqliteBus,
    *,
    pairing: PairingConfig,
    measuring_digest: str,
    measuring: Stage,
    fitting: Sequence[FittingSettings],
    watching: WatchingConfig,
    runner: RunnerConfig,
    observer: Observer,
) -> AsyncIterator[Pipeline]:
    """Start all stages around the given measuring stage; one fitting stage per entry of `fitting`."""
    inline = InlineOffload()
    threads = ThreadOffload(1)
    stages = [
        pairing_stage(pairing, measuring_digest=measuring_digest, offload=inline),
        measuring,
        *(fitting_stage(one, offload=threads) for one in fitting),
        watching_stage(watching, offload=inline),
    ]
    try:
        async with Pipeline(bus, Topics(), stages, config=runner, observer=observer) as pipeline:
            yield pipeline
    finally:
        await threads.close()
