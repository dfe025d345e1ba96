"""The one loop that drives any core on any bus: one `PartitionRunner` per stage and partition.

Theory of operation
-------------------
1. Take ownership (which fences the predecessor), read the position, go there.
2. Admit records up to the window's limit: decode, find the group's core (from memory, or folded from the
   log), collect its effects. Jobs start at once, in workers.
3. When the records at the front of the window are finished, write their outputs and the position after
   them in one transaction.
4. On any error of the bus: drop everything and start again at 1. There is no rollback code, because nothing
   is true before it is committed.

Clock policy: no result depends on when anything happens. The clock is read for three things only: to wait
before trying again, to give up on a file that does not come, and to bound a shutdown.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ptc_stream.bus.api import Bus, BusRecord, Outgoing, Ownership, StagePosition, Topics
from ptc_stream.codec import decode, encode, record_headers
from ptc_stream.config import RunnerConfig
from ptc_stream.core.effects import Compute, Core, Emit
from ptc_stream.core.inflight import Finished, InflightWindow, Slot
from ptc_stream.errors import (
    DecodeError,
    Disposition,
    ImageMissing,
    PtcStreamError,
    StoreMismatch,
    TooManyRejects,
    disposition,
)
from ptc_stream.offload import Offload
from ptc_stream.records import GroupKey, Rejected
from ptc_stream.services.groups import GroupCores, feed

__all__ = ["Observer", "OnChange", "PartitionRunner", "Stage"]

_log = logging.getLogger(__name__)


class OnChange(enum.Enum):
    """What a stage does where it finds the position of other settings."""

    REFUSE = "refuse"
    RESTART = "start again from the beginning of its input"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One core, one input topic: everything that the runner must know about a stage."""

    name: str
    input_type: type[Any]
    make_core: Callable[[GroupKey], Core[Any]]
    config: str
    on_change: OnChange
    offload: Offload
    functions: Mapping[type[Any], Callable[[Any], Any]] = dataclasses.field(default_factory=dict)
    waiting: Callable[[Any], int] | None = None


class Observer(Protocol):
    """Who wants to know what happens; none of these may block or raise."""

    def on_committed(self, stage: str, partition: int, next_offset: int, records: Sequence[Any]) -> None:
        """Learn that `records` are in the log now, and how far `stage` has come."""
        ...

    def on_job(self, stage: str, seconds: float, *, ok: bool) -> None:
        """Learn that a job took `seconds`, waiting for a worker included."""
        ...

    def on_waiting(self, group: GroupKey, count: int) -> None:
        """Learn how many input records of `group` wait for a partner."""
        ...

    def on_storage_wait(self, stage: str, message: str | None) -> None:
        """Learn that a job waits for storage (None: it waits no more)."""
        ...

    def on_restart(self, stage: str, partition: int, error: BaseException) -> None:
        """Learn that a partition starts again from its last commit."""
        ...


def _describe_change(stored: str, wanted: str) -> str:
    """Name the settings that differ between two canonical JSON configurations, old and new value each."""
    old, new = _flatten(json.loads(stored)), _flatten(json.loads(wanted))
    changed = [
        f"{name} was {old.get(name, 'not set')}, is now {new.get(name, 'not set')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    return "; ".join(changed)


def _flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(tree, dict):
        return {prefix: json.dumps(tree)}
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}.{key}" if prefix else key))
    return flat


@dataclasses.dataclass(frozen=True, slots=True)
class _Output:
    record: Any
    outgoing: Outgoing


