from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.simulator import Fault, PlannedExposure, Scenario, in_writing_order, plan

FAULTS: dict[str, Any] = {"missing": 2, "late": 3, "doubled": 2, "truncated": 1, "revised": 2}


def _flats(planned: list[PlannedExposure]) -> list[PlannedExposure]:
    return [exposure for exposure in planned if exposure.image_type == "FLAT"]


def test_every_level_has_two_flats_of_equal_time_per_pair_filter_and_detector() -> None:
    scenario = Scenario(
        detectors=("R22_S11", "R22_S12"),
        levels=6,
        pairs_per_level=2,
        filters=("r", "i"),
        filter_transmission=(1.0, 0.6),
    )
    planned = plan(scenario)
    counts = Counter((e.detector, e.filter, e.level, e.exposure_time) for e in _flats(planned))
    assert len(counts) == 2 * 2 * 6
    assert set(counts.values()) == {4}
    by_filter = {(e.filter, e.level): e.signal for e in _flats(planned)}
    for level in range(6):
        assert by_filter["i", level] / by_filter["r", level] == pytest.approx(0.6, rel=0.02)


def test_ids_files_times_and_numbers_follow_the_acquisition() -> None:
    planned = plan(Scenario(detectors=("R22_S11", "R22_S12"), levels=12, start="2025-03-01T11:59:58"))
    assert (
        len({(e.exposure, e.detector) for e in planned})
        == len({e.file_name for e in planned})
        == len(planned)
    )
    numbers = [e.sequence_number for e in planned]
    assert numbers == [number for number in range(1, len(planned) // 2 + 1) for _ in range(2)]
    assert all(e.written_after == e.sequence_number and e.fault is Fault.NONE for e in planned)
    times = [dt.datetime.fromisoformat(e.started_at) for e in planned]
    assert times == sorted(times)
    assert {e.day for e in planned} == {"20250228"}  # the night before noon
    assert planned[0].file_name == "MC_S_20250228_000001_R22_S11.fits"


def test_levels_are_log_spaced_and_rise_unless_shuffled() -> None:
    levels = [e.level for e in _flats(plan(Scenario(levels=9)))]
    assert levels == [level for level in range(9) for _ in range(2)]
    flats = _flats(plan(Scenario(levels=9, shuffle_levels=True)))
    shuffled = [e.level for e in flats]
    assert shuffled != levels
    assert shuffled[::2] == shuffled[1::2]  # pairs stay together
    assert sorted(e.exposure_time for e in flats) == [
        e.exposure_time for e in _flats(plan(Scenario(levels=9)))
    ]
    times = sorted({e.exposure_time for e in flats})
    assert times[0] == 0.1
    assert times[-1] == 38.0
    ratios = [high / low for low, high in pairwise(times)]
    assert ratios == pytest.approx([(190e3 / 500.0) ** (1 / 8)] * 8, rel=1e-3)


def test_biases_and_darks_stand_between_levels() -> None:
    planned = plan(Scenario(levels=10, biases_every=4, darks_every=5, dark_time=12.0))
    order = "".join(e.image_type[0] for e in planned)
    assert order == "BDFFFFFFFF" + "BFF" + "DFFFFFF" + "BFFFF"
    for exposure in planned:
        if exposure.image_type != "FLAT":
            assert exposure.signal == 0.0
            assert exposure.level is None
            assert exposure.exposure_time == (12.0 if exposure.image_type == "DARK" else 0.0)
    assert {e.image_type for e in plan(Scenario(levels=3, biases_every=0, darks_every=0))} == {"FLAT"}


def test_the_lamp_drifts_over_the_run_and_scatters_within_a_pair() -> None:
    steady = _flats(plan(Scenario(levels=10, lamp_drift=0.0, lamp_scatter=0.0)))
    assert all(e.signal == pytest.approx(e.exposure_time * 5000.0, rel=1e-12) for e in steady)
    drifting = _flats(plan(Scenario(levels=10, lamp_drift=0.1, lamp_scatter=0.0)))
    lamp = [e.signal / e.exposure_time for e in drifting]
    assert lamp == sorted(lamp)
    assert lamp[-1] / 5000.0 == pytest.approx(1.1, rel=1e-12)
    scattered = _flats(plan(Scenario(levels=10, lamp_drift=0.0, lamp_scatter=0.01)))
    changes = [
        second.signal / first.signal - 1
        for first, second in zip(scattered[::2], scattered[1::2], strict=True)
    ]
    assert 0.001 < max(abs(change) for change in changes) < 0.06


def test_both_detectors_see_the_same_lamp() -> None:
    planned = plan(Scenario(detectors=("R22_S11", "R22_S12"), levels=3))
    for first, second in zip(planned[::2], planned[1::2], strict=True):
        assert dataclasses.replace(second, detector=first.detector, file_name=first.file_name) == first


def test_faults_strike_different_flats_as_often_as_asked() -> None:
    scenario = Scenario(detectors=("R22_S11", "R22_S12"), levels=8, **FAULTS)
    planned = plan(scenario)
    counts = Counter(e.fault for e in planned)
    assert {fault: counts[fault] for fault in Fault if fault is not Fault.NONE} == {
        Fault.MISSING: 2,
        Fault.LATE: 3,
        Fault.DOUBLED: 2,
        Fault.TRUNCATED: 1,
        Fault.SUPERSEDED: 2,
    }
    faulty = [e for e in planned if e.fault is not Fault.NONE]
    assert len({(e.exposure, e.detector) for e in faulty}) == len(faulty)
    assert all(e.image_type == "FLAT" for e in faulty)
    # Without its faults it is the same run.
    clean = {
        (e.exposure, e.detector): e.signal for e in plan(Scenario(detectors=scenario.detectors, levels=8))
    }
    assert {(e.exposure, e.detector): e.signal for e in planned} == clean


def test_files_come_late_twice_again_or_never() -> None:
    planned = plan(Scenario(levels=8, **FAULTS))
    last = planned[-1].sequence_number
    written = in_writing_order(planned)
    assert [e.written_after for e in written] == sorted(e.written_after for e in written)
    assert len(written) == len(planned) - 2
    assert not any(e.fault is Fault.MISSING for e in written)
    position = {(e.file_name, e.fault, e.revision): index for index, e in enumerate(written)}
    for exposure in planned:
        if exposure.fault is Fault.LATE:
            assert exposure.written_after == last + 1
            assert position[exposure.file_name, Fault.LATE, 1] >= len(written) - 3 - 5
        if exposure.fault is Fault.DOUBLED:
            original = exposure.file_name.replace("-copy", "")
            assert original != exposure.file_name
            assert position[original, Fault.NONE, 1] < position[exposure.file_name, Fault.DOUBLED, 1]
        if exposure.fault is Fault.TRUNCATED:
            first = position[exposure.file_name, Fault.TRUNCATED, 1]
            assert first < position[exposure.file_name, Fault.NONE, 1]
        if exposure.fault is Fault.SUPERSEDED:
            first = position[exposure.file_name, Fault.SUPERSEDED, 1]
            assert first < position[exposure.file_name, Fault.NONE, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 2, "missing": 5}, "5 faults for only 4 flats"),
        ({"highest_level": 1e6}, "no random field has these covariances"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan(Scenario(**settings))
