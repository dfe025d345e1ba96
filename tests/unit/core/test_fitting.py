from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptc_stream.codec import decode, encode
from ptc_stream.core.effects import Compute, Effect, Reject
from ptc_stream.core.fit_job import FitJob, PairBlock, fit_pairs
from ptc_stream.core.fitting import PtcAggregator
from ptc_stream.physics.fitting import FitConfig
from ptc_stream.physics.models import FitModel
from ptc_stream.ranges import unpack
from ptc_stream.records import CovariancePoint, PairCovariances, PtcFit
from tests.builders import amplifier_covariances, covariance_point, pair_covariances
from tests.curves import GAIN, READ_NOISE, eq16
from tests.strategies import BOUNDED

CONFIG = FitConfig()
GROUP = pair_covariances().group


def point(mean: float, number: int = 0, **changes: Any) -> CovariancePoint:
    """A point near the curve of Eq. 16: off it by some of its error, always the same for a number."""
    scatter = np.random.default_rng(number).standard_normal() * math.sqrt(2.0 / 130_000) if number else 0.0
    variance = float(eq16(np.array([mean]))[0]) * (1.0 + scatter)
    return covariance_point(**{"mean": mean, "variance": variance} | changes)


def pair(
    number: int, mean: float | None = None, *, names: Sequence[str] = ("C00", "C01"), **changes: Any
) -> PairCovariances:
    """The pair with this number: its id rises with it, its signal too unless given."""
    level = 2000.0 * number if mean is None else mean
    amplifiers = tuple(
        amplifier_covariances(
            name=name, points=(point(level, 100 * number + index),), read_noise=READ_NOISE / GAIN
        )
        for index, name in enumerate(names)
    )
    return pair_covariances(**{"pair_id": f"{number:032x}", "amplifiers": amplifiers} | changes)


class Group:
    """One group's fitting, and the jobs so far."""

    def __init__(self, config: FitConfig = CONFIG) -> None:
        self.core = PtcAggregator(GROUP, config, fitting_digest="fit")
        self.jobs: list[FitJob] = []

    def take(self, *records: PairCovariances) -> list[Effect]:
        effects: list[Effect] = []
        for record in records:
            effects = self.core.on_record(record)
            self.jobs += [effect.job for effect in effects if isinstance(effect, Compute)]
        return effects

    def fit(self) -> PtcFit:
        return fit_pairs(self.jobs[-1])

    @property
    def fitted(self) -> list[int]:
        return [int(block.pair_id, 16) for block in self.jobs[-1].blocks]


def fit_of(*records: PairCovariances, config: FitConfig = CONFIG) -> PtcFit:
    group = Group(config)
    group.take(*records)
    return group.fit()


def same_but_for_the_last_pair(fit: PtcFit) -> bytes:
    return encode(dataclasses.replace(fit, last_pair_id=""))


# --- which pairs are fitted -----------------------------------------------------------------------


def test_every_pair_asks_for_a_fit_of_all_so_far() -> None:
    group = Group()
    for number in (3, 1, 2):
        (effect,) = group.take(pair(number))
        assert isinstance(effect, Compute)
    assert [len(job.blocks) for job in group.jobs] == [1, 2, 3]
    assert group.fitted == [1, 2, 3]
    assert group.jobs[-1].last_pair_id == pair(2).pair_id


def test_an_earlier_job_does_not_change_when_pairs_come() -> None:
    group = Group()
    group.take(*(pair(number) for number in range(1, 9)))
    early = group.jobs[5]
    before = encode(fit_pairs(early))
    group.take(*(pair(number) for number in range(9, 20)), pair(30, supersedes=(pair(3).pair_id,)))
    assert encode(fit_pairs(early)) == before


def test_a_duplicate_changes_nothing() -> None:
    group = Group()
    group.take(pair(1), pair(2))
    assert group.take(pair(1)) == []
    assert group.take(pair(2, 50_000.0)) == []
    assert len(group.jobs) == 2


def test_a_superseded_pair_is_fitted_no_more_and_its_duplicate_does_not_bring_it_back() -> None:
    group = Group()
    group.take(pair(1), pair(2), pair(3, supersedes=(pair(1).pair_id,)))
    assert group.fitted == [2, 3]
    assert group.take(pair(1)) == []
    group.take(pair(4))
    assert group.fitted == [2, 3, 4]


def test_a_superseded_pair_that_comes_after_its_successor_is_not_fitted() -> None:
    group = Group()
    group.take(pair(2, supersedes=(pair(1).pair_id,)), pair(1))
    assert group.fitted == [2]
    assert group.jobs[-1].last_pair_id == pair(1).pair_id


