from __future__ import annotations

import dataclasses
import gc
import math
import tracemalloc
from typing import Any

import pytest

from ptc_stream.codec import decode, encode
from ptc_stream.core.effects import Reject
from ptc_stream.core.pairing import PairingConfig, pair_exposures, pair_id
from ptc_stream.records import ExposureArrived
from tests.builders import exposure_arrived, flat_exposure
from tests.streams import Stream, again, dark

# --- runs as they come: exposure time per flat, in order of arrival -------------------------------


@pytest.mark.parametrize(
    ("times", "pairs", "waiting"),
    [
        pytest.param([1, 1, 2, 2], [(1, 2), (3, 4)], [], id="AABB"),
        pytest.param([1, 2, 1, 2], [(1, 3), (2, 4)], [], id="ABAB"),
        pytest.param([1, 1, 1, 1], [(1, 2), (3, 4)], [], id="AAAA"),
        pytest.param([1, 1, 1], [(1, 2)], [3], id="AAA"),
        pytest.param([1, 2, 2], [(2, 3)], [1], id="missing partner"),
        pytest.param([1, None, 1], [(1, 3)], [], id="A dark A"),
        pytest.param([1, 2, 3], [], [1, 2, 3], id="ABC"),
    ],
)
def test_runs_in_order(times: list[int | None], pairs: list[tuple[int, int]], waiting: list[int]) -> None:
    stream = Stream()
    for number, time in enumerate(times, 1):
        stream.take(dark(number) if time is None else flat_exposure(number, time))
    assert stream.names == [(f"E{a:04d}", f"E{b:04d}") for a, b in pairs]
    assert stream.waiting == [f"E{a:04d}" for a in waiting]


def test_a_pair_tells_all_that_measuring_and_fitting_need() -> None:
    one, other = flat_exposure(7), flat_exposure(8)
    stream = Stream()
    stream.take(one, other)
    (pair,) = stream.pairs
    assert pair.group == one.group
    assert (pair.filter, pair.lamp, pair.supersedes) == (one.filter, one.lamp, ())
    for reference, record in ((pair.first, one), (pair.second, other)):
        for field in dataclasses.fields(reference):
            assert getattr(reference, field.name) == getattr(record, field.name)


def test_a_partner_that_comes_a_week_later_still_makes_its_pair() -> None:
    stream = Stream()
    stream.take(flat_exposure(1, 5.0), *(dark(n) for n in range(2, 400)), flat_exposure(400, 5.0))
    assert stream.names == [("E0001", "E0400")]


@pytest.mark.parametrize("another", [{"filter": "r~ND2"}, {"lamp": "red 0.2 A"}])
def test_flats_of_another_light_path_never_pair(another: dict[str, Any]) -> None:
    stream = Stream()
    stream.take(flat_exposure(1), flat_exposure(2, **another))
    assert stream.names == []
    stream.take(flat_exposure(3, **another), flat_exposure(4))
    assert stream.names == [("E0002", "E0003"), ("E0001", "E0004")]


def test_first_and_second_do_not_depend_on_the_order_of_arrival() -> None:
    early, late = flat_exposure(1), flat_exposure(2)
    for arriving in ((early, late), (late, early)):
        stream = Stream()
        stream.take(*arriving)
        assert stream.names == [("E0001", "E0002")]


def test_the_exposure_id_decides_the_order_in_a_pair_when_nothing_else_does() -> None:
    stream = Stream()
    stream.take(exposure_arrived(exposure="b"), exposure_arrived(exposure="a"))
    assert stream.names == [("a", "b")]


def test_an_exposure_of_another_group_is_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match="R22_S12"):
        Stream().take(exposure_arrived(detector="R22_S12"))


# --- duplicates and revisions ---------------------------------------------------------------------


def test_a_duplicate_is_dropped_while_waiting_and_when_paired() -> None:
    stream = Stream()
    one, other = flat_exposure(1), flat_exposure(2)
    assert stream.take(one, one) == []
    assert stream.take(other, one) == []
    assert stream.take(other) == []
    assert stream.names == [("E0001", "E0002")]


