"""What happens in a simulated run: its exposures in their order, and the faults of their files."""

from __future__ import annotations

import dataclasses
import datetime as dt
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from ptc_stream.errors import ConfigurationError
from ptc_stream.simulator.camera import draw_amplifiers
from ptc_stream.simulator.fields import power_spectrum, random_stream

if TYPE_CHECKING:
    from ptc_stream.simulator.scenario import Scenario

__all__ = ["Fault", "PlannedExposure", "in_writing_order", "plan"]

ImageType: TypeAlias = Literal["BIAS", "DARK", "FLAT"]

_READOUT_TIME = 3.0  # [s]
_REPEATED_AFTER = 3  # exposures until a file comes again


@unique
class Fault(StrEnum):
    """What is wrong with one file of a run."""

    NONE = "none"
    MISSING = "missing"  # it never comes
    LATE = "late"  # it comes after the end of the run
    DOUBLED = "doubled"  # a second file of the same content
    TRUNCATED = "truncated"  # cut short; the whole one replaces it later
    SUPERSEDED = "superseded"  # whole, but another content replaces it later


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedExposure:
    """One file of a run: one exposure of one detector.

    Attributes
    ----------
    exposure
        OBSID.
    image_type
        BIAS, DARK or FLAT.
    exposure_time
        [s]
    day
        Night of the observation, YYYYMMDD.
    sequence_number
        Within the run, from 1.
    started_at
        ISO 8601, UTC, to the millisecond.
    level
        Number of the flux level from the faintest, None unless a flat.
    signal
        Charge that the lamp makes at the centre of the detector [e-].
    fault
        What is wrong with this file.
    revision
        Of its content: 2 in a file that replaces a superseded one.
    written_after
        Number of exposures that were taken when the file appears: its own sequence number, or a later one;
        one more than there are, after the end of the run.
    """

    exposure: str
    detector: str
    image_type: ImageType
    exposure_time: float
    day: str
    sequence_number: int
    started_at: str
    file_name: str
    filter: str
    level: int | None
    signal: float
    fault: Fault = Fault.NONE
    revision: int = 1
    written_after: int


class _Step(NamedTuple):
    """One exposure that is to be taken."""

    image_type: ImageType
    exposure_time: float
    level: int | None = None
    wheel: int = 0


def plan(scenario: Scenario) -> list[PlannedExposure]:
    """Plan every file of a run.

    Parameters
    ----------
    scenario
        The run.

    Returns
    -------
    list of PlannedExposure
        In the order of acquisition, detector by detector; further files of an exposure (doubled, in full,
        revised) follow their first one. `in_writing_order` gives the order of their appearance.

    Raises
    ------
    ConfigurationError
        More faults than flats, or a signal so high that no random field has Eq. 20's covariances.
    """
    planned = [
        dataclasses.replace(exposure, detector=detector, file_name=f"{exposure.exposure}_{detector}.fits")
        for exposure in _acquisition(scenario)
        for detector in scenario.detectors
    ]
    brightest = max(exposure.signal for exposure in planned) * (1.0 + scenario.gradient)
    for detector in scenario.detectors:
        for amplifier in draw_amplifiers(scenario, detector).values():
            # The spectrum has few harmonics, so a small torus shows where it would be negative.
            covariances = amplifier.eq20.covariances(brightest / amplifier.gain)
            power_spectrum(covariances, (4 * len(covariances),) * 2)
    return _with_faults(scenario, planned)


def _acquisition(scenario: Scenario) -> list[PlannedExposure]:
    """Plan the exposures of the run, with no detector yet."""
    generator = random_stream(scenario.seed, "acquisition")
    levels = list(range(scenario.levels))
    if scenario.shuffle_levels:
        generator.shuffle(levels)
    steps: list[_Step] = []
    for number, level in enumerate(levels):
        if scenario.biases_every and number % scenario.biases_every == 0:
            steps.append(_Step("BIAS", 0.0))
        if scenario.darks_every and number % scenario.darks_every == 0:
            steps.append(_Step("DARK", scenario.dark_time))
        for wheel in range(len(scenario.filters)):
            flat = _Step("FLAT", scenario.level_times[level], level, wheel)
            steps += [flat] * 2 * scenario.pairs_per_level
    now = dt.datetime.fromisoformat(scenario.start)
    day = f"{now - dt.timedelta(hours=12):%Y%m%d}"  # LSST's night ends at noon UTC
    exposures = []
    for number, step in enumerate(steps, start=1):
        lamp = 1.0 + scenario.lamp_drift * (number - 1) / max(len(steps) - 1, 1)
        lamp += scenario.lamp_scatter * generator.standard_normal()
        rate = scenario.lamp_rate * scenario.filter_transmission[step.wheel] * lamp
        exposures.append(
            PlannedExposure(
                exposure=f"MC_S_{day}_{number:06d}",
                detector="",
                image_type=step.image_type,
                exposure_time=step.exposure_time,
                day=day,
                sequence_number=number,
                started_at=now.isoformat(timespec="milliseconds"),
                file_name="",
                filter=scenario.filters[step.wheel],
                level=step.level,
                signal=0.0 if step.level is None else rate * step.exposure_time,
                written_after=number,
            )
        )
        now += dt.timedelta(seconds=step.exposure_time + _READOUT_TIME)
    return exposures


def _with_faults(scenario: Scenario, planned: list[PlannedExposure]) -> list[PlannedExposure]:
    """Strike flats with the scenario's faults, no flat twice."""
    counts = {
        Fault.MISSING: scenario.missing,
        Fault.LATE: scenario.late,
        Fault.DOUBLED: scenario.doubled,
        Fault.TRUNCATED: scenario.truncated,
        Fault.SUPERSEDED: scenario.revised,
    }
    flats = [index for index, exposure in enumerate(planned) if exposure.image_type == "FLAT"]
    faults = [fault for fault, count in counts.items() for _ in range(count)]
    if len(faults) > len(flats):
        raise ConfigurationError(f"{len(faults)} faults for only {len(flats)} flats")
    struck = random_stream(scenario.seed, "faults").permutation(flats)[: len(faults)]
    by_index = dict(zip(struck.tolist(), faults, strict=True))
    last = planned[-1].sequence_number
    result = []
    for index, exposure in enumerate(planned):
        fault = by_index.get(index, Fault.NONE)
        again = min(exposure.sequence_number + _REPEATED_AFTER, last + 1)
        if fault is Fault.LATE:
            result.append(dataclasses.replace(exposure, fault=fault, written_after=last + 1))
        elif fault is Fault.DOUBLED:
            copy = exposure.file_name.replace(".fits", "-copy.fits")
            result += [
                exposure,
                dataclasses.replace(exposure, fault=fault, file_name=copy, written_after=again),
            ]
        elif fault is Fault.TRUNCATED:
            result += [
                dataclasses.replace(exposure, fault=fault),
                dataclasses.replace(exposure, written_after=again),
            ]
        elif fault is Fault.SUPERSEDED:
            result += [
                dataclasses.replace(exposure, fault=fault),
                dataclasses.replace(exposure, revision=2, written_after=again),
            ]
        else:
            result.append(dataclasses.replace(exposure, fault=fault))
    return result


def in_writing_order(planned: list[PlannedExposure]) -> list[PlannedExposure]:
    """Order the files of a plan as they appear; those that never come are left out."""
    written = [exposure for exposure in planned if exposure.fault is not Fault.MISSING]
    return sorted(written, key=lambda exposure: exposure.written_after)
