"""Exposures in, flat pairs out.

A flat that arrives takes, at once, the nearest waiting flat that matches it; else it waits, for ever
if need be (`ptc_stream.core.matching` says what matches and what is nearest). Of every exposure of a
group exactly one is true: it is paired, it waits, it is no flat, or it was rejected with a reason.

Revisions
---------
An exposure may come again with other content (a truncated upload sent once more).

- A tag that was seen before is a duplicate, even of an older revision: it changes nothing.
- A waiting flat is replaced; it keeps its place in the queue for the alert.
- A paired flat makes a new pair with the same partner. The new pair supersedes the old one *and all
  that this one superseded*: when a pair in the middle could not be measured, its successor must still
  take the first one out of the fits.
- When the revision no longer matches the partner (another exposure time, no flat any more, values that
  cannot be), the pair is dissolved. The partner is free and takes its next match, before the revision
  does. The next pair of either supersedes the dissolved one, so no exposure is ever in two pairs that
  nothing supersedes. Until then the dissolved pair stays: what it measured was true of the content of
  that time, and a pair can only be taken back by another.
- Pairs that supersede are never left out by ``every_nth_pair`` and do not count for it; a revision in a
  pair that was left out stays left out.

The alert unpaired_flat
-----------------------
It belongs to the group, not to the exposure. It is raised when the first flat becomes overdue and
cleared when none is left. An alert's key has no exposure in it, so with one alert per exposure a
consumer that keeps the last action of each key would take the clearing of one flat for the clearing
of all; and one lost file should not ring 50 times in a run that has lost its second sweep.
Which flats wait, at any time, is what `PairingBuffer.waiting` tells.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable

from ptc_stream.core.effects import Effect, Emit, Reject
from ptc_stream.core.matching import (
    PairingConfig,
    WaitingFlats,
    find_fault,
    is_flat,
    matches,
    observation_order,
)
from ptc_stream.records import (
    Alert,
    ExposureArrived,
    FlatPair,
    GroupKey,
    content_hash,
    join_key,
)

__all__ = [
    "PairedExposures",
    "PairingBuffer",
    "PairingConfig",
    "observation_order",
    "pair_exposures",
    "pair_id",
]

# Part of every pair id: under another major version of its schema, a pair is another pair.
_SCHEMA = "FlatPair.1"

_RULE = "unpaired_flat"

# Bytes held beside the text of ids, tags and URIs, measured with tracemalloc on records decoded one by
# one (CPython 3.11). Far below the truth, groups would outgrow the memory they are given; far above, they
# would be dropped and loaded again without need.
_BYTES_PER_EXPOSURE = 180
_BYTES_PER_FLAT = 780
_BYTES_PER_WAITING = 330


def pair_id(one: ExposureArrived, other: ExposureArrived, *, measuring_digest: str) -> str:
    """Identity of the pair of two exposures, whichever comes first.

    Parameters
    ----------
    one, other
        Two exposures of one instrument and detector.
    measuring_digest
        Digest of the settings under which the pair will be measured.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    exposures = sorted([(one.exposure, one.content_tag), (other.exposure, other.content_tag)])
    return content_hash(
        _SCHEMA,
        one.instrument,
        one.detector,
        *(part for exposure in exposures for part in exposure),
        measuring_digest,
    )


@dataclasses.dataclass(slots=True, eq=False)
class _Flat:
    """A usable flat at its newest revision: paired, or waiting since `waiting_since` exposures were known."""

    record: ExposureArrived
    partner: _Flat | None = None
    waiting_since: int = 0


