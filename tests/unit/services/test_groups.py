from __future__ import annotations

from typing import Any

import pytest

from ptc_stream.bus.sqlite import SqliteBus
from ptc_stream.core.effects import Reject
from ptc_stream.errors import PositionLost
from ptc_stream.records import ExposureArrived, GroupKey
from ptc_stream.services.groups import GroupCores, feed
from tests.builders import exposure_arrived
from tests.unit.services import tiny
from tests.unit.services.tiny import TOPICS, Tally, arrival, memory_bus

TOPIC = TOPICS.name("exposures")
ONE, OTHER = (exposure_arrived(detector=detector).group for detector in ("R22_S11", "R22_S12"))
NEXT_RUN = exposure_arrived(run="13601").group


def cores(bus: Any, first_offsets: dict[str, int] | None = None, memory_limit: int = 10**9) -> GroupCores:
    return GroupCores(
        bus,
        TOPIC,
        0,
        record_type=ExposureArrived,
        make_core=Tally,
        first_offsets={} if first_offsets is None else first_offsets,
        memory_limit=memory_limit,
    )


def of(group: GroupKey, number: int, kind: str = "flat") -> ExposureArrived:
    return arrival(number, kind, **group._asdict())


async def seen_by(groups: GroupCores, group: GroupKey, offset: int) -> list[str]:
    core: Any = (await groups.core_for(group, offset))[0]
    return list(core.seen)


class Counting:
    """A bus that counts how often it is read."""

    def __init__(self, bus: SqliteBus) -> None:
        self.bus = bus
        self.reads: list[int] = []

    async def read(self, topic: str, partition: int, start: int, **kwargs: Any) -> Any:
        self.reads.append(start)
        return await self.bus.read(topic, partition, start, **kwargs)

    async def beginning(self, topic: str, partition: int) -> int:
        return await self.bus.beginning(topic, partition)


async def test_a_group_is_new_once() -> None:
    offsets: dict[str, int] = {}
    async with memory_bus() as bus:
        groups = cores(bus, offsets)
        core, new = await groups.core_for(ONE, 5)
        assert new
        again, new = await groups.core_for(ONE, 6)
        assert again is core
        assert not new
    assert offsets == {str(ONE): 5}


async def test_a_dropped_group_comes_back_as_it_was() -> None:
    async with memory_bus() as bus:
        await tiny.feed(bus, [of(ONE, 1), of(OTHER, 2), of(ONE, 3), of(ONE, 4)])
        groups = cores(bus, {str(ONE): 0, str(OTHER): 1})
        assert await seen_by(groups, ONE, 3) == ["E001", "E003"]  # not the one that it is asked for
        groups.forget(str(ONE))
        assert groups.loaded == [str(OTHER)]
        assert await seen_by(groups, ONE, 4) == ["E001", "E003", "E004"]
        groups.forget("never heard of")


async def test_one_scan_brings_back_all_groups_of_the_run_and_no_other_run() -> None:
    async with memory_bus() as bus:
        await tiny.feed(bus, [of(NEXT_RUN, 0), of(ONE, 1), of(OTHER, 2), of(NEXT_RUN, 3), of(ONE, 4)])
        counting = Counting(bus)
        groups = cores(counting, {str(NEXT_RUN): 0, str(ONE): 1, str(OTHER): 2})
        assert await seen_by(groups, OTHER, 5) == ["E002"]
        assert counting.reads == [1]
        assert sorted(groups.loaded) == sorted([str(ONE), str(OTHER)])
        assert await seen_by(groups, ONE, 5) == ["E001", "E004"]
        assert counting.reads == [1]
        assert await seen_by(groups, NEXT_RUN, 5) == ["E000", "E003"]
        assert counting.reads == [1, 0]


async def test_a_long_history_is_read_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptc_stream.services.groups._PAGE_RECORDS", 3)
    async with memory_bus() as bus:
        await tiny.feed(bus, [of(ONE, n) for n in range(10)])
        counting = Counting(bus)
        groups = cores(counting, {str(ONE): 1})
        assert await seen_by(groups, ONE, 8) == [f"E{n:03d}" for n in range(1, 8)]
        assert counting.reads == [1, 4, 7]


async def test_what_was_rejected_then_is_passed_over_now() -> None:
    async with memory_bus() as bus:
        await tiny.feed(bus, [of(ONE, 1), b"garbage", of(ONE, 2, "defect"), of(ONE, 3)])
        groups = cores(bus, {str(ONE): 0})
        assert await seen_by(groups, ONE, 4) == ["E001", "E002", "E003"]


async def test_a_group_whose_past_is_cut_off_is_told_and_works_with_the_rest() -> None:
    async with memory_bus() as bus:
        await tiny.feed(bus, [of(ONE, n) for n in range(3)] + [of(OTHER, 3), of(ONE, 4)])
        await bus._call(lambda: bus._connection.execute('DELETE FROM records WHERE "offset" < 2'))
        groups = cores(bus, {str(ONE): 0, str(OTHER): 3})
        core: Any = (await groups.core_for(ONE, 5))[0]
        assert (core.seen, core.cut) == (["E002", "E004"], True)
        other: Any = (await groups.core_for(OTHER, 5))[0]
        assert (other.seen, other.cut) == (["E003"], False)


async def test_a_past_that_is_cut_off_while_it_is_read_is_no_silence() -> None:
    """Retention works while we read: what is lost then must not look like a short history."""

    class Vanishing(Counting):
        async def beginning(self, topic: str, partition: int) -> int:
            first = await self.bus.beginning(topic, partition)
            await self.bus._call(
                lambda: self.bus._connection.execute('DELETE FROM records WHERE "offset" < 2')
            )
            return first

    async with memory_bus() as bus:
        await tiny.feed(bus, [of(ONE, n) for n in range(4)])
        with pytest.raises(PositionLost):
            await cores(Vanishing(bus), {str(ONE): 0}).core_for(ONE, 4)


async def test_the_least_recently_used_groups_are_dropped_first_and_never_the_one_in_use() -> None:
    async with memory_bus() as bus:
        await tiny.feed(bus, [of(ONE, 1), of(OTHER, 2), of(NEXT_RUN, 3), of(ONE, 4)])
        groups = cores(bus, memory_limit=2500)  # a core of `Tally` takes 1000 per record
        for number, group in enumerate((ONE, OTHER, NEXT_RUN)):
            core, _ = await groups.core_for(group, number)
            core.on_record(of(group, number + 1))
            groups.note_size(group)
        assert groups.loaded == [str(OTHER), str(NEXT_RUN)]
        assert await seen_by(groups, OTHER, 3) == ["E002"]  # used: now the younger one
        core, _ = await groups.core_for(ONE, 3)
        groups.note_size(ONE)
        assert groups.loaded == [str(OTHER), str(ONE)]
        for number in range(10, 14):
            core.on_record(of(ONE, number))
        groups.note_size(ONE)
        assert groups.loaded == [str(ONE)]
        assert len(groups) == 1


def test_a_defect_of_a_core_becomes_a_reject(caplog: pytest.LogCaptureFixture) -> None:
    core = Tally(ONE)
    assert feed(core, of(ONE, 1, "defect")) == [Reject("DEFECT", "RuntimeError: no line for E001")]
    assert "defect in Tally" in caplog.text
    assert len(feed(core, of(ONE, 2))) == 1