def test_a_new_revision_replaces_the_waiting_flat() -> None:
    stream = Stream()
    one = flat_exposure(1)
    stream.take(one, again(one))
    assert stream.waiting == ["E0001"]
    stream.take(flat_exposure(2))
    assert stream.pairs[0].first.content_tag == "upload 2 of E0001"
    assert stream.pairs[0].supersedes == ()


def test_a_revision_of_a_waiting_flat_may_match_what_the_old_one_did_not() -> None:
    stream = Stream()
    wrong = flat_exposure(2, 99.0)
    stream.take(flat_exposure(1), wrong, again(wrong, exposure_time=10.0))
    assert stream.names == [("E0001", "E0002")]
    assert stream.waiting == []


def test_a_revision_of_a_paired_flat_makes_a_pair_with_the_same_partner_that_supersedes_all_before_it() -> (
    None
):
    stream = Stream()
    one, other = flat_exposure(1), flat_exposure(2)
    stream.take(one, other, flat_exposure(3), again(one), again(other), again(one, 3))
    ids = [pair.pair_id for pair in stream.pairs]
    assert stream.names == [("E0001", "E0002")] * 4
    assert [pair.supersedes for pair in stream.pairs] == [(), *(tuple(ids[:n]) for n in (1, 2, 3))]
    assert stream.pairs[-1].second.content_tag == "upload 2 of E0002"
    assert stream.waiting == ["E0003"]


def test_an_old_revision_that_comes_late_once_more_is_a_duplicate() -> None:
    stream = Stream()
    one = flat_exposure(1)
    stream.take(one, flat_exposure(2), again(one))
    assert stream.take(one) == []
    assert len(stream.pairs) == 2


def test_a_revision_with_another_setting_parts_its_pair_and_both_find_new_partners() -> None:
    stream = Stream()
    one, other = flat_exposure(1), flat_exposure(2)
    stream.take(one, other, flat_exposure(3), flat_exposure(4, 20.0))
    parted = stream.pairs[0].pair_id
    stream.take(again(other, exposure_time=20.0))
    assert stream.names[1:] == [("E0001", "E0003"), ("E0002", "E0004")]
    assert [pair.supersedes for pair in stream.pairs[1:]] == [(parted,), (parted,)]
    assert stream.waiting == []


def test_the_freed_partner_waits_and_its_next_pair_supersedes_the_parted_one() -> None:
    stream = Stream()
    one, other = flat_exposure(1), flat_exposure(2)
    stream.take(one, other)
    assert stream.take(again(one, exposure_time=20.0)) == []
    assert stream.waiting == ["E0002", "E0001"]
    stream.take(flat_exposure(3))
    assert stream.names[1:] == [("E0002", "E0003")]
    assert stream.pairs[1].supersedes == (stream.pairs[0].pair_id,)


@pytest.mark.parametrize("number", [0, 9])
def test_a_parted_pair_is_superseded_whether_its_flat_is_first_or_second_in_the_next(number: int) -> None:
    stream = Stream()
    one = flat_exposure(1)
    stream.take(one, flat_exposure(2), again(one, exposure_time=20.0), flat_exposure(number))
    assert stream.pairs[1].supersedes == (stream.pairs[0].pair_id,)


def test_a_freed_partner_can_itself_be_revised_while_it_waits() -> None:
    stream = Stream()
    one, other = flat_exposure(1), flat_exposure(2)
    stream.take(one, other, again(one, exposure_time=20.0), again(other))
    assert stream.waiting == ["E0002", "E0001"]
    stream.take(flat_exposure(3))
    assert stream.names == [("E0001", "E0002"), ("E0002", "E0003")]


@pytest.mark.parametrize("changes", [{"image_type": "dark"}, {"exposure_time": None}])
def test_a_revision_that_is_no_usable_flat_frees_the_partner(changes: dict[str, Any]) -> None:
    stream = Stream()
    one = flat_exposure(1)
    stream.take(one, flat_exposure(2))
    rejects = [it for it in stream.take(again(one, **changes)) if isinstance(it, Reject)]
    assert len(rejects) == ("exposure_time" in changes)
    assert stream.waiting == ["E0002"]
    stream.take(again(one, 3))
    assert stream.names == [("E0001", "E0002")] * 2
    assert stream.pairs[1].supersedes == (stream.pairs[0].pair_id,)


