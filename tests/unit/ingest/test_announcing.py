from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ptc_stream.bus.api import Outgoing, Topics, partition_of
from ptc_stream.bus.sqlite import SqliteBus, SqliteOwnership
from ptc_stream.codec import decode, encode
from ptc_stream.errors import BusUnavailable, PartitionLost
from ptc_stream.ingest import announcing
from ptc_stream.ingest.announcing import Announcer
from ptc_stream.ingest.files import UnreadFile
from ptc_stream.records import ExposureArrived, Rejected
from tests.builders import exposure_arrived, flat_exposure, rejected
from tests.unit.services.tiny import Seen, feed, log, memory_bus

BROKEN = UnreadFile(uri="/data/x.fits", reason="IMAGE_UNREADABLE", message="x.fits is torn", stamp="10/20")


async def announcer(bus: SqliteBus, seen: Seen | None = None) -> Announcer:
    made = Announcer(bus, Topics(), on_committed=(seen or Seen()).on_committed)
    await made.open()
    return made


async def announced(bus: SqliteBus) -> list[ExposureArrived]:
    return [
        decode(record.value, ExposureArrived)
        for partition in range(bus.partitions)
        for record in await log(bus, "exposures", partition=partition)
    ]


async def test_each_revision_is_written_once_however_often_it_is_announced() -> None:
    one, other = flat_exposure(1), flat_exposure(2)
    again = dataclasses.replace(one, content_tag="another upload")
    async with memory_bus() as bus:
        ingest = await announcer(bus)
        assert await ingest.announce([one, one, other]) == (2, 0)
        assert await ingest.announce([other, one]) == (0, 0)
        assert await ingest.announce([again, one]) == (1, 0)
        assert await announced(bus) == [one, other, again]
        await ingest.close()


async def test_an_exposure_of_another_detector_or_run_is_another_one() -> None:
    records = [exposure_arrived(), exposure_arrived(detector="R22_S12"), exposure_arrived(run="13601")]
    async with memory_bus() as bus:
        assert await (await announcer(bus)).announce(records) == (3, 0)


async def test_a_new_process_goes_on_where_the_old_one_was() -> None:
    async with memory_bus() as bus:
        await (await announcer(bus)).announce([flat_exposure(1)], [BROKEN])
        second = await announcer(bus)
        assert await second.announce([flat_exposure(1), flat_exposure(2)], [BROKEN]) == (1, 0)
        assert [exposure.exposure for exposure in await announced(bus)] == ["E0001", "E0002"]


async def test_more_than_a_page_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcing, "_PAGE", 3)
    run = [flat_exposure(n) for n in range(10)]
    async with memory_bus() as bus:
        await (await announcer(bus)).announce(run)
        assert await (await announcer(bus)).announce(run) == (0, 0)


async def test_what_others_wrote_into_the_log_is_known_and_their_garbage_passed_over() -> None:
    async with memory_bus() as bus:
        await feed(bus, [b"garbage", flat_exposure(1)])
        assert await (await announcer(bus)).announce([flat_exposure(1)]) == (0, 0)


async def test_exposures_stand_in_the_partition_of_their_detector_in_the_order_of_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(announcing, "_BATCH", 4)
    run = [
        flat_exposure(n, detector=f"R{n % 5}") for n in (3, 1, 4, 15, 9, 2, 6, 5, 35, 8, 97, 93, 23, 84, 62)
    ]
    async with memory_bus(partitions=3) as bus:
        seen = Seen()
        await (await announcer(bus, seen)).announce(run)
        for partition in range(3):
            written = [
                decode(record.value, ExposureArrived)
                for record in await log(bus, "exposures", partition=partition)
            ]
            own = [it for it in run if partition_of(it.instrument, it.detector, 3) == partition]
            assert written == own
        assert max(len(records) for *_, records in seen.committed) <= 4
        assert sorted(record.exposure for record in seen.records) == sorted(it.exposure for it in run)
        assert {stage for stage, *_ in seen.committed} == {"ingest"}


async def test_a_file_that_cannot_be_read_is_rejected_once_per_stamp() -> None:
    async with memory_bus(partitions=2) as bus:
        ingest = await announcer(bus)
        assert await ingest.announce([], [BROKEN, BROKEN]) == (0, 1)
        assert await ingest.announce([], [BROKEN]) == (0, 0)
        assert await ingest.announce([], [dataclasses.replace(BROKEN, stamp="11/20")]) == (0, 1)
        partition = partition_of(BROKEN.uri, "", 2)
        first, second = await log(bus, "rejected", partition=partition)
        found = decode(first.value, Rejected)
        assert (found.stage, found.reason, found.message) == ("ingest", "IMAGE_UNREADABLE", "x.fits is torn")
        assert (found.source_topic, found.source_key, found.original) == ("", "/data/x.fits", b"10/20")
        assert decode(second.value, Rejected).original == b"11/20"


async def test_rejects_of_other_stages_are_no_files() -> None:
    async with memory_bus() as bus:
        ownership = await bus.own("pairing", 0)
        other = rejected(source_key=BROKEN.uri, original=b"\xff\xfe no text")
        await ownership.commit(
            [Outgoing(topic="ptc.rejected", partition=0, key="k", value=encode(other))],
            next_offset=0,
            config="{}",
            first_offsets={},
        )
        assert await (await announcer(bus)).announce([], [BROKEN]) == (0, 1)


async def test_a_file_that_can_be_read_at_last_is_announced() -> None:
    async with memory_bus() as bus:
        ingest = await announcer(bus)
        await ingest.announce([], [dataclasses.replace(BROKEN, uri=exposure_arrived().uri)])
        assert await ingest.announce([exposure_arrived()]) == (1, 0)


async def test_what_was_not_written_is_written_when_it_is_announced_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that was full for a moment must not cost an exposure."""
    commit = SqliteOwnership.commit
    monkeypatch.setattr(announcing, "_BATCH", 2)
    run = [flat_exposure(n) for n in range(6)]
    async with memory_bus() as bus:
        ingest = await announcer(bus)
        calls = 0

        async def fails_once(self: SqliteOwnership, *args: Any, **kwargs: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise BusUnavailable("disk full")
            await commit(self, *args, **kwargs)

        monkeypatch.setattr(SqliteOwnership, "commit", fails_once)
        with pytest.raises(BusUnavailable):
            await ingest.announce(run)
        await ingest.open()  # a commit that failed ends the ownership
        assert await ingest.announce(run) == (4, 0)
        assert await announced(bus) == run


async def test_two_announcers_do_not_write_at_once() -> None:
    async with memory_bus() as bus:
        old = await announcer(bus)
        await announcer(bus)
        with pytest.raises(PartitionLost):
            await old.announce([flat_exposure(1)])
        assert await announced(bus) == []


async def test_nothing_to_announce_writes_nothing() -> None:
    async with memory_bus() as bus:
        seen = Seen()
        ingest = await announcer(bus, seen)
        assert await ingest.announce([]) == (0, 0)
        assert seen.committed == []
        await ingest.close()
        await ingest.close()
