from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptc_stream.export.lsst_layout import COLUMNS, exposure_numbers, lsst_detector_number
from tests.unit.export.lsst_reader import LAYOUT


def test_columns_are_those_of_the_published_layout_in_its_order() -> None:
    elements = {"": "1", "P": "any", "B": "any"}
    written = [f"{spec.name} {spec.kind} {elements.get(spec.shape, spec.shape)}" for spec in COLUMNS]
    assert tuple(written) == LAYOUT


def test_meanings_fit_into_a_card() -> None:
    assert all(0 < len(spec.meaning) <= 68 for spec in COLUMNS)


def test_lsst_observation_ids_become_day_and_sequence_number() -> None:
    identities, numbers = exposure_numbers(["MC_C_20240612_000123", "MC_O_20251231_099999"])
    assert identities == "LSST"
    assert numbers.tolist() == [2024061200123, 2025123199999]


@pytest.mark.parametrize(
    ("names", "identities"),
    [
        (["12", "13"], "INTEGER"),
        (["MC_C_20240612_000123", "MC_O_20240612_000123"], "HASH"),  # one number would mean both
        (["MC_C_20240612_123456"], "HASH"),  # the sequence number runs into the day
        (["MC_S_20240612_000123"], "HASH"),  # a simulator's days are numbered otherwise
        (["MC_C_20240612_000123", "E7"], "HASH"),
        (["7", "007"], "HASH"),
        (["9" * 19], "HASH"),
        (["é", "x y"], "HASH"),
    ],
)
def test_one_way_for_all_exposures(names: list[str], identities: str) -> None:
    way, numbers = exposure_numbers(names)
    assert way == identities
    assert len(set(numbers.tolist())) == len(names)


def test_no_exposures_have_no_numbers() -> None:
    assert exposure_numbers([])[1].shape == (0,)


@given(st.lists(st.text(min_size=1, max_size=30), max_size=20))
def test_numbers_tell_names_apart_and_repeat(names: list[str]) -> None:
    numbers = exposure_numbers(names)[1].tolist()
    assert all(number >= 0 for number in numbers)
    assert len(set(zip(names, numbers, strict=True))) == len(set(names)) == len(set(numbers))
    assert exposure_numbers(names)[1].tolist() == numbers


@pytest.mark.parametrize(
    ("detector", "number"),
    [
        ("R01_S00", 0),
        ("R10_S00", 27),
        ("R22_S11", 94),
        ("R43_S22", 188),
        ("R00_SG0", 189),
        ("R44_SW1", 204),
        ("R22_S33", None),
        ("R99_S11", None),
        ("R00_S11", None),
        ("ccd3", None),
    ],
)
def test_detectors_of_lsstcam_have_the_cameras_numbers(detector: str, number: int | None) -> None:
    assert lsst_detector_number("LSSTCam", detector) == number


def test_only_lsstcam_has_them() -> None:
    assert lsst_detector_number("LATISS", "R22_S11") is None
