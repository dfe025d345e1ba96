from __future__ import annotations

import io
import json
import random
import struct
import tracemalloc
import zlib
from typing import Any

import fastavro
import fastavro.schema
import pytest

from ptc_stream.codec import SchemaVersion, decode, encode, record_headers, schema_versions
from ptc_stream.errors import DecodeError
from ptc_stream.records import ExposureArrived, FlatPair, PairCovariances, Position, Record
from tests.builders import (
    amplifier_covariances,
    covariance_point,
    exposure_arrived,
    flat_pair,
    pair_covariances,
    position,
    ptc_fit,
)
from tests.unit.golden import GOLDEN, golden_file

_SYNC = b"0123456789abcdef"


def version_of(stem: str) -> SchemaVersion:
    return next(v for v in schema_versions() if f"{v.name}.{v.major}.{v.minor}" == stem)


def crc_64_avro(data: bytes) -> int:
    """The fingerprint as the Avro specification writes it down, bit by bit."""
    empty = 0xC15D213AA4D7A795
    value = empty
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (empty & -(value & 1))
    return value


def varint(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    parts = b""
    while number > 0x7F:
        parts += bytes([number & 0x7F | 0x80])
        number >>= 7
    return parts + bytes([number])


def golden_body(stem: str) -> bytes:
    """The Avro body as that version of the schema wrote it."""
    return golden_file(stem).read_bytes()[5:]


def body_of(record: Record) -> bytes:
    return encode(record)[5:]


def container(
    schema: Any, body: bytes, *, codec: bytes | None = b"null", count: int = 1, size: int | None = None
) -> bytes:
    """An object container file, written by hand from the specification."""
    meta = {b"avro.schema": json.dumps(schema).encode()} | ({} if codec is None else {b"avro.codec": codec})
    entries = b"".join(varint(len(k)) + k + varint(len(v)) + v for k, v in meta.items())
    header = b"Obj\x01" + varint(len(meta)) + entries + b"\x00" + _SYNC
    return header + varint(count) + varint(len(body) if size is None else size) + body + _SYNC


# --- the bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", GOLDEN)
def test_golden_bytes_mean_what_they_meant(stem: str) -> None:
    assert decode(golden_file(stem).read_bytes(), type(GOLDEN[stem])) == GOLDEN[stem]


@pytest.mark.parametrize("stem", GOLDEN)
def test_the_newest_version_writes_its_golden_bytes(stem: str) -> None:
    name = stem.split(".", maxsplit=1)[0]
    newest = [v for v in schema_versions() if v.name == name][-1]
    if stem == f"{newest.name}.{newest.major}.{newest.minor}":
        assert encode(GOLDEN[stem]) == golden_file(stem).read_bytes()
    else:
        assert encode(GOLDEN[stem]) != golden_file(stem).read_bytes()


def test_every_schema_version_has_a_golden_file() -> None:
    stems = {f"{v.name}.{v.major}.{v.minor}" for v in schema_versions()}
    assert stems == GOLDEN.keys()
    assert stems == {path.stem for path in golden_file("any").parent.glob("*.bin")}


def test_a_position_byte_by_byte() -> None:
    # magic, id 7100, zigzag of 17, second branch of the union, length 2, text
    assert encode(position(config="{}")) == b"\x00" + struct.pack(">i", 7100) + b"\x22" + b"\x02" + b"\x04{}"
    assert encode(position(config=None)) == b"\x00" + struct.pack(">i", 7100) + b"\x22" + b"\x00"


def test_matrices_are_written_in_the_order_of_their_indices() -> None:
    point = pair_covariances().amplifiers[0].points[0]
    datum: Any = fastavro.schemaless_reader(
        io.BytesIO(body_of(pair_covariances())), version_of("PairCovariances.1.0").schema, None
    )
    written = datum["amplifiers"][0]["points"][0]
    assert written["covariances"][0][1] == point.covariances[0][1] != point.covariances[1][0]
    assert written["pixel_count"] == [list(row) for row in point.pixel_count]


def test_the_fingerprint_is_that_of_the_specification() -> None:
    assert crc_64_avro(b'"int"') == 0x7275D51A3F395C8F  # the specification's own example
    for version in schema_versions():
        canonical = fastavro.schema.to_parsing_canonical_form(version.schema)
        assert int.from_bytes(version.fingerprint, "little") == crc_64_avro(canonical.encode())


def test_headers_name_schema_and_fingerprint() -> None:
    headers = dict(record_headers(ptc_fit()))
    fingerprint = version_of("PtcFit.1.1").fingerprint
    assert headers == {"ptc-schema": b"PtcFit@1.1", "ptc-fingerprint": fingerprint.hex().encode()}


# --- the framings that are read -------------------------------------------------------------------


@pytest.mark.parametrize("stem", GOLDEN)
def test_single_object_encoding_is_read(stem: str) -> None:
    record = GOLDEN[stem]
    canonical = fastavro.schema.to_parsing_canonical_form(version_of(stem).schema)
    little_endian = crc_64_avro(canonical.encode()).to_bytes(8, "little")
    assert decode(b"\xc3\x01" + little_endian + golden_body(stem), type(record)) == record
    with pytest.raises(DecodeError, match="fingerprint"):
        decode(b"\xc3\x01" + little_endian[::-1] + golden_body(stem), type(record))


@pytest.mark.parametrize("stem", GOLDEN)
def test_a_container_of_one_record_is_read(stem: str) -> None:
    record, schema = GOLDEN[stem], version_of(stem).schema
    assert decode(container(schema, golden_body(stem)), type(record)) == record
    assert decode(container(schema, golden_body(stem), codec=None), type(record)) == record
    by_another = io.BytesIO()
    datum = fastavro.schemaless_reader(io.BytesIO(golden_body(stem)), schema, None)
    fastavro.writer(by_another, schema, [datum])
    assert decode(by_another.getvalue(), type(record)) == record


def test_a_container_whose_schema_is_documented_otherwise_is_read() -> None:
    schema = {"doc": "their own words", "aliases": ["ptc.Offset"], **version_of("Position.1.0").schema}
    assert decode(container(schema, body_of(position())), Position) == position()


# --- what is refused, in words --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00\x00", "begins with 00 00 00"),
        (b'{"offset": 1}', "begins with 7b 22 6f 66"),
        (b"\x00" + struct.pack(">i", 7199) + b"\x22\x00", "schema id 7199 is not in schemas/ids.json"),
        (b"\x00" + struct.pack(">i", -1) + b"\x22\x00", "schema id -1 is not"),
        (b"\xc3\x01" + bytes(8) + b"\x22\x00", "fingerprint 0000000000000000 is not"),
        (b"\xc3\x01", "fingerprint  is not"),
        (encode(exposure_arrived()), "schema id 1100 is a ExposureArrived"),
        (encode(position()) + b"\x00\x00", "2 bytes are left over"),
        (encode(position())[:-1], "EOFError"),
        (container(version_of("FlatPair.1.0").schema, body_of(flat_pair())), "is a FlatPair"),
        (container({"type": "long"}, b"\x22"), "schema of the container"),
        (container(version_of("Position.1.0").schema, b"\x22\x00" * 2, count=2), "holds 2 records"),
        (container(version_of("Position.1.0").schema, b"", count=0), "holds 0 records"),
        (container(version_of("Position.1.0").schema, b"\x22\x00") + b"!", "1 bytes are left over"),
        (container(version_of("Position.1.0").schema, b"\x22\x00", size=3), "does not end where it says"),
        (container(version_of("Position.1.0").schema, b"\x22\x00")[:-1], "does not end where it says"),
        (container(version_of("Position.1.0").schema, b"\x22\x00", codec=b"snappy"), "compressed (snappy)"),
        (b"Obj\x01", "not a Position"),
        (b"Obj\x01\x00" + _SYNC, "not a Position"),
    ],
)
def test_what_is_no_such_record_is_refused_with_its_reason(data: bytes, said: str) -> None:
    with pytest.raises(DecodeError) as refused:
        decode(data, Position)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_container_of_two_blocks_is_not_one_record() -> None:
    data = container(version_of("Position.1.0").schema, b"\x22\x00")
    with pytest.raises(DecodeError, match="left over"):
        decode(data + varint(1) + varint(2) + b"\x22\x00" + _SYNC, Position)


