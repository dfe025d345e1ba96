"""All settings in one tree: where each value came from, checked once, before anything starts.

Later sources win: built-in default, configuration file (TOML), environment
(``PTC_STREAM_MEASURING__MAX_LAG=8``), command line (``--set measuring.max_lag=8`` or an option of its own).
An unknown name is an error with the nearest known one, so that a slip of the pen is never silently ignored.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import hashlib
import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pydantic
from annotated_types import Ge, Gt

from ptc_stream.core.matching import PairingConfig
from ptc_stream.core.watching import WatchingConfig
from ptc_stream.errors import ConfigurationError
from ptc_stream.images.header_map import HeaderMap
from ptc_stream.images.reduction import ReductionConfig
from ptc_stream.physics.fitting import FitConfig
from ptc_stream.physics.linearity import LinearityConfig
from ptc_stream.physics.points import MeasuringConfig

__all__ = [
    "RunnerConfig",
    "SettingLine",
    "Settings",
    "canonical_json",
    "digest",
    "load_settings",
    "make_section",
    "parse_value",
    "plain",
]

_ENVIRONMENT_PREFIX = "PTC_STREAM_"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunnerConfig:
    """How stages are run; none of it changes a result."""

    window: Annotated[int, Ge(1)] = dataclasses.field(
        default=64, metadata={"unit": "records", "meaning": "Input records under way at once, per partition."}
    )
    memory_mb: Annotated[float, Gt(0)] = dataclasses.field(
        default=256.0,
        metadata={
            "unit": "MB",
            "meaning": "State kept in memory per stage; groups beyond it are read again.",
        },
    )
    max_rejects_in_a_row: Annotated[int, Ge(1)] = dataclasses.field(
        default=100,
        metadata={"unit": "records", "meaning": "Rejected records in a row that stop a stage."},
    )
    missing_file_wait_s: Annotated[float, Ge(0)] = dataclasses.field(
        default=120.0,
        metadata={"unit": "s", "meaning": "How long an announced file that is not there is waited for."},
    )
    drain_s: Annotated[float, Gt(0)] = dataclasses.field(
        default=60.0,
        metadata={
            "unit": "s",
            "meaning": "How long a stop waits for jobs under way; what is left is redone.",
        },
    )
    job_deadline_s: Annotated[float, Gt(0)] = dataclasses.field(
        default=600.0, metadata={"unit": "s", "meaning": "A measuring job is ended after this time."}
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every parameter of ptc_stream."""

    headers: HeaderMap = dataclasses.field(default_factory=HeaderMap)
    pairing: PairingConfig = dataclasses.field(default_factory=PairingConfig)
    reduction: ReductionConfig = dataclasses.field(default_factory=ReductionConfig)
    measuring: MeasuringConfig = dataclasses.field(default_factory=MeasuringConfig)
    fitting: FitConfig = dataclasses.field(default_factory=FitConfig)
    linearity: LinearityConfig = dataclasses.field(default_factory=LinearityConfig)
    watching: WatchingConfig = dataclasses.field(default_factory=WatchingConfig)
    runner: RunnerConfig = dataclasses.field(default_factory=RunnerConfig)
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def lines(self) -> Iterator[SettingLine]:
        """One line per parameter, in the order of the sections."""
        for section in _SECTIONS:
            values = getattr(self, section)
            for field in dataclasses.fields(values):
                name = f"{section}.{field.name}"
                yield SettingLine(
                    name=name,
                    value=plain(getattr(values, field.name)),
                    default=plain(_default(field)),
                    unit=str(field.metadata.get("unit", "")),
                    meaning=str(field.metadata.get("meaning", "")),
                    origin=self.origins.get(name, "default"),
                )


class SettingLine(NamedTuple):
    """One parameter, as ``ptc-stream config`` shows it."""

    name: str
    value: Any
    default: Any
    unit: str
    meaning: str
    origin: str


