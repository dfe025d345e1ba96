"""Properties of the loop: whatever happens to the process, the log is that of an undisturbed run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptc_stream.bus.api import Bus
from ptc_stream.config import RunnerConfig
from ptc_stream.errors import StorageUnavailable
from ptc_stream.records import ExposureArrived
from ptc_stream.services import runner as runner_module
from ptc_stream.services.runner import PartitionRunner, Stage
from tests.strategies import BOUNDED
from tests.unit.services.tiny import (
    TOPICS,
    Seen,
    ShuffledOffload,
    Work,
    arrival,
    feed,
    log,
    memory_bus,
    stage,
)

Log = dict[str, list[tuple[str, bytes, Any]]]
KINDS = ["flat", "flat", "job", "job", "both", "bad", "nothing", "defect"]


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "_backoff_s", lambda _attempt: 0.0)


@st.composite
def arrivals(draw: st.DrawFn) -> list[ExposureArrived | bytes]:
    """Records of several groups of two runs, interleaved, some twice, some no records at all."""
    found: list[ExposureArrived | bytes] = []
    for _ in range(draw(st.integers(1, 25))):
        number = draw(st.integers(0, 12))
        found.append(
            b"garbage"
            if draw(st.integers(0, 12)) == 0
            else arrival(
                number,
                draw(st.sampled_from(KINDS)),
                run=draw(st.sampled_from(["old", "new"])),
                detector=draw(st.sampled_from(["R22_S11", "a|b"])),
            )
        )
    return found


DISASTERS = st.lists(
    st.tuples(
        st.integers(0, 25),  # after so many records have come
        st.sampled_from(["kill", "stop", "fence", "forget all", "forget some"]),
        st.integers(0, 12),  # and so many turns of the loop later
    ),
    max_size=6,
)


async def everything(bus: Bus) -> Log:
    return {
        topic: [(record.key, record.value, record.headers) for record in await log(bus, topic)]
        for topic in ("pairs", "rejected")
    }


async def undisturbed(records: list[ExposureArrived | bytes]) -> Log:
    async with memory_bus() as bus:
        end = await feed(bus, records)
        runner = PartitionRunner(bus, TOPICS, 0, stage(), config=RunnerConfig(), observer=Seen())
        serving = asyncio.create_task(runner.serve())
        await runner.reached(end)
        runner.stop()
        await serving
        return await everything(bus)


async def disturbed(
    records: list[ExposureArrived | bytes],
    disasters: list[tuple[int, str, int]],
    tiny: Stage,
    config: RunnerConfig,
) -> tuple[Log, list[Any]]:
    seen = Seen()

    def start() -> tuple[PartitionRunner, asyncio.Task[None]]:
        runner = PartitionRunner(bus, TOPICS, 0, tiny, config=config, observer=seen)
        return runner, asyncio.create_task(runner.serve())

    async with memory_bus() as bus:
        runner, serving = start()
        fed = 0
        for count, what, turns in [*sorted(disasters), (len(records), "stop", 0)]:
            if records[fed:count]:
                await feed(bus, records[fed:count])
                fed = max(fed, min(count, len(records)))
            for _ in range(turns):
                await asyncio.sleep(0.0005)  # the bus has a thread of its own: let it get somewhere
            if what == "fence":
                await bus.own("tiny", 0)
            elif what.startswith("forget"):
                loaded = [] if runner._groups is None else runner._groups.loaded
                runner.forget_groups(None if what == "forget all" else loaded[::2])
            else:
                if what == "kill":
                    serving.cancel()
                else:
                    runner.stop()
                await asyncio.gather(serving, return_exceptions=True)
                runner, serving = start()
        await asyncio.wait_for(runner.reached(len(records)), 20.0)
        runner.stop()
        await serving
        return await everything(bus), seen.records


@settings(BOUNDED, max_examples=60)
@given(
    records=arrivals(),
    disasters=DISASTERS,
    window=st.integers(1, 8),
    memory_mb=st.sampled_from([1e-6, 0.004, 256.0]),
    seed=st.integers(0, 1000),
    flaky=st.booleans(),
)
def test_no_accident_leaves_a_trace(
    records: list[ExposureArrived | bytes],
    disasters: list[tuple[int, str, int]],
    *,
    window: int,
    memory_mb: float,
    seed: int,
    flaky: bool,
) -> None:
    attempts: set[str] = set()

    def work(job: Work) -> Any:
        if flaky and job.pair.pair_id not in attempts:
            attempts.add(job.pair.pair_id)
            raise StorageUnavailable("once")
        return job.pair

    async def both() -> tuple[Log, Log, list[Any]]:
        tiny = stage(work, offload=ShuffledOffload(seed))
        config = RunnerConfig(window=window, memory_mb=memory_mb)
        return await undisturbed(records), *(await disturbed(records, disasters, tiny, config))

    wanted, found, told = asyncio.run(both())
    assert found == wanted
    assert len(told) <= len(found["pairs"]) + len(found["rejected"])  # a commit cut off may go untold
