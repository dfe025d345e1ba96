r"""Avro bytes to records and back, against the files in ``schemas/``.

Written: Confluent framing (0x00, big-endian int32 schema id, Avro body), the convention of Rubin's alerts
and SAL. The ids come from ``schemas/ids.json``, a table shipped with the schemas: thousands number the
record, the rest is major * 100 + minor.

Read: Confluent framing, Avro single-object encoding (C3 01, fingerprint, body) and a one-record object
container file (``Obj\x01``, not compressed), written with any version of the schema that is still in
``schemas/``.
"""

from __future__ import annotations

import functools
import io
import json
import struct
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import cattrs
import fastavro
import fastavro.schema

from ptc_stream.errors import DecodeError
from ptc_stream.records import (
    Alert,
    CountMatrix,
    ExposureArrived,
    FlatPair,
    Matrix,
    PairCovariances,
    Position,
    PtcFit,
    Record,
    Rejected,
)

__all__ = ["SchemaVersion", "decode", "encode", "record_headers", "schema_directory", "schema_versions"]

RecordT = TypeVar("RecordT", ExposureArrived, FlatPair, PairCovariances, PtcFit, Alert, Rejected, Position)

_FRAME = struct.Struct(">bi")
_CONFLUENT_MAGIC = b"\x00"
_SINGLE_OBJECT_MAGIC = b"\xc3\x01"
_CONTAINER_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16
_CONTAINER_HEADER = cast(
    "dict[str, Any]",
    fastavro.parse_schema(
        {
            "type": "record",
            "name": "org.apache.avro.file.Header",
            "fields": [
                {"name": "magic", "type": {"type": "fixed", "name": "Magic", "size": len(_CONTAINER_MAGIC)}},
                {"name": "meta", "type": {"type": "map", "values": "bytes"}},
                {"name": "sync", "type": {"type": "fixed", "name": "Sync", "size": _SYNC_BYTES}},
            ],
        }
    ),
)
"""From the specification of Avro, "Object Container Files"."""


class SchemaVersion(NamedTuple):
    """One file of ``schemas/``."""

    name: str
    major: int
    minor: int
    schema_id: int
    fingerprint: bytes
    schema: dict[str, Any]

    @property
    def label(self) -> str:
        """For headers and people, ``PairCovariances@1.0``."""
        return f"{self.name}@{self.major}.{self.minor}"


def schema_directory() -> Path:
    """Where the schema files are: inside an installed package, or beside the package in a checkout."""
    installed = Path(__file__).parent / "_schemas"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "schemas"


@functools.cache
def schema_versions() -> tuple[SchemaVersion, ...]:
    """Every schema of every version, oldest first for each record."""
    directory = schema_directory()
    ids: dict[str, int] = json.loads((directory / "ids.json").read_text())
    versions = []
    for stem, schema_id in ids.items():
        name, major, minor = stem.split(".")
        raw = json.loads((directory / f"{stem}.avsc").read_text())
        canonical = fastavro.schema.to_parsing_canonical_form(raw)
        # The single-object header holds the CRC-64-AVRO as little-endian bytes; fastavro prints them so.
        fingerprint = bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
        parsed = cast("dict[str, Any]", fastavro.parse_schema(raw, named_schemas={}))
        versions.append(SchemaVersion(name, int(major), int(minor), schema_id, fingerprint, parsed))
    return tuple(sorted(versions, key=lambda v: (v.name, v.major, v.minor)))


@functools.cache
def _by_id() -> dict[int, SchemaVersion]:
    return {version.schema_id: version for version in schema_versions()}


@functools.cache
def _by_fingerprint() -> dict[bytes, SchemaVersion]:
    return {version.fingerprint: version for version in schema_versions()}


@functools.cache
def _newest(name: str) -> SchemaVersion:
    return [version for version in schema_versions() if version.name == name][-1]


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False)
    # Matrices are the bulk of a record: take their rows as they come instead of number by number.
    for matrix in (Matrix, CountMatrix):
        converter.register_structure_hook_func(partial(eq, matrix), lambda rows, _: tuple(map(tuple, rows)))
        converter.register_unstructure_hook_func(partial(eq, matrix), lambda rows: rows)
    for vector in (tuple[float, ...], tuple[int, ...], tuple[str, ...]):
        converter.register_structure_hook_func(partial(eq, vector), lambda items, _: tuple(items))
        converter.register_unstructure_hook_func(partial(eq, vector), lambda items: items)
    return converter


_CONVERTER = _make_converter()