class PartitionRunner:
    """Drives one stage in one partition.

    Parameters
    ----------
    bus, topics, partition
        Where records come from and go to.
    stage
        What to do with them.
    config
        Settings of the loop.
    observer
        Who is told.
    """

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        partition: int,
        stage: Stage,
        *,
        config: RunnerConfig,
        observer: Observer,
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._partition = partition
        self._stage = stage
        self._config = config
        self._observer = observer
        self._topic = topics.name(stage.input_type.topic)
        self._stopping = False
        self._wake = asyncio.Event()
        self._progress = asyncio.Condition()
        self._rejects_in_a_row = 0
        self._failures = 0
        self._committed = 0
        self._failure: BaseException | None = None
        self._ownership: Ownership | None = None
        self._groups: GroupCores | None = None

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self._stage.name

    @property
    def committed(self) -> int:
        """Next input offset after the last commit."""
        return self._committed

    def stop(self) -> None:
        """Admit nothing more; finish what is under way, commit it, and return from `serve`."""
        self._stopping = True
        self._wake.set()

    def forget_groups(self, keys: Sequence[str] | None = None) -> None:
        """Drop groups (default: all) from memory; results do not depend on it."""
        if self._groups is not None:
            for key in self._groups.loaded if keys is None else keys:
                self._groups.forget(key)

    async def reached(self, offset: int) -> None:
        """Return when everything before `offset` of the input has been committed."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._committed >= offset)

    async def open(self) -> None:
        """Take ownership and check the settings, before anything is read.

        Raises
        ------
        StoreMismatch
            The partition was worked on under other settings and this stage cannot start again by itself.
        """
        if self._ownership is None:
            self._ownership = await self._bus.own(self._stage.name, self._partition)
            position = self._ownership.position
            if self._must_restart(position):
                _log.info("%s starts again: %s", self._stage.name, self._change(position))
            else:
                self._committed = position.next_offset

    async def serve(self) -> None:
        """Run until `stop`, through any number of restarts from the last commit.

        Raises
        ------
        PtcStreamError
            Whatever stops the stage: other settings, too many rejects, a lost position.
        """
        while True:
            try:
                await self.open()
                ownership = self._ownership
                assert ownership is not None  # noqa: S101 - open() sets it or raises
                try:
                    await self._work(ownership)
                finally:
                    self._ownership = None
                    self._groups = None
                    await ownership.release()
            except PtcStreamError as error:
                if disposition(error) not in (Disposition.RETRY, Disposition.FORGET_PARTITION):
                    raise
                self._failures += 1
                self._observer.on_restart(self._stage.name, self._partition, error)
                _log.warning("%s, partition %d: %s; starting again", self.stage, self._partition, error)
                await asyncio.sleep(_backoff_s(self._failures))
                if self._stopping:
                    return
            else:
                return

    def _must_restart(self, position: StagePosition) -> bool:
        if position.config is None or position.config == self._stage.config:
            return False
        if self._stage.on_change is OnChange.RESTART:
            return True
        raise StoreMismatch(
            f"the store was made under other settings: {self._change(position)}. Set them back, use "
            "another --store (or --out), or measure again into a new store with "
            "`ptc-stream replay STORE --into NEW --from exposures`"
        )

    def _change(self, position: StagePosition) -> str:
        return _describe_change(position.config or "null", self._stage.config)

    async def _work(self, ownership: Ownership) -> None:
        position = ownership.position
        restart = self._must_restart(position)
        next_offset = 0 if restart else position.next_offset
        self._groups = GroupCores(
            self._bus,
            self._topic,
            self._partition,
            record_type=self._stage.input_type,
            make_core=self._stage.make_core,
            first_offsets={} if restart else dict(position.first_offsets),
            memory_limit=int(self._config.memory_mb * 1e6 / self._bus.partitions),
        )
        window: InflightWindow[_Output] = InflightWindow(self._config.window)
        jobs: set[asyncio.Task[None]] = set()
        await self._note_progress(next_offset)
        stop_at = None
        try:
            while True:
                self._wake.clear()
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                if window.room and not self._stopping:
                    page = await self._bus.read(
                        self._topic, self._partition, next_offset, max_records=window.room
                    )
                    for record in page:
                        await self._admit(record, window, jobs)
                        next_offset = record.offset + 1
                finished = window.pop_ready()
                if finished:
                    await self._commit(ownership, finished, forget_groups=restart)
                    restart = False
                    continue
                if self._stopping:
                    stop_at = stop_at or time.monotonic() + self._config.drain_s
                    if not len(window) or time.monotonic() >= stop_at:
                        return
                await self._wait(next_offset, may_read=bool(window.room), until=stop_at)
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _wait(self, next_offset: int, *, may_read: bool, until: float | None) -> None:
        """Wait for a finished job, a new record or a stop, whichever comes first."""
        waits: set[asyncio.Task[Any]] = {asyncio.ensure_future(self._wake.wait())}
        if may_read and not self._stopping:
            waits.add(asyncio.ensure_future(self._bus.wait_beyond(self._topic, self._partition, next_offset)))
        timeout = None if until is None else max(0.0, until - time.monotonic())
        try:
            done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _admit(
        self, bus_record: BusRecord, window: InflightWindow[_Output], jobs: set[asyncio.Task[None]]
    ) -> None:
        try:
            record = decode(bus_record.value, self._stage.input_type)
        except DecodeError as error:
            rejected = self._reject(bus_record, error.reason, str(error))
            window.admit(bus_record.offset, [Slot((rejected,))])
            return
        groups = self._groups
        assert groups is not None  # noqa: S101 - set before the loop that calls this
        group: GroupKey = record.group
        core, is_new = await groups.core_for(group, bus_record.offset)
        slots: list[Slot[_Output]] = []
        for effect in feed(core, record):
            slot: Slot[_Output] = Slot()
            slots.append(slot)
            if isinstance(effect, Emit):
                slot.outputs = (self._output(effect.record),)
            elif isinstance(effect, Compute):
                job = asyncio.ensure_future(self._run_job(effect.job, slot, bus_record))
                jobs.add(job)
                job.add_done_callback(jobs.discard)
            else:
                slot.outputs = (self._reject(bus_record, effect.reason, effect.message),)
        groups.note_size(group)
        if self._stage.waiting is not None:
            self._observer.on_waiting(group, self._stage.waiting(core))
        window.admit(bus_record.offset, slots, new_group=str(group) if is_new else None)

    async def _run_job(self, job: Any, slot: Slot[_Output], bus_record: BusRecord) -> None:
        started = time.monotonic()
        attempt = 0
        ok = False
        try:
            while slot.outputs is None:
                try:
                    record = await self._stage.offload.run(self._stage.functions[type(job)], job)
                    slot.outputs = (self._output(record),)
                    ok = True
                except PtcStreamError as error:
                    verdict = disposition(error)
                    waited = time.monotonic() - started
                    if verdict is Disposition.REJECT or (
                        isinstance(error, ImageMissing) and waited >= self._config.missing_file_wait_s
                    ):
                        slot.outputs = (self._reject(bus_record, error.reason, str(error)),)
                    elif verdict is Disposition.RETRY:
                        attempt += 1
                        if attempt == 1:
                            self._observer.on_storage_wait(self._stage.name, str(error))
                        await asyncio.sleep(_backoff_s(attempt))
                    else:
                        raise
                except Exception as error:  # noqa: BLE001 - one record must not stop the others
                    _log.exception("defect in a job of %s on %s", self._stage.name, bus_record.key)
                    slot.outputs = (self._reject(bus_record, "DEFECT", f"{type(error).__name__}: {error}"),)
        except PtcStreamError as error:
            self._failure = error
        finally:
            if attempt:
                self._observer.on_storage_wait(self._stage.name, None)
            if slot.outputs is not None:  # else it was cancelled, and will be done again
                self._observer.on_job(self._stage.name, time.monotonic() - started, ok=ok)
            self._wake.set()

    async def _commit(
        self, ownership: Ownership, finished: list[Finished[_Output]], *, forget_groups: bool
    ) -> None:
        outputs = [output for item in finished for output in item.outputs]
        next_offset = finished[-1].next_offset
        await ownership.commit(
            [output.outgoing for output in outputs],
            next_offset=next_offset,
            config=self._stage.config,
            first_offsets={item.new_group: item.offset for item in finished if item.new_group is not None},
            forget_groups=forget_groups,
        )
        self._failures = 0
        records = [output.record for output in outputs]
        self._observer.on_committed(self._stage.name, self._partition, next_offset, records)
        await self._note_progress(next_offset)
        for item in finished:
            if not any(isinstance(output.record, Rejected) for output in item.outputs):
                self._rejects_in_a_row = 0
                continue
            self._rejects_in_a_row += 1
            if self._rejects_in_a_row >= self._config.max_rejects_in_a_row:
                last = next(o.record for o in reversed(outputs) if isinstance(o.record, Rejected))
                raise TooManyRejects(
                    f"{self._stage.name} rejected {self._rejects_in_a_row} records in a row, the last "
                    f"because: {last.message}. Nothing is lost (see `ptc-stream rejected STORE`): mend the "
                    "cause and start again, or raise runner.max_rejects_in_a_row"
                )

    async def _note_progress(self, committed: int) -> None:
        async with self._progress:
            self._committed = committed
            self._progress.notify_all()

    def _output(self, record: Any, origin: tuple[tuple[str, bytes], ...] = ()) -> _Output:
        return _Output(
            record,
            Outgoing(
                topic=self._topics.name(record.topic),
                partition=self._partition,
                key=record.key,
                value=encode(record),
                headers=record_headers(record) + origin,
            ),
        )

    def _reject(self, bus_record: BusRecord, reason: str, message: str) -> _Output:
        rejected = Rejected(
            stage=self._stage.name,
            reason=reason,
            message=message,
            source_topic=self._stage.input_type.topic,
            source_key=bus_record.key,
            original=bus_record.value,
        )
        return self._output(
            rejected,
            (
                ("ptc-origin-topic", bus_record.topic.encode()),
                ("ptc-origin-partition", str(bus_record.partition).encode()),
                ("ptc-origin-offset", str(bus_record.offset).encode()),
            ),
        )


def _backoff_s(attempt: int) -> float:
    """0.1 s doubling to 10 s, with jitter, so that partitions that failed together do not return together."""
    return min(10.0, 0.1 * 2.0 ** min(attempt - 1, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
