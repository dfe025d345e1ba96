from __future__ import annotations

import dataclasses

import pytest

from ptc_stream.records import GroupKey, content_hash, join_key, split_key
from tests.builders import alert, exposure_arrived, flat_pair, pair_covariances, ptc_fit, rejected


def test_keys_name_the_group_first() -> None:
    group = "TestCam|13600|R22_S11"
    assert exposure_arrived().key == f"{group}|E0001"
    assert flat_pair(pair_id="p").key == pair_covariances(pair_id="p").key == f"{group}|p"
    assert ptc_fit(model="M").key == f"{group}|M"
    assert alert(amplifier="C00", rule="gain", model="M").key == f"{group}|C00|gain|M"
    assert rejected(source_key="k").key == "k"


def test_a_bar_in_a_name_does_not_make_two_groups_one() -> None:
    assert str(GroupKey("a|b", "c", "d")) != str(GroupKey("a", "b|c", "d"))
    assert join_key("a|b", "c%") == "a%7Cb|c%25"
    assert split_key("a%7Cb|c%25") == ("a|b", "c%")
    assert split_key(join_key("%7C")) == ("%7C",)


def test_the_group_of_a_record() -> None:
    for record in (exposure_arrived(), flat_pair(), pair_covariances(), ptc_fit(), alert()):
        assert record.group == GroupKey("TestCam", "13600", "R22_S11")
    assert exposure_arrived(run="x").group.run == "x"


def test_hashes_of_content_are_what_they_have_always_been() -> None:
    # Identities of pairs and fits in every log that exists.
    assert content_hash() == "e3b0c44298fc1c149afbf4c8996fb924"
    assert content_hash("a", "bc") == "3fafa1cf2f19a7c1129beb20cf0983f7"
    assert content_hash("ab", "c") != content_hash("a", "bc")
    assert content_hash("", "a") != content_hash("a", "") != content_hash("a")


@pytest.mark.parametrize("record", [exposure_arrived(), pair_covariances(), ptc_fit()])
def test_records_cannot_be_changed(record: object) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.run = "another"  # type: ignore[attr-defined]  # that is the point