def encode(record: Record) -> bytes:
    """Encode `record` with the newest schema of its type, in Confluent framing.

    Parameters
    ----------
    record
        Any record of `ptc_stream.records`.

    Returns
    -------
    bytes
        The same record gives the same bytes, always.
    """
    version = _newest(type(record).__name__)
    buffer = io.BytesIO()
    buffer.write(_FRAME.pack(0, version.schema_id))
    # Tuples are arrays here, never (type, value): fastavro would take a matrix in a union for that.
    fastavro.schemaless_writer(
        buffer, version.schema, _CONVERTER.unstructure(record), strict=True, disable_tuple_notation=True
    )
    return buffer.getvalue()


def record_headers(record: Record) -> tuple[tuple[str, bytes], ...]:
    """Headers that let a reader without the id table know the schema of an encoded `record`."""
    version = _newest(type(record).__name__)
    return (
        ("ptc-schema", version.label.encode()),
        ("ptc-fingerprint", version.fingerprint.hex().encode()),
    )


def decode(data: bytes, record_type: type[RecordT]) -> RecordT:
    """Decode one record.

    Parameters
    ----------
    data
        Confluent-framed, single-object or one-record container bytes.
    record_type
        What the topic carries.

    Returns
    -------
    record
        An instance of `record_type`.

    Raises
    ------
    DecodeError
        For any bytes that are not exactly one record of that type.
    """
    try:
        if data.startswith(_CONTAINER_MAGIC):
            datum = _container_datum(data, record_type.__name__)
        else:
            datum = _framed_datum(data, record_type.__name__)
        return _CONVERTER.structure(datum, record_type)
    except DecodeError:
        raise
    except Exception as error:
        # Whatever a parser trips over in hostile bytes (EOFError, IndexError, UnicodeError, MemoryError,
        # OverflowError ...), the meaning is one: these bytes are not such a record.
        raise DecodeError(f"not a {record_type.__name__}: {type(error).__name__}: {error}") from error


def _framed_datum(data: bytes, name: str) -> dict[str, Any]:
    if data.startswith(_SINGLE_OBJECT_MAGIC):
        version = _by_fingerprint().get(data[2:10])
        body_start, label = 10, f"fingerprint {data[2:10].hex()}"
    elif data.startswith(_CONFLUENT_MAGIC) and len(data) >= _FRAME.size:
        _, schema_id = _FRAME.unpack_from(data)
        version = _by_id().get(schema_id)
        body_start, label = _FRAME.size, f"schema id {schema_id}"
    else:
        start = data[:4].hex(" ") or "nothing"
        raise DecodeError(
            f"not a {name}: begins with {start}; expected Confluent framing (00), "
            "single-object encoding (c3 01) or an Avro container (4f 62 6a 01)"
        )
    body = io.BytesIO(data)
    body.seek(body_start)
    datum = _read_body(body, _known(version, name, label), name)
    _check_end(body, data, name)
    return datum


def _container_datum(data: bytes, name: str) -> dict[str, Any]:
    """Read a container by the parts of its format that one record needs.

    A reader of containers in general would believe whatever schema the sender wrote: one that contains
    itself overflows the stack of the interpreter, and 300 kB of deflated zeros become 300 MB.
    """
    file = io.BytesIO(data)
    header: Any = fastavro.schemaless_reader(file, _CONTAINER_HEADER, None)
    codec = header["meta"].get("avro.codec", b"null")
    if codec != b"null":
        raise DecodeError(f"not a {name}: the container is compressed ({codec.decode()}); send it plain")
    canonical = fastavro.schema.to_parsing_canonical_form(json.loads(header["meta"]["avro.schema"]))
    fingerprint = bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
    version = _known(
        _by_fingerprint().get(fingerprint), name, f"the schema of the container ({canonical:.80})"
    )
    count: Any = fastavro.schemaless_reader(file, "long", None)
    if count != 1:
        raise DecodeError(f"not a {name}: the container holds {count} records instead of one")
    size: Any = fastavro.schemaless_reader(file, "long", None)
    start = file.tell()
    datum = _read_body(file, version, name)
    if file.tell() - start != size or file.read(_SYNC_BYTES) != header["sync"]:
        raise DecodeError(f"not a {name}: the container does not end where it says")
    _check_end(file, data, name)
    return datum


def _known(version: SchemaVersion | None, name: str, label: str) -> SchemaVersion:
    if version is None:
        raise DecodeError(f"not a {name}: {label} is not in schemas/ids.json of this version of ptc_stream")
    if version.name != name:
        raise DecodeError(f"not a {name}: {label} is a {version.name}")
    return version


def _read_body(file: io.BytesIO, version: SchemaVersion, name: str) -> dict[str, Any]:
    datum: Any = fastavro.schemaless_reader(file, version.schema, _newest(name).schema)
    return dict(datum)


def _check_end(file: io.BytesIO, data: bytes, name: str) -> None:
    if file.tell() != len(data):
        raise DecodeError(f"not a {name}: {len(data) - file.tell()} bytes are left over after the record")
