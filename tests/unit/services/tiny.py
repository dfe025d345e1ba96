"""A stage whose core says what its records ask for, and what is needed to run it on a bus in memory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeVar

from ptc_stream.bus.api import Bus, BusRecord, Outgoing, Topics
from ptc_stream.bus.sqlite import MEMORY, SqliteBus
from ptc_stream.codec import decode, encode
from ptc_stream.config import RunnerConfig
from ptc_stream.core.effects import Compute, Effect, Emit, Reject
from ptc_stream.offload import InlineOffload, Offload
from ptc_stream.records import ExposureArrived, FlatPair, GroupKey, Rejected, content_hash
from ptc_stream.services.runner import OnChange, PartitionRunner, Stage
from tests.builders import exposure_arrived, flat_pair

__all__ = [
    "Seen",
    "ShuffledOffload",
    "Tally",
    "Work",
    "arrival",
    "feed",
    "log",
    "memory_bus",
    "pairs",
    "rejects",
    "running",
    "served",
    "stage",
]

TOPICS = Topics()
JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")


def arrival(number: int, kind: str = "flat", **changes: Any) -> ExposureArrived:
    """An exposure whose image type tells `Tally` what to do: flat, job, both, bad, nothing or defect."""
    return exposure_arrived(exposure=f"E{number:03d}", image_type=kind, **changes)


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """A job that gives its pair back."""

    pair: FlatPair


class Tally:
    """A core whose every effect depends on all that the group has seen, and on its order."""

    def __init__(self, group: GroupKey) -> None:
        self.group = group
        self.seen: list[str] = []
        self.cut = False

    def on_record(self, record: ExposureArrived) -> list[Effect]:
        if record.exposure in self.seen:
            return []
        self.seen.append(record.exposure)
        if record.image_type == "defect":
            raise RuntimeError(f"no line for {record.exposure}")
        pair = flat_pair(
            **self.group._asdict(),
            pair_id=content_hash(*self.seen, str(self.cut)),
            supersedes=tuple(self.seen),
        )
        effects: dict[str, list[Effect]] = {
            "flat": [Emit(pair)],
            "job": [Compute(Work(pair))],
            "both": [
                Compute(Work(pair)),
                Emit(dataclasses.replace(pair, lamp="second")),
                Reject("BAD", "third"),
            ],
            "bad": [Reject("BAD", f"{record.exposure} is bad")],
            "nothing": [],
        }
        return effects[record.image_type]

    def on_history_cut(self) -> None:
        self.cut = True

    def size(self) -> int:
        return 1000 * len(self.seen)


def stage(
    work: Callable[[Work], Any] = lambda job: job.pair,
    *,
    name: str = "tiny",
    config: str = '{"tiny":{"depth":1}}',
    on_change: OnChange = OnChange.REFUSE,
    offload: Offload | None = None,
    make_core: Callable[[GroupKey], Any] = Tally,
    waiting: Callable[[Any], int] | None = None,
) -> Stage:
    """The stage of `Tally`; `work` does its jobs."""
    return Stage(
        name=name,
        input_type=ExposureArrived,
        make_core=make_core,
        config=config,
        on_change=on_change,
        offload=offload or InlineOffload(),
        functions={Work: work},
        waiting=waiting,
    )


class ShuffledOffload:
    """Lets jobs finish in an order that has nothing to do with the one in which they came."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def run(self, function: Callable[[JobT], ResultT], job: JobT) -> ResultT:
        for _ in range(self._random.randrange(6)):
            await asyncio.sleep(0)
        return function(job)

    async def close(self) -> None:
        pass


@dataclasses.dataclass
class Seen:
    """An observer that remembers."""

    committed: list[tuple[str, int, int, list[Any]]] = dataclasses.field(default_factory=list)
    jobs: list[tuple[str, bool]] = dataclasses.field(default_factory=list)
    waiting: list[tuple[GroupKey, int]] = dataclasses.field(default_factory=list)
    storage: list[str | None] = dataclasses.field(default_factory=list)
    restarts: list[BaseException] = dataclasses.field(default_factory=list)

    def on_committed(self, stage: str, partition: int, next_offset: int, records: Sequence[Any]) -> None:
        self.committed.append((stage, partition, next_offset, list(records)))

    def on_job(self, stage: str, seconds: float, *, ok: bool) -> None:
        assert seconds >= 0.0
        self.jobs.append((stage, ok))

    def on_waiting(self, group: GroupKey, count: int) -> None:
        self.waiting.append((group, count))

    def on_storage_wait(self, stage: str, message: str | None) -> None:  # noqa: ARG002 - Observer
        self.storage.append(message)

    def on_restart(self, stage: str, partition: int, error: BaseException) -> None:  # noqa: ARG002 - Observer
        self.restarts.append(error)

    @property
    def records(self) -> list[Any]:
        return [record for *_, records in self.committed for record in records]


@contextlib.asynccontextmanager
async def memory_bus(partitions: int = 1) -> AsyncIterator[SqliteBus]:
    bus = await SqliteBus.open(MEMORY, partitions=partitions, purpose="test")
    try:
        yield bus
    finally:
        await bus.close()


async def feed(bus: Bus, records: Iterable[ExposureArrived | bytes], *, partition: int = 0) -> int:
    """Write exposures (or bytes that are none) into the log; the end of the log then."""
    ownership = await bus.own("feed", partition)
    outgoing = []
    for record in records:
        key, value = ("?", record) if isinstance(record, bytes) else (record.key, encode(record))
        outgoing.append(
            Outgoing(topic=TOPICS.name(ExposureArrived.topic), partition=partition, key=key, value=value)
        )
    await ownership.commit(outgoing, next_offset=0, config="{}", first_offsets={})
    return await bus.end(TOPICS.name(ExposureArrived.topic), partition)


@contextlib.asynccontextmanager
async def running(
    bus: Bus, tiny: Stage, *, observer: Seen | None = None, partition: int = 0, **config: Any
) -> AsyncIterator[PartitionRunner]:
    """A runner at work; on leaving it drains, and whatever stopped it is raised."""
    runner = PartitionRunner(
        bus, TOPICS, partition, tiny, config=RunnerConfig(**config), observer=observer or Seen()
    )
    task = asyncio.create_task(runner.serve())
    try:
        yield runner
        runner.stop()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def served(bus: Bus, tiny: Stage, **config: Any) -> None:
    """Run a stage that stops by itself, and raise what stopped it."""
    runner = PartitionRunner(bus, TOPICS, 0, tiny, config=RunnerConfig(**config), observer=Seen())
    await asyncio.wait_for(runner.serve(), 10.0)


async def log(bus: Bus, topic: str, *, partition: int = 0) -> list[BusRecord]:
    """Everything in one topic."""
    return await bus.read(TOPICS.name(topic), partition, 0, max_records=100_000)


async def pairs(bus: Bus, *, partition: int = 0) -> list[FlatPair]:
    return [decode(record.value, FlatPair) for record in await log(bus, "pairs", partition=partition)]


async def rejects(bus: Bus, *, partition: int = 0) -> list[Rejected]:
    return [decode(record.value, Rejected) for record in await log(bus, "rejected", partition=partition)]
