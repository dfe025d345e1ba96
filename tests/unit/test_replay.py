from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ptc_stream import replay
from ptc_stream.bus import sqlite
from ptc_stream.bus.api import Outgoing, Topics
from ptc_stream.bus.reader import SqliteReader
from ptc_stream.bus.sqlite import SqliteBus
from ptc_stream.codec import encode, record_headers
from ptc_stream.core.measuring import MeasurePair
from ptc_stream.errors import ConfigurationError, MeasurementError
from ptc_stream.replay import (
    RecordedMeasurements,
    RecordedReject,
    feed_recording,
    measuring_digest_of,
    recorded_configs,
)
from tests.builders import flat_exposure, flat_pair, pair_covariances, rejected
from tests.unit.services.tiny import log, memory_bus

TOPICS = Topics()
INGEST_REJECT = rejected(stage="ingest", source_key="/data/x.fits", original=b"1/2")


class Recording:
    """A store in the making; its clock moves by a second with every transaction unless set."""

    def __init__(self, path: Path, bus: SqliteBus) -> None:
        self.path = path
        self.bus = bus
        self.now_ms = 1_000_000

    async def write(
        self, *records: Any, partition: int = 0, stage: str = "ingest", config: str = "{}"
    ) -> None:
        self.now_ms += 1000
        ownership = await self.bus.own(stage, partition)
        await ownership.commit(
            [
                Outgoing(
                    topic=TOPICS.name(record.topic),
                    partition=partition,
                    key=record.key,
                    value=encode(record),
                    headers=record_headers(record),
                )
                for record in records
            ],
            next_offset=0,
            config=config,
            first_offsets={},
        )

    @contextlib.contextmanager
    def reader(self) -> Iterator[SqliteReader]:
        with SqliteReader(self.path) as reader:
            yield reader


@pytest.fixture
async def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Recording]:
    bus = await SqliteBus.open(tmp_path / "recorded.sqlite", partitions=2, purpose="test")
    made = Recording(tmp_path / "recorded.sqlite", bus)
    monkeypatch.setattr(sqlite, "time", types.SimpleNamespace(time_ns=lambda: made.now_ms * 1_000_000))
    yield made
    await bus.close()


async def content(bus: SqliteBus, topic: str) -> list[list[tuple[str, bytes, Sequence[Any]]]]:
    return [
        [(record.key, record.value, record.headers) for record in await log(bus, topic, partition=partition)]
        for partition in (0, 1)
    ]


async def record_some(recording: Recording) -> None:
    await recording.write(flat_exposure(1), flat_exposure(2))
    await recording.write(flat_exposure(3), INGEST_REJECT, partition=1)
    await recording.write(flat_exposure(4))
    await recording.write(rejected(stage="pairing"), stage="pairing")


