"""Covariance records in, fit jobs out: one per record, each over every pair of the group so far.

Theory of operation
-------------------
The aggregator keeps, per pair, the few numbers that a fit needs, as arrays that are never changed. A new
record adds one such block and asks for a fit of all live blocks. A pair that another one supersedes stays
known (its late duplicate must change nothing) but is fitted no more. The job carries its blocks sorted by
pair id, so a fit is a function of the *set* of pairs: not of the order in which they came, not of an
earlier fit, not of when it was asked for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ptc_stream.core.effects import Compute, Effect, Reject
from ptc_stream.physics.fitting import AmplifierFit, FitConfig, FitPoints, fit_detector
from ptc_stream.ranges import pack
from ptc_stream.records import (
    AmplifierCovariances,
    AmplifierFitResult,
    GroupKey,
    PairCovariances,
    PtcFit,
    UnusedPoints,
    content_hash,
)

__all__ = ["FitJob", "PairBlock", "PtcAggregator", "fit_pairs"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _AmplifierBlock:
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    pixel_count: NDArray[np.int64]
    flags: tuple[frozenset[str], ...]
    read_noise: float | None
    read_noise_error: float | None
    zero_level: bool


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PairBlock:
    """What fits need of one pair: a block of points per amplifier."""

    pair_id: str
    amplifiers: dict[str, _AmplifierBlock]

    @classmethod
    def from_record(cls, record: PairCovariances) -> PairBlock:
        """Take what fits need out of a covariance record."""
        return cls(record.pair_id, {amp.name: _amplifier_block(amp) for amp in record.amplifiers})

    def size(self) -> int:
        """Return the memory held, in bytes, about."""
        return 300 + sum(900 + 24 * block.mean.size for block in self.amplifiers.values())


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FitJob:
    """Job: fit these pairs of one detector; `blocks` are sorted by pair id."""

    group: GroupKey
    blocks: tuple[PairBlock, ...]
    last_pair_id: str
    measuring_digest: str
    fitting_digest: str
    history_incomplete: bool
    config: FitConfig


class PtcAggregator:
    """Core of the fitting stage, for one group.

    Parameters
    ----------
    group
        Instrument, run and detector.
    config
        Settings of the fit, its model among them.
    fitting_digest
        Hash of those settings, for the record.
    """

    def __init__(self, group: GroupKey, config: FitConfig, *, fitting_digest: str) -> None:
        self._group = group
        self._config = config
        self._fitting_digest = fitting_digest
        self._measuring_digest: str | None = None
        self._history_incomplete = False
        self._blocks: dict[str, PairBlock] = {}
        self._superseded: set[str] = set()
        self._refused: set[str] = set()
        self._size = 500

    def on_record(self, record: PairCovariances) -> list[Effect]:
        """Add the pair and ask for a fit of all live pairs."""
        if record.pair_id in self._blocks or record.pair_id in self._refused:
            return []
        if self._measuring_digest is None:
            self._measuring_digest = record.measuring_digest
        elif record.measuring_digest != self._measuring_digest:
            self._refused.add(record.pair_id)
            return [
                Reject(
                    "MIXED_MEASUREMENTS",
                    f"pair {record.pair_id} was measured under settings {record.measuring_digest}, "
                    f"the earlier pairs of {self._group} under {self._measuring_digest}; "
                    "a fit never mixes them",
                )
            ]
        block = PairBlock.from_record(record)
        self._blocks[record.pair_id] = block
        self._superseded.update(record.supersedes)
        self._size += block.size()
        live = tuple(self._blocks[pair] for pair in sorted(self._blocks) if pair not in self._superseded)
        return [
            Compute(
                FitJob(
                    group=self._group,
                    blocks=live,
                    last_pair_id=record.pair_id,
                    measuring_digest=self._measuring_digest,
                    fitting_digest=self._fitting_digest,
                    history_incomplete=self._history_incomplete,
                    config=self._config,
                )
            )
        ]

    def on_history_cut(self) -> None:
        """Say in every fit from now on that older pairs are gone."""
        self._history_incomplete = True

    def size(self) -> int:
        """Return the memory held, in bytes, about."""
        return self._size


def fit_pairs(job: FitJob) -> PtcFit:
    """Fit every amplifier of `job`: numbers only, no I/O; runs in a worker thread.

    Parameters
    ----------
    job
        Pairs of one detector and the settings of the fit.

    Returns
    -------
    PtcFit
        A function of the job's content: the same pairs and settings give the same bytes.
    """
    names = list(dict.fromkeys(name for block in job.blocks for name in block.amplifiers))
    stacked = [_stack(name, job.blocks) for name in names]
    fits = fit_detector([points for points, _ in stacked], job.config)
    return PtcFit(
        instrument=job.group.instrument,
        run=job.group.run,
        detector=job.group.detector,
        model=str(job.config.model),
        fit_id=content_hash(
            "PtcFit.1",
            *job.group,
            str(job.config.model),
            job.fitting_digest,
            *(b.pair_id for b in job.blocks),
        ),
        last_pair_id=job.last_pair_id,
        pairs=len(job.blocks),
        measuring_digest=job.measuring_digest,
        fitting_digest=job.fitting_digest,
        history_incomplete=job.history_incomplete,
        amplifiers=tuple(
            _amplifier_result(name, points, owners, fit)
            for name, (points, owners), fit in zip(names, stacked, fits, strict=True)
        ),
    )


def _amplifier_block(amplifier: AmplifierCovariances) -> _AmplifierBlock:
    points = amplifier.points
    return _AmplifierBlock(
        mean=np.array([point.mean for point in points], dtype=np.float64),
        variance=np.array([point.variance for point in points], dtype=np.float64),
        pixel_count=np.array(
            [point.pixel_count[0][0] if point.pixel_count else 0 for point in points], dtype=np.int64
        ),
        flags=tuple(frozenset(point.flags) for point in points),
        read_noise=amplifier.read_noise,
        read_noise_error=amplifier.read_noise_error,
        zero_level=amplifier.zero_level,
    )


def _stack(name: str, blocks: Sequence[PairBlock]) -> tuple[FitPoints, list[int]]:
    """All points of amplifier `name`, and for each point the index of its pair."""
    own = [(index, block.amplifiers[name]) for index, block in enumerate(blocks) if name in block.amplifiers]
    owners = [index for index, block in own for _ in range(block.mean.size)]
    noises = [block.read_noise for _, block in own if block.read_noise is not None]
    errors = [block.read_noise_error for _, block in own if block.read_noise_error is not None]
    read_noise, read_noise_error = _combine_read_noise(noises, errors)
    points = FitPoints(
        mean=np.concatenate([block.mean for _, block in own]),
        variance=np.concatenate([block.variance for _, block in own]),
        pixel_count=np.concatenate([block.pixel_count for _, block in own]),
        flags=tuple(flags for _, block in own for flags in block.flags),
        read_noise=read_noise,
        read_noise_error=read_noise_error,
        zero_level=all(block.zero_level for _, block in own),
    )
    return points, owners


def _combine_read_noise(noises: list[float], errors: list[float]) -> tuple[float | None, float | None]:
    """Median of the pairs' read noises: one noisy readout must not move it. Its error is the median's."""
    if not noises:
        return None, None
    median = float(np.median(noises))
    if len(errors) != len(noises):
        return median, None
    # sqrt(pi/2) is the price of a median; a single value is itself.
    factor = math.sqrt(math.pi / 2) if len(noises) > 2 else 1.0
    return median, factor * math.sqrt(math.fsum(e * e for e in errors)) / len(errors)


def _amplifier_result(
    name: str, points: FitPoints, owners: Sequence[int], fit: AmplifierFit
) -> AmplifierFitResult:
    # Without a gain nothing was fitted, and no point was used: what it lacked is the reason.
    unfitted = None if math.isfinite(fit.gain) else str(fit.status)
    reasons = [unfitted if reason is None else str(reason) for reason in fit.reasons]
    used_pairs = {owner for owner, reason in zip(owners, reasons, strict=True) if reason is None}
    return AmplifierFitResult(
        name=name,
        status=str(fit.status),
        notes=tuple(fit.notes),
        gain=fit.gain,
        gain_error=fit.gain_error,
        read_noise=fit.read_noise,
        read_noise_error=fit.read_noise_error,
        overscan_read_noise=(
            points.read_noise * fit.gain
            if points.read_noise is not None and math.isfinite(fit.gain)
            else None
        ),
        a00=fit.a00,
        a00_error=fit.a00_error,
        turnoff=fit.turnoff,
        turnoff_error=fit.turnoff_error,
        turnoff_is_lower_limit=fit.turnoff_is_lower_limit,
        turnoff_last_used=fit.turnoff_last_used,
        chi2_per_dof=fit.chi2_per_dof,
        dof=fit.dof,
        floor=fit.floor,
        parameters=tuple(float(value) for value in fit.parameters),
        points_used=reasons.count(None),
        pairs_used=len(used_pairs),
        unused=_unused_points(points, owners, reasons, used_pairs),
    )


def _unused_points(
    points: FitPoints, owners: Sequence[int], reasons: Sequence[str | None], used_pairs: set[int]
) -> tuple[UnusedPoints, ...]:
    # NaN sorts last in numpy, and a stable sort keeps ties in canonical (pair id) order.
    by_signal = np.argsort(points.mean, kind="stable").tolist()
    indices: dict[str, list[int]] = {}
    lost_pairs: dict[str, int] = {}
    counted: set[int] = set()
    for place, index in enumerate(by_signal):
        reason = reasons[index]
        if reason is None:
            continue
        indices.setdefault(reason, []).append(place)
        owner = owners[index]
        if owner not in used_pairs and owner not in counted:
            counted.add(owner)
            lost_pairs[reason] = lost_pairs.get(reason, 0) + 1
    return tuple(
        UnusedPoints(
            reason=reason,
            count=len(places),
            pairs=lost_pairs.get(reason, 0),
            ranges=pack(places),
        )
        for reason, places in sorted(indices.items())
    )