# --- hostile bytes --------------------------------------------------------------------------------

HOSTILE_LENGTHS = [2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -1, -(2**31), -(2**62), -(2**63)]


def peak_memory_of_refusing(data: bytes, record_type: type[Any]) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(data, record_type)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", HOSTILE_LENGTHS)
def test_a_hostile_length_takes_no_memory(length: int) -> None:
    text = b"\x00" + struct.pack(">i", 1100) + varint(length) + b"x" * 20
    assert peak_memory_of_refusing(text, ExposureArrived) < 1_000_000
    # an array of strings at the end of the record: as many items as the sender claims
    items = encode(flat_pair())[:-1] + varint(length) + b"\x00" * 20
    assert peak_memory_of_refusing(items, FlatPair) < 1_000_000
    table = b"Obj\x01" + varint(length) + b"x" * 20
    assert peak_memory_of_refusing(table, FlatPair) < 1_000_000


def test_a_compressed_container_is_not_blown_up() -> None:
    config = b"\x00\x02" + varint(30_000_000) + b"a" * 30_000_000
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = container(version_of("Position.1.0").schema, raw.compress(config) + raw.flush(), codec=b"deflate")
    assert len(bomb) < 50_000
    assert peak_memory_of_refusing(bomb, Position) < 1_000_000


