"""Everything that can be wrong with what comes in: each ends with its reason, the rest is whole."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from ptc_stream.bus.api import Outgoing, partition_of
from ptc_stream.bus.sqlite import SqliteBus
from ptc_stream.records import FlatPair, PairCovariances, PtcFit, Rejected
from ptc_stream.simulator import PlannedExposure, Scenario, plan, truth_of, write_exposure
from tests.conftest import SMALL
from tests.integration.commands import SMALL_SETTINGS, ptc_stream, records, result

# 18 bits; the run itself stays below 200,000 ADU.
SATURATION = 250_000
SETTINGS = (*SMALL_SETTINGS, f"reduction.saturation={SATURATION}")
RUN = dataclasses.replace(SMALL, missing=0, dead_amplifiers=())


def flats(detector: str) -> list[list[PlannedExposure]]:
    """The pairs of a detector, faintest level first."""
    planned = [exposure for exposure in plan(RUN) if exposure.detector == detector]
    return [[exposure for exposure in planned if exposure.level == level] for level in range(RUN.levels)]


S11, S12 = flats("R22_S11"), flats("R22_S12")
TRUNCATED = S11[2][0]
OTHER_SHAPE = S11[3][1]
NAN_AMPLIFIER = S11[4]
SATURATED = S12[3][0]  # five of a hundred pixels
MASKED_FIRST, MASKED_SECOND = S12[5]  # one of a hundred in each, at other places


def saturate(path: Path, columns: slice) -> None:
    """Drive some columns of the first amplifier's imaging area into saturation."""
    with fits.open(path, mode="update") as hdus:
        begin = RUN.prescan_columns
        hdus[1].data[: RUN.shape[0], begin + columns.start : begin + columns.stop] = SATURATION + 10


