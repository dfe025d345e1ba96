"""Groups dropped from memory and processes started again, at random: the log must not know of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from ptc_stream.bus.api import Bus, Outgoing, Topics, partition_of
from ptc_stream.bus.sqlite import MEMORY, SqliteBus
from ptc_stream.codec import encode
from ptc_stream.config import RunnerConfig, load_settings, parse_value
from ptc_stream.core.matching import PairingConfig
from ptc_stream.core.measuring import MeasurePair, PairMeasurer
from ptc_stream.core.watching import WatchingConfig
from ptc_stream.errors import MeasurementError
from ptc_stream.ingest.files import find_files, read_catalogue
from ptc_stream.physics.fitting import FitConfig
from ptc_stream.physics.linearity import LinearityConfig
from ptc_stream.records import ExposureArrived, FlatPair, PairCovariances
from ptc_stream.services.fitting import FittingSettings
from ptc_stream.services.measuring import MeasuringSettings
from ptc_stream.services.pipeline import Pipeline
from ptc_stream.services.runner import OnChange, Stage
from ptc_stream.services.session import Observers, run_pipeline, run_stages
from tests.builders import amplifier_covariances, covariance_point, flat_exposure
from tests.integration.commands import SMALL_SETTINGS, Log, same_log

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

TOPICS = Topics()
TINY_MB = 1e-6  # one group per stage and partition at most


def made_covariances(job: MeasurePair) -> PairCovariances:
    """What a pair of a good detector gives, as a function of the pair alone; two exposures are at fault."""
    pair = job.pair
    if pair.first.exposure == "E0007":
        raise MeasurementError("a pair that cannot be measured")
    draw = random.Random(pair.pair_id)
    amplifiers = []
    for name, gain in (("C00", 1.5), ("C01", 25.0), ("C02", 0.0)):  # good, alarming and dead
        flux = 2_000.0 * (pair.first.exposure_time or 0.0)  # [e-]
        if not gain:
            point = covariance_point(mean=0.1, variance=25.0, flags=("NO_SIGNAL",))
        else:
            mean = flux / gain
            variance = mean / gain * (1.0 - 2e-6 * flux) + 25.0
            point = covariance_point(mean=mean, variance=variance * (1.0 + 0.004 * draw.gauss(0.0, 1.0)))
        amplifiers.append(amplifier_covariances(name=name, points=(point,), read_noise=5.0))
    return PairCovariances(
        **{field.name: getattr(pair, field.name) for field in dataclasses.fields(FlatPair)},
        measuring_digest="made",
        amplifiers=tuple(amplifiers),
    )


class Shuffling:
    """An offload whose jobs end in any order."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def run(self, function: Callable[[JobT], ResultT], job: JobT) -> ResultT:
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)
        return function(job)

    async def close(self) -> None:
        """Nothing to end."""


