"""Which header keywords hold which value: the user's map, and how its sources are written."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import annotated_types

from ptc_stream.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAPPED_VALUES", "HeaderMap", "ParsedSource", "number_or", "parse_map_options", "parse_source"]

_Source: TypeAlias = Annotated[str, annotated_types.MinLen(1)] | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeaderMap:
    """Which header keywords give the values of an exposure, where the usual ones do not.

    Each source is a keyword (``IMG_EXP``), a keyword times a number or other keywords (``IMG_EXP*0.001``,
    ``MONDIODE*EXPTIME``), keywords to be joined (``FILTER+ND``), or a constant (``=flat``). A mapped
    keyword goes before the usual ones; a header that lacks it falls back on them.

    Raises
    ------
    ConfigurationError
        If a source is malformed.
    """

    exposure_time: _Source = dataclasses.field(
        default=None,
        metadata={"unit": "", "meaning": "exposure time, in seconds after scaling: IMG_EXP*0.001"},
    )
    image_type: _Source = dataclasses.field(
        default=None, metadata={"unit": "", "meaning": "image type; =flat takes every exposure as a flat"}
    )
    filter: _Source = dataclasses.field(
        default=None, metadata={"unit": "", "meaning": "filter, every slot: FILTER+ND"}
    )
    run: _Source = dataclasses.field(default=None, metadata={"unit": "", "meaning": "name of the run"})
    instrument: _Source = dataclasses.field(default=None, metadata={"unit": "", "meaning": "instrument"})
    detector: _Source = dataclasses.field(
        default=None, metadata={"unit": "", "meaning": "detector: RAFT+CCD"}
    )
    exposure: _Source = dataclasses.field(
        default=None,
        metadata={"unit": "", "meaning": "identifier of the exposure; without one, the file name"},
    )
    sequence_number: _Source = dataclasses.field(
        default=None, metadata={"unit": "", "meaning": "running number of the exposure"}
    )
    observation_time: _Source = dataclasses.field(
        default=None, metadata={"unit": "", "meaning": "start of the exposure: ISO 8601, MJD or JD"}
    )
    lamp: _Source = dataclasses.field(
        default=None,
        metadata={
            "unit": "",
            "meaning": "lamp setting: LED+CURRENT; flats of unlike settings are never paired",
        },
    )
    lamp_dose: _Source = dataclasses.field(
        default=None,
        metadata={"unit": "", "meaning": "light of the exposure, any unit, from a photodiode: DIODE*EXPTIME"},
    )
    image_types: dict[str, str] = dataclasses.field(
        default_factory=dict,
        metadata={"unit": "", "meaning": "image types by what the header says: {'Light Frame' = 'flat'}"},
    )

    def __post_init__(self) -> None:
        for name in MAPPED_VALUES:
            source = getattr(self, name)
            if source is not None:
                parse_source(name, source)

    def over(self, other: HeaderMap) -> HeaderMap:
        """Return this map, completed by `other` where it says nothing."""
        merged = {
            name: mine if (mine := getattr(self, name)) is not None else getattr(other, name)
            for name in MAPPED_VALUES
        }
        return HeaderMap(**merged, image_types={**other.image_types, **self.image_types})


MAPPED_VALUES = tuple(f.name for f in dataclasses.fields(HeaderMap) if f.name != "image_types")
"""Values of an exposure that can be mapped, as in ``--map NAME=HEADER``."""


def parse_map_options(options: Iterable[str]) -> dict[str, Any]:
    """Read ``--map`` options into fields of `HeaderMap`.

    Parameters
    ----------
    options
        ``NAME=SOURCE`` (``exposure_time=IMG_EXP*0.001``, ``image_type==flat``) or
        ``image_type:VALUE=TYPE`` (``image_type:Light Frame=flat``).

    Returns
    -------
    dict
        Fields of `HeaderMap`.

    Raises
    ------
    ConfigurationError
        In one line, with the names that there are.
    """
    fields: dict[str, Any] = {}
    image_types: dict[str, str] = {}
    for option in options:
        name, equals, source = (part.strip() for part in option.partition("="))
        kind, colon, value = (part.strip() for part in name.partition(":"))
        if not equals or not source:
            raise ConfigurationError(f"--map {option}: write NAME=HEADER, for example exposure_time=ITIME")
        if colon and kind == "image_type" and value:
            image_types[value] = source
        elif name in MAPPED_VALUES:
            if name in fields:
                raise ConfigurationError(f"--map {option}: {name} is mapped twice")
            fields[name] = source
        else:
            raise ConfigurationError(f"--map {option}: {name} is none of {', '.join(MAPPED_VALUES)}")
    if image_types:
        fields["image_types"] = image_types
    HeaderMap(**fields)  # raises for malformed sources
    return fields


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedSource:
    """A source taken apart: a constant, keywords to be joined, or factors to be multiplied."""

    constant: str | None = None
    joined: tuple[str, ...] = ()
    factors: tuple[str | float, ...] = ()


def parse_source(name: str, source: str) -> ParsedSource:
    """Take a source of `HeaderMap` apart.

    Raises
    ------
    ConfigurationError
        If it is malformed.
    """
    text = source.strip()
    if text.startswith("="):
        if text == "=":
            raise ConfigurationError(f"{name} = {source!r}: a constant needs a value, for example =flat")
        return ParsedSource(constant=text[1:].strip())
    for sign in "+*":
        parts = [part.strip() for part in text.split(sign)]
        if not all(parts) or ("*" in text and "+" in text):
            raise ConfigurationError(f"{name} = {source!r}: write a keyword, KEY*0.001, KEY+KEY or =constant")
        if sign == "+" and len(parts) > 1:
            return ParsedSource(joined=tuple(parts))
    return ParsedSource(factors=tuple(number_or(part) for part in text.split("*")))


def number_or(part: str) -> str | float:
    """Return `part` as a number if it is one, else stripped."""
    try:
        return float(part)
    except ValueError:
        return part.strip()
