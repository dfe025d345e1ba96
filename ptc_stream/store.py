"""What a store says: live, read-only access to the runs, exposures, pairs, fits and alerts in it.

Every call reads what the log holds now, also while another process is writing, so a `Store` kept open in a
notebook follows a run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from ptc_stream.bus.api import BusRecord, Topics
from ptc_stream.bus.reader import SqliteReader
from ptc_stream.codec import decode
from ptc_stream.config import make_section
from ptc_stream.core.matching import PairingConfig
from ptc_stream.core.pairing import PairingBuffer
from ptc_stream.errors import ConfigurationError, DecodeError
from ptc_stream.export.results import RunResult
from ptc_stream.records import (
    Alert,
    ExposureArrived,
    FlatPair,
    GroupKey,
    PairCovariances,
    PtcFit,
    Rejected,
    join_key,
)

__all__ = ["RejectedRecord", "Store"]

RecordT = TypeVar("RecordT", ExposureArrived, FlatPair, PairCovariances, PtcFit, Alert, Rejected)


class RejectedRecord(NamedTuple):
    """A rejected record and where its original stood."""

    record: Rejected
    origin: str


class Store:
    """A store on disk, read-only.

    Parameters
    ----------
    path
        The file that ``--store`` named.
    prefix
        Prefix of the topic names.

    Raises
    ------
    ConfigurationError
        There is no such store.
    """

    def __init__(self, path: str | os.PathLike[str], *, prefix: str = "ptc") -> None:
        self._reader = SqliteReader(path)
        self._topics = Topics(prefix)
        self.path = os.fspath(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._reader.close()

    @property
    def reader(self) -> SqliteReader:
        """The log itself."""
        return self._reader

    def version(self) -> tuple[int, int]:
        """Return a value that changes when something was written: poll it to follow a run."""
        return self._reader.data_version()

    def runs(self) -> list[tuple[str, str]]:
        """(instrument, run) of every run, in the order of their first exposure in the log."""
        return list(dict.fromkeys(exposure.group[:2] for exposure in self.exposures()))

    def one_run(self, run: str | None = None) -> tuple[str, str]:
        """Return (instrument, run) of the run called `run`, or of the only one.

        Raises
        ------
        ConfigurationError
            There is none of that name, or several and none was named.
        """
        runs = self.runs()
        chosen = [entry for entry in runs if run in (None, entry[1])]
        if len(chosen) == 1:
            return chosen[0]
        names = ", ".join(sorted({name for _, name in runs})) or "none"
        if run is None and runs:
            raise ConfigurationError(f"{self.path} holds several runs ({names}): choose one with --run")
        raise ConfigurationError(
            f"{self.path} holds no run {run or ''} (there are: {names})".replace("  ", " ")
        )

    def exposures(self) -> Iterator[ExposureArrived]:
        """Every announced exposure, by partition and offset."""
        yield from self._scan(ExposureArrived)

    def pairs(self, run: tuple[str, str]) -> list[FlatPair]:
        """Every pair of `run` that nothing supersedes."""
        pairs = [pair for pair in self._scan(FlatPair) if pair.group[:2] == run]
        superseded = {pair_id for pair in pairs for pair_id in pair.supersedes}
        return [pair for pair in pairs if pair.pair_id not in superseded]

    def covariances(self, run: tuple[str, str], detector: str | None = None) -> list[PairCovariances]:
        """Every measured pair of `run`, by detector in the order of the log, superseded ones too."""
        prefix = join_key(*run, *(() if detector is None else (detector,))) + "|"
        own = (
            bus_record
            for bus_record in self._reader.scan(self._topics.name(PairCovariances.topic))
            if bus_record.key.startswith(prefix)
        )
        return [record for _, record in _decoded(own, PairCovariances)]

    def models(self, run: tuple[str, str]) -> list[str]:
        """Models that the detectors of `run` were fitted with, the one fitted last at the end."""
        newest: dict[str, int] = {}
        for bus_record, fit in self._latest_fits(run):
            newest[fit.model] = max(newest.get(fit.model, 0), bus_record.timestamp_ms)
        return sorted(newest, key=lambda model: (newest[model], model))

    def fits(self, run: tuple[str, str], model: str | None = None) -> list[PtcFit]:
        """Newest fit of every detector of `run` with `model` (default: the model fitted last)."""
        if model is None:
            model = (self.models(run) or [""])[-1]
        return [fit for _, fit in self._latest_fits(run) if fit.model == model]

    def history(self, group: GroupKey, model: str) -> list[PtcFit]:
        """Every fit of one detector, oldest first: how the curve grew."""
        return [fit for fit in self._scan(PtcFit) if fit.group == group and fit.model == model]

    def result(self, run: str | None = None, model: str | None = None) -> RunResult:
        """Return fits and points of one run, ready to print and plot."""
        chosen = self.one_run(run)
        return RunResult(
            chosen[1],
            self.fits(chosen, model),
            self.covariances(chosen),
            unpaired=len(self.waiting(chosen)),
            rejected=len(self.rejected()),
        )

    def waiting(self, run: tuple[str, str]) -> list[ExposureArrived]:
        """Flats of `run` whose partner has not arrived, by the same code that pairs them."""
        config = self.pairing_config()
        buffers: dict[GroupKey, PairingBuffer] = {}
        for exposure in self.exposures():
            if exposure.group[:2] == run:
                buffer = buffers.setdefault(
                    exposure.group, PairingBuffer(exposure.group, config, measuring_digest="")
                )
                buffer.on_record(exposure)
        return [exposure for buffer in buffers.values() for exposure in buffer.waiting()]

    def rejected(self) -> list[RejectedRecord]:
        """Everything that could not be used, with where it stood."""
        found = []
        for bus_record in self._reader.scan(self._topics.name(Rejected.topic)):
            headers = dict(bus_record.headers)
            topic, partition, offset = (
                headers.get(f"ptc-origin-{part}", b"").decode() for part in ("topic", "partition", "offset")
            )
            origin = f"{topic}/{partition}@{offset}" if topic else ""
            found.append(RejectedRecord(decode(bus_record.value, Rejected), origin))
        return found

    def alerts(self, run: tuple[str, str] | None = None) -> list[Alert]:
        """Every alert, raised and cleared, by partition and offset."""
        return [alert for alert in self._scan(Alert) if run is None or alert.group[:2] == run]

    def stage_config(self, stage: str) -> dict[str, Any] | None:
        """Return the settings that `stage` worked under, or None if it has not worked here."""
        for (name, _), position in self._reader.stages().items():
            if name == stage and position.config is not None:
                loaded: dict[str, Any] = json.loads(position.config)
                return loaded
        return None

    def pairing_config(self) -> PairingConfig:
        """Return the settings under which the flats of this store were paired."""
        stored = self.stage_config("pairing")
        config: PairingConfig = make_section("pairing", stored["pairing"] if stored is not None else {})
        return config

    def _latest_fits(self, run: tuple[str, str]) -> Iterator[tuple[BusRecord, PtcFit]]:
        newest = self._reader.latest(self._topics.name(PtcFit.topic), key_prefix=join_key(*run) + "|")
        return _decoded(newest, PtcFit)

    def _scan(self, record_type: type[RecordT]) -> Iterator[RecordT]:
        for _, record in _decoded(self._reader.scan(self._topics.name(record_type.topic)), record_type):
            yield record


def _decoded(
    bus_records: Iterable[BusRecord], record_type: type[RecordT]
) -> Iterator[tuple[BusRecord, RecordT]]:
    for bus_record in bus_records:
        try:
            yield bus_record, decode(bus_record.value, record_type)
        except DecodeError:
            continue  # whoever should have used it has rejected it, with its reason
