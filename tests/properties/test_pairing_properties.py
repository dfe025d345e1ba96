"""What pairing promises for any stream (the oracle here shares no line with the core)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from ptc_stream.core.effects import Effect, Emit, Reject
from ptc_stream.core.pairing import PairingBuffer, PairingConfig, pair_exposures, pair_id
from ptc_stream.records import Alert, ExposureArrived, FlatPair, GroupKey
from tests.strategies import (
    BOUNDED,
    doubled_runs,
    gapless_pairing_configs,
    groups,
    ordered_runs,
    pairing_configs,
    runs,
)

_DIGEST = "measuring settings"


def make_buffer(group: GroupKey, config: PairingConfig) -> PairingBuffer:
    return PairingBuffer(group, config, measuring_digest=_DIGEST)


def fold(
    records: Sequence[ExposureArrived], config: PairingConfig
) -> tuple[PairingBuffer, list[list[Effect]]]:
    buffer = make_buffer(records[0].group, config)
    return buffer, [buffer.on_record(record) for record in records]


def emitted_pairs(effects: Iterable[Effect]) -> list[FlatPair]:
    return [it.record for it in effects if isinstance(it, Emit) and isinstance(it.record, FlatPair)]


def live_pairs(effects: Iterable[Effect]) -> dict[str, FlatPair]:
    """Pairs that nothing supersedes."""
    pairs = emitted_pairs(effects)
    assert len({pair.pair_id for pair in pairs}) == len(pairs)
    dead = {old for pair in pairs for old in pair.supersedes}
    return {pair.pair_id: pair for pair in pairs if pair.pair_id not in dead}


def flatten(effects: Iterable[Iterable[Effect]]) -> list[Effect]:
    return [effect for some in effects for effect in some]


def members(pair: FlatPair) -> set[tuple[str, str]]:
    return {(it.exposure, it.content_tag) for it in (pair.first, pair.second)}


def newest(records: Iterable[ExposureArrived]) -> dict[str, ExposureArrived]:
    """The revision of every exposure whose tag was the last to be seen for the first time."""
    seen = set()
    latest = {}
    for record in records:
        if (record.exposure, record.content_tag) not in seen:
            seen.add((record.exposure, record.content_tag))
            latest[record.exposure] = record
    return latest


# --- the rule, written down once more, the slow way -----------------------------------------------


def usable(record: ExposureArrived, config: PairingConfig) -> bool:
    value = record.exposure_time if config.match == "TIME" else record.lamp_dose
    if value is None:
        value_is_fine = bool(record.pair_hint)
    else:
        value_is_fine = not math.isnan(value) and not math.isinf(value) and value >= 0
    return (
        value_is_fine
        and (config.max_gap_exposures is None or record.sequence_number is not None)
        and (config.max_gap_seconds is None or record.observation_mjd is not None)
    )


def agree(one: ExposureArrived, other: ExposureArrived, config: PairingConfig) -> bool:
    if one.filter != other.filter or one.lamp != other.lamp:
        return False
    if config.max_gap_exposures is not None:
        assert one.sequence_number is not None
        assert other.sequence_number is not None
        if (
            not -config.max_gap_exposures
            <= one.sequence_number - other.sequence_number
            <= config.max_gap_exposures
        ):
            return False
    if config.max_gap_seconds is not None:
        assert one.observation_mjd is not None
        assert other.observation_mjd is not None
        if abs(one.observation_mjd - other.observation_mjd) * 86_400 > config.max_gap_seconds:
            return False
    if one.pair_hint or other.pair_hint:
        return one.pair_hint == other.pair_hint
    if config.match == "TIME":
        assert one.exposure_time is not None
        assert other.exposure_time is not None
        return abs(one.exposure_time - other.exposure_time) <= config.time_tolerance
    assert one.lamp_dose is not None
    assert other.lamp_dose is not None
    return abs(one.lamp_dose - other.lamp_dose) <= config.flux_tolerance * max(one.lamp_dose, other.lamp_dose)


def nearness(flat: ExposureArrived, waiting: ExposureArrived) -> tuple[float, ...]:
    if flat.sequence_number is not None and waiting.sequence_number is not None:
        by = (0.0, float(abs(flat.sequence_number - waiting.sequence_number)))
    elif flat.observation_mjd is not None and waiting.observation_mjd is not None:
        by = (1.0, abs(flat.observation_mjd - waiting.observation_mjd))
    else:
        by = (2.0, 0.0)
    mjd, number = waiting.observation_mjd, waiting.sequence_number
    return (
        *by,
        math.inf if mjd is None else mjd,
        math.inf if number is None else number,
        float(waiting.exposure[1:]),
    )


def pair_slowly(
    records: Iterable[ExposureArrived], config: PairingConfig
) -> tuple[list[set[str]], list[str], list[str]]:
    """Pairs, waiting and rejected exposures of a stream without revisions."""
    seen: set[str] = set()
    waiting: list[ExposureArrived] = []
    pairs: list[set[str]] = []
    rejected: list[str] = []
    for record in records:
        if record.exposure in seen:
            continue
        seen.add(record.exposure)
        if record.image_type != "flat":
            continue
        if not usable(record, config):
            rejected.append(record.exposure)
            continue
        candidates = [it for it in waiting if agree(record, it, config)]
        if candidates:
            partner = min(candidates, key=lambda it: nearness(record, it))
            waiting.remove(partner)
            pairs.append({record.exposure, partner.exposure})
        else:
            waiting.append(record)
    return pairs, [it.exposure for it in waiting], rejected


@BOUNDED
@given(runs(revisions=1), pairing_configs())
def test_the_core_does_what_the_rule_says(records: list[ExposureArrived], config: PairingConfig) -> None:
    buffer, effects = fold(records, config)
    pairs, waiting, rejected = pair_slowly(records, config)
    assert [{pair.first.exposure, pair.second.exposure} for pair in emitted_pairs(flatten(effects))] == pairs[
        :: config.every_nth_pair
    ]
    assert [it.exposure for it in buffer.waiting()] == waiting
    refused = [
        record.exposure
        for record, some in zip(records, effects, strict=True)
        if any(isinstance(effect, Reject) for effect in some)
    ]
    assert refused == rejected


# --- what holds for any stream, revisions and all -------------------------------------------------


@BOUNDED
@given(runs(), pairing_configs())
def test_no_exposure_is_in_two_live_pairs_at_any_time(
    records: list[ExposureArrived], config: PairingConfig
) -> None:
    _, effects = fold(records, config)
    for end in range(1, len(records) + 1):
        live = live_pairs(flatten(effects[:end])).values()
        exposures = [it.exposure for pair in live for it in (pair.first, pair.second)]
        assert len(exposures) == len(set(exposures))


@BOUNDED
@given(runs(), pairing_configs())
def test_the_two_of_a_pair_agree(records: list[ExposureArrived], config: PairingConfig) -> None:
    _, effects = fold(records, config)
    by_content = {(it.exposure, it.content_tag): it for it in records}
    for pair in emitted_pairs(flatten(effects)):
        first, second = (by_content[it.exposure, it.content_tag] for it in (pair.first, pair.second))
        assert first.exposure != second.exposure
        assert agree(first, second, config)
        assert (pair.filter, pair.lamp) == (first.filter, first.lamp)
        assert pair.pair_id == pair_id(second, first, measuring_digest=_DIGEST)


@BOUNDED
@given(runs(), pairing_configs())
def test_two_matching_flats_never_both_wait(records: list[ExposureArrived], config: PairingConfig) -> None:
    buffer = make_buffer(records[0].group, config)
    for record in records:
        buffer.on_record(record)
        waiting = buffer.waiting()
        assert not any(agree(one, other, config) for i, one in enumerate(waiting) for other in waiting[:i])


@BOUNDED
@given(runs(), pairing_configs())
def test_every_exposure_is_one_of_paired_waiting_rejected_no_flat(
    records: list[ExposureArrived], config: PairingConfig
) -> None:
    config = dataclasses.replace(config, every_nth_pair=1)
    buffer, effects = fold(records, config)
    latest = newest(records)
    current = {(it.exposure, it.content_tag) for it in latest.values()}
    # A dissolved pair stays live until its successor comes, but one of its two revisions is out of date.
    paired = {
        exposure
        for pair in live_pairs(flatten(effects)).values()
        if members(pair) <= current
        for exposure, _ in members(pair)
    }
    waiting = {it.exposure for it in buffer.waiting()}
    no_flat = {it.exposure for it in latest.values() if it.image_type != "flat"}
    unusable = {it.exposure for it in latest.values() if it.image_type == "flat" and not usable(it, config)}
    assert sorted([*paired, *waiting, *no_flat, *unusable]) == sorted(latest)
    for record, some in zip(records, effects, strict=True):
        rejects = [effect for effect in some if isinstance(effect, Reject)]
        assert len(rejects) <= (record.image_type == "flat" and not usable(record, config))
    assert all(it == latest[it.exposure] for it in buffer.waiting())


@BOUNDED
@given(runs(), pairing_configs())
def test_duplicates_change_nothing(records: list[ExposureArrived], config: PairingConfig) -> None:
    seen: set[tuple[str, str]] = set()
    distinct = []
    buffer, effects = fold(records, config)
    for record, some in zip(records, effects, strict=True):
        if (record.exposure, record.content_tag) in seen:
            assert some == []
        else:
            distinct.append(record)
        seen.add((record.exposure, record.content_tag))
    alone, effects_alone = fold(distinct, config)
    assert flatten(effects_alone) == flatten(effects)
    assert alone.waiting() == buffer.waiting()
    assert alone.size() == buffer.size()


@BOUNDED
@given(runs(), pairing_configs())
def test_a_core_brought_back_at_any_record_goes_on_as_if_nothing_had_happened(
    records: list[ExposureArrived], config: PairingConfig
) -> None:
    _, undisturbed = fold(records, config)
    for crash in range(1, len(records)):
        again, _ = fold(records[:crash], config)  # effects thrown away
        assert [again.on_record(record) for record in records[crash:]] == undisturbed[crash:]


@BOUNDED
@given(runs(), pairing_configs())
def test_the_alert_is_up_exactly_while_a_flat_is_overdue(
    records: list[ExposureArrived], config: PairingConfig
) -> None:
    buffer = make_buffer(records[0].group, config)
    seen: set[str] = set()
    since: dict[str, int] = {}
    raised = False
    identities: set[str] = set()
    for record in records:
        effects = buffer.on_record(record)
        seen.add(record.exposure)
        since = {it.exposure: since.get(it.exposure, len(seen)) for it in buffer.waiting()}
        overdue = [it for it, start in since.items() if len(seen) - start >= config.unpaired_after]
        alerts = [it.record for it in effects if isinstance(it, Emit) and isinstance(it.record, Alert)]
        assert [it.action for it in alerts] == (
            [] if bool(overdue) == raised else ["raise" if overdue else "clear"]
        )
        raised = bool(overdue)
        assert not identities & {it.alert_id for it in alerts}
        identities |= {it.alert_id for it in alerts}
        if alerts and raised:
            assert alerts[0].evidence in overdue


# --- the normal run -------------------------------------------------------------------------------


@BOUNDED
@given(doubled_runs(), gapless_pairing_configs(), st.data())
def test_two_flats_of_every_setting_make_the_same_pairs_in_any_order(
    run: list[ExposureArrived], config: PairingConfig, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(run))
    in_order, effects = fold(run, config)
    any_order, effects_any_order = fold(shuffled, config)
    assert live_pairs(flatten(effects)) == live_pairs(flatten(effects_any_order))
    assert 2 * len(live_pairs(flatten(effects))) == sum(it.image_type == "flat" for it in run)
    assert in_order.waiting() == any_order.waiting() == []


@BOUNDED
@given(doubled_runs(), gapless_pairing_configs(), st.data())
def test_exposures_sent_again_leave_only_pairs_of_what_came_last(
    run: list[ExposureArrived], config: PairingConfig, data: st.DataObject
) -> None:
    again = [
        dataclasses.replace(it, content_tag=f"upload {upload} of {it.exposure}")
        for upload in (2, 3)
        for it in run
        if data.draw(st.booleans())
    ]
    arriving = data.draw(st.permutations([*run, *again]))
    _, effects = fold(arriving, config)
    latest = newest(arriving)
    _, effects_of_latest = fold([latest[it.exposure] for it in run], config)
    assert live_pairs(flatten(effects)).keys() == live_pairs(flatten(effects_of_latest)).keys()


# --- many groups, and all at once -----------------------------------------------------------------


@BOUNDED
@given(st.dictionaries(groups(), runs(), min_size=2, max_size=3), pairing_configs(), st.data())
def test_groups_do_not_see_each_other(
    runs_by_group: dict[GroupKey, list[ExposureArrived]], config: PairingConfig, data: st.DataObject
) -> None:
    records = {
        group: [dataclasses.replace(it, **group._asdict()) for it in run]
        for group, run in runs_by_group.items()
    }
    order = data.draw(st.permutations([group for group, run in records.items() for _ in run]))
    streams = {group: iter(run) for group, run in records.items()}
    together = pair_exposures([next(streams[group]) for group in order], config, measuring_digest=_DIGEST)
    for group, run in records.items():
        alone = pair_exposures(run, config, measuring_digest=_DIGEST)
        assert [it for it in together.pairs if it.group == group] == list(alone.pairs)
        assert [it for it in together.waiting if it.group == group] == list(alone.waiting)
        assert len([it for it, _ in together.rejected if it.group == group]) == len(alone.rejected)


@BOUNDED
@given(ordered_runs(), pairing_configs(), st.data())
def test_all_at_once_is_the_stream_in_order_of_observation(
    run: list[ExposureArrived], config: PairingConfig, data: st.DataObject
) -> None:
    buffer, effects = fold(run, config)
    batch = pair_exposures(data.draw(st.permutations(run)), config, measuring_digest=_DIGEST)
    assert list(batch.pairs) == emitted_pairs(flatten(effects))
    assert list(batch.waiting) == buffer.waiting()
    assert [reject for _, reject in batch.rejected] == [
        it for it in flatten(effects) if isinstance(it, Reject)
    ]