def test_a_waiting_flat_whose_revision_is_no_flat_waits_no_more() -> None:
    stream = Stream()
    one = flat_exposure(1)
    stream.take(one, again(one, image_type="dark"), flat_exposure(2))
    assert stream.waiting == ["E0002"]


def test_a_rejected_exposure_sent_again_in_full_makes_its_pair() -> None:
    stream = Stream()
    truncated = flat_exposure(1, None)
    stream.take(truncated, flat_exposure(2), again(truncated, exposure_time=10.0))
    assert stream.names == [("E0001", "E0002")]


def test_a_late_twin_of_the_revision_does_not_change_who_was_paired() -> None:
    stream = Stream()
    one = flat_exposure(1)
    stream.take(one, flat_exposure(5), flat_exposure(2), again(one))
    assert stream.names == [("E0001", "E0005")] * 2
    assert stream.waiting == ["E0002"]


# --- every n-th pair ------------------------------------------------------------------------------


def test_of_every_three_pairs_the_first_is_taken_and_the_others_count_as_paired() -> None:
    stream = Stream(PairingConfig(every_nth_pair=3))
    stream.take(*(flat_exposure(n) for n in range(1, 15)))
    assert stream.names == [("E0001", "E0002"), ("E0007", "E0008"), ("E0013", "E0014")]
    assert stream.waiting == []


def test_a_revision_does_not_count_as_a_pair_and_does_not_bring_in_one_that_was_left_out() -> None:
    stream = Stream(PairingConfig(every_nth_pair=2))
    flats = [flat_exposure(n) for n in range(1, 7)]
    stream.take(*flats[:4])
    assert stream.take(again(flats[3])) == []
    stream.take(again(flats[0]), *flats[4:])
    assert stream.names == [("E0001", "E0002"), ("E0001", "E0002"), ("E0005", "E0006")]


def test_a_pair_that_supersedes_is_never_left_out() -> None:
    stream = Stream(PairingConfig(every_nth_pair=100))
    one = flat_exposure(1)
    stream.take(one, flat_exposure(2), again(one, exposure_time=20.0), flat_exposure(3))
    assert stream.names == [("E0001", "E0002"), ("E0002", "E0003")]


# --- the alert ------------------------------------------------------------------------------------


def test_the_alert_is_raised_once_and_cleared_once_for_the_group() -> None:
    stream = Stream(PairingConfig(unpaired_after=3))
    stream.take(flat_exposure(1, 1.0), flat_exposure(2, 2.0), dark(3))
    assert stream.alerts == []
    stream.take(dark(4))
    (raised,) = stream.alerts
    assert (raised.rule, raised.action, raised.evidence) == ("unpaired_flat", "raise", "E0001")
    assert (raised.amplifier, raised.model, raised.group) == ("", "", dark(4).group)
    assert "E0001" in raised.message
    assert "3 later exposures" in raised.message
    stream.take(dark(5), dark(6), flat_exposure(7, 1.0))
    assert len(stream.alerts) == 1  # the second flat is overdue as well by now
    stream.take(flat_exposure(8, 2.0))
    assert [it.action for it in stream.alerts] == ["raise", "clear"]
    assert stream.alerts[1].evidence == "E0008"
    assert stream.alerts[1].key == raised.key
    assert stream.alerts[1].alert_id != raised.alert_id


def test_a_partner_that_is_itself_the_last_allowed_exposure_raises_nothing() -> None:
    stream = Stream(PairingConfig(unpaired_after=2))
    stream.take(flat_exposure(1), dark(2), flat_exposure(3))
    assert stream.alerts == []


def test_duplicates_and_revisions_are_not_later_exposures_and_do_not_start_the_wait_anew() -> None:
    stream = Stream(PairingConfig(unpaired_after=2))
    one = flat_exposure(1)
    stream.take(one, dark(2), dark(2), again(dark(2)), again(one))
    assert stream.alerts == []
    stream.take(dark(3))
    assert [it.evidence for it in stream.alerts] == ["E0001"]


