from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import json
import random
import types
import typing
from collections.abc import Iterator
from typing import Any

import fastavro
import fastavro.utils
import pytest

from ptc_stream import records
from ptc_stream.codec import SchemaVersion, schema_directory, schema_versions
from ptc_stream.records import Record

RECORD_TYPES: dict[str, type[Any]] = {kind.__name__: kind for kind in typing.get_args(Record)}
NUMBERS = {"int", "long", "float", "double"}


def versions_of(name: str) -> list[SchemaVersion]:
    return [version for version in schema_versions() if version.name == name]


def raw_schemas() -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(schema_directory().glob("*.avsc"))}


def fields_within(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a schema, with its path, those of nested records included."""
    if isinstance(schema, list):
        for branch in schema:
            yield from fields_within(branch, path)
    elif isinstance(schema, dict):
        for field in schema.get("fields", []):
            yield f"{path}.{field['name']}", field
            yield from fields_within(field["type"], f"{path}.{field['name']}")
        yield from fields_within(schema.get("items"), path)


def primitives(schema: Any) -> set[str]:
    """What a type consists of, without the fields of records in it."""
    if isinstance(schema, str):
        return {schema}
    if isinstance(schema, list):
        return {name for branch in schema for name in primitives(branch)}
    return primitives(schema["items"]) if schema["type"] == "array" else set()


# --- the directory --------------------------------------------------------------------------------


def test_the_table_of_ids_names_every_file_once() -> None:
    ids = json.loads((schema_directory() / "ids.json").read_text(), object_pairs_hook=list)
    assert sorted(stem for stem, _ in ids) == sorted(raw_schemas())
    assert len({number for _, number in ids}) == len(ids)


def test_ids_tell_record_and_version() -> None:
    thousands: dict[int, str] = {}
    for version in schema_versions():
        assert version.schema_id % 1000 == version.major * 100 + version.minor
        assert thousands.setdefault(version.schema_id // 1000, version.name) == version.name


def test_every_schema_is_named_as_its_file_and_belongs_to_a_record() -> None:
    for stem, schema in raw_schemas().items():
        assert stem.split(".")[0] == schema["name"]
        assert schema["namespace"] == "ptc"
    assert {version.name for version in schema_versions()} == RECORD_TYPES.keys()


def test_fingerprints_differ() -> None:
    assert len({version.fingerprint for version in schema_versions()}) == len(schema_versions())


# --- what schemas say to people -------------------------------------------------------------------


@pytest.mark.parametrize("stem", raw_schemas())
def test_every_field_is_documented_and_numbers_have_a_unit(stem: str) -> None:
    schema = raw_schemas()[stem]
    assert schema["doc"]
    for path, field in fields_within(schema, stem):
        assert len(field.get("doc", "")) > 10, path
        if primitives(field["type"]) & NUMBERS:
            assert "[" in field["doc"], f"{path}: no unit in brackets"


# --- schemas and dataclasses ----------------------------------------------------------------------


def avro_type(hint: Any) -> Any:
    """What the schema must say for a type of Python; records inside by their name."""
    simple = {str: "string", int: "long", float: "double", bool: "boolean", bytes: "bytes"}
    if hint in simple:
        return simple[hint]
    if isinstance(hint, types.UnionType):
        first, second = typing.get_args(hint)
        assert second is type(None)
        return ["null", avro_type(first)]
    if typing.get_origin(hint) is tuple:
        item, rest = typing.get_args(hint)
        assert rest is Ellipsis
        return {"type": "array", "items": avro_type(item)}
    return f"ptc.{hint.__name__}"


def resolved(schema: Any, seen: dict[str, Any]) -> Any:
    """A type as `avro_type` writes it; the records met on the way are collected in `seen`."""
    if isinstance(schema, list):
        return [resolved(branch, seen) for branch in schema]
    if isinstance(schema, dict) and schema["type"] == "record":
        seen[schema["name"]] = schema
        for field in schema["fields"]:
            resolved(field["type"], seen)
        return schema["name"]
    if isinstance(schema, dict):
        return {"type": schema["type"], "items": resolved(schema["items"], seen)}
    return schema


@pytest.mark.parametrize("name", RECORD_TYPES)
def test_dataclasses_have_the_fields_of_the_newest_schema(name: str) -> None:
    seen: dict[str, Any] = {}
    resolved(versions_of(name)[-1].schema, seen)
    for full_name, record_schema in seen.items():
        kind = getattr(records, full_name.removeprefix("ptc."))
        hints = typing.get_type_hints(kind)
        schema = record_schema["fields"]
        assert [field["name"] for field in schema] == [field.name for field in dataclasses.fields(kind)]
        for field in schema:
            where = f"{full_name}.{field['name']}"
            assert resolved(field["type"], {}) == avro_type(hints[field["name"]]), where
        defaults = {
            f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING
        }
        written = {
            field["name"]: tuple(field["default"]) if isinstance(field["default"], list) else field["default"]
            for field in schema
            if "default" in field
        }
        assert written == defaults, full_name


# --- evolution ------------------------------------------------------------------------------------


def breaches(old: Any, new: Any) -> list[str]:
    """Why data of one version could not be read with the other, in both directions; [] if it can.

    Within a major a field may come and go only if it has a default, and nothing may change its type.
    """
    seen_old: dict[str, Any] = {}
    seen_new: dict[str, Any] = {}
    found = []
    resolved(old, seen_old)
    resolved(new, seen_new)
    for name in seen_old.keys() & seen_new.keys():
        one = {field["name"]: field for field in seen_old[name]["fields"]}
        other = {field["name"]: field for field in seen_new[name]["fields"]}
        found += [
            f"{name}.{gone} had no default"
            for gone in one.keys() - other.keys()
            if "default" not in one[gone]
        ]
        found += [
            f"{name}.{come} has no default"
            for come in other.keys() - one.keys()
            if "default" not in other[come]
        ]
        for both in one.keys() & other.keys():
            if resolved(one[both]["type"], seen_old) != resolved(other[both]["type"], seen_new):
                found.append(f"{name}.{both} has changed its type")
            if "default" in one[both] and "default" not in other[both]:
                found.append(f"{name}.{both} has lost its default")
    return sorted(found)


def reads(data_of: Any, reader: Any) -> list[Any]:
    """What `reader` makes of made-up data of another version; raises if it cannot."""
    generated = fastavro.utils.generate_many(data_of, 3)
    read = []
    for datum in generated:
        body = io.BytesIO()
        fastavro.schemaless_writer(body, data_of, datum)
        body.seek(0)
        read.append(fastavro.schemaless_reader(body, data_of, reader))
        assert body.tell() == len(body.getvalue())
    return read


def parsed(schema: Any) -> Any:
    return fastavro.parse_schema(copy.deepcopy(schema), named_schemas={})


def test_versions_of_a_major_read_each_other() -> None:
    random.seed(20260214)  # what fastavro's generator draws from
    compared = 0
    for name in RECORD_TYPES:
        for old, new in itertools.combinations_with_replacement(versions_of(name), 2):
            if old.major == new.major:
                assert breaches(old.schema, new.schema) == []
                assert len(reads(old.schema, new.schema)) == len(reads(new.schema, old.schema)) == 3
                compared += 1
    assert compared >= len(RECORD_TYPES)


def position_schema(**changes: Any) -> Any:
    """The schema of a position with a field changed, added (its whole definition) or removed (None)."""
    schema = json.loads((schema_directory() / "Position.1.0.avsc").read_text())
    fields = {field["name"]: field for field in schema["fields"]} | changes
    return parsed({**schema, "fields": [field for field in fields.values() if field is not None]})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"epoch": {"name": "epoch", "type": "long", "default": 0, "doc": "..."}}, None),
        ({"config": None}, None),
        ({"epoch": {"name": "epoch", "type": "long", "doc": "..."}}, "ptc.Position.epoch has no default"),
        ({"offset": None}, "ptc.Position.offset had no default"),
        ({"offset": {"name": "offset", "type": "double"}}, "ptc.Position.offset has changed its type"),
        (
            {"config": {"name": "config", "type": ["null", "string"]}},
            "ptc.Position.config has lost its default",
        ),
        (
            {"config": {"name": "config", "type": ["null", "string", "long"], "default": None}},
            "changed its type",
        ),
    ],
)
def test_the_rules_tell_a_compatible_change_from_another(
    changes: dict[str, Any], complaint: str | None
) -> None:
    old, new = position_schema(), position_schema(**changes)
    assert len(breaches(old, new)) == (complaint is not None)
    if complaint is None:
        assert reads(old, new)
        assert reads(new, old)
    else:
        assert complaint in breaches(old, new)[0]


def test_a_field_without_default_cannot_be_read_from_older_data() -> None:
    """The generated data themselves find it, not only the rules."""
    new = position_schema(epoch={"name": "epoch", "type": "long"})
    with pytest.raises(Exception, match="epoch"):
        reads(position_schema(), new)


def test_the_rules_look_into_nested_records() -> None:
    old = json.loads((schema_directory() / "FlatPair.1.0.avsc").read_text())
    new = copy.deepcopy(old)
    reference = next(field for field in new["fields"] if field["name"] == "first")["type"]
    reference["fields"].append({"name": "shutter", "type": "string"})
    assert breaches(parsed(old), parsed(new)) == ["ptc.ExposureReference.shutter has no default"]