def test_a_schema_that_contains_itself_does_not_end_the_process() -> None:
    fields = [{"name": "offset", "type": "long"}, {"name": "next", "type": ["null", "ptc.Position"]}]
    schema = {"type": "record", "name": "Position", "namespace": "ptc", "fields": fields}
    with pytest.raises(DecodeError, match="schema of the container"):
        decode(container(schema, b"\x00\x02" * 200_000), Position)


def test_a_schema_nested_without_end_is_refused() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    meta = varint(1) + varint(11) + b"avro.schema" + varint(len(deep)) + deep + b"\x00"
    with pytest.raises(DecodeError):
        decode(b"Obj\x01" + meta + _SYNC + varint(1) + varint(0) + _SYNC, Position)


@pytest.mark.parametrize("stem", GOLDEN)
@pytest.mark.parametrize("framing", ["confluent", "container"])
def test_every_truncation_is_refused(stem: str, framing: str) -> None:
    record = GOLDEN[stem]
    whole = encode(record)
    if framing == "container":
        whole = container(version_of(stem).schema, body_of(record))
    for length in range(0, len(whole), 1 if framing == "confluent" else 5):
        with pytest.raises(DecodeError):
            decode(whole[:length], type(record))


@pytest.mark.parametrize("stem", GOLDEN)
def test_a_flipped_bit_gives_another_record_or_a_refusal(stem: str) -> None:
    record = GOLDEN[stem]
    wholes = [encode(record), container(version_of(stem).schema, body_of(record))]
    for whole in wholes:
        bits = range(8 * len(whole))
        for bit in random.Random(1).sample(bits, min(400, len(bits))):
            spoilt = bytearray(whole)
            spoilt[bit // 8] ^= 1 << bit % 8
            try:
                found = decode(bytes(spoilt), type(record))
            except DecodeError:
                continue
            assert isinstance(found, type(record))
            assert decode(encode(found), type(record)) is not None


def test_text_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(DecodeError, match="Unicode"):
        decode(b"\x00" + struct.pack(">i", 7100) + b"\x22\x02\x04\xff\xfe", Position)


def test_large_records_keep_their_size() -> None:
    """The design counts on it: 16 amplifiers of 10 x 10 lags in 18 kB."""
    point = covariance_point(
        covariances=tuple(tuple(float(i + j) for j in range(10)) for i in range(10)),
        pixel_count=tuple(tuple(1_000_000 - i - j for j in range(10)) for i in range(10)),
    )
    record = pair_covariances(amplifiers=(amplifier_covariances(points=(point,)),) * 16)
    assert 15_000 < len(encode(record)) < 22_000
    assert decode(encode(record), PairCovariances) == record
