from __future__ import annotations

import asyncio
import json
import types
from collections.abc import Callable
from typing import Any

import pytest

from ptc_stream.bus.api import Bus
from ptc_stream.bus.sqlite import SqliteBus, SqliteOwnership
from ptc_stream.codec import encode
from ptc_stream.errors import (
    BusUnavailable,
    ConfigurationError,
    ImageMissing,
    MeasurementError,
    PartitionLost,
    PtcStreamError,
    StorageUnavailable,
    StoreMismatch,
    TooManyRejects,
    WorkerDied,
)
from ptc_stream.offload import InlineOffload
from ptc_stream.records import FlatPair, GroupKey
from ptc_stream.services import runner as runner_module
from ptc_stream.services.runner import OnChange, _backoff_s
from tests.builders import exposure_arrived
from tests.unit.services.tiny import (
    TOPICS,
    Seen,
    ShuffledOffload,
    Tally,
    Work,
    arrival,
    feed,
    log,
    memory_bus,
    pairs,
    rejects,
    running,
    served,
    stage,
)

GROUP = exposure_arrived().group


async def names(bus: Bus) -> list[str]:
    """The exposure that made each pair, in the order of the log."""
    return [pair.supersedes[-1] for pair in await pairs(bus)]


def failing(*errors: Exception | None) -> Callable[[Work], FlatPair]:
    """A job that raises these in turn (None: succeeds), and then succeeds."""
    left = list(errors)

    def work(job: Work) -> FlatPair:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return job.pair

    return work


# --- the ordinary course --------------------------------------------------------------------------


async def test_results_are_written_in_the_order_of_the_input_whatever_jobs_finish_first() -> None:
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(n, "job" if n % 3 else "flat") for n in range(40)])
        async with running(bus, stage(offload=ShuffledOffload(7))) as runner:
            await runner.reached(end)
        assert await names(bus) == [f"E{n:03d}" for n in range(40)]


async def test_effects_of_one_record_keep_their_order() -> None:
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(1, "both"), arrival(2)])
        seen = Seen()
        async with running(bus, stage(), observer=seen) as runner:
            await runner.reached(end)
        assert [
            (type(it).__name__, getattr(it, "lamp", it.reason if hasattr(it, "reason") else ""))
            for it in seen.records
        ] == [
            ("FlatPair", "red 0.1 A"),
            ("FlatPair", "second"),
            ("Rejected", "BAD"),
            ("FlatPair", "red 0.1 A"),
        ]


async def test_records_that_come_later_are_taken_when_they_come() -> None:
    async with memory_bus() as bus, running(bus, stage()) as runner:
        for n in range(5):
            await runner.reached(await feed(bus, [arrival(n)]))
            assert await names(bus) == [f"E{m:03d}" for m in range(n + 1)]
            assert runner.committed == n + 1


async def test_outputs_carry_key_schema_and_partition() -> None:
    async with memory_bus(partitions=3) as bus:
        end = await feed(bus, [arrival(1)], partition=2)
        async with running(bus, stage(), partition=2) as runner:
            await runner.reached(end)
        (written,) = await log(bus, "pairs", partition=2)
        (pair,) = await pairs(bus, partition=2)
        assert (written.partition, written.key, written.value) == (2, pair.key, encode(pair))
        assert dict(written.headers).keys() == {"ptc-schema", "ptc-fingerprint"}


async def test_a_window_of_one_is_enough() -> None:
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(n, "job") for n in range(6)])
        async with running(bus, stage(offload=ShuffledOffload(1)), window=1) as runner:
            await runner.reached(end)
        assert len(await pairs(bus)) == 6


async def test_no_more_than_the_window_is_under_way() -> None:
    under_way = 0
    most = 0

    class Counting(InlineOffload):
        async def run(self, function: Callable[[Any], Any], job: Any) -> Any:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            for _ in range(5):
                await asyncio.sleep(0)
            under_way -= 1
            return function(job)

    async with memory_bus() as bus:
        end = await feed(bus, [arrival(n, "job") for n in range(30)])
        async with running(bus, stage(offload=Counting()), window=4) as runner:
            await runner.reached(end)
    assert most == 4


