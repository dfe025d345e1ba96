from __future__ import annotations

import math
from typing import Any

import pytest

from ptc_stream.core import matching
from ptc_stream.core.effects import Reject
from ptc_stream.core.matching import PairingConfig, WaitingFlats, matches, observation_order
from tests.builders import exposure_arrived, flat_exposure
from tests.streams import Stream

TIME = PairingConfig()
FLUX = PairingConfig(match="FLUX")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"observation_mjd": 1.0, "sequence_number": 9}, {"observation_mjd": 2.0, "sequence_number": 3}),
        ({"observation_mjd": 1.0, "sequence_number": 3}, {"observation_mjd": 1.0, "sequence_number": 9}),
        ({"observation_mjd": None, "sequence_number": 3}, {"observation_mjd": None, "sequence_number": 9}),
        ({"observation_mjd": 1.0, "sequence_number": None}, {"observation_mjd": None, "sequence_number": 3}),
        ({"observation_mjd": 1.0, "sequence_number": 3}, {"observation_mjd": 1.0, "sequence_number": None}),
        ({"observation_mjd": 1.0, "sequence_number": 3}, {"observation_mjd": math.nan, "sequence_number": 2}),
    ],
)
def test_observation_time_decides_then_the_sequence_number(
    earlier: dict[str, Any], later: dict[str, Any]
) -> None:
    assert observation_order(exposure_arrived(**earlier)) < observation_order(exposure_arrived(**later))


# --- tolerances -----------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [0.0, 1e-3, 0.9999, 1.0, 10.0002, 3600.0, 1e7])
@pytest.mark.parametrize("part", [-0.99, -0.5, 0.0, 0.3, 0.99])
def test_times_within_the_tolerance_pair_on_either_side_of_a_cell_border(base: float, part: float) -> None:
    other = base + part * TIME.time_tolerance
    if other >= 0.0:
        stream = Stream()
        stream.take(flat_exposure(1, base), flat_exposure(2, other))
        assert len(stream.pairs) == 1


@pytest.mark.parametrize("apart", [1.01e-4, 2e-4, 1.0])
def test_times_beyond_the_tolerance_do_not_pair(apart: float) -> None:
    stream = Stream()
    stream.take(flat_exposure(1, 10.0), flat_exposure(2, 10.0 + apart))
    assert stream.waiting == ["E0001", "E0002"]


@pytest.mark.parametrize("base", [1e-12, 0.3, 1.0, 7e9])
def test_doses_match_by_their_ratio_and_times_then_do_not_count(base: float) -> None:
    stream = Stream(FLUX)
    stream.take(
        flat_exposure(1, None, lamp_dose=base),
        flat_exposure(2, 99.0, lamp_dose=base * 1.012),
        flat_exposure(3, 1.0, lamp_dose=base * 0.9905),
    )
    assert stream.names == [("E0001", "E0003")]
    assert stream.waiting == ["E0002"]


def test_the_flux_tolerance_is_a_fraction_of_the_larger_dose_whichever_comes_first() -> None:
    one, other = flat_exposure(1, lamp_dose=1.0), flat_exposure(2, lamp_dose=1.01005)
    assert matches(one, other, FLUX)
    assert matches(other, one, FLUX)


def test_a_flat_without_light_matches_only_its_like() -> None:
    stream = Stream(FLUX)
    stream.take(*(flat_exposure(n, lamp_dose=dose) for n, dose in enumerate([0.0, 5e-324, 1.0, 0.0], 1)))
    assert stream.names == [("E0001", "E0004")]


@pytest.mark.parametrize("config", [TIME, FLUX, PairingConfig(max_gap_exposures=1, max_gap_seconds=1.0)])
def test_the_largest_numbers_that_there_are_do_not_stop_the_core(config: PairingConfig) -> None:
    largest = {"lamp_dose": 1.7e308, "observation_mjd": -1.7e308, "sequence_number": 2**63 - 1}
    stream = Stream(config)
    stream.take(flat_exposure(1, 1.7e308, **largest), flat_exposure(2, 1.7e308, **largest), flat_exposure(3))
    assert len(stream.pairs) == 1


def test_of_several_matches_the_nearest_is_taken_and_of_two_equally_near_the_earlier() -> None:
    # 10.00000 and 10.00016 do not match each other, so both wait; 10.00008 matches both.
    def middle(number: int) -> list[tuple[str, str]]:
        stream = Stream()
        stream.take(flat_exposure(9, 10.00016), flat_exposure(3, 10.0), flat_exposure(number, 10.00008))
        return stream.names

    assert middle(4) == [("E0003", "E0004")]
    assert middle(8) == [("E0008", "E0009")]
    assert middle(6) == [("E0003", "E0006")]


def test_the_observation_time_says_what_is_nearest_when_sequence_numbers_are_missing() -> None:
    stream = Stream()
    stream.take(
        flat_exposure(3, 10.0, sequence_number=None),
        flat_exposure(9, 10.00016, sequence_number=None),
        flat_exposure(7, 10.00008),
    )
    assert stream.names == [("E0007", "E0009")]


def test_of_two_equally_near_the_earlier_is_taken_whatever_their_ids_are() -> None:
    stream = Stream()
    stream.take(flat_exposure(3, 10.0, exposure="Z"), flat_exposure(9, 10.00016, exposure="A"))
    stream.take(flat_exposure(6, 10.00008))
    assert stream.names == [("Z", "E0006")]


def test_a_known_sequence_number_counts_before_any_observation_time() -> None:
    stream = Stream()
    stream.take(
        flat_exposure(90, 10.0, observation_mjd=None),
        flat_exposure(7, 10.00016, sequence_number=None),
        flat_exposure(8, 10.00008),
    )
    assert stream.names == [("E0008", "E0090")]


