from __future__ import annotations

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptc_stream.config import (
    Settings,
    canonical_json,
    digest,
    load_settings,
    make_section,
    parse_value,
    plain,
)
from ptc_stream.errors import ConfigurationError
from ptc_stream.physics.models import FitModel
from tests.strategies import BOUNDED


def load(
    tmp_path: Path | None = None,
    toml: str | None = None,
    environment: dict[str, str] | None = None,
    **overrides: Any,
) -> Settings:
    file = None
    if toml is not None:
        assert tmp_path is not None
        file = tmp_path / "ptc.toml"
        file.write_text(toml)
    named = {name.replace("__", "."): (value, "--set") for name, value in overrides.items()}
    return load_settings(file=file, environment=environment or {}, overrides=named)


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigurationError) as error:
        load(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- where values come from -----------------------------------------------------------------------


def test_without_any_source_every_value_is_its_default() -> None:
    settings = load()
    assert settings == Settings()
    assert {line.origin for line in settings.lines()} == {"default"}
    assert all(line.value == line.default for line in settings.lines())


def test_each_source_goes_before_the_one_that_is_farther_away(tmp_path: Path) -> None:
    toml = "[measuring]\nmax_lag = 5\n"
    environment = {"PTC_STREAM_MEASURING__MAX_LAG": "6"}
    found = [
        load(),
        load(tmp_path, toml),
        load(tmp_path, toml, environment),
        load(tmp_path, toml, environment, measuring__max_lag=7),
    ]
    assert [settings.measuring.max_lag for settings in found] == [10, 5, 6, 7]
    origins = [{line.name: line.origin for line in settings.lines()} for settings in found]
    assert [it["measuring.max_lag"] for it in origins] == [
        "default",
        str(tmp_path / "ptc.toml"),
        "$PTC_STREAM_MEASURING__MAX_LAG",
        "--set",
    ]
    assert {it["measuring.edge"] for it in origins} == {"default"}


def test_sources_may_each_set_something_else(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "[measuring]\nmax_lag = 5\n"
        '[headers]\nexposure_time = "IMG_EXP*0.001"\nimage_types = { lamp = "flat" }\n',
        {"PTC_STREAM_PAIRING__MAX_GAP_SECONDS": "40", "HOME": "/root"},
        fitting__model="POLYNOMIAL",
    )
    assert settings.measuring.max_lag == 5
    assert settings.headers.exposure_time == "IMG_EXP*0.001"
    assert settings.headers.image_types == {"lamp": "flat"}
    assert settings.pairing.max_gap_seconds == 40.0
    assert settings.fitting.model is FitModel.POLYNOMIAL


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTC_STREAM_RUNNER__WINDOW", "3")
    assert load_settings().runner.window == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("0.5", 0.5),
        ("true", True),
        ('"8"', "8"),
        ("flat", "flat"),
        ("[1, 2]", [1, 2]),
        ("none", None),
        ("None", None),
        ("IMG_EXP*0.001", "IMG_EXP*0.001"),
        ("", ""),
    ],
)
def test_text_is_taken_as_toml_or_as_it_is(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


# --- slips of the pen -----------------------------------------------------------------------------


def test_an_unknown_name_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    assert refused(measuring__max_lags=3) == (
        "--set: there is no setting measuring.max_lags; did you mean measuring.max_lag?"
    )
    assert "did you mean fitting.max_mean?" in refused(tmp_path, "[fitting]\nmax_men = 1\n")
    said = refused(environment={"PTC_STREAM_MEASURING__MAXLAG": "3"})
    assert "$PTC_STREAM_MEASURING__MAXLAG" in said
    assert "did you mean measuring.max_lag?" in said
    assert "`ptc-stream config` lists all" in refused(zzz__qqq=1)


def test_a_variable_with_one_underline_is_not_silently_ignored() -> None:
    said = refused(environment={"PTC_STREAM_MEASURING_MAX_LAG": "3"})
    assert "$PTC_STREAM_MEASURING_MAX_LAG" in said
    assert "measuring.max_lag" in said


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("max_lag = 3\n", "max_lag stands outside a table; put it under [SECTION]"),
        ("[measuring\n", "is not TOML"),
        ("[[measuring]]\nmax_lag = 3\n", "outside a table"),
        ("[measuring.deep]\nmax_lag = 3\n", "no setting measuring.deep"),
        ("[measurings]\nmax_lag = 3\n", "did you mean measuring.max_lag?"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, toml: str, said: str) -> None:
    assert said in refused(tmp_path, toml)
    assert str(tmp_path / "ptc.toml") in refused(tmp_path, toml)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot read the configuration file"):
            load_settings(file=path, environment={})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        load_settings(file=tmp_path / "binary.toml", environment={})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("measuring.max_lag", 0),
        ("measuring.max_lag", 65),
        ("measuring.max_lag", "many"),
        ("measuring.max_lag", 2.5),
        ("measuring.max_lag", None),
        ("measuring.tiles", "perhaps"),
        ("pairing.match", "DOSE"),
        ("pairing.time_tolerance", -1.0),
        ("pairing.every_nth_pair", 0),
        ("fitting.model", "LINEAR"),
        ("fitting.weights", "none"),
        ("fitting.max_mean", math.inf),
        ("fitting.min_mean", math.nan),
        ("watching.a00_high", math.nan),
        ("watching.a00_low", -math.inf),
        ("watching.a00_low", "nan"),
        ("watching.gain_high", math.inf),
        ("runner.window", 0),
        ("runner.drain_s", math.inf),
        ("headers.exposure_time", "A*B+C"),
        ("headers.exposure_time", ""),
        ("headers.image_types", "flat"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_name_value_and_origin(name: str, value: Any) -> None:
    said = refused(**{name.replace(".", "__"): value})
    assert said.startswith(f"--set: {name}")
    assert repr(value) in said or str(value) in said


def test_none_switches_a_limit_off() -> None:
    assert load(watching__a00_high=None).watching.a00_high is None


# --- what is shown to people ----------------------------------------------------------------------


@pytest.mark.parametrize("line", list(Settings().lines()), ids=lambda line: line.name)
def test_every_parameter_has_a_meaning_and_a_unit(line: Any) -> None:
    assert len(line.meaning) > 8
    section, _, name = line.name.partition(".")
    (field,) = [it for it in dataclasses.fields(getattr(Settings(), section)) if it.name == name]
    assert "unit" in field.metadata
    if isinstance(line.default, float) and not isinstance(line.default, bool):
        assert line.unit


def test_every_section_and_parameter_has_its_line_once() -> None:
    names = [line.name for line in Settings().lines()]
    sections = [field for field in dataclasses.fields(Settings) if field.name != "origins"]
    expected = [
        f"{section.name}.{field.name}"
        for section in sections
        for field in dataclasses.fields(typing.get_type_hints(Settings)[section.name])
    ]
    assert names == expected


def test_lines_can_be_written_as_json() -> None:
    assert json.loads(json.dumps([line._asdict() for line in Settings().lines()]))


# --- settings as identity -------------------------------------------------------------------------


def test_canonical_json_is_what_it_has_always_been() -> None:
    # Stores refuse to go on when this changes.
    assert canonical_json({"b": (1, 2.5), "a": {"z": None, "y": True}, "µ": Path("/x")}) == (
        '{"a":{"y":true,"z":null},"b":[1,2.5],"\\u00b5":"/x"}'
    )
    assert digest("{}") == "44136fa355b3678a"


def test_equal_settings_are_equal_text_whatever_they_were_given_as() -> None:
    given_as = [
        load(pairing__max_gap_seconds=40, fitting__model="POLYNOMIAL"),
        load(fitting__model=FitModel.POLYNOMIAL, pairing__max_gap_seconds=40.0),
        load(
            environment={
                "PTC_STREAM_PAIRING__MAX_GAP_SECONDS": "40",
                "PTC_STREAM_FITTING__MODEL": "POLYNOMIAL",
            }
        ),
    ]
    texts = {canonical_json({"pairing": it.pairing, "fitting": it.fitting}) for it in given_as}
    assert len(texts) == 1
    assert digest(texts.pop()) != digest(
        canonical_json({"pairing": load().pairing, "fitting": load().fitting})
    )


def test_settings_come_back_from_their_json() -> None:
    settings = load(
        pairing__max_gap_seconds=40, reduction__bias=("/a", "/b"), headers__image_types={"lamp": "flat"}
    )
    for section in ("headers", "pairing", "reduction", "measuring", "fitting", "watching", "runner"):
        made = getattr(settings, section)
        assert make_section(section, json.loads(canonical_json(made))) == made


@BOUNDED
@given(
    values=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_canonical_json_depends_on_the_value_alone(values: Any) -> None:
    def reordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reordered(value[key]) for key in reversed(value)}
        return tuple(map(reordered, value)) if isinstance(value, list) else value

    text = canonical_json(values)
    assert canonical_json(reordered(values)) == text
    assert json.loads(text) == plain(values)
    assert text.isascii()


def test_a_section_without_origins_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"^settings: pairing\.match"):
        make_section("pairing", {"match": "DOSE"})