class PairingBuffer:
    """Pairing core of one group; see `ptc_stream.core.effects.Core` for its contract.

    Parameters
    ----------
    group
        The group whose exposures it takes.
    config
        What makes a pair.
    measuring_digest
        Digest of the measuring settings, part of every pair id.
    """

    def __init__(self, group: GroupKey, config: PairingConfig, *, measuring_digest: str) -> None:
        self._group = group
        self._config = config
        self._measuring_digest = measuring_digest
        self._tags: dict[str, tuple[str, ...]] = {}
        self._flats: dict[str, _Flat] = {}
        self._index = WaitingFlats(config)
        # The same flats, longest wait first; ordered for its cheap first item, which a dict has not.
        self._waiting: OrderedDict[str, _Flat] = OrderedDict()
        # Pairs of an exposure that its next pair has to supersede.
        self._lineage: dict[str, tuple[str, ...]] = {}
        self._pairs_counted = 0
        self._alert_raised = False
        self._history_cut = False
        self._text = 0

    def on_record(self, record: ExposureArrived) -> list[Effect]:
        """Take the next exposure of the group, of any image type.

        Parameters
        ----------
        record
            The exposure.

        Returns
        -------
        list of Effect
            Pairs that form, a rejection, a change of the alert; in this order. None for a duplicate.

        Raises
        ------
        ValueError
            The record is of another group: a defect of the caller.
        """
        if record.group != self._group:
            raise ValueError(f"exposure {record.key} given to the pairing of {self._group}")
        tags = self._tags.get(record.exposure, ())
        if record.content_tag in tags:
            return []
        self._tags[record.exposure] = (*tags, record.content_tag)
        self._text += len(record.exposure) + len(record.content_tag)

        effects: list[Effect] = []
        if not is_flat(record):
            effects.extend(self._forget(record.exposure))
        elif fault := find_fault(record, self._config):
            effects.extend(self._forget(record.exposure))
            effects.append(fault)
        else:
            effects.extend(self._take(record))
        effects.extend(self._judge_wait(record))
        return effects

    def on_history_cut(self) -> None:
        """Learn that older records are gone; flats that wait may have had their partner among them."""
        self._history_cut = True

    def size(self) -> int:
        """Return the memory held, in bytes, about."""
        return (
            self._text
            + _BYTES_PER_EXPOSURE * len(self._tags)
            + _BYTES_PER_FLAT * len(self._flats)
            + _BYTES_PER_WAITING * len(self._waiting)
        )

    def waiting(self) -> list[ExposureArrived]:
        """List the flats without a partner, longest wait first."""
        return [flat.record for flat in self._waiting.values()]

    def _take(self, record: ExposureArrived) -> list[Effect]:
        """Take a usable flat: a new exposure, or a revision of one."""
        flat = self._flats.get(record.exposure)
        if flat is None:
            flat = self._flats[record.exposure] = _Flat(record)
            self._text += len(record.uri)
            return self._place(flat)
        replaced, flat.record = flat.record, record
        if flat.partner is None:
            self._index.remove(replaced)
            return self._place(flat)
        if matches(record, flat.partner.record, self._config):
            return self._announce(flat, flat.partner, revised=True)
        return [*self._dissolve(flat, flat.partner), *self._place(flat)]

    def _forget(self, exposure: str) -> list[Effect]:
        """Let go of the flat that `exposure` was before this revision, if it was one."""
        flat = self._flats.pop(exposure, None)
        if flat is None:
            return []
        if flat.partner is not None:
            return self._dissolve(flat, flat.partner)
        self._index.remove(flat.record)
        del self._waiting[exposure]
        return []

    def _dissolve(self, flat: _Flat, partner: _Flat) -> list[Effect]:
        """Part two flats; `partner` takes its next match or waits, `flat` is left to the caller."""
        flat.partner = partner.partner = None
        return self._place(partner)

    def _place(self, flat: _Flat) -> list[Effect]:
        """Pair `flat` with its nearest match, or let it wait."""
        record = flat.record
        found = self._index.nearest(record)
        if found is None:
            self._index.add(record)
            if record.exposure not in self._waiting:
                flat.waiting_since = len(self._tags)
                self._waiting[record.exposure] = flat
            return []
        self._index.remove(found)
        partner = self._waiting.pop(found.exposure)
        self._waiting.pop(record.exposure, None)  # there when it is the revision of a waiting flat
        flat.partner, partner.partner = partner, flat
        return self._announce(flat, partner, revised=False)

    def _announce(self, flat: _Flat, partner: _Flat, *, revised: bool) -> list[Effect]:
        """Publish a pair, unless it is one of those that ``every_nth_pair`` leaves out."""
        first, second = sorted(
            (flat.record, partner.record), key=lambda it: (observation_order(it), it.exposure)
        )
        lineage = self._lineage.get(first.exposure, ()) + self._lineage.get(second.exposure, ())
        superseded = tuple(dict.fromkeys(lineage))
        if not superseded:
            if revised:
                return []
            self._pairs_counted += 1
            if (self._pairs_counted - 1) % self._config.every_nth_pair != 0:
                return []
        identity = pair_id(first, second, measuring_digest=self._measuring_digest)
        self._lineage[first.exposure] = self._lineage[second.exposure] = (*superseded, identity)
        pair = FlatPair(
            instrument=self._group.instrument,
            run=self._group.run,
            detector=self._group.detector,
            pair_id=identity,
            first=first.reference,
            second=second.reference,
            filter=first.filter,
            lamp=first.lamp,
            supersedes=superseded,
        )
        return [Emit(pair)]

    def _judge_wait(self, record: ExposureArrived) -> list[Effect]:
        """Raise the alert when the longest wait has become too long, clear it when no wait is any more."""
        oldest = next(iter(self._waiting.values()), None)
        overdue = oldest is not None and self._later_exposures(oldest) >= self._config.unpaired_after
        if overdue == self._alert_raised:
            return []
        self._alert_raised = overdue
        # The identity has the record that decided in it: a flat that is parted from its partner can become
        # overdue a second time.
        if oldest is not None and overdue:
            exposure = oldest.record.exposure
            later = self._later_exposures(oldest)
            message = f"flat {exposure} of {self._group} has found no partner within {later} later exposures"
            if self._history_cut:
                message += "; older records of this run are gone, its partner may be among them"
        else:
            exposure = record.exposure
            message = f"with exposure {exposure}, no flat of {self._group} has waited too long any more"
        action = "raise" if overdue else "clear"
        alert = Alert(
            instrument=self._group.instrument,
            run=self._group.run,
            detector=self._group.detector,
            amplifier="",
            rule=_RULE,
            model="",
            action=action,
            value=float(overdue),
            high=0.0,
            unit="flats",
            evidence=exposure,
            message=message,
            alert_id=content_hash(
                "Alert.1", *self._group, "", _RULE, "", action, exposure, record.exposure, record.content_tag
            ),
        )
        return [Emit(alert)]

    def _later_exposures(self, flat: _Flat) -> int:
        """Count the exposures of the group that came since `flat` began to wait; revisions do not count."""
        return len(self._tags) - flat.waiting_since


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairedExposures:
    """What pairing makes of a number of exposures.

    Attributes
    ----------
    pairs
        The pairs that no other supersedes, in the order in which they form.
    waiting
        The flats without a partner, group by group.
    rejected
        Every record that cannot be used, with the reason.
    """

    pairs: tuple[FlatPair, ...]
    waiting: tuple[ExposureArrived, ...]
    rejected: tuple[tuple[ExposureArrived, Reject], ...]