# --- what is fed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 200])
async def test_exposures_and_unreadable_files_are_fed_as_they_were_recorded(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(replay, "_BATCH", batch)
    await record_some(recording)
    progress: list[tuple[int, int]] = []
    async with memory_bus(partitions=2) as bus:
        with recording.reader() as reader:
            fed = await feed_recording(
                reader, bus, TOPICS, progress=lambda done, total: progress.append((done, total))
            )
        assert fed == 5
        assert progress == [(n, 5) for n in range(1, 6)]
        assert await content(bus, "exposures") == await content(recording.bus, "exposures")
        (first, second) = await content(bus, "rejected")
        assert first == []  # what pairing rejected is rejected by pairing again
        assert [value for _, value, _ in second] == [encode(INGEST_REJECT)]


async def test_a_replay_that_was_broken_off_goes_on(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_BATCH", 1)
    await record_some(recording)
    async with memory_bus(partitions=2) as bus:
        with recording.reader() as reader:
            stop = asyncio.Event()

            def after_two(done: int, _total: int) -> None:
                if done == 2:
                    stop.set()

            assert await feed_recording(reader, bus, TOPICS, stop=stop, progress=after_two) == 2
            assert [len(it) for it in await content(bus, "exposures")] == [2, 0]
            await feed_recording(reader, bus, TOPICS)
            await feed_recording(reader, bus, TOPICS)
        assert await content(bus, "exposures") == await content(recording.bus, "exposures")
        assert [len(it) for it in await content(bus, "rejected")] == [0, 1]


async def test_records_are_fed_at_their_times_divided_by_the_speed(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    await recording.write(flat_exposure(1))
    recording.now_ms += 99_000
    await recording.write(flat_exposure(2))
    recording.now_ms -= 500_000  # somebody set the clock back: no reason to wait, nor to change the order
    await recording.write(flat_exposure(3))
    now = [5000.0]
    slept: list[float] = []

    async def sleep(due: float, _stop: asyncio.Event) -> None:
        slept.append(due - now[0])
        now[0] = due

    monkeypatch.setattr(replay, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(replay, "_sleep_until", sleep)
    async with memory_bus(partitions=2) as bus:
        with recording.reader() as reader:
            await feed_recording(reader, bus, TOPICS, speed=20.0)
        assert slept == [pytest.approx(100.0 / 20.0)]
        assert await content(bus, "exposures") == await content(recording.bus, "exposures")


async def test_a_stop_ends_the_waiting(recording: Recording) -> None:
    await recording.write(flat_exposure(1))
    recording.now_ms += 3_600_000
    await recording.write(flat_exposure(2))
    stop = asyncio.Event()
    async with memory_bus(partitions=2) as bus:
        with recording.reader() as reader:
            feeding = asyncio.create_task(feed_recording(reader, bus, TOPICS, speed=1.0, stop=stop))
            await bus.wait_beyond(TOPICS.name("exposures"), 0, 0)
            stop.set()
            await asyncio.wait_for(feeding, 10.0)
        assert len((await content(bus, "exposures"))[0]) >= 1


# --- what stands in for pixels --------------------------------------------------------------------


async def test_measurements_are_those_of_the_recording(recording: Recording) -> None:
    await recording.write(pair_covariances(), pair_covariances(pair_id="0" * 31 + "12", lamp="another"))
    recorded = RecordedMeasurements(recording.path, TOPICS)
    assert recorded(MeasurePair(flat_pair())) == pair_covariances()
    with pytest.raises(MeasurementError, match="--from exposures"):
        recorded(MeasurePair(flat_pair(pair_id="unheard of")))
    recorded.close()


async def test_what_was_rejected_is_rejected_again_for_the_same_reason(recording: Recording) -> None:
    pair = flat_pair()
    await recording.write(
        rejected(stage="measuring", reason="IMAGE_UNREADABLE", message="torn", source_key=pair.key),
        rejected(stage="pairing", source_key=flat_pair(pair_id="2").key),
    )
    recorded = RecordedMeasurements(recording.path, TOPICS)
    with pytest.raises(RecordedReject, match="torn") as refused:
        recorded(MeasurePair(pair))
    assert refused.value.reason == "IMAGE_UNREADABLE"
    with pytest.raises(MeasurementError, match="not in the recording"):
        recorded(MeasurePair(flat_pair(pair_id="2")))
    recorded.close()


async def test_the_settings_of_a_recording(recording: Recording) -> None:
    await recording.write(flat_exposure(1))
    with recording.reader() as reader, pytest.raises(ConfigurationError, match="nothing to replay"):
        recorded_configs(reader)
    pairing = '{"measuring_digest":"abc","pairing":{}}'
    await recording.write(stage="pairing", config=pairing)
    await recording.write(stage="fitting.POLYNOMIAL", config='{"fitting":{}}', partition=1)
    with recording.reader() as reader:
        assert recorded_configs(reader) == {"pairing": pairing, "fitting.POLYNOMIAL": '{"fitting":{}}'}
    assert measuring_digest_of(pairing) == "abc"