_SECTION_TYPES: dict[str, type[Any]] = {
    "headers": HeaderMap,
    "pairing": PairingConfig,
    "reduction": ReductionConfig,
    "measuring": MeasuringConfig,
    "fitting": FitConfig,
    "linearity": LinearityConfig,
    "watching": WatchingConfig,
    "runner": RunnerConfig,
}
_SECTIONS = tuple(_SECTION_TYPES)
_KNOWN = tuple(f"{s}.{f.name}" for s, t in _SECTION_TYPES.items() for f in dataclasses.fields(t))


def load_settings(
    *,
    file: Path | None = None,
    overrides: Mapping[str, tuple[Any, str]] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read, merge and check all settings.

    Parameters
    ----------
    file
        TOML file with one table per section.
    overrides
        Name (``measuring.max_lag``) to (value, origin), from the command line. Text values of ``--set`` are
        read as TOML values, and as plain text if they are none.
    environment
        Default ``os.environ``.

    Returns
    -------
    Settings

    Raises
    ------
    ConfigurationError
        In one line: which source, which name, what is wrong, what would be right.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    sources = [
        *_from_file(file),
        *_from_environment(os.environ if environment is None else environment),
        *((name, value, origin) for name, (value, origin) in (overrides or {}).items()),
    ]
    for name, value, origin in sources:
        if name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; `ptc-stream config` lists all"
            raise ConfigurationError(f"{origin}: there is no setting {name}{hint}")
        values[name] = value
        origins[name] = origin
    sections = {
        section: make_section(
            section,
            {name.split(".", 1)[1]: v for name, v in values.items() if name.startswith(f"{section}.")},
            origins,
        )
        for section in _SECTIONS
    }
    return Settings(**sections, origins=origins)


def parse_value(text: str) -> Any:
    """Read `text` as a TOML value (8, true, "flat", [1, 2]), or take it as it is; ``none`` is None."""
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def plain(value: Any) -> Any:
    """Turn settings into what JSON knows: dataclasses to tables, enumerations and paths to text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Path):
        return str(value)
    return value


def canonical_json(value: Any) -> str:
    """Write `value` so that equal settings give equal text."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(canonical: str) -> str:
    """Hash of settings in canonical JSON: 16 hexadecimal digits."""
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None


def _from_file(file: Path | None) -> Iterator[tuple[str, Any, str]]:
    if file is None:
        return
    try:
        tables = tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration file {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigurationError(f"{file}: {section} stands outside a table; put it under [SECTION]")
        for name, value in table.items():
            yield f"{section}.{name}", value, str(file)


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    for variable, text in sorted(environment.items()):
        if variable.startswith(_ENVIRONMENT_PREFIX):
            # One underline instead of two makes a name that does not exist, and that is said.
            name = variable.removeprefix(_ENVIRONMENT_PREFIX).lower().replace("__", ".", 1)
            yield name, parse_value(text), f"${variable}"


def make_section(section: str, values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> Any:
    """Check the values of one section and make its settings.

    Parameters
    ----------
    section
        ``pairing``, ``measuring``, ...
    values
        Parameter to value, plain as in JSON or TOML; what is missing takes its default.
    origins
        Full name to origin, for the message.

    Raises
    ------
    ConfigurationError
        A value that cannot be.
    """
    try:
        made = pydantic.TypeAdapter(_SECTION_TYPES[section]).validate_python(dict(values))
    except ConfigurationError as error:
        name = f"{section}.{str(error).partition(' ')[0]}"
        raise ConfigurationError(f"{(origins or {}).get(name, 'settings')}: {section}.{error}") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join([section, *(str(part) for part in first["loc"][:1])])
        origin = (origins or {}).get(name, "settings")
        raise ConfigurationError(
            f"{origin}: {name} = {first.get('input')!r}: {first['msg'].removeprefix('Value error, ')}"
        ) from error
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            # NaN is beyond no limit, so a rule with it would never speak; and JSON has neither.
            name = f"{section}.{field.name}"
            origin = (origins or {}).get(name, "settings")
            raise ConfigurationError(f"{origin}: {name} = {value}: it must be a finite number")
    return made