def test_a_flat_that_becomes_overdue_a_second_time_raises_another_alert() -> None:
    stream = Stream(PairingConfig(unpaired_after=1))
    stream.take(flat_exposure(1), dark(2))
    other = flat_exposure(3)
    stream.take(other, again(other, image_type="dark"), dark(4))
    assert [it.action for it in stream.alerts] == ["raise", "clear", "raise"]
    assert [it.evidence for it in stream.alerts] == ["E0001", "E0003", "E0001"]
    assert len({it.alert_id for it in stream.alerts}) == 3


def test_the_alert_says_when_the_partner_may_be_in_the_lost_past() -> None:
    stream = Stream(PairingConfig(unpaired_after=1))
    stream.core.on_history_cut()
    stream.take(flat_exposure(1), dark(2))
    assert "older records of this run are gone" in stream.alerts[0].message


# --- identity, memory, all at once ----------------------------------------------------------------


def test_the_pair_id_is_a_function_of_both_contents_and_the_measuring_settings() -> None:
    one, other = flat_exposure(1), flat_exposure(2)
    identity = pair_id(one, other, measuring_digest="digest")
    assert identity == pair_id(other, one, measuring_digest="digest")
    # The run is not in it: the same exposures under another name of the run are the same pair.
    renamed = [dataclasses.replace(it, run="renamed") for it in (one, other)]
    assert identity == pair_id(*renamed, measuring_digest="digest")
    others = [
        pair_id(one, other, measuring_digest="other digest"),
        pair_id(one, again(other), measuring_digest="digest"),
        pair_id(one, flat_exposure(3), measuring_digest="digest"),
        pair_id(
            *(dataclasses.replace(it, instrument="another") for it in (one, other)), measuring_digest="digest"
        ),
        pair_id(
            *(dataclasses.replace(it, detector="another") for it in (one, other)), measuring_digest="digest"
        ),
    ]
    assert len({identity, *others}) == 6


@pytest.mark.parametrize("kind", ["waiting", "paired", "dark"])
def test_the_size_is_what_the_records_take_in_memory(kind: str) -> None:
    count = 1000
    flats = (
        dark(n) if kind == "dark" else flat_exposure(n, float(n if kind == "waiting" else n // 2))
        for n in range(count)
    )
    encoded = [encode(it) for it in flats]
    core = Stream().core
    gc.collect()
    tracemalloc.start()
    try:
        for data in encoded:
            core.on_record(decode(data, ExposureArrived))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert core.size() == pytest.approx(held, rel=0.3)


def test_files_that_are_all_there_pair_in_the_order_of_observation_group_by_group() -> None:
    run = [flat_exposure(n, t) for n, t in ((1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 7.0))]
    other = [dataclasses.replace(it, detector="R22_S12") for it in run]
    broken = flat_exposure(6, math.nan)
    result = pair_exposures([*reversed(run), broken, *other], PairingConfig(), measuring_digest="digest")
    names = [(it.detector, it.first.exposure, it.second.exposure) for it in result.pairs]
    assert sorted(names) == [
        (detector, *pair)
        for detector in ("R22_S11", "R22_S12")
        for pair in (("E0001", "E0002"), ("E0003", "E0004"))
    ]
    assert sorted((it.detector, it.exposure) for it in result.waiting) == [
        ("R22_S11", "E0005"),
        ("R22_S12", "E0005"),
    ]
    assert [(it, reject.reason) for it, reject in result.rejected] == [(broken, "INVALID_EXPOSURE_TIME")]


def test_files_without_time_and_number_pair_as_given() -> None:
    nameless = {"observation_mjd": None, "sequence_number": None}
    run = [flat_exposure(n, **nameless) for n in (4, 3, 2, 1)]
    result = pair_exposures(run, PairingConfig(), measuring_digest="digest")
    assert [(it.first.exposure, it.second.exposure) for it in result.pairs] == [
        ("E0003", "E0004"),
        ("E0001", "E0002"),
    ]


def test_superseded_pairs_are_not_listed() -> None:
    one = flat_exposure(1)
    later = again(one, observation_mjd=70_000.0)
    result = pair_exposures([one, flat_exposure(2), later], PairingConfig(), measuring_digest="digest")
    assert len(result.pairs) == 1
    assert result.pairs[0].second.content_tag == "upload 2 of E0001"