def pair_exposures(
    exposures: Iterable[ExposureArrived], config: PairingConfig, *, measuring_digest: str
) -> PairedExposures:
    """Pair exposures that are all there already, of any number of groups, with the core of the stream.

    Parameters
    ----------
    exposures
        Exposures of any image type, in any order. They are taken in the order of observation time and
        sequence number; where both are missing, as given.
    config
        What makes a pair.
    measuring_digest
        Digest of the measuring settings, part of every pair id.

    Returns
    -------
    PairedExposures
    """
    buffers: dict[GroupKey, PairingBuffer] = {}
    pairs: dict[str, FlatPair] = {}
    rejected: list[tuple[ExposureArrived, Reject]] = []
    for record in sorted(exposures, key=observation_order):
        buffer = buffers.get(record.group)
        if buffer is None:
            buffer = PairingBuffer(record.group, config, measuring_digest=measuring_digest)
            buffers[record.group] = buffer
        for effect in buffer.on_record(record):
            match effect:
                case Emit(FlatPair() as pair):
                    for old in pair.supersedes:
                        pairs.pop(join_key(*record.group, old), None)
                    pairs[pair.key] = pair
                case Reject():
                    rejected.append((record, effect))
    return PairedExposures(
        pairs=tuple(pairs.values()),
        waiting=tuple(flat for buffer in buffers.values() for flat in buffer.waiting()),
        rejected=tuple(rejected),
    )