def test_a_pair_that_supersedes_itself_leaves_nothing_to_fit() -> None:
    fit = fit_of(pair(1, supersedes=(pair(1).pair_id,)))
    assert (fit.pairs, fit.amplifiers) == (0, ())


def test_pairs_measured_under_other_settings_are_never_mixed_in() -> None:
    group = Group()
    group.take(pair(1))
    other = pair(2, measuring_digest="other settings")
    (reject,) = group.take(other)
    assert isinstance(reject, Reject)
    assert reject.reason == "MIXED_MEASUREMENTS"
    for named in ("other settings", "measuring settings", other.pair_id):
        assert named in reject.message
    assert group.take(other) == []  # a duplicate
    assert group.take(pair(2, pair_id="e" * 32, measuring_digest="other settings")) != []
    group.take(pair(3))
    assert group.fitted == [1, 3]
    assert group.fit().measuring_digest == "measuring settings"


def test_a_cut_history_is_said_in_every_fit() -> None:
    group = Group()
    group.core.on_history_cut()
    group.take(pair(1), pair(2))
    assert [fit_pairs(job).history_incomplete for job in group.jobs] == [True, True]
    assert not fit_of(pair(1)).history_incomplete


# --- a function of the set of pairs ---------------------------------------------------------------

RUN = [
    *(pair(number) for number in range(1, 9)),
    pair(20, 18_000.0, names=("C01",)),  # an amplifier that one pair lacks
    pair(21, 20_000.0, supersedes=(pair(2).pair_id,)),
    pair(22, 20_000.0),  # a tie in signal with the one before it
]


@settings(BOUNDED, max_examples=40)
@given(order=st.permutations(RUN), doubled=st.lists(st.sampled_from(RUN), max_size=3))
def test_any_order_of_arrival_ends_in_the_same_bytes(
    order: list[PairCovariances], doubled: list[PairCovariances]
) -> None:
    assert same_but_for_the_last_pair(fit_of(*order, *doubled)) == same_but_for_the_last_pair(fit_of(*RUN))


@pytest.mark.parametrize("model", [FitModel.EXPAPPROXIMATION, FitModel.POLYNOMIAL])
def test_the_last_pair_is_the_only_trace_of_the_order(model: FitModel) -> None:
    config = FitConfig(model=model)
    forth, back = fit_of(*RUN, config=config), fit_of(*reversed(RUN), config=config)
    assert forth.last_pair_id == RUN[-1].pair_id
    assert dataclasses.replace(back, last_pair_id=forth.last_pair_id) == forth
    assert forth.model == str(model)
    assert all(math.isfinite(amplifier.gain) for amplifier in forth.amplifiers)


def test_the_fit_id_tells_pairs_model_group_and_settings_apart() -> None:
    job = Group().take(pair(1))
    assert isinstance(job[0], Compute)
    first: FitJob = job[0].job
    ids = [
        fit_pairs(first).fit_id,
        fit_pairs(dataclasses.replace(first, fitting_digest="other")).fit_id,
        fit_pairs(dataclasses.replace(first, group=GROUP._replace(run="other"))).fit_id,
        fit_pairs(dataclasses.replace(first, config=FitConfig(model=FitModel.POLYNOMIAL))).fit_id,
        fit_of(pair(2)).fit_id,
        fit_of(pair(1), pair(2)).fit_id,
    ]
    assert len(set(ids)) == len(ids)
    assert fit_of(pair(2), pair(1)).fit_id == ids[-1]


# --- what is fitted -------------------------------------------------------------------------------


def test_the_fit_of_a_curve_finds_its_gain() -> None:
    fit = fit_of(*(pair(number) for number in range(1, 30)))
    assert (fit.pairs, fit.group, fit.fitting_digest) == (29, GROUP, "fit")
    for amplifier in fit.amplifiers:
        assert amplifier.status == "OK"
        assert amplifier.gain == pytest.approx(GAIN, rel=0.01)
        assert amplifier.overscan_read_noise == pytest.approx(READ_NOISE, rel=0.01)
        assert amplifier.points_used == amplifier.pairs_used == 29
        assert amplifier.unused == ()
    assert fit.amplifiers[0].gain != fit.amplifiers[1].gain  # each has its own points


def test_amplifiers_may_come_and_go_from_pair_to_pair() -> None:
    fit = fit_of(
        *(pair(number) for number in range(1, 9)),
        pair(9, names=("C01", "C07")),
        pair(10, names=()),
    )
    assert [amplifier.name for amplifier in fit.amplifiers] == ["C00", "C01", "C07"]
    assert [amplifier.points_used for amplifier in fit.amplifiers] == [8, 9, 0]
    assert fit.amplifiers[2].status == "NOT_ENOUGH_PAIRS"
    assert fit.pairs == 10