async def test_the_observer_learns_of_everything() -> None:
    seen = Seen()
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(1, "job"), arrival(2, "nothing"), arrival(3)])
        tiny = stage(waiting=lambda core: 10 * len(core.seen))
        async with running(bus, tiny, observer=seen) as runner:
            await runner.reached(end)
        assert seen.committed[-1][:3] == ("tiny", 0, 3)
        assert [record.supersedes[-1] for record in seen.records] == ["E001", "E003"]
        assert seen.jobs == [("tiny", True)]
        assert seen.waiting == [(GROUP, 10), (GROUP, 20), (GROUP, 30)]
        assert seen.restarts == []
        assert seen.storage == []


async def test_progress_moves_over_records_that_led_to_nothing() -> None:
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(n, "nothing") for n in range(3)])
        async with running(bus, stage()) as runner:
            await runner.reached(end)
        position = (await bus.own("tiny", 0)).position
        assert position.next_offset == end == 3
        assert position.first_offsets == {str(GROUP): 0}


# --- what cannot be used --------------------------------------------------------------------------


async def test_bytes_that_are_no_record_are_rejected_unmodified_with_their_origin() -> None:
    async with memory_bus() as bus:
        garbage = b"\x00\x00\x00\x04\x4c not today"
        end = await feed(bus, [arrival(1), garbage, arrival(2), b""])
        async with running(bus, stage()) as runner:
            await runner.reached(end)
        assert await names(bus) == ["E001", "E002"]
        first, second = await rejects(bus)
        assert (first.stage, first.reason, first.source_topic) == ("tiny", "DECODE_ERROR", "exposures")
        assert (first.original, first.source_key, second.original) == (garbage, "?", b"")
        assert "ExposureArrived" in first.message
        headers = [dict(record.headers) for record in await log(bus, "rejected")]
        assert [it["ptc-origin-offset"] for it in headers] == [b"1", b"3"]
        assert {it["ptc-origin-topic"] for it in headers} == {b"ptc.exposures"}
        assert {it["ptc-origin-partition"] for it in headers} == {b"0"}
        assert headers[0]["ptc-schema"] == b"Rejected@1.0"


async def test_a_core_may_reject_a_record() -> None:
    async with memory_bus() as bus:
        bad = arrival(1, "bad")
        end = await feed(bus, [bad])
        async with running(bus, stage()) as runner:
            await runner.reached(end)
        (rejected,) = await rejects(bus)
        assert (rejected.reason, rejected.message, rejected.key) == ("BAD", "E001 is bad", bad.key)
        assert rejected.original == encode(bad)


async def test_a_defect_of_a_core_costs_one_record() -> None:
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(1), arrival(2, "defect"), arrival(3), arrival(4, detector="other")])
        async with running(bus, stage()) as runner:
            await runner.reached(end)
        (rejected,) = await rejects(bus)
        assert (rejected.reason, rejected.message) == ("DEFECT", "RuntimeError: no line for E002")
        assert await names(bus) == ["E001", "E003", "E004"]


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (RuntimeError("oops"), "DEFECT", "RuntimeError: oops"),
        (MeasurementError("unlike"), "MEASUREMENT_ERROR", "unlike"),
        (WorkerDied("killed"), "WORKER_DIED", "killed"),
    ],
)
async def test_a_job_that_fails_costs_one_record(error: Exception, reason: str, message: str) -> None:
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(n, "job") for n in (1, 2, 3)])
        seen = Seen()
        async with running(bus, stage(failing(None, error)), observer=seen, window=1) as runner:
            await runner.reached(end)
        (rejected,) = await rejects(bus)
        assert (rejected.reason, rejected.message) == (reason, message)
        assert await names(bus) == ["E001", "E003"]
        assert seen.jobs == [("tiny", True), ("tiny", False), ("tiny", True)]


async def test_so_many_rejects_in_a_row_stop_the_stage() -> None:
    async with memory_bus() as bus:
        await feed(bus, [arrival(n, "bad") for n in range(10)])
        with pytest.raises(TooManyRejects) as stopped:
            await served(bus, stage(), max_rejects_in_a_row=3, window=1)
        assert len(await rejects(bus)) == 3
        for named in ("tiny rejected 3 records in a row", "E002 is bad", "max_rejects_in_a_row"):
            assert named in str(stopped.value)


