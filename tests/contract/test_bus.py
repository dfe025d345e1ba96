"""What `ptc_stream.bus.api` promises, on every bus. Nothing here assumes that offsets are consecutive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from ptc_stream.bus.api import Bus, BusRecord, Outgoing, Ownership, StagePosition
from ptc_stream.bus.sqlite import MEMORY, SqliteBus
from ptc_stream.errors import BusUnavailable, PartitionLost

LIMIT_S = 20.0


class Place(Protocol):
    bus: Bus

    async def other(self) -> Bus: ...


def outgoing(key: str, value: bytes = b"", topic: str = "a", partition: int = 1) -> Outgoing:
    return Outgoing(topic=topic, partition=partition, key=key, value=value)


async def publish(bus: Bus, outputs: Sequence[Outgoing], stage: str = "writer") -> None:
    owner = await bus.own(stage, 0)
    await owner.commit(outputs, next_offset=owner.position.next_offset + 1, config="{}", first_offsets={})
    await owner.release()


async def everything(bus: Bus, topic: str = "a", partition: int = 1, page: int = 1000) -> list[BusRecord]:
    found: list[BusRecord] = []
    start = await bus.beginning(topic, partition)
    while records := await bus.read(topic, partition, start, max_records=page):
        found += records
        start = records[-1].offset + 1
    return found


def keys(records: Sequence[BusRecord]) -> list[str]:
    return [record.key for record in records]


async def test_an_empty_log_has_no_records(place: Place) -> None:
    assert await place.bus.read("a", 1, 0, max_records=10) == []
    assert await place.bus.beginning("a", 1) == await place.bus.end("a", 1)


async def test_a_record_comes_back_as_it_was(place: Place) -> None:
    written = Outgoing(
        topic="a",
        partition=3,
        key="LSSTCam|Läuf 1|Ω\x00",
        value=bytes(range(256)) * 3,
        headers=(("schema", b"\x00\xff"), ("schema", b""), ("größe", b"x")),
    )
    await publish(place.bus, [written, outgoing("", b"", partition=3)])
    record, empty = await everything(place.bus, partition=3)
    assert (record.topic, record.partition, record.key) == ("a", 3, written.key)
    assert (record.value, record.headers) == (written.value, written.headers)
    assert (empty.key, empty.value, empty.headers) == ("", b"", ())
    assert 0 < record.timestamp_ms <= empty.timestamp_ms


async def test_records_come_in_the_order_of_commit(place: Place) -> None:
    await publish(place.bus, [outgoing(f"k{i}") for i in range(50)])
    await publish(place.bus, [outgoing(f"k{i}") for i in range(50, 100)])
    records = await everything(place.bus)
    assert keys(records) == [f"k{i}" for i in range(100)]
    offsets = [record.offset for record in records]
    assert offsets == sorted(set(offsets))
    assert await place.bus.end("a", 1) > offsets[-1]
    assert await place.bus.beginning("a", 1) <= offsets[0]


async def test_partitions_and_topics_are_apart(place: Place) -> None:
    await publish(place.bus, [outgoing("x"), outgoing("y", partition=2), outgoing("z", topic="b")])
    assert keys(await everything(place.bus)) == ["x"]
    assert keys(await everything(place.bus, partition=2)) == ["y"]
    assert keys(await everything(place.bus, "b")) == ["z"]
    assert await everything(place.bus, partition=0) == []


@pytest.mark.parametrize("page", [1, 3, 7, 100])
async def test_pages_of_any_size_give_every_record_once(place: Place, page: int) -> None:
    await publish(place.bus, [outgoing(f"k{i}") for i in range(21)])
    assert keys(await everything(place.bus, page=page)) == [f"k{i}" for i in range(21)]


async def test_a_page_ends_before_too_many_bytes(place: Place) -> None:
    await publish(place.bus, [outgoing(f"k{i}", bytes(100)) for i in range(10)])
    start = await place.bus.beginning("a", 1)
    for max_bytes, count in ((350, 3), (300, 3), (299, 2)):
        page = await place.bus.read("a", 1, start, max_records=10, max_bytes=max_bytes)
        assert keys(page) == [f"k{i}" for i in range(count)]


async def test_one_record_is_returned_however_large(place: Place) -> None:
    await publish(place.bus, [outgoing("large", bytes(5000)), outgoing("small", b"x")])
    start = await place.bus.beginning("a", 1)
    page = await place.bus.read("a", 1, start, max_records=10, max_bytes=100)
    assert keys(page) == ["large"]
    assert keys(await place.bus.read("a", 1, page[-1].offset + 1, max_records=10, max_bytes=100)) == ["small"]


async def test_reading_at_the_end_gives_nothing(place: Place) -> None:
    await publish(place.bus, [outgoing("k")])
    assert await place.bus.read("a", 1, await place.bus.end("a", 1), max_records=10) == []


async def test_a_partition_that_does_not_exist_is_refused(place: Place) -> None:
    for partition in (-1, place.bus.partitions):
        with pytest.raises(ValueError, match="partition"):
            await place.bus.read("a", partition, 0, max_records=1)
        with pytest.raises(ValueError, match="partition"):
            await place.bus.own("s", partition)


async def test_a_stage_that_was_never_here_has_no_position(place: Place) -> None:
    assert (await place.bus.own("pairing", 2)).position == StagePosition()


async def test_position_and_groups_add_up_over_commits_and_owners(place: Place) -> None:
    first = await place.bus.own("pairing", 2)
    await first.commit([], next_offset=4, config='{"n":1}', first_offsets={"i|r|d": 0, "next": 3})
    await first.commit([outgoing("x")], next_offset=9, config='{"n":2}', first_offsets={"i|ü|d": 7})
    assert first.position == StagePosition()
    second = await (await place.other()).own("pairing", 2)
    groups = {"i|r|d": 0, "next": 3, "i|ü|d": 7}
    assert second.position == StagePosition(next_offset=9, config='{"n":2}', first_offsets=groups)
    assert (await place.bus.own("pairing", 1)).position == StagePosition()
    assert (await place.bus.own("fitting", 2)).position == StagePosition()


async def test_forgetting_groups_begins_anew(place: Place) -> None:
    owner = await place.bus.own("fitting", 0)
    await owner.commit([], next_offset=5, config="old", first_offsets={"a": 0, "b": 2})
    await owner.commit([], next_offset=1, config="new", first_offsets={"b": 0}, forget_groups=True)
    await owner.commit([], next_offset=2, config="new", first_offsets={"c": 1})
    position = (await place.bus.own("fitting", 0)).position
    assert position == StagePosition(next_offset=2, config="new", first_offsets={"b": 0, "c": 1})


async def test_forgetting_groups_concerns_one_stage_and_partition(place: Place) -> None:
    for stage, partition in (("fitting", 0), ("fitting", 1), ("watching", 0)):
        owner = await place.bus.own(stage, partition)
        await owner.commit([], next_offset=1, config="c", first_offsets={"g": 0})
    owner = await place.bus.own("fitting", 0)
    await owner.commit([], next_offset=1, config="c", first_offsets={}, forget_groups=True)
    assert (await place.bus.own("fitting", 0)).position.first_offsets == {}
    assert (await place.bus.own("fitting", 1)).position.first_offsets == {"g": 0}
    assert (await place.bus.own("watching", 0)).position.first_offsets == {"g": 0}


async def test_a_commit_after_the_partition_was_taken_leaves_no_trace(place: Place) -> None:
    old = await place.bus.own("pairing", 1)
    await old.commit([outgoing("before")], next_offset=1, config="c", first_offsets={"g": 0})
    new = await (await place.other()).own("pairing", 1)
    with pytest.raises(PartitionLost):
        await old.commit([outgoing("zombie")], next_offset=2, config="z", first_offsets={"z": 1})
    with pytest.raises(PartitionLost):
        await old.commit([outgoing("zombie")], next_offset=2, config="z", first_offsets={"z": 1})
    assert keys(await everything(place.bus)) == ["before"]
    await new.commit([outgoing("after")], next_offset=2, config="c", first_offsets={})
    assert keys(await everything(place.bus)) == ["before", "after"]
    position = (await place.bus.own("pairing", 1)).position
    assert position == StagePosition(next_offset=2, config="c", first_offsets={"g": 0})


async def test_a_zombie_that_had_not_committed_is_fenced_too(place: Place) -> None:
    old = await place.bus.own("pairing", 1)
    await (await place.other()).own("pairing", 1)
    with pytest.raises(PartitionLost):
        await old.commit([outgoing("zombie")], next_offset=0, config="z", first_offsets={})
    assert await everything(place.bus) == []


async def test_taking_again_fences_oneself(place: Place) -> None:
    old = await place.bus.own("pairing", 1)
    new = await place.bus.own("pairing", 1)
    with pytest.raises(PartitionLost):
        await old.commit([], next_offset=1, config="c", first_offsets={})
    await new.commit([], next_offset=1, config="c", first_offsets={})


async def test_owners_of_other_stages_and_partitions_are_left_alone(place: Place) -> None:
    owner = await place.bus.own("pairing", 1)
    other = await place.other()
    await other.own("pairing", 2)
    await other.own("fitting", 1)
    await owner.commit([outgoing("k")], next_offset=1, config="c", first_offsets={})
    assert keys(await everything(place.bus)) == ["k"]


async def test_a_released_ownership_writes_nothing(place: Place) -> None:
    owner = await place.bus.own("pairing", 1)
    await owner.release()
    await owner.release()
    with pytest.raises(PartitionLost):
        await owner.commit([outgoing("k")], next_offset=1, config="c", first_offsets={})
    assert await everything(place.bus) == []


async def test_release_of_a_fenced_ownership_disturbs_nobody(place: Place) -> None:
    old = await place.bus.own("pairing", 1)
    new = await place.bus.own("pairing", 1)
    await old.release()
    await new.commit([outgoing("k")], next_offset=1, config="c", first_offsets={})
    assert keys(await everything(place.bus)) == ["k"]


async def test_a_commit_that_fails_leaves_nothing_and_ends_the_ownership(place: Place) -> None:
    owner = await place.bus.own("pairing", 1)
    with pytest.raises(ValueError, match="partition"):
        await owner.commit(
            [outgoing("k"), outgoing("k", partition=99)], next_offset=1, config="c", first_offsets={"g": 0}
        )
    with pytest.raises(UnicodeEncodeError):
        await (await place.bus.own("pairing", 1)).commit(
            [outgoing("k"), outgoing("\udcff")], next_offset=1, config="c", first_offsets={"g": 0}
        )
    with pytest.raises(PartitionLost):
        await owner.commit([outgoing("k")], next_offset=1, config="c", first_offsets={})
    again = await place.bus.own("pairing", 1)
    assert again.position == StagePosition()
    assert await everything(place.bus) == []
    await again.commit([outgoing("k")], next_offset=1, config="c", first_offsets={})
    assert keys(await everything(place.bus)) == ["k"]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20, 100, 1000])
async def test_a_cancelled_commit_is_whole_or_nothing(place: Place, steps: int) -> None:
    outputs = [outgoing(f"k{i}", bytes(2000), partition=i % 2) for i in range(200)]
    owner = await place.bus.own("pairing", 1)
    task = asyncio.create_task(owner.commit(outputs, next_offset=7, config="c", first_offsets={"g": 0}))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(PartitionLost) if task.cancelled() else contextlib.nullcontext():
        await owner.commit([], next_offset=7, config="c", first_offsets={})
    position = (await place.bus.own("pairing", 1)).position
    written = len(await everything(place.bus, partition=0)) + len(await everything(place.bus, partition=1))
    assert (written, position) in (
        (0, StagePosition()),
        (200, StagePosition(next_offset=7, config="c", first_offsets={"g": 0})),
    )
    await publish(place.bus, [outgoing("later")])
    assert keys(await everything(place.bus))[-1] == "later"


async def test_what_is_already_there_is_not_waited_for(place: Place) -> None:
    start = await place.bus.end("a", 1)
    await publish(place.bus, [outgoing("k")])
    await asyncio.wait_for(place.bus.wait_beyond("a", 1, start), LIMIT_S)


async def test_every_waiter_is_woken_by_a_commit(place: Place) -> None:
    start = await place.bus.end("a", 1)
    waiters = [asyncio.create_task(place.bus.wait_beyond("a", 1, start)) for _ in range(3)]
    await place.bus.end("a", 1)  # a round trip, after which the waiters wait
    given_up = asyncio.create_task(place.bus.wait_beyond("a", 1, start))
    await asyncio.sleep(0)
    given_up.cancel()
    await publish(place.bus, [outgoing("other", partition=2)])
    await publish(place.bus, [outgoing("k")])
    await asyncio.wait_for(asyncio.gather(*waiters), LIMIT_S)
    assert keys(await place.bus.read("a", 1, start, max_records=5)) == ["k"]


async def test_waiting_and_reading_in_turn_misses_nothing(place: Place) -> None:
    found: list[str] = []

    async def follow() -> None:
        position = await place.bus.beginning("a", 1)
        while len(found) < 60:
            await place.bus.wait_beyond("a", 1, position)
            for record in await place.bus.read("a", 1, position, max_records=7):
                found.append(record.key)
                position = record.offset + 1

    follower = asyncio.create_task(follow())
    for i in range(0, 60, 2):
        await publish(place.bus, [outgoing(f"k{i}"), outgoing(f"k{i + 1}")])
    await asyncio.wait_for(follower, LIMIT_S)
    assert found == [f"k{i}" for i in range(60)]


async def test_close_can_be_repeated_and_ends_everything(place: Place) -> None:
    owner = await place.bus.own("pairing", 1)
    waiter = asyncio.create_task(place.bus.wait_beyond("a", 1, 0))
    await place.bus.end("a", 1)
    await asyncio.gather(place.bus.close(), place.bus.close())
    await place.bus.close()
    with pytest.raises(BusUnavailable):
        await asyncio.wait_for(waiter, LIMIT_S)
    with pytest.raises(BusUnavailable):
        await place.bus.read("a", 1, 0, max_records=1)
    with pytest.raises(BusUnavailable):
        await owner.commit([], next_offset=1, config="c", first_offsets={})
    await owner.release()


class Log(RuleBasedStateMachine):
    """The bus against Python lists: any interleaving of owners, commits, zombies, reads and restarts."""

    path = MEMORY

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.bus = self.runner.run(SqliteBus.open(self.path, partitions=2, purpose="model"))
        self.logs: dict[tuple[str, int], list[tuple[str, bytes]]] = {}
        self.positions: dict[tuple[str, int], StagePosition] = {}
        self.owners: list[tuple[Ownership, tuple[str, int]]] = []
        self.current: dict[tuple[str, int], Ownership] = {}

    @rule(stage=st.sampled_from("st"), partition=st.integers(0, 1))
    def own(self, stage: str, partition: int) -> None:
        owner = self.runner.run(self.bus.own(stage, partition))
        assert owner.position == self.positions.get((stage, partition), StagePosition())
        self.owners.append((owner, (stage, partition)))
        self.current[stage, partition] = owner

    @precondition(lambda self: self.owners)
    @rule(
        data=st.data(),
        outputs=st.lists(
            st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.text(max_size=3), st.binary(max_size=9)),
            max_size=4,
        ),
        next_offset=st.integers(0, 9),
        first_offsets=st.dictionaries(st.text(max_size=2), st.integers(0, 9), max_size=2),
        forget=st.booleans(),
    )
    def commit(
        self,
        data: st.DataObject,
        outputs: list[tuple[str, int, str, bytes]],
        next_offset: int,
        first_offsets: dict[str, int],
        *,
        forget: bool,
    ) -> None:
        owner, place = data.draw(st.sampled_from(self.owners), "owner")
        commit = owner.commit(
            [Outgoing(topic=t, partition=p, key=k, value=v) for t, p, k, v in outputs],
            next_offset=next_offset,
            config=str(next_offset),
            first_offsets=first_offsets,
            forget_groups=forget,
        )
        if self.current.get(place) is not owner:
            with pytest.raises(PartitionLost):
                self.runner.run(commit)
            return
        self.runner.run(commit)
        for topic, partition, key, value in outputs:
            self.logs.setdefault((topic, partition), []).append((key, value))
        known = {} if forget else self.positions.get(place, StagePosition()).first_offsets
        self.positions[place] = StagePosition(
            next_offset=next_offset, config=str(next_offset), first_offsets={**known, **first_offsets}
        )

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        owner, place = data.draw(st.sampled_from(self.owners), "owner")
        self.runner.run(owner.release())
        if self.current.get(place) is owner:
            del self.current[place]

    @rule(
        topic=st.sampled_from("ab"),
        partition=st.integers(0, 1),
        start=st.integers(0, 12),
        max_records=st.integers(1, 5),
        max_bytes=st.integers(0, 20),
    )
    def read(self, topic: str, partition: int, start: int, max_records: int, max_bytes: int) -> None:
        log = self.logs.get((topic, partition), [])
        page = self.runner.run(
            self.bus.read(topic, partition, start, max_records=max_records, max_bytes=max_bytes)
        )
        assert [(record.key, record.value) for record in page] == log[start : start + len(page)]
        assert len(page) <= max_records
        assert bool(page) == (start < len(log))
        size = sum(len(record.value) for record in page)
        assert size <= max_bytes or len(page) == 1
        following = log[start + len(page) : start + len(page) + 1]
        assert len(page) == max_records or all(size + len(value) > max_bytes for _, value in following)
        assert self.runner.run(self.bus.end(topic, partition)) == len(log)
        assert self.runner.run(self.bus.beginning(topic, partition)) == 0

    def teardown(self) -> None:
        self.runner.run(self.bus.close())
        self.runner.close()


class LogOnDisk(Log):
    """The same, closed and opened again at any moment."""

    def __init__(self) -> None:
        self.folder = TemporaryDirectory()
        self.path = str(Path(self.folder.name) / "log.sqlite")
        super().__init__()

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.bus.close())
        self.bus = self.runner.run(SqliteBus.open(self.path, purpose="model"))
        self.owners.clear()
        self.current.clear()

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


_BOUNDED = settings(max_examples=60, stateful_step_count=30, deadline=None)

TestLog = Log.TestCase
TestLog.settings = _BOUNDED
TestLogOnDisk = LogOnDisk.TestCase
TestLogOnDisk.settings = settings(_BOUNDED, max_examples=25)