def test_amplifiers_keep_the_order_of_the_file() -> None:
    names = ("C10", "C17", "C07", "C00")
    assert tuple(amplifier.name for amplifier in fit_of(pair(1, names=names)).amplifiers) == names


def test_an_amplifier_without_points_has_a_result() -> None:
    empty = pair_covariances(amplifiers=(amplifier_covariances(points=(), read_noise=None),))
    (amplifier,) = fit_of(empty).amplifiers
    assert (amplifier.status, amplifier.points_used, amplifier.unused) == ("NOT_ENOUGH_PAIRS", 0, ())
    assert amplifier.overscan_read_noise is None


def noises(*values: tuple[float | None, float | None]) -> PtcFit:
    """The fit of good pairs with these read noises and errors."""
    records = []
    for number in range(1, 9):
        noise, error = values[(number - 1) % len(values)]
        amplifier = amplifier_covariances(
            points=(point(2000.0 * number),), read_noise=noise, read_noise_error=error
        )
        records.append(pair(number, amplifiers=(amplifier,)))
    return fit_of(*records)


def test_one_noisy_readout_does_not_move_the_read_noise() -> None:
    (amplifier,) = noises(*[(4.0, 0.1)] * 7, (400.0, 0.1)).amplifiers
    assert amplifier.overscan_read_noise == pytest.approx(4.0 * amplifier.gain)


@pytest.mark.parametrize(
    "known", [(None, None), (4.5, None), (math.nan, math.nan), (0.0, 0.0), (4.5, math.inf)]
)
def test_a_read_noise_that_is_unknown_or_absurd_does_no_harm(
    known: tuple[float | None, float | None],
) -> None:
    (amplifier,) = noises(known).amplifiers
    assert amplifier.gain == pytest.approx(GAIN, rel=0.02)


def test_one_pair_without_zero_level_leaves_the_zero_unknown() -> None:
    run = [pair(number) for number in range(1, 9)]
    blind = tuple(dataclasses.replace(amplifier, zero_level=False) for amplifier in run[3].amplifiers)
    run[3] = dataclasses.replace(run[3], amplifiers=blind)
    assert {amplifier.status for amplifier in fit_of(*run).amplifiers} == {"NO_ZERO_LEVEL"}


# --- the points that were not used ----------------------------------------------------------------


def test_ranges_point_at_the_unused_points_in_order_of_signal() -> None:
    """Pair ids run against the signal, so that an index into the wrong order would show."""
    levels = {number: 60_000.0 - 2_000.0 * number for number in range(1, 21)}
    spoilt = {4: math.nan, 7: 1.7, 13: 1.7}  # pair: factor of the variance
    records = []
    for number, level in levels.items():
        good = point(level, number)
        bad = dataclasses.replace(good, variance=good.variance * spoilt.get(number, 1.0))
        records.append(pair(number, amplifiers=(amplifier_covariances(points=(bad,), read_noise=None),)))
    flagged = dataclasses.replace(point(level, 99), flags=("TOO_FEW_PIXELS",))
    records.append(pair(30, amplifiers=(amplifier_covariances(points=(flagged,), read_noise=None),)))
    (amplifier,) = fit_of(*records).amplifiers
    by_signal = sorted([*levels, 30], key=lambda number: (levels.get(number, level), number))
    found = {
        unused.reason: [by_signal[index] for index in unpack(unused.ranges)] for unused in amplifier.unused
    }
    assert found == {"NOT_FINITE": [4], "OUTLIER": [13, 7], "TOO_FEW_PIXELS": [30]}
    assert [(unused.count, unused.pairs) for unused in amplifier.unused] == [(1, 1), (2, 2), (1, 1)]
    assert amplifier.points_used + sum(unused.count for unused in amplifier.unused) == 21


def test_points_without_a_mean_come_last() -> None:
    lost = amplifier_covariances(points=(dataclasses.replace(point(1e4), mean=math.nan),), read_noise=None)
    run = [pair(0, amplifiers=(lost,)), *(pair(number, names=("C00",)) for number in range(1, 9))]
    (amplifier,) = fit_of(*run).amplifiers
    assert [(unused.reason, unused.ranges) for unused in amplifier.unused] == [("NOT_FINITE", (8, 9))]