async def test_a_restart_counts_rejects_anew() -> None:
    async with memory_bus() as bus:
        for n in (1, 3, 5):
            end = await feed(bus, [arrival(n, "bad"), arrival(n + 1, "bad")])
            async with running(bus, stage(), max_rejects_in_a_row=3) as runner:
                await runner.reached(end)
        assert len(await rejects(bus)) == 6


async def test_a_record_in_order_ends_the_row() -> None:
    kinds = ["bad", "bad", "flat", "bad", "bad", "nothing", "bad", "bad"]
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(n, kind) for n, kind in enumerate(kinds)])
        async with running(bus, stage(), max_rejects_in_a_row=3) as runner:
            await runner.reached(end)
        assert len(await rejects(bus)) == 6


# --- what is nobody's fault -----------------------------------------------------------------------


async def test_storage_that_comes_back_costs_nothing() -> None:
    seen = Seen()
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(1, "job"), arrival(2)])
        work = failing(StorageUnavailable("stale"), StorageUnavailable("still stale"))
        async with running(bus, stage(work), observer=seen) as runner:
            await runner.reached(end)
        assert await names(bus) == ["E001", "E002"]
        assert await rejects(bus) == []
    assert seen.storage == ["stale", None]
    assert seen.jobs == [("tiny", True)]
    assert seen.restarts == []


class Clock:
    """A clock that every look moves by a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


async def test_a_file_that_is_not_there_is_waited_for_and_then_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_module, "time", types.SimpleNamespace(monotonic=Clock().monotonic))
    seen = Seen()
    attempts = 0

    def missing(job: Work) -> FlatPair:
        nonlocal attempts
        attempts += 1
        raise ImageMissing("not there")

    async with memory_bus() as bus:
        end = await feed(bus, [arrival(1, "job")])
        async with running(bus, stage(missing), observer=seen, missing_file_wait_s=10.0) as runner:
            await runner.reached(end)
        (rejected,) = await rejects(bus)
    assert (rejected.reason, rejected.message) == ("IMAGE_MISSING", "not there")
    assert attempts == 10
    assert seen.storage == ["not there", None]
    assert seen.jobs == [("tiny", False)]


async def test_a_file_that_comes_in_time_is_used() -> None:
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(1, "job")])
        work = failing(*[ImageMissing("not yet")] * 5)
        async with running(bus, stage(work), missing_file_wait_s=1e6) as runner:
            await runner.reached(end)
        assert await names(bus) == ["E001"]


async def test_a_missing_file_need_not_be_waited_for() -> None:
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(1, "job")])
        async with running(bus, stage(failing(ImageMissing("gone"))), missing_file_wait_s=0.0) as runner:
            await runner.reached(end)
        assert [it.reason for it in await rejects(bus)] == ["IMAGE_MISSING"]


def test_pauses_grow_to_ten_seconds_and_no_further() -> None:
    for attempt, longest in ((1, 0.1), (2, 0.2), (5, 1.6), (8, 10.0), (1000, 10.0)):
        pauses = [_backoff_s(attempt) for _ in range(50)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


# --- what stops a stage ---------------------------------------------------------------------------


async def test_a_fault_of_the_settings_stops_the_stage_before_the_record() -> None:
    async with memory_bus() as bus:
        await feed(bus, [arrival(1), arrival(2, "job"), arrival(3)])
        with pytest.raises(ConfigurationError, match="calibration"):
            await served(bus, stage(failing(ConfigurationError("calibration has changed"))))
        assert await names(bus) in ([], ["E001"])
        assert (await bus.own("tiny", 0)).position.next_offset <= 1


# --- ownership lost, and other accidents of the bus -----------------------------------------------


async def test_who_is_fenced_out_starts_again_and_nothing_is_doubled() -> None:
    seen = Seen()
    async with memory_bus() as bus:
        await feed(bus, [arrival(1)])
        async with running(bus, stage(), observer=seen) as runner:
            await runner.reached(1)
            await bus.own("tiny", 0)
            await runner.reached(await feed(bus, [arrival(2), arrival(3)]))
        assert await names(bus) == ["E001", "E002", "E003"]
    assert [type(error) for error in seen.restarts] == [PartitionLost]


@pytest.mark.parametrize("written", [False, True])
async def test_a_commit_of_unknown_outcome_is_neither_lost_nor_doubled(
    monkeypatch: pytest.MonkeyPatch, *, written: bool
) -> None:
    commit = SqliteOwnership.commit
    failures = 0

    async def unsure(self: SqliteOwnership, *args: Any, **kwargs: Any) -> None:
        nonlocal failures
        if self._stage == "tiny" and failures < 3:
            failures += 1
            if written:
                await commit(self, *args, **kwargs)
            raise BusUnavailable("the line went dead")
        await commit(self, *args, **kwargs)

    monkeypatch.setattr(SqliteOwnership, "commit", unsure)
    seen = Seen()
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(n, "job") for n in range(5)])
        async with running(bus, stage(), observer=seen, window=1) as runner:
            await runner.reached(end)
        assert await names(bus) == [f"E{n:03d}" for n in range(5)]
    assert len(seen.restarts) == 3


async def test_a_bus_that_fails_to_be_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read = SqliteBus.read
    errors: list[PtcStreamError] = [BusUnavailable("busy"), BusUnavailable("busy")]

    async def flaky(self: SqliteBus, *args: Any, **kwargs: Any) -> Any:
        if errors and args[0] == TOPICS.name("exposures"):
            raise errors.pop()
        return await read(self, *args, **kwargs)

    seen = Seen()
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(1)])
        monkeypatch.setattr(SqliteBus, "read", flaky)
        async with running(bus, stage(), observer=seen) as runner:
            await runner.reached(end)
        assert await names(bus) == ["E001"]
    assert len(seen.restarts) == 2


async def test_a_runner_told_to_stop_does_not_fight_for_its_partition() -> None:
    async with memory_bus() as bus:
        await feed(bus, [arrival(1)])
        async with running(bus, stage()) as runner:
            await runner.reached(1)
        await bus.close()
        with pytest.raises(BusUnavailable):
            await bus.end("ptc.pairs", 0)
        async with running(bus, stage()) as runner:
            await asyncio.sleep(0)
            runner.stop()  # `serve` returns although the bus is gone


# --- stopping -------------------------------------------------------------------------------------


class Held(InlineOffload):
    """Holds jobs until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.begun = asyncio.Event()

    async def run(self, function: Callable[[Any], Any], job: Any) -> Any:
        self.begun.set()
        await self.go.wait()
        return function(job)


