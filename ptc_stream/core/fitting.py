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

from ptc_stream.core.effects import Compute, Effect, Reject
from ptc_stream.core.fit_job import FitJob, PairBlock
from ptc_stream.physics.fitting import FitConfig
from ptc_stream.physics.linearity import LinearityConfig
from ptc_stream.records import GroupKey, PairCovariances

__all__ = ["PtcAggregator"]

_WITH_COVARIANCES = frozenset({"FULLCOVARIANCE", "FULLCOVARIANCE_NO_B"})


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
    linearity
        Settings of the linearity.
    """

    def __init__(
        self,
        group: GroupKey,
        config: FitConfig,
        *,
        fitting_digest: str,
        linearity: LinearityConfig | None = None,
    ) -> None:
        self._group = group
        self._config = config
        self._linearity = linearity or LinearityConfig()
        self._lags = config.full_range if config.model in _WITH_COVARIANCES else 0
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
        block = PairBlock.from_record(record, lags=self._lags)
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
                    linearity=self._linearity,
                )
            )
        ]

    def on_history_cut(self) -> None:
        """Say in every fit from now on that older pairs are gone."""
        self._history_incomplete = True

    def size(self) -> int:
        """Return the memory held, in bytes, about."""
        return self._size
