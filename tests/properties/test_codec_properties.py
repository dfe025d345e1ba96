"""Properties of the codec: whatever is in a record comes back, whatever else comes in is refused."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ptc_stream.codec import decode, encode, schema_versions
from ptc_stream.errors import DecodeError
from ptc_stream.records import GroupKey, Record, content_hash, join_key, split_key
from tests.strategies import BOUNDED

RECORD_TYPES: tuple[type[Any], ...] = typing.get_args(Record)

_SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=12),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(),
    bool: st.booleans(),
    bytes: st.binary(max_size=20),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Anything that a field of this type may hold."""
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if isinstance(hint, types.UnionType):
        return st.none() | values(typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        return st.lists(values(typing.get_args(hint)[0]), max_size=3).map(tuple)
    hints = typing.get_type_hints(hint)
    return st.builds(hint, **{field.name: values(hints[field.name]) for field in dataclasses.fields(hint)})


def any_record() -> st.SearchStrategy[Any]:
    return st.one_of([values(kind) for kind in RECORD_TYPES])


@BOUNDED
@given(record=any_record())
def test_any_record_comes_back(record: Any) -> None:
    found = decode(encode(record), type(record))
    assert repr(found) == repr(record)  # NaN is not equal to itself, but it reads the same
    assert encode(found) == encode(record)


@BOUNDED
@given(record=any_record(), other=st.sampled_from(RECORD_TYPES))
def test_a_record_is_never_taken_for_one_of_another_type(record: Any, other: type[Any]) -> None:
    if other is not type(record):
        try:
            decode(encode(record), other)
        except DecodeError as error:
            assert type(record).__name__ in str(error)  # noqa: PT017 - the other way is an assertion too
        else:
            raise AssertionError(f"{record} was read as a {other.__name__}")


@st.composite
def framed_noise(draw: st.DrawFn) -> bytes:
    """Arbitrary bytes behind a header that is right, or none."""
    version = draw(st.sampled_from(schema_versions()))
    header: bytes = draw(
        st.sampled_from(
            [
                b"",
                b"\x00",
                b"Obj\x01",
                b"\x00" + version.schema_id.to_bytes(4, "big"),
                b"\xc3\x01" + version.fingerprint,
            ]
        )
    )
    noise: bytes = draw(st.binary(max_size=80))
    return header + noise


@settings(BOUNDED, max_examples=400)
@given(data=framed_noise(), kind=st.sampled_from(RECORD_TYPES))
@example(data=b"\x00" + (7100).to_bytes(4, "big") + b"\xff" * 20, kind=RECORD_TYPES[-1])
def test_arbitrary_bytes_are_a_record_or_refused(data: bytes, kind: type[Any]) -> None:
    try:
        found = decode(data, kind)
    except DecodeError:
        return
    assert isinstance(found, kind)


@BOUNDED
@given(record=any_record(), cut=st.floats(0, 1, exclude_max=True), more=st.binary(min_size=1, max_size=3))
def test_a_record_has_one_length(record: Any, cut: float, more: bytes) -> None:
    data = encode(record)
    for spoilt in (data[: int(cut * len(data))], data + more):
        try:
            decode(spoilt, type(record))
        except DecodeError:
            continue
        raise AssertionError("bytes were taken that are no whole record")


@BOUNDED
@given(parts=st.lists(st.text(st.sampled_from("a|%7C5")) | st.text(max_size=5), min_size=1, max_size=4))
def test_keys_come_apart_as_they_were_joined(parts: list[str]) -> None:
    assert split_key(join_key(*parts)) == tuple(parts)


@BOUNDED
@given(
    one=st.lists(st.text(st.sampled_from("a|%7"), max_size=3), min_size=3, max_size=3),
    other=st.lists(st.text(st.sampled_from("a|%7"), max_size=3), min_size=3, max_size=3),
)
def test_other_parts_have_another_key_and_hash(one: list[str], other: list[str]) -> None:
    assert (str(GroupKey(*one)) == str(GroupKey(*other))) == (one == other)
    assert (content_hash(*one) == content_hash(*other)) == (one == other)
    assert content_hash("".join(one)) != content_hash(*one)