async def test_a_stop_finishes_what_is_under_way_and_takes_nothing_more() -> None:
    async with memory_bus() as bus:
        held = Held()
        await feed(bus, [arrival(1, "job"), arrival(2)])
        async with running(bus, stage(offload=held)) as runner:
            await held.begun.wait()
            runner.stop()
            await feed(bus, [arrival(3)])
            held.go.set()
        assert await names(bus) == ["E001", "E002"]
        assert runner.committed == 2


async def test_what_does_not_finish_in_time_is_left_and_done_by_the_next() -> None:
    async with memory_bus() as bus:
        await feed(bus, [arrival(1), arrival(2, "job"), arrival(3)])
        held = Held()
        seen = Seen()
        async with running(bus, stage(offload=held), observer=seen, drain_s=0.01) as runner:
            await held.begun.wait()
        assert await names(bus) == ["E001"]
        assert runner.committed == 1
        async with running(bus, stage()) as runner:
            await runner.reached(3)
        assert await names(bus) == ["E001", "E002", "E003"]


async def test_a_stop_of_an_idle_runner_and_one_before_the_start() -> None:
    async with memory_bus() as bus:
        async with running(bus, stage()) as runner:
            await asyncio.sleep(0.01)
        async with running(bus, stage()) as runner:
            runner.stop()
        await feed(bus, [arrival(1)])
        async with running(bus, stage()) as runner:
            runner.stop()
        assert await names(bus) == []


# --- other settings -------------------------------------------------------------------------------

OLD = json.dumps({"pairing": {"match": "TIME", "max_gap": None, "same": 1}})
NEW = json.dumps({"pairing": {"match": "FLUX", "same": 1, "every": 2}})


