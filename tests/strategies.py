"""Hypothesis strategies, named after the quantities that they draw."""

from __future__ import annotations

import dataclasses
import math

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ptc_stream.core.pairing import PairingConfig
from ptc_stream.records import ExposureArrived, GroupKey
from tests.builders import flat_exposure

__all__ = [
    "BOUNDED",
    "doubled_runs",
    "exposures",
    "gapless_pairing_configs",
    "groups",
    "ordered_runs",
    "pairing_configs",
    "runs",
]

# The same examples on every machine and in every run, a few seconds in all.
BOUNDED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.too_slow],
)

# Steps of 0.6 tolerances: neighbours match, next neighbours do not, and a cell border falls between.
_TIME_STEP = 0.6e-4
_DOSE_STEP = 0.006


def groups() -> st.SearchStrategy[GroupKey]:
    """Groups, few enough to meet again; one name has the bar that separates the parts of a key."""
    return st.builds(
        GroupKey,
        st.sampled_from(["TestCam", "Other"]),
        st.sampled_from(["13600", "a|b"]),
        st.sampled_from(["R22_S11", "R22_S12"]),
    )


@st.composite
def exposures(
    draw: st.DrawFn, *, numbers: st.SearchStrategy[int] | None = None, revisions: int = 3
) -> ExposureArrived:
    """Any exposure of one group: all image types, settings that nearly agree, missing and bad values."""
    number = draw(st.integers(0, 11) if numbers is None else numbers)
    level = draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4]))
    revision = draw(st.integers(1, revisions))
    broken = draw(st.sampled_from([*[False] * 16, None, math.nan, math.inf, -1.0]))
    numbered = draw(st.integers(0, 5)) > 0
    timed = draw(st.integers(0, 5)) > 0
    return flat_exposure(
        number,
        exposure_time=10.0 + level * _TIME_STEP if broken is False else broken,
        lamp_dose=2.0 * (1.0 + level * _DOSE_STEP) if broken is False else broken,
        image_type=draw(st.sampled_from([*["flat"] * 8, "dark", "bias"])),
        filter=draw(st.sampled_from([*["r~ND0"] * 5, "r~ND2"])),
        pair_hint=draw(st.sampled_from([*[None] * 8, "", "hint 1", "hint 2"])),
        sequence_number=number if numbered else None,
        observation_mjd=60_000.0 + number / 2880.0 if timed else None,
        content_tag=f"upload {revision} of {number}",
    )


@st.composite
def runs(draw: st.DrawFn, *, revisions: int = 3) -> list[ExposureArrived]:
    """What arrives for one group in a bad run: out of order, several revisions, duplicates anywhere.

    Exposures are few when they have revisions, so that pairs are made, parted and made again.
    """
    arrivals = exposures(numbers=st.integers(0, 6 if revisions > 1 else 15), revisions=revisions)
    distinct = draw(
        st.lists(arrivals, min_size=1, max_size=16, unique_by=lambda it: (it.exposure, it.content_tag))
    )
    repeated = draw(st.lists(st.sampled_from(distinct), max_size=4))
    arriving = list(distinct)
    for record in repeated:
        arriving.insert(draw(st.integers(arriving.index(record) + 1, len(arriving))), record)
    return arriving


@st.composite
def ordered_runs(draw: st.DrawFn) -> list[ExposureArrived]:
    """One revision of every exposure, each with time and number, in the order of observation."""
    numbers = draw(st.lists(st.integers(0, 40), unique=True, min_size=1, max_size=16))
    return [
        dataclasses.replace(
            draw(exposures(numbers=st.just(number), revisions=1)),
            sequence_number=number,
            observation_mjd=60_000.0 + number / 2880.0,
        )
        for number in sorted(numbers)
    ]


@st.composite
def doubled_runs(draw: st.DrawFn) -> list[ExposureArrived]:
    """A normal run, in order of observation: two flats of every setting, shuffled, darks in between.

    Settings are farther apart than the tolerances; the two flats of one differ by less.
    """
    settings_of_run = draw(
        st.lists(
            st.tuples(st.integers(1, 30), st.sampled_from(["r~ND0", "r~ND2"]), st.sampled_from(["", "blue"])),
            unique=True,
            min_size=1,
            max_size=7,
        )
    )
    dark_count = draw(st.integers(0, 3))
    planned = draw(st.permutations([*settings_of_run, *settings_of_run, *[None] * dark_count]))
    run = []
    for number, setting in enumerate(planned, 1):
        if setting is None:
            run.append(flat_exposure(number, image_type="dark"))
            continue
        level, band, lamp = setting
        jitter = draw(st.sampled_from([-0.4, 0.0, 0.4]))
        run.append(
            flat_exposure(
                number,
                exposure_time=0.1 * level + jitter * 1e-4,
                lamp_dose=1.1**level * (1.0 + jitter * 0.01),
                filter=band,
                lamp=lamp,
            )
        )
    return run


def gapless_pairing_configs() -> st.SearchStrategy[PairingConfig]:
    """Either way to match, with the default tolerances, no largest gap, every pair taken."""
    return st.builds(PairingConfig, match=st.sampled_from(["TIME", "FLUX"]))


def pairing_configs() -> st.SearchStrategy[PairingConfig]:
    """Either way to match, with and without gaps, any share of the pairs, impatient alerts."""
    return st.builds(
        PairingConfig,
        match=st.sampled_from(["TIME", "FLUX"]),
        max_gap_exposures=st.sampled_from([None, None, 1, 3]),
        max_gap_seconds=st.sampled_from([None, None, 40.0, 100.0]),
        every_nth_pair=st.sampled_from([1, 1, 2, 3]),
        unpaired_after=st.integers(1, 5),
    )
