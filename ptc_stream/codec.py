r"""Avro bytes to records and back, against the files in ``schemas/``.

Written: Confluent framing (0x00, big-endian int32 schema id, Avro body), the convention of Rubin's alerts
and SAL. The ids come from ``schemas/ids.json``, a table shipped with the schemas: thousands number the
record, the rest is major * 100 + minor.

Read: Confluent framing, Avro single-object encoding (C3 01, fingerprint, body) and a one-record object
container file (``Obj\x01``), written with any version of the schema that is still in ``schemas/``.
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
    fastavro.schemaless_writer(buffer, version.schema, _CONVERTER.unstructure(record), strict=True)
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
    if version is None:
        raise DecodeError(f"not a {name}: {label} is not in schemas/ids.json of this version of ptc_stream")
    if version.name != name:
        raise DecodeError(f"not a {name}: {label} is a {version.name}")
    body = io.BytesIO(data)
    body.seek(body_start)
    datum: Any = fastavro.schemaless_reader(body, version.schema, _newest(name).schema)
    if body.tell() != len(data):
        raise DecodeError(f"not a {name}: {len(data) - body.tell()} bytes are left over after the record")
    return dict(datum)


def _container_datum(data: bytes, name: str) -> dict[str, Any]:
    reader = fastavro.reader(io.BytesIO(data), reader_schema=_newest(name).schema)
    writer: Any = reader.writer_schema
    if writer.get("name", "").rpartition(".")[2] != name:
        raise DecodeError(f"not a {name}: the container holds {writer.get('name')}")
    datums: list[Any] = list(reader)
    if len(datums) != 1:
        raise DecodeError(f"not a {name}: the container holds {len(datums)} records instead of one")
    return dict(datums[0])
