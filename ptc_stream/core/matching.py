"""When two flats make a pair, and which of the flats that wait is the nearest.

A group can have thousands of flats waiting (one sweep of a run that takes every level twice), so
they are kept on a grid whose cells are twice as wide as the tolerances. Matches of a flat are then
in its own cell or a neighbour of it, and because flats that match never both wait, a cell holds a
few of them at most: the cost of an arrival does not depend on how many wait.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Annotated, Literal, TypeAlias

import annotated_types

from ptc_stream.core.effects import Reject
from ptc_stream.records import ExposureArrived

__all__ = ["PairingConfig", "WaitingFlats", "find_fault", "is_flat", "matches", "observation_order"]

_SECONDS_PER_DAY = 86_400.0

_Cell: TypeAlias = tuple[str, str, str | None, float, float, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairingConfig:
    """What makes two flats a pair, and which of the pairs are measured."""

    match: Literal["TIME", "FLUX"] = dataclasses.field(
        default="TIME",
        metadata={
            "unit": "",
            "meaning": "what both flats of a pair have in common: exposure time (TIME), lamp dose (FLUX)",
        },
    )
    # Headers give times in steps of 1 ms at best. Below 1e-9 a float near 1e6 s cannot hold the
    # difference; much above 1e-3 the shortest levels of a logarithmic ramp pair with each other.
    time_tolerance: Annotated[float, annotated_types.Interval(ge=1e-9, le=60.0)] = dataclasses.field(
        default=1e-4,
        metadata={"unit": "s", "meaning": "largest difference of the two exposure times (TIME)"},
    )
    # Below about 1e-3 the lamp's own scatter keeps flats apart (0.9 % was seen inside a pair); above
    # 2 % neighbouring levels of a dense ramp (337 levels in three decades) pair with each other.
    flux_tolerance: Annotated[float, annotated_types.Interval(ge=1e-9, le=0.5)] = dataclasses.field(
        default=0.01,
        metadata={
            "unit": "fraction of the larger",
            "meaning": "largest relative difference of the two lamp doses (FLUX)",
        },
    )
    max_gap_exposures: Annotated[int, annotated_types.Ge(1)] | None = dataclasses.field(
        default=None,
        metadata={
            "unit": "exposures",
            "meaning": "largest difference of the two sequence numbers; none: any (runs that sweep twice)",
        },
    )
    max_gap_seconds: Annotated[float, annotated_types.Interval(ge=1e-3, le=1e9)] | None = dataclasses.field(
        default=None,
        metadata={
            "unit": "s",
            "meaning": "largest difference of the two observation times; none: any (runs that sweep twice)",
        },
    )
    every_nth_pair: Annotated[int, annotated_types.Ge(1)] = dataclasses.field(
        default=1,
        metadata={
            "unit": "pairs",
            "meaning": "measure the first of every so many pairs of a group, in the order in which they form",
        },
    )
    unpaired_after: Annotated[int, annotated_types.Ge(1)] = dataclasses.field(
        default=50,
        metadata={
            "unit": "exposures",
            "meaning": "alert unpaired_flat when a flat has waited for this many later exposures",
        },
    )


def is_flat(record: ExposureArrived) -> bool:
    """Tell whether `record` is a flat; whoever announces exposures has normalised the image type."""
    return record.image_type.casefold() == "flat"


def observation_order(record: ExposureArrived) -> tuple[bool, float, bool, int]:
    """Sort key: observation time, then sequence number; without one of them, after those with it.

    Exposure ids are left out on purpose: the ids of some camera controllers jump.
    """
    mjd, sequence = record.observation_mjd, record.sequence_number
    known = mjd is not None and math.isfinite(mjd)
    return not known, mjd if mjd is not None and known else 0.0, sequence is None, sequence or 0


def matches(one: ExposureArrived, other: ExposureArrived, config: PairingConfig) -> bool:
    """Tell whether two usable flats of one group may be a pair; symmetric.

    Filter, lamp and gap have to agree in any case. A pair hint stands for the exposure time or the
    dose, and it binds: a flat with a hint matches only flats with the same one.
    """
    if (one.filter, one.lamp, one.pair_hint or None) != (other.filter, other.lamp, other.pair_hint or None):
        return False
    if config.max_gap_exposures is not None:
        gap = _difference(one.sequence_number, other.sequence_number)
        if gap > config.max_gap_exposures:
            return False
    if config.max_gap_seconds is not None:
        days = _difference(one.observation_mjd, other.observation_mjd)
        if days * _SECONDS_PER_DAY > config.max_gap_seconds:
            return False
    if one.pair_hint:
        return True
    if config.match == "TIME":
        return _difference(one.exposure_time, other.exposure_time) <= config.time_tolerance
    largest = max(one.lamp_dose or 0.0, other.lamp_dose or 0.0)
    return _difference(one.lamp_dose, other.lamp_dose) <= config.flux_tolerance * largest


def _difference(one: float | None, other: float | None) -> float:
    """Absolute difference; infinite when either is not known."""
    return math.inf if one is None or other is None else abs(one - other)


def find_fault(flat: ExposureArrived, config: PairingConfig) -> Reject | None:
    """Say why `flat` can never be paired under `config`, or None when it can.

    Only what pairing reads is judged: a photodiode that fails costs nothing when pairs are matched
    by exposure time. What a gap is measured by has to be there when a gap is set, since otherwise the
    flat would wait for ever without a reason that anyone could see.
    """
    if config.match == "TIME":
        name, unit, value, option = "exposure time", "s", flat.exposure_time, "match = TIME"
    else:
        name, unit, value, option = "lamp dose", "in the units of the event", flat.lamp_dose, "match = FLUX"
    code = name.upper().replace(" ", "_")
    if value is None and not flat.pair_hint:
        return Reject(f"NO_{code}", f"flat {flat.exposure} has no {name}, which {option} needs")
    if value is not None and not 0.0 <= value < math.inf:
        return Reject(f"INVALID_{code}", f"flat {flat.exposure} has {name} {value!r} ({unit})")
    if flat.observation_mjd is not None and not math.isfinite(flat.observation_mjd):
        return Reject(
            "INVALID_OBSERVATION_TIME",
            f"flat {flat.exposure} has observation time {flat.observation_mjd!r} (MJD)",
        )
    if config.max_gap_exposures is not None and flat.sequence_number is None:
        return Reject(
            "NO_SEQUENCE_NUMBER",
            f"flat {flat.exposure} has no sequence number, which max_gap_exposures needs",
        )
    if config.max_gap_seconds is not None and flat.observation_mjd is None:
        return Reject(
            "NO_OBSERVATION_TIME",
            f"flat {flat.exposure} has no observation time, which max_gap_seconds needs",
        )
    return None


def _distance(one: ExposureArrived, other: ExposureArrived) -> tuple[int, float]:
    """How near two flats are: by sequence number, else by observation time, else not known."""
    if one.sequence_number is not None and other.sequence_number is not None:
        return 0, abs(one.sequence_number - other.sequence_number)
    if one.observation_mjd is not None and other.observation_mjd is not None:
        return 1, abs(one.observation_mjd - other.observation_mjd)
    return 2, 0.0


class WaitingFlats:
    """The flats of one group that wait, found by what they match.

    Parameters
    ----------
    config
        Tolerances and gaps; they set the width of the cells.

    Notes
    -----
    Cells are twice as wide as the tolerance of their axis. Two values within the tolerance are then at
    most half a cell apart, and rounding cannot carry the second past the next cell.
    """

    __slots__ = ("_cells", "_config", "_gap_days", "_log_tolerance", "_steps")

    def __init__(self, config: PairingConfig) -> None:
        self._config = config
        self._cells: dict[_Cell, dict[str, ExposureArrived]] = {}
        # |d1 - d2| <= f max(d1, d2) is |log d1 - log d2| <= -log(1 - f)
        self._log_tolerance = -math.log1p(-config.flux_tolerance)
        self._gap_days = None if config.max_gap_seconds is None else config.max_gap_seconds / _SECONDS_PER_DAY
        near, here = (-1, 0, 1), (0,)
        self._steps = tuple(
            itertools.product(
                near,
                here if config.max_gap_exposures is None else near,
                here if config.max_gap_seconds is None else near,
            )
        )

    def add(self, flat: ExposureArrived) -> None:
        """Let `flat`, which `find_fault` has passed, wait."""
        self._cells.setdefault(self._cell(flat), {})[flat.exposure] = flat

    def remove(self, flat: ExposureArrived) -> None:
        """Let `flat` wait no longer.

        Raises
        ------
        KeyError
            It was not waiting.
        """
        cell = self._cell(flat)
        flats = self._cells[cell]
        del flats[flat.exposure]
        if not flats:
            del self._cells[cell]

    def nearest(self, flat: ExposureArrived) -> ExposureArrived | None:
        """Find the nearest match of `flat`; of two equally near, the earlier; None when nothing matches."""
        band, lamp, hint, value, sequence, day = self._cell(flat)
        candidates = [
            waiting
            for step in self._steps
            for waiting in self._cells.get(
                (band, lamp, hint, value + step[0], sequence + step[1], day + step[2]), {}
            ).values()
            if matches(flat, waiting, self._config)
        ]
        if not candidates:
            return None
        return min(candidates, key=lambda it: (_distance(flat, it), observation_order(it), it.exposure))

    def _cell(self, flat: ExposureArrived) -> _Cell:
        """Cell of `flat`; float floor division, so that huge values share the cell inf and none raises."""
        value = sequence = day = 0.0
        if not flat.pair_hint:
            if self._config.match == "TIME":
                value = (flat.exposure_time or 0.0) // (2.0 * self._config.time_tolerance)
            elif flat.lamp_dose:  # a dose of 0, which has no logarithm, shares the cell of doses near 1
                value = math.log(flat.lamp_dose) // (2.0 * self._log_tolerance)
        if self._config.max_gap_exposures is not None:
            sequence = (flat.sequence_number or 0) // (2 * self._config.max_gap_exposures)
        if self._gap_days is not None:
            day = (flat.observation_mjd or 0.0) // (2.0 * self._gap_days)
        return flat.filter, flat.lamp, flat.pair_hint or None, value, sequence, day
