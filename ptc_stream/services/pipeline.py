"""All stages of one process on one bus: started together, drained in the order of the stream."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Self

from ptc_stream.bus.api import Bus, Topics
from ptc_stream.config import RunnerConfig
from ptc_stream.services.runner import Observer, PartitionRunner, Stage

__all__ = ["Pipeline"]


class Pipeline:
    """Runs `stages` over every partition of `bus`.

    Use as an asynchronous context manager: entering takes every partition and starts; leaving stops, lets
    the jobs under way finish (within ``runner.drain_s``) and commits them.

    Parameters
    ----------
    bus, topics
        Where records come from and go to.
    stages
        In the order of the stream.
    config
        Settings of the loops.
    observer
        Who is told.

    Raises
    ------
    StoreMismatch
        On entering, when a stage finds the position of other settings and cannot start again by itself.
    """

    def __init__(
        self, bus: Bus, topics: Topics, stages: Sequence[Stage], *, config: RunnerConfig, observer: Observer
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._stages = stages
        self._runners = {
            stage.name: [
                PartitionRunner(bus, topics, partition, stage, config=config, observer=observer)
                for partition in range(bus.partitions)
            ]
            for stage in stages
        }
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def runners(self) -> list[PartitionRunner]:
        """Every loop of every stage."""
        return [runner for runners in self._runners.values() for runner in runners]

    async def __aenter__(self) -> Self:
        # Measuring before pairing: where its settings differ it names them, pairing knows only their digest.
        for runner in reversed(self.runners):
            await runner.open()
        self._tasks = [asyncio.create_task(runner.serve(), name=f"{runner.stage}") for runner in self.runners]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.stop()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        if exc_info[0] is None:
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    def stop(self) -> None:
        """Let every loop finish what is under way and end."""
        for runner in self.runners:
            runner.stop()

    async def drained(self) -> None:
        """Return when every stage has reached the end of its log, or when `stop` has ended the loops.

        Stages are asked in the order of the stream: once one has reached the end, the input of the next is
        complete. Nothing may be announced meanwhile.

        Raises
        ------
        PtcStreamError
            Whatever stopped a stage.
        """
        await self.alongside(self._drain())

    async def _drain(self) -> None:
        for stage in self._stages:
            topic = self._topics.name(stage.input_type.topic)
            for partition, runner in enumerate(self._runners[stage.name]):
                await runner.reached(await self._bus.end(topic, partition))

    async def alongside(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work` while the loops run; it is cancelled when they end first, by `stop` or by failure.

        Raises
        ------
        PtcStreamError
            Whatever stopped a stage, or `work` itself.
        """
        waiting = asyncio.ensure_future(work)
        loops = asyncio.ensure_future(asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION))
        try:
            await asyncio.wait({waiting, loops}, return_when=asyncio.FIRST_COMPLETED)
            for task in self._tasks:
                if task.done():
                    task.result()
            if waiting.done():
                waiting.result()
        finally:
            for future in (waiting, loops):
                future.cancel()
            await asyncio.gather(waiting, loops, return_exceptions=True)
