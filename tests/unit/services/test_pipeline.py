from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from ptc_stream.bus.api import Bus
from ptc_stream.codec import decode
from ptc_stream.config import RunnerConfig
from ptc_stream.core.effects import Compute, Effect
from ptc_stream.core.watching import make_alert
from ptc_stream.errors import ConfigurationError, StoreMismatch, TooManyRejects
from ptc_stream.offload import InlineOffload, Offload
from ptc_stream.records import Alert, FlatPair
from ptc_stream.services.pipeline import Pipeline
from ptc_stream.services.runner import OnChange, Stage
from tests.unit.services import tiny
from tests.unit.services.tiny import TOPICS, Seen, ShuffledOffload, Work, arrival, feed, memory_bus, pairs


class Second:
    """The stage after `Tally`: an alert for each pair, made by a job."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def on_record(self, record: FlatPair) -> list[Effect]:
        return [Compute(Work(record))]

    def on_history_cut(self) -> None: ...

    def size(self) -> int:
        return 1


def alert_of(job: Work) -> Alert:
    return make_alert(
        job.pair.group,
        amplifier="",
        rule="tiny",
        model="",
        action="raise",
        evidence=job.pair.supersedes[-1],
        message="",
    )


def stages(offload: Offload | None = None, **first: Any) -> list[Stage]:
    offload = offload or InlineOffload()
    second = Stage(
        name="second",
        input_type=FlatPair,
        make_core=Second,
        config="{}",
        on_change=OnChange.RESTART,
        offload=offload,
        functions={Work: alert_of},
    )
    return [tiny.stage(offload=offload, **first), second]


def pipeline(bus: Bus, made: list[Stage], observer: Seen | None = None, **config: Any) -> Pipeline:
    return Pipeline(bus, TOPICS, made, config=RunnerConfig(**config), observer=observer or Seen())


async def alerts(bus: Bus, partition: int = 0) -> list[str]:
    return [
        decode(record.value, Alert).evidence for record in await tiny.log(bus, "alerts", partition=partition)
    ]


async def test_drained_means_that_the_last_stage_has_seen_the_last_record() -> None:
    async with memory_bus(partitions=2) as bus:
        for partition in (0, 1):
            await feed(bus, [arrival(n, "job") for n in range(20)], partition=partition)
        async with pipeline(bus, stages(ShuffledOffload(3))) as running:
            await running.drained()
            for partition in (0, 1):
                assert await alerts(bus, partition) == [f"E{n:03d}" for n in range(20)]
            await feed(bus, [arrival(20)])
            await running.drained()
            assert (await alerts(bus))[-1] == "E020"
        assert [runner.stage for runner in running.runners] == ["tiny", "tiny", "second", "second"]


async def test_an_empty_log_is_drained() -> None:
    async with memory_bus() as bus, pipeline(bus, stages()) as running:
        await asyncio.wait_for(running.drained(), 10.0)


async def test_a_stop_ends_the_wait_for_the_end() -> None:
    async with memory_bus() as bus:
        await feed(bus, [arrival(n) for n in range(200)])
        async with pipeline(bus, stages(), window=1) as running:
            waiting = asyncio.create_task(running.drained())
            await running.runners[0].reached(5)
            running.stop()
            await asyncio.wait_for(waiting, 10.0)
        assert 5 <= len(await pairs(bus)) < 200


async def test_what_stops_one_stage_is_raised_and_ends_all() -> None:
    async with memory_bus() as bus:
        await feed(bus, [arrival(n, "bad") for n in range(5)])
        with pytest.raises(TooManyRejects):
            async with pipeline(bus, stages(), max_rejects_in_a_row=2) as running:
                await running.drained()


async def test_a_stage_that_stopped_unheard_is_heard_on_leaving() -> None:
    async with memory_bus() as bus:
        await feed(bus, [arrival(n, "bad") for n in range(5)])
        seen = Seen()
        with pytest.raises(TooManyRejects):
            async with pipeline(bus, stages(), seen, max_rejects_in_a_row=2) as running:
                await running.runners[0].reached(1)


async def test_an_error_of_the_caller_is_not_covered_up() -> None:
    async def fail_beside_a_stage_that_stops() -> None:
        async with pipeline(bus, stages(), max_rejects_in_a_row=2) as running:
            await running.runners[0].reached(1)
            raise ZeroDivisionError

    async with memory_bus() as bus:
        await feed(bus, [arrival(n, "bad") for n in range(5)])
        with pytest.raises(ZeroDivisionError):
            await fail_beside_a_stage_that_stops()


async def test_other_settings_are_refused_on_entering() -> None:
    async with memory_bus() as bus:
        await feed(bus, [arrival(1)])
        async with pipeline(bus, stages()) as running:
            await running.drained()
        with pytest.raises(StoreMismatch, match=r"tiny\.depth was 1, is now 2"):
            async with pipeline(bus, stages(config='{"tiny":{"depth":2}}')):
                raise AssertionError("entered")
        async with pipeline(bus, stages()) as running:
            await running.drained()
        assert len(await pairs(bus)) == 1


async def test_work_beside_the_loops_ends_with_them() -> None:
    cancelled = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with memory_bus() as bus, pipeline(bus, stages()) as running:
        asyncio.get_running_loop().call_soon(running.stop)
        await asyncio.wait_for(running.alongside(endless()), 10.0)
    assert cancelled.is_set()


async def test_the_failure_of_work_beside_the_loops_is_raised() -> None:
    async def fails() -> None:
        raise ConfigurationError("nothing to announce")

    async with memory_bus() as bus, pipeline(bus, stages()) as running:
        with pytest.raises(ConfigurationError, match="nothing to announce"):
            await running.alongside(fails())


async def test_two_stages_of_one_input_go_on_each_from_where_it_was() -> None:
    """As the fitting stages of two models do."""
    async with memory_bus() as bus:
        await feed(bus, [arrival(1)])
        made = [partial(tiny.stage, name=name) for name in ("a", "b")]
        async with pipeline(bus, [made[0]()]) as running:
            await running.drained()
        await feed(bus, [arrival(2)])
        seen = Seen()
        async with pipeline(bus, [make() for make in made], seen) as running:
            await running.drained()
        by_stage = {
            name: [
                record.supersedes[-1]
                for stage, *_, records in seen.committed
                if stage == name
                for record in records
            ]
            for name in ("a", "b")
        }
        assert by_stage == {"a": ["E002"], "b": ["E001", "E002"]}
