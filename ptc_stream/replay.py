"""A recorded store fed through the same cores into a new one, at any speed.

What is replayed is the record: exposures are announced again in their recorded order, paced by their
recorded times; pairs, fits and alerts are made again by the same code; measurements are taken from the
recording, since pixels may have moved. With ``from_pixels`` they are measured again. The clock decides only
*when* a record is fed, never what becomes of it, so every speed gives the same values.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ptc_stream.bus.api import Bus, BusRecord, Outgoing, Topics
from ptc_stream.bus.reader import SqliteReader
from ptc_stream.codec import decode
from ptc_stream.core.measuring import MeasurePair
from ptc_stream.errors import ConfigurationError, MeasurementError
from ptc_stream.ingest.announcing import STAGE as INGEST
from ptc_stream.records import ExposureArrived, PairCovariances, Rejected

__all__ = [
    "RecordedMeasurements",
    "RecordedReject",
    "feed_recording",
    "measuring_digest_of",
    "recorded_configs",
]

_BATCH = 200


class RecordedMeasurements:
    """Stands in for the worker that measures pixels: looks the measurement up in a recording.

    Parameters
    ----------
    path
        The recorded store.
    topics
        Its topic names.
    """

    def __init__(self, path: Path, topics: Topics) -> None:
        self._reader = SqliteReader(path)
        self._topics = topics
        self._rejected: dict[str, Rejected] | None = None

    def __call__(self, job: MeasurePair) -> PairCovariances:
        """Return the recorded covariances of a pair.

        Raises
        ------
        MeasurementError
            The pair was rejected in the recording (with the recorded reason), or is not in it.
        """
        topic = self._topics.name(PairCovariances.topic)
        for bus_record in self._reader.latest(topic, key_prefix=job.pair.key):
            if bus_record.key == job.pair.key:
                return decode(bus_record.value, PairCovariances)
        rejected = self._rejects().get(job.pair.key)
        if rejected is not None:
            raise RecordedReject(rejected.reason, rejected.message)
        raise MeasurementError(
            f"pair {job.pair.pair_id} is not in the recording: replay with `--from exposures` to measure it"
        )

    def close(self) -> None:
        """Give the recording back."""
        self._reader.close()

    def _rejects(self) -> dict[str, Rejected]:
        if self._rejected is None:
            records = (
                decode(record.value, Rejected)
                for record in self._reader.scan(self._topics.name(Rejected.topic))
            )
            self._rejected = {record.key: record for record in records if record.stage == "measuring"}
        return self._rejected


class RecordedReject(MeasurementError):
    """The pair was rejected when the recording was made; the reason is the recorded one."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self._reason = reason

    @property
    def reason(self) -> str:
        """The recorded reason code."""
        return self._reason


def recorded_configs(reader: SqliteReader) -> dict[str, str]:
    """Return the settings of every stage in a recording, canonical JSON by stage name.

    Raises
    ------
    ConfigurationError
        No stage has worked in this store, so there is nothing to replay.
    """
    configs = {
        stage: position.config
        for (stage, _), position in reader.stages().items()
        if position.config is not None and stage != INGEST
    }
    if "pairing" not in configs:
        raise ConfigurationError("nothing to replay: no exposure has been processed in this store")
    return configs


def measuring_digest_of(pairing_config: str) -> str:
    """Return the measuring digest that the recorded pair ids carry."""
    return str(json.loads(pairing_config)["measuring_digest"])


async def feed_recording(
    reader: SqliteReader,
    bus: Bus,
    topics: Topics,
    *,
    speed: float | None = None,
    stop: asyncio.Event | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Announce the recorded exposures (and the files rejected at ingest) on another bus.

    Parameters
    ----------
    reader
        The recording.
    bus, topics
        Where to. It must have as many partitions as the recording; what it already holds is not fed again.
    speed
        Recorded time over replay time, 20 for twenty times as fast; None does not wait at all.
    stop
        Ends the feeding when set.
    progress
        Called with (records fed, records in all).

    Returns
    -------
    int
        Records fed.
    """
    stop = stop or asyncio.Event()
    owned = {partition: await bus.own("replay", partition) for partition in range(bus.partitions)}
    fed_before = {partition: ownership.position.next_offset for partition, ownership in owned.items()}
    total = reader.count(topics.name(ExposureArrived.topic)) + sum(1 for _ in _ingest_rejects(reader, topics))
    done = 0
    began: tuple[float, int] | None = None
    numbers = dict.fromkeys(owned, 0)
    batches: dict[int, list[Outgoing]] = {partition: [] for partition in owned}

    async def flush(partitions: Sequence[int]) -> None:
        for partition in partitions:
            if batches[partition]:
                await owned[partition].commit(
                    batches[partition], next_offset=numbers[partition], config="{}", first_offsets={}
                )
                batches[partition] = []

    try:
        for record in _in_recorded_order(reader, topics):
            if stop.is_set():
                break
            done += 1
            partition = record.partition
            numbers[partition] += 1
            if numbers[partition] <= fed_before[partition]:
                continue
            if speed is not None:
                began = began or (time.monotonic(), record.timestamp_ms)
                due = began[0] + (record.timestamp_ms - began[1]) / 1000 / speed
                if due > time.monotonic():
                    await flush(list(owned))
                    await _sleep_until(due, stop)
            batches[partition].append(
                Outgoing(
                    topic=record.topic,
                    partition=partition,
                    key=record.key,
                    value=record.value,
                    headers=record.headers,
                )
            )
            if len(batches[partition]) >= _BATCH:
                await flush([partition])
            if progress is not None:
                progress(done, total)
        await flush(list(owned))
    finally:
        for ownership in owned.values():
            await ownership.release()
    return done


async def _sleep_until(due: float, stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), max(0.0, due - time.monotonic()))


def _ingest_rejects(reader: SqliteReader, topics: Topics) -> Iterator[BusRecord]:
    for record in reader.scan(topics.name(Rejected.topic)):
        if decode(record.value, Rejected).stage == INGEST:
            yield record


def _in_recorded_order(reader: SqliteReader, topics: Topics) -> Iterator[BusRecord]:
    """Merge exposures of all partitions, and ingest's rejects, by time; each partition keeps its order."""
    exposures = topics.name(ExposureArrived.topic)
    logs = [_partition(reader, exposures, partition) for partition in range(reader.partitions)]
    logs.append(_ingest_rejects(reader, topics))
    return heapq.merge(*logs, key=_time)


def _time(record: BusRecord) -> int:
    return record.timestamp_ms


def _partition(reader: SqliteReader, topic: str, partition: int) -> Iterator[BusRecord]:
    offset = reader.beginning(topic, partition)
    while page := reader.read(topic, partition, offset, max_records=_BATCH):
        yield from page
        offset = page[-1].offset + 1