def write(scenario: Scenario, exposure: PlannedExposure, directory: Path) -> Path:
    return write_exposure(scenario, exposure, directory)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bad") / "small"
    for exposure in plan(RUN):
        write(RUN, exposure, directory)
    (directory / "broken.fits").write_bytes(b"SIMPLE  =                    T but that is all" * 40)
    cut = directory / TRUNCATED.file_name
    shutil.copy(cut, directory.parent / cut.name)
    os.truncate(cut, cut.stat().st_size * 6 // 10)
    write(dataclasses.replace(RUN, shape=(128, 96)), OTHER_SHAPE, directory)
    for exposure in NAN_AMPLIFIER:
        write(dataclasses.replace(RUN, nan_amplifiers=("R22_S11/C10",)), exposure, directory)
    saturate(directory / SATURATED.file_name, slice(40, 46))
    saturate(directory / MASKED_FIRST.file_name, slice(30, 31))
    saturate(directory / MASKED_SECOND.file_name, slice(60, 61))
    return directory


@pytest.fixture(scope="module")
def out(images: Path) -> Path:
    """The run, after an event that nobody can read was put straight into its log."""
    out = images.parent / "out"
    asyncio.run(put_undecodable_event(out / "ptc.sqlite"))
    ptc_stream("run", images, "--out", out, *SETTINGS)
    return out


async def put_undecodable_event(store: Path) -> None:
    store.parent.mkdir(parents=True)
    bus = await SqliteBus.open(store, purpose="somebody else")
    partition = partition_of("PTCSim", "R22_S11", bus.partitions)
    ownership = await bus.own("somebody else", partition)
    event = Outgoing(
        topic="ptc.exposures", partition=partition, key="any", value=b"\x00\x00\x00\x00\x07 what"
    )
    await ownership.commit([event], next_offset=0, config="{}", first_offsets={})
    await bus.close()


def pair_of(store: Path, exposure: PlannedExposure) -> list[FlatPair]:
    """Every pair that this exposure of this detector is in."""
    return [
        pair
        for pair in records(store, FlatPair)
        if pair.detector == exposure.detector
        and exposure.exposure in {pair.first.exposure, pair.second.exposure}
    ]


def covariances_of(store: Path, exposure: PlannedExposure) -> PairCovariances:
    """The measurement of the only pair that this exposure is in."""
    (pair,) = pair_of(store, exposure)
    (record,) = (record for record in records(store, PairCovariances) if record.pair_id == pair.pair_id)
    return record


def test_each_fault_ends_in_rejected_with_its_reason(out: Path) -> None:
    rejected = records(out / "ptc.sqlite", Rejected)
    assert Counter((record.stage, record.reason) for record in rejected) == {
        ("ingest", "IMAGE_UNREADABLE"): 1,
        ("pairing", "DECODE_ERROR"): 1,
        ("measuring", "IMAGE_UNREADABLE"): 1,
        ("measuring", "GEOMETRY_ERROR"): 1,
    }
    by_stage = {(record.stage, record.reason): record for record in rejected}
    assert "broken.fits" in by_stage["ingest", "IMAGE_UNREADABLE"].message
    assert TRUNCATED.file_name in by_stage["measuring", "IMAGE_UNREADABLE"].message
    assert by_stage["pairing", "DECODE_ERROR"].original == b"\x00\x00\x00\x00\x07 what"
    listed = ptc_stream("rejected", out / "ptc.sqlite").stdout
    assert all(record.reason in listed for record in rejected)
    assert "ptc.exposures/" in listed


def test_everything_else_is_complete(out: Path) -> None:
    store = out / "ptc.sqlite"
    pairs = records(store, FlatPair)
    assert len(pairs) == 2 * RUN.levels
    measured = Counter(record.detector for record in records(store, PairCovariances))
    assert measured == {"R22_S11": RUN.levels - 2, "R22_S12": RUN.levels}
    assert sum(measured.values()) == len(records(store, PtcFit))
    shape = result("show", store)
    assert shape["rejected"] == 4
    assert shape["unpaired"] == 0
    truth = truth_of(RUN)
    for detector in shape["detectors"]:
        assert len(detector["amplifiers"]) == RUN.amplifiers
        for amplifier in detector["amplifiers"]:
            true = truth.detectors[detector["detector"]][amplifier["name"]]
            assert amplifier["gain"] == pytest.approx(true.gain, rel=0.05)


def test_an_amplifier_of_nan_is_flagged_and_costs_its_neighbour_nothing(out: Path) -> None:
    bad, good = covariances_of(out / "ptc.sqlite", NAN_AMPLIFIER[0]).amplifiers
    assert bad.name == "C10"
    assert bad.points
    flags = {*bad.flags, *(flag for point in bad.points for flag in point.flags)}
    assert flags & {"NO_USABLE_PIXELS", "NOT_FINITE"}
    assert not good.flags
    assert not good.points[0].flags
    (shape,) = (
        amplifier
        for detector in result("show", out / "ptc.sqlite")["detectors"]
        if detector["detector"] == "R22_S11"
        for amplifier in detector["amplifiers"]
        if amplifier["name"] == "C10"
    )
    assert sum(shape["pairs_not_used"].values()) + shape["pairs_used"] == RUN.levels - 2
    assert set(shape["pairs_not_used"]) & {"NOT_FINITE", "TOO_FEW_PIXELS"}


def test_saturation_of_one_exposure_is_flagged(out: Path) -> None:
    struck, whole = covariances_of(out / "ptc.sqlite", SATURATED).amplifiers
    assert "SATURATED" in struck.points[0].flags
    assert "SATURATED" not in whole.points[0].flags
    shape = result("show", out / "ptc.sqlite")
    assert any(
        "SATURATED" in amplifier["pairs_not_used"]
        for detector in shape["detectors"]
        for amplifier in detector["amplifiers"]
    )


def test_masks_that_differ_are_joined(out: Path) -> None:
    """A column of each exposure is saturated: the pair is measured where both are good, without bias."""
    store = out / "ptc.sqlite"
    struck = covariances_of(store, MASKED_FIRST).amplifiers[0]
    whole = covariances_of(store, S12[4][0]).amplifiers[0]
    rows = RUN.shape[0] - 2 * 4
    lost = whole.points[0].pixels_used - struck.points[0].pixels_used
    assert lost == pytest.approx(2 * rows, abs=4)
    assert "SATURATED" not in struck.points[0].flags
    # Neither mean nor variance know of 250,000 ADU.
    assert struck.points[0].mean_first == pytest.approx(struck.points[0].mean_second, rel=0.02)
    estimates = [point.gain_estimate for amplifier in (struck, whole) for point in amplifier.points]
    assert estimates[0] == pytest.approx(estimates[1], rel=0.15)
    assert np.isfinite(estimates).all()


def test_the_truncated_file_in_full_makes_its_pair_and_the_fits_use_it(
    images: Path, out: Path, tmp_path: Path
) -> None:
    again = Path(shutil.copytree(out, tmp_path / "out"))
    store = again / "ptc.sqlite"
    (rejected_pair,) = pair_of(store, TRUNCATED)
    cut = images / TRUNCATED.file_name
    kept = tmp_path / "cut.fits"
    shutil.copy(cut, kept)
    try:
        shutil.copy(images.parent / TRUNCATED.file_name, cut)
        before = {fit.detector: fit.pairs for fit in records(store, PtcFit)}
        ptc_stream("run", images, "--out", again, *SETTINGS)
    finally:
        shutil.copy(kept, cut)
    old, new = pair_of(store, TRUNCATED)
    assert old == rejected_pair
    assert new.supersedes == (old.pair_id,)
    measured = [record.pair_id for record in records(store, PairCovariances)]
    assert measured.count(new.pair_id) == 1
    assert old.pair_id not in measured
    after = {fit.detector: fit.pairs for fit in records(store, PtcFit)}
    assert after[new.detector] == before[new.detector] + 1
    assert sum(after.values()) == sum(before.values()) + 1
    assert [record.reason for record in records(store, Rejected)].count("IMAGE_UNREADABLE") == 2
