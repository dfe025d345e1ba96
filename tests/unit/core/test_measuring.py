from __future__ import annotations

import dataclasses
import gc
import math
import tracemalloc

import numpy as np
import pytest

from ptc_stream.codec import decode, encode
from ptc_stream.core.effects import Compute
from ptc_stream.core.measuring import MeasurePair, PairMeasurer, amplifier_covariances, pair_covariances
from ptc_stream.physics.points import PointFlag, PointMeasurement
from ptc_stream.records import FlatPair, PairCovariances
from tests.builders import flat_pair


def measured(**changes: object) -> PointMeasurement:
    point = PointMeasurement(
        mean=1000.0,
        mean_first=999.0,
        mean_second=1001.0,
        variance=700.0,
        covariances=np.array([[700.0, 3.0], [2.0, 1.0]]),
        pixel_count=np.array([[400, 380], [390, 370]]),
        pixels_used=400,
        row_mean_variance=35.0,
        gaussianity=0.01,
        gain_estimate=1.43,
        flags=(PointFlag.FLUX_MISMATCH, PointFlag.NOT_GAUSSIAN),
    )
    return dataclasses.replace(point, **changes)  # type: ignore[arg-type]  # any field, in a test


# --- the core -------------------------------------------------------------------------------------


def test_a_new_pair_is_measured_and_a_duplicate_is_not() -> None:
    core = PairMeasurer()
    assert core.on_record(flat_pair()) == [Compute(MeasurePair(flat_pair()))]
    assert core.on_record(flat_pair()) == []
    assert core.on_record(flat_pair(pair_id="2")) == [Compute(MeasurePair(flat_pair(pair_id="2")))]


def test_a_cut_history_changes_nothing() -> None:
    core = PairMeasurer()
    core.on_history_cut()
    assert core.on_record(flat_pair()) == [Compute(MeasurePair(flat_pair()))]


def test_the_size_is_what_the_pairs_take_in_memory() -> None:
    encoded = [encode(flat_pair(pair_id=f"{number:032x}")) for number in range(2000)]
    core = PairMeasurer()
    gc.collect()
    tracemalloc.start()
    try:
        for data in encoded:
            core.on_record(decode(data, FlatPair))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert core.size() == pytest.approx(held, rel=0.3)


# --- what a worker measured, as a record ----------------------------------------------------------


def test_numbers_become_plain_and_keep_their_places() -> None:
    made = amplifier_covariances(
        "C00",
        [measured(), measured(mean=2000.0)],
        read_noises=[(4.0, 0.3), (5.0, 0.4)],
        overscan_levels=[100.0, 102.0],
        zero_level=True,
        flags=["NO_USABLE_PIXELS"],
    )
    assert [point.mean for point in made.points] == [1000.0, 2000.0]
    point = made.points[0]
    assert point.covariances == ((700.0, 3.0), (2.0, 1.0))
    assert point.pixel_count == ((400, 380), (390, 370))
    assert type(point.covariances[0][0]) is float
    assert type(point.pixel_count[0][0]) is int
    assert point.flags == ("FLUX_MISMATCH", "NOT_GAUSSIAN")
    assert type(point.flags[0]) is str
    for name in ("mean_first", "mean_second", "variance", "pixels_used", "row_mean_variance", "gaussianity"):
        assert getattr(point, name) == getattr(measured(), name)
    assert (made.read_noise, made.read_noise_error) == (4.5, 0.25)
    assert (made.overscan_level, made.zero_level, made.flags) == (101.0, True, ("NO_USABLE_PIXELS",))


@pytest.mark.parametrize(
    ("noises", "expected"),
    [
        ([(4.0, 0.1), (None, None)], (4.0, 0.1)),
        ([(4.0, 0.1), (math.nan, 0.1)], (4.0, 0.1)),
        ([(4.0, None), (5.0, 0.1)], (4.5, None)),
        ([(4.0, math.nan), (5.0, 0.1)], (4.5, None)),
        ([(None, None), (math.inf, None)], (None, None)),
        ([], (None, None)),
    ],
)
def test_a_read_noise_that_is_unknown_is_left_out(
    noises: list[tuple[float | None, float | None]], expected: tuple[float | None, float | None]
) -> None:
    made = amplifier_covariances("C00", [], read_noises=noises, overscan_levels=[], zero_level=False)
    assert (made.read_noise, made.read_noise_error) == expected


def test_an_overscan_level_of_one_exposure_stands_for_both() -> None:
    made = amplifier_covariances(
        "C00", [], read_noises=[], overscan_levels=[None, 7.0, math.nan], zero_level=True
    )
    assert made.overscan_level == 7.0
    without = amplifier_covariances("C00", [], read_noises=[], overscan_levels=[None], zero_level=False)
    assert (without.overscan_level, without.zero_level) == (None, False)


def test_the_record_of_a_pair_says_all_that_the_pair_says() -> None:
    pair = flat_pair(supersedes=("older",))
    amplifiers = [
        amplifier_covariances(name, [measured()], read_noises=[], overscan_levels=[], zero_level=True)
        for name in ("C10", "C00")
    ]
    made = pair_covariances(pair, amplifiers, measuring_digest="digest")
    for field in dataclasses.fields(pair):
        assert getattr(made, field.name) == getattr(pair, field.name)
    assert [amplifier.name for amplifier in made.amplifiers] == ["C10", "C00"]
    assert made.measuring_digest == "digest"
    assert made.key == pair.key
    assert decode(encode(made), PairCovariances) == made
