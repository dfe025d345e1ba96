from __future__ import annotations

import math
from pathlib import Path

import pytest

from ptc_stream.bus.api import Topics
from ptc_stream.codec import decode
from ptc_stream.config import RunnerConfig
from ptc_stream.core.matching import PairingConfig
from ptc_stream.core.measuring import MeasurePair, PairMeasurer
from ptc_stream.core.watching import WatchingConfig
from ptc_stream.errors import StoreInUse, StoreMismatch
from ptc_stream.ingest.announcing import Announcer
from ptc_stream.offload import InlineOffload
from ptc_stream.physics.fitting import FitConfig
from ptc_stream.physics.linearity import LinearityConfig
from ptc_stream.physics.models import FitModel
from ptc_stream.records import Alert, ExposureArrived, FlatPair, PairCovariances, PtcFit
from ptc_stream.services.fitting import FittingSettings
from ptc_stream.services.runner import OnChange, Stage
from ptc_stream.services.session import Observers, open_store, run_stages
from tests.builders import (
    amplifier_covariances,
    covariance_point,
    exposure_arrived,
    flat_exposure,
    pair_covariances,
)
from tests.curves import GAIN, eq16
from tests.unit.services.tiny import Seen, log, memory_bus


def without_pixels(job: MeasurePair) -> PairCovariances:
    """Stands in for measuring: the signal follows the exposure time, the variance the curve."""
    import numpy as np

    pair = job.pair
    mean = 1_000.0 * (pair.first.exposure_time or math.nan)
    point = covariance_point(mean=mean, variance=float(eq16(np.array([mean]))[0]))
    return pair_covariances(
        **{name: getattr(pair, name) for name in ("instrument", "run", "detector", "pair_id", "supersedes")},
        first=pair.first,
        second=pair.second,
        amplifiers=(amplifier_covariances(points=(point,)),),
    )


def made_up_measuring(config: str = '{"measuring":{"max_lag":10}}') -> Stage:
    return Stage(
        name="measuring",
        input_type=FlatPair,
        make_core=lambda _: PairMeasurer(),
        config=config,
        on_change=OnChange.REFUSE,
        offload=InlineOffload(),
        functions={MeasurePair: without_pixels},
    )


RUN = [flat_exposure(n, exposure_time=float(3 + n // 2 * 2)) for n in range(24)]


async def process(
    bus: object,
    exposures: list[ExposureArrived],
    *,
    fitting: tuple[FitConfig, ...] = (FitConfig(),),
    watching: WatchingConfig | None = None,
    digest: str = "measuring settings",
) -> Seen:
    seen = Seen()
    async with run_stages(
        bus,  # type: ignore[arg-type]  # the bus of the test
        pairing=PairingConfig(),
        measuring_digest=digest,
        measuring=made_up_measuring(),
        fitting=[FittingSettings(one, LinearityConfig()) for one in fitting],
        watching=watching or WatchingConfig(),
        runner=RunnerConfig(),
        observer=seen,
    ) as pipeline:
        announcer = Announcer(bus, Topics(), on_committed=seen.on_committed)  # type: ignore[arg-type]  # as above
        await announcer.open()
        await announcer.announce(exposures)
        await pipeline.drained()
        await announcer.close()
    return seen


async def test_the_whole_chain_from_exposures_to_fits() -> None:
    async with memory_bus() as bus:
        seen = await process(bus, RUN)
        fits = [record for record in seen.records if isinstance(record, PtcFit)]
        assert [fit.pairs for fit in fits] == list(range(1, 13))  # one fit per pair, never coalesced
        assert fits[-1].amplifiers[0].gain == pytest.approx(GAIN, rel=0.02)
        assert [record.value for record in await log(bus, "alerts")] == []
        assert len(await log(bus, "covariances")) == len(await log(bus, "pairs")) == 12


async def test_run_again_nothing_is_done_twice_and_new_files_are() -> None:
    async with memory_bus() as bus:
        await process(bus, RUN)
        assert (await process(bus, RUN)).records == []
        late = flat_exposure(30, exposure_time=50.0)
        await process(bus, [*RUN, late])
        seen = await process(bus, [flat_exposure(31, exposure_time=50.0)])
        assert [type(record).__name__ for record in seen.records] == [
            "ExposureArrived",
            "FlatPair",
            "PairCovariances",
            "PtcFit",
        ]
        assert seen.records[1].first.exposure == late.exposure
        assert seen.records[-1].pairs == 13


async def test_another_model_makes_fits_only_and_those_of_the_first_stay() -> None:
    async with memory_bus() as bus:
        await process(bus, RUN)
        polynomial = FitConfig(model=FitModel.POLYNOMIAL)
        seen = await process(bus, RUN, fitting=(polynomial,))
        assert {type(record) for record in seen.records} <= {PtcFit, Alert}
        assert len([record for record in seen.records if isinstance(record, PtcFit)]) == 12
        both = await process(bus, [], fitting=(FitConfig(), polynomial))
        assert both.records == []


async def test_other_limits_judge_all_fits_again() -> None:
    async with memory_bus() as bus:
        await process(bus, RUN)
        seen = await process(bus, [], watching=WatchingConfig(gain_high=1.0))
        assert [(record.rule, record.action) for record in seen.records] == [("gain", "raise")]
        (written,) = await log(bus, "alerts")
        assert decode(written.value, Alert) == seen.records[0]


async def test_another_measuring_digest_is_refused_by_pairing_already() -> None:
    async with memory_bus() as bus:
        await process(bus, RUN)
        with pytest.raises(StoreMismatch, match="measuring_digest"):
            await process(bus, RUN, digest="other settings")


# --- the store of a session -----------------------------------------------------------------------


async def test_a_store_is_made_with_its_directory_and_given_back(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "ptc.sqlite"
    async with open_store(path, purpose="test", partitions=2) as bus:
        assert bus.partitions == 2
        with pytest.raises(StoreInUse, match="test"):
            async with open_store(path, purpose="another"):
                raise AssertionError("opened twice")
    async with open_store(path, purpose="test") as bus:
        assert bus.partitions == 2


async def test_a_store_in_memory_needs_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_store(":memory:", purpose="test") as bus:
        assert bus.partitions == 16
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - nothing else runs


def test_every_observer_is_told() -> None:
    one, other = Seen(), Seen()
    both = Observers(one, other)
    group = exposure_arrived().group
    error = OSError()
    both.on_committed("s", 1, 2, ["r"])
    both.on_job("s", 0.5, ok=True)
    both.on_waiting(group, 3)
    both.on_storage_wait("s", "m")
    both.on_restart("s", 0, error)
    assert one == other == Seen([("s", 1, 2, ["r"])], [("s", True)], [(group, 3)], ["m"], [error])