async def test_a_store_of_other_settings_is_refused_by_their_names() -> None:
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(1)])
        async with running(bus, stage(config=OLD)) as runner:
            await runner.reached(end)
        with pytest.raises(StoreMismatch) as refused:
            await served(bus, stage(config=NEW))
        for named in (
            'pairing.match was "TIME", is now "FLUX"',
            "pairing.max_gap was null, is now not set",
            "pairing.every was not set, is now 2",
            "--from exposures",
        ):
            assert named in str(refused.value)
        assert "same" not in str(refused.value)
        assert "\n" not in str(refused.value)
        assert await names(bus) == ["E001"]
        async with running(bus, stage(config=OLD)) as runner:  # set back, it goes on
            await runner.reached(await feed(bus, [arrival(2)]))
        assert await names(bus) == ["E001", "E002"]


async def test_a_stage_that_can_starts_again_under_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = SqliteOwnership.commit
    forgetting: list[bool] = []

    async def watched(self: SqliteOwnership, *args: Any, forget_groups: bool = False, **kwargs: Any) -> None:
        if self._stage == "tiny":
            forgetting.append(forget_groups)
        await commit(self, *args, forget_groups=forget_groups, **kwargs)

    monkeypatch.setattr(SqliteOwnership, "commit", watched)
    async with memory_bus() as bus:
        end = await feed(bus, [arrival(1), arrival(2)])
        for config in (OLD, NEW, NEW, OLD):
            async with running(bus, stage(config=config, on_change=OnChange.RESTART), window=1) as runner:
                await runner.reached(end)
            position = (await bus.own("tiny", 0)).position
            assert (position.config, position.first_offsets) == (config, {str(GROUP): 0})
        assert await names(bus) == ["E001", "E002"] * 3
    # the first commit of each new beginning, and no other
    assert forgetting == [False, False, True, False, True, False]


async def test_first_offsets_of_the_old_settings_count_no_more() -> None:
    """A group met first at offset 0 by the old core must not be folded twice by the new one."""
    async with memory_bus() as bus:
        await feed(bus, [arrival(1), arrival(2)])
        tiny = stage(config=OLD, on_change=OnChange.RESTART)
        async with running(bus, tiny) as runner:
            await runner.reached(2)
        tiny = stage(config=NEW, on_change=OnChange.RESTART)
        async with running(bus, tiny, window=1) as runner:
            await runner.reached(1)
            runner.forget_groups()
            await runner.reached(2)
        assert (await names(bus))[-2:] == ["E001", "E002"]
        assert [pair.pair_id for pair in (await pairs(bus))[:2]] == [
            pair.pair_id for pair in (await pairs(bus))[-2:]
        ]


# --- state comes back from the log ----------------------------------------------------------------


async def test_a_core_is_brought_back_by_its_records_without_their_effects() -> None:
    fed: list[str] = []

    class Watched(Tally):
        def on_record(self, record: Any) -> Any:
            fed.append(record.exposure)
            return super().on_record(record)

    async with memory_bus() as bus:
        await feed(bus, [arrival(1), b"garbage", arrival(2, "defect"), arrival(3, "bad")])
        async with running(bus, stage(make_core=Watched)) as runner:
            await runner.reached(4)
        before = [record.value for record in await log(bus, "rejected")]
        fed.clear()
        async with running(bus, stage(make_core=Watched)) as runner:
            await runner.reached(await feed(bus, [arrival(4)]))
        assert fed == ["E001", "E002", "E003", "E004"]
        (_, second) = await pairs(bus)
        assert second.supersedes == ("E001", "E002", "E003", "E004")
        assert [record.value for record in await log(bus, "rejected")] == before


async def test_groups_beyond_the_memory_limit_come_back_when_needed() -> None:
    records = [arrival(n, run=f"run {n % 3}", detector=f"R{n % 2}") for n in range(24)]
    logs = []
    for memory_mb in (256.0, 1e-6):
        async with memory_bus() as bus:
            end = await feed(bus, records)
            made: list[GroupKey] = []

            def counted(group: GroupKey, made: list[GroupKey] = made) -> Tally:
                made.append(group)
                return Tally(group)

            async with running(bus, stage(make_core=counted), memory_mb=memory_mb, window=1) as runner:
                await runner.reached(end)
            logs.append([(record.key, record.value) for record in await log(bus, "pairs")])
    assert len(made) > 6 == len(set(made))
    assert logs[0] == logs[1]