def test_a_pair_counts_once_however_many_of_its_tiles_are_unused() -> None:
    def tiles(number: int, *levels: float, **spoilt: Any) -> PairCovariances:
        points = tuple(point(level, number * 10 + i, **spoilt) for i, level in enumerate(levels))
        return pair(number, amplifiers=(amplifier_covariances(points=points, read_noise=None),))

    run = [tiles(number, 5000.0 * number, 5000.0 * number + 1000.0) for number in range(1, 9)]
    few = {"flags": ("TOO_FEW_PIXELS",)}
    run.append(tiles(9, 700.0, 2_000.0, 90_000.0, **few))
    half = pair(
        10,
        amplifiers=(
            amplifier_covariances(points=(point(3_000.0, 7), point(4_000.0, 8, **few)), read_noise=None),
        ),
    )
    (amplifier,) = fit_of(*run, half).amplifiers
    (unused,) = amplifier.unused
    assert (unused.count, unused.pairs) == (4, 1)  # of pair 10 one tile is used
    assert unused.ranges == (0, 2, 3, 4, 20, 21)
    assert (amplifier.points_used, amplifier.pairs_used) == (17, 9)


# --- size -----------------------------------------------------------------------------------------


def test_the_largest_fit_record_is_below_64_kb() -> None:
    """16 amplifiers, 400 pairs, and every second point unused: as many ranges as there can be."""
    names = [f"C{row}{column}" for row in (1, 0) for column in range(8)]
    few = {"flags": ("TOO_FEW_PIXELS",)}
    records = []
    for number in range(400):
        spoilt = point(150.0 * (number + 1), number, **(few if number % 2 else {}))
        amplifiers = tuple(amplifier_covariances(name=name, points=(spoilt,)) for name in names)
        records.append(pair(number, amplifiers=amplifiers))
    fit = fit_of(*records)
    assert fit.amplifiers[0].points_used == 200
    assert len(fit.amplifiers[0].unused[0].ranges) == 400
    assert len(encode(fit)) < 64_000


def test_the_size_is_what_the_pairs_take_in_memory() -> None:
    names = [f"C{row}{column}" for row in (1, 0) for column in range(8)]
    encoded = [encode(pair(number, names=names)) for number in range(100)]
    core = PtcAggregator(GROUP, CONFIG, fitting_digest="fit")
    core.on_record(decode(encode(pair(1000)), PairCovariances))
    gc.collect()
    tracemalloc.start()
    try:
        for data in encoded:
            core.on_record(decode(data, PairCovariances))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert core.size() == pytest.approx(held, rel=0.4)


def test_a_block_holds_what_fits_need() -> None:
    block = PairBlock.from_record(pair(1))
    amplifier = block.amplifiers["C01"]
    measured = pair(1).amplifiers[1].points[0]
    assert (amplifier.mean[0], amplifier.variance[0]) == (measured.mean, measured.variance)
    assert amplifier.pixel_count[0] == measured.pixel_count[0][0]
    without = dataclasses.replace(measured, pixel_count=(), covariances=())
    empty = pair(1, amplifiers=(amplifier_covariances(points=(without,)),))
    assert PairBlock.from_record(empty).amplifiers["C00"].pixel_count[0] == 0
    assert fit_of(*(dataclasses.replace(empty, pair_id=str(n)) for n in range(9))).pairs == 9


# --- anything at all ------------------------------------------------------------------------------

ANY = st.sampled_from(
    [math.nan, math.inf, -math.inf, -1.0, 0.0, 5e-324, 1e-9, 1.0, 6600.0, 1e4, 5e4, 1e15, 1e308]
)


@settings(BOUNDED, max_examples=60)
@given(data=st.data())
def test_no_record_makes_a_fit_fail(data: st.DataObject) -> None:
    """Whatever decodes is fitted: values that cannot be are a status, never an exception."""
    records = []
    for number in range(data.draw(st.integers(1, 8))):
        amplifiers = tuple(
            amplifier_covariances(
                name=name,
                read_noise=data.draw(st.none() | ANY),
                read_noise_error=data.draw(st.none() | ANY),
                points=tuple(
                    covariance_point(
                        mean=data.draw(ANY),
                        variance=data.draw(ANY),
                        pixel_count=((data.draw(st.sampled_from([-1, 0, 1, 2, 10_000, 2**63 - 1])),),),
                    )
                    for _ in range(data.draw(st.integers(0, 3)))
                ),
            )
            for name in data.draw(st.lists(st.sampled_from(["C00", "C01"]), max_size=2))
        )
        records.append(pair(number, amplifiers=amplifiers))
    fit = fit_of(*records)
    assert encode(fit_of(*reversed(records), records[-1])) == encode(
        dataclasses.replace(fit, last_pair_id=records[0].pair_id)
    )
    for amplifier in fit.amplifiers:
        indices = list(itertools.chain.from_iterable(unpack(unused.ranges) for unused in amplifier.unused))
        assert len(indices) == len(set(indices)) == sum(unused.count for unused in amplifier.unused)