# --- hints and gaps -------------------------------------------------------------------------------


def test_a_hint_stands_for_the_setting_and_binds() -> None:
    stream = Stream()
    stream.take(
        flat_exposure(1, 10.0, pair_hint="p1"),
        flat_exposure(2, 10.0),
        flat_exposure(3, None, pair_hint="p2"),
        flat_exposure(4, 12.0, pair_hint="p1"),
        flat_exposure(5, 10.0, pair_hint=""),
    )
    assert stream.names == [("E0001", "E0004"), ("E0002", "E0005")]
    assert stream.waiting == ["E0003"]


def test_a_hint_does_not_join_two_light_paths() -> None:
    stream = Stream()
    stream.take(flat_exposure(1, pair_hint="p"), flat_exposure(2, pair_hint="p", filter="g~ND0"))
    assert stream.waiting == ["E0001", "E0002"]


def test_the_largest_gap_in_exposures_is_inclusive() -> None:
    stream = Stream(PairingConfig(max_gap_exposures=2))
    stream.take(flat_exposure(1), flat_exposure(4), flat_exposure(3))
    assert stream.names == [("E0003", "E0004")]
    stream.take(flat_exposure(0))
    assert stream.names[1:] == [("E0000", "E0001")]


def test_the_largest_gap_in_seconds_separates_two_sweeps() -> None:
    stream = Stream(PairingConfig(max_gap_seconds=61.0))
    stream.take(*(flat_exposure(n) for n in (1, 4, 7, 10)))  # 30 s from one number to the next
    assert stream.names == []
    stream.take(flat_exposure(8))
    assert stream.names == [("E0007", "E0008")]


def test_the_cost_of_an_arrival_does_not_depend_on_how_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def count(*args: Any) -> bool:
        nonlocal compared
        compared += 1
        return matches(*args)

    monkeypatch.setattr(matching, "matches", count)
    # The same time again and again, kept apart by the gap alone: the worst that a setting can do.
    stream = Stream(PairingConfig(max_gap_exposures=2))
    stream.take(*(flat_exposure(3 * n) for n in range(2000)))
    assert len(stream.waiting) == 2000
    assert compared <= 4 * 2000


def test_cells_that_nobody_waits_in_are_given_up() -> None:
    index = WaitingFlats(TIME)
    for number in range(3):
        index.add(flat_exposure(number, float(number)))
        index.remove(flat_exposure(number, float(number)))
    assert index._cells == {}


def test_a_flat_that_does_not_wait_cannot_be_taken_away() -> None:
    index = WaitingFlats(TIME)
    index.add(flat_exposure(1))
    index.remove(flat_exposure(1))
    with pytest.raises(KeyError):
        index.remove(flat_exposure(1))


# --- what cannot be used --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "spoilt", "reason"),
    [
        (TIME, {"exposure_time": None}, "NO_EXPOSURE_TIME"),
        (TIME, {"exposure_time": math.nan}, "INVALID_EXPOSURE_TIME"),
        (TIME, {"exposure_time": -1.0}, "INVALID_EXPOSURE_TIME"),
        (TIME, {"exposure_time": math.inf}, "INVALID_EXPOSURE_TIME"),
        (TIME, {"exposure_time": math.nan, "pair_hint": "p"}, "INVALID_EXPOSURE_TIME"),
        (TIME, {"exposure_time": None, "pair_hint": ""}, "NO_EXPOSURE_TIME"),
        (FLUX, {"lamp_dose": None}, "NO_LAMP_DOSE"),
        (FLUX, {"lamp_dose": math.nan}, "INVALID_LAMP_DOSE"),
        (FLUX, {"lamp_dose": -1e-9}, "INVALID_LAMP_DOSE"),
        (FLUX, {"lamp_dose": math.inf}, "INVALID_LAMP_DOSE"),
        (TIME, {"observation_mjd": math.nan}, "INVALID_OBSERVATION_TIME"),
        (TIME, {"observation_mjd": -math.inf}, "INVALID_OBSERVATION_TIME"),
        (PairingConfig(max_gap_exposures=5), {"sequence_number": None}, "NO_SEQUENCE_NUMBER"),
        (PairingConfig(max_gap_seconds=5.0), {"observation_mjd": None}, "NO_OBSERVATION_TIME"),
    ],
)
def test_a_flat_that_can_never_pair_is_rejected_with_its_reason_and_its_name(
    config: PairingConfig, spoilt: dict[str, Any], reason: str
) -> None:
    stream = Stream(config)
    (reject,) = stream.take(exposure_arrived(**spoilt))
    assert isinstance(reject, Reject)
    assert reject.reason == reason
    assert "E0001" in reject.message
    assert stream.take(exposure_arrived(**spoilt)) == []
    assert stream.waiting == []


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        (TIME, {"lamp_dose": math.nan, "observation_mjd": None, "sequence_number": None}),
        (FLUX, {"exposure_time": None, "observation_mjd": None, "sequence_number": None}),
    ],
)
def test_what_pairing_does_not_read_may_be_missing(config: PairingConfig, missing: dict[str, Any]) -> None:
    stream = Stream(config)
    stream.take(flat_exposure(1, **missing), flat_exposure(2, **missing))
    assert stream.names == [("E0001", "E0002")]


def test_other_image_types_are_let_pass_whatever_their_values() -> None:
    stream = Stream()
    assert stream.take(flat_exposure(1, math.nan, image_type="bias")) == []
    assert stream.take(flat_exposure(2, image_type="FLAT"), flat_exposure(3)) != []