def exposures_of_three_runs() -> list[ExposureArrived]:
    """An old run, one interleaved with it, and one that pauses; revisions, duplicates, lone flats."""
    runs: dict[str, list[ExposureArrived]] = {}
    for run, detectors in (("old", ("S11", "S21")), ("new", ("S11", "S21")), ("pausing", ("S11",))):
        runs[run] = [
            flat_exposure(number, 1.0 + 5.0 * ((number - 1) // 2), run=run, detector=detector)
            for number in range(1, 20)
            for detector in detectors
        ]
    runs["old"].append(dataclasses.replace(runs["old"][2], content_tag="sent again"))
    runs["new"].insert(14, dataclasses.replace(runs["new"][9], content_tag="sent again", exposure_time=99.0))
    old, new, pausing = runs["old"], runs["new"], runs["pausing"]
    stream = old[:10] + pausing[:5]
    for late, recent in zip(old[10:], new, strict=False):
        stream += [late, recent, recent]  # twice: a repeated notice
    return stream + new[len(old) - 10 :] + pausing[5:] + old[:3]


def measuring(chance: random.Random) -> Stage:
    return Stage(
        name="measuring",
        input_type=FlatPair,
        make_core=lambda _group: PairMeasurer(),
        config="{}",
        on_change=OnChange.REFUSE,
        offload=Shuffling(chance),
        functions={MeasurePair: made_covariances},
    )


@contextlib.asynccontextmanager
async def pipeline_of(bus: SqliteBus, chance: random.Random, runner: RunnerConfig) -> AsyncIterator[Pipeline]:
    async with run_stages(
        bus,
        pairing=PairingConfig(unpaired_after=4),
        measuring_digest="made",
        measuring=measuring(chance),
        fitting=[FittingSettings(FitConfig(), LinearityConfig())],
        watching=WatchingConfig(),
        runner=runner,
        observer=Observers(),
    ) as pipeline:
        yield pipeline


async def announce(bus: Bus, exposures: Sequence[ExposureArrived]) -> None:
    """Write them as they come, duplicates too, as a broker that delivers at least once."""
    for exposure in exposures:
        partition = partition_of(exposure.instrument, exposure.detector, bus.partitions)
        ownership = await bus.own("somebody", partition)
        outgoing = Outgoing(
            topic=TOPICS.name(exposure.topic), partition=partition, key=exposure.key, value=encode(exposure)
        )
        await ownership.commit([outgoing], next_offset=0, config="{}", first_offsets={})


async def log_on(bus: Bus) -> Log:
    log: Log = {}
    for topic in ("exposures", "pairs", "covariances", "fits", "alerts", "rejected"):
        for partition in range(bus.partitions):
            page = await bus.read(TOPICS.name(topic), partition, 0, max_records=10_000, max_bytes=10**9)
            if page:
                log[TOPICS.name(topic), partition] = [(record.key, record.value) for record in page]
    return log


async def forget_at_random(pipeline: Pipeline, chance: random.Random) -> None:
    while True:
        for _ in range(chance.randrange(1, 40)):
            await asyncio.sleep(0)
        runner = chance.choice(pipeline.runners)
        loaded = runner._groups.loaded if runner._groups is not None else []
        runner.forget_groups(chance.sample(loaded, chance.randint(0, len(loaded))))


@pytest.fixture(scope="module")
def undisturbed() -> Log:
    """The log of one pipeline that sees everything at once and forgets nothing."""

    async def process() -> Log:
        bus = await SqliteBus.open(MEMORY, partitions=2, purpose="undisturbed")
        async with pipeline_of(bus, random.Random(0), RunnerConfig()) as pipeline:
            await announce(bus, exposures_of_three_runs())
            await pipeline.drained()
        log = await log_on(bus)
        await bus.close()
        return log

    log = asyncio.run(process())
    counts: dict[str, int] = {}
    for (topic, _), values in log.items():
        counts[topic] = counts.get(topic, 0) + len(values)
    assert counts["ptc.pairs"] >= 30
    assert counts["ptc.fits"] == counts["ptc.covariances"] < counts["ptc.pairs"]
    assert counts["ptc.rejected"] >= 3
    assert counts["ptc.alerts"] >= 10
    return log


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("place", ["memory", "file"])
async def test_evictions_and_restarts_leave_no_trace(
    place: str, seed: int, undisturbed: Log, tmp_path: Path
) -> None:
    """Restarts stop a pipeline at work (what is under way is committed) or leave it without a word."""
    chance = random.Random(seed)
    stream = exposures_of_three_runs()
    cuts = [0, *sorted(chance.sample(range(1, len(stream)), 5)), len(stream)]
    path = MEMORY if place == "memory" else str(tmp_path / "log.sqlite")
    bus = await SqliteBus.open(path, partitions=2, purpose="evicted")
    for begin, end in itertools.pairwise(cuts):
        runner = RunnerConfig(
            window=chance.choice([1, 3, 64]), memory_mb=chance.choice([TINY_MB, 0.01, 256.0])
        )
        async with pipeline_of(bus, chance, runner) as pipeline:
            forgetting = asyncio.create_task(forget_at_random(pipeline, chance))
            await announce(bus, stream[begin:end])
            if end == len(stream) or chance.random() < 0.5:
                await pipeline.drained()
            forgetting.cancel()
            await asyncio.gather(forgetting, return_exceptions=True)
        if place == "file":
            await bus.close()
            bus = await SqliteBus.open(path, purpose="evicted")
    same_log(await log_on(bus), undisturbed)
    await bus.close()


@pytest.mark.parametrize("interrupted_in", ["pairing", "measuring", "fitting.EXPAPPROXIMATION", "watching"])
async def test_an_owner_that_is_fenced_in_the_middle_leaves_no_trace(
    interrupted_in: str, undisturbed: Log
) -> None:
    """Another process takes partitions of one stage again and again; the loops go back and start again."""
    bus = await SqliteBus.open(MEMORY, partitions=2, purpose="fenced")
    chance = random.Random(interrupted_in)
    async with pipeline_of(bus, chance, RunnerConfig(window=3, memory_mb=TINY_MB)) as pipeline:
        stream = exposures_of_three_runs()
        for begin in range(0, len(stream), len(stream) // 3 + 1):
            await announce(bus, stream[begin : begin + len(stream) // 3 + 1])
            for partition in range(bus.partitions):
                await (await bus.own(interrupted_in, partition)).release()
        await pipeline.drained()
    same_log(await log_on(bus), undisturbed)
    await bus.close()


@pytest.mark.timeout(240)
async def test_real_pixels_measured_in_pieces_give_the_bytes_of_one_go(
    small_run: Path, tmp_path: Path
) -> None:
    settings = load_settings(
        overrides={
            name: (parse_value(value), "test")
            for name, _, value in (text.partition("=") for text in SMALL_SETTINGS[1:])
        }
        | {"runner.memory_mb": (TINY_MB, "test")},
        environment={},
    )
    measured = MeasuringSettings.from_settings(settings)
    exposures = read_catalogue(find_files([small_run]), header_map=settings.headers).exposures

    async def process(path: str, pieces: int) -> Log:
        size = -(-len(exposures) // pieces)
        for begin in range(0, len(exposures), size):
            bus = await SqliteBus.open(path, partitions=4, purpose="pieces")
            async with run_pipeline(bus, settings, measured, workers=2, observer=Observers()) as pipeline:
                await announce(bus, exposures[begin : begin + size])
                pipeline.runners[0].forget_groups()
                await pipeline.drained()
            log = await log_on(bus)
            await bus.close()
        return log

    same_log(await process(str(tmp_path / "pieces.sqlite"), 3), await process(MEMORY, 1))
