from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ptc_stream.bus.api import Outgoing, Ownership, Topics
from ptc_stream.bus.sqlite import SqliteBus
from ptc_stream.codec import encode, record_headers
from ptc_stream.config import canonical_json
from ptc_stream.core.matching import PairingConfig
from ptc_stream.errors import ConfigurationError
from ptc_stream.records import Record
from ptc_stream.store import Store
from tests.builders import alert, flat_exposure, flat_pair, pair_covariances, ptc_fit, rejected

RUN = ("TestCam", "13600")


class Writer:
    """A store that somebody writes to."""

    def __init__(self, path: Path, bus: SqliteBus) -> None:
        self.path = path
        self._bus = bus
        self._owned: dict[tuple[str, int], Ownership] = {}

    async def write(
        self,
        *records: Record | tuple[str, bytes],
        partition: int = 0,
        stage: str = "test",
        config: str = "{}",
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Write records, or bytes that are none as (topic, bytes)."""
        if (stage, partition) not in self._owned:
            self._owned[stage, partition] = await self._bus.own(stage, partition)
        outgoing = []
        for record in records:
            if isinstance(record, tuple):
                topic, key, value = record[0], "TestCam|13600|R22_S11|?", record[1]
            else:
                assert hasattr(record, "key")
                topic, key, value = record.topic, record.key, encode(record)
            all_headers = (*(() if isinstance(record, tuple) else record_headers(record)), *headers)
            outgoing.append(
                Outgoing(
                    topic=Topics().name(topic), partition=partition, key=key, value=value, headers=all_headers
                )
            )
        await self._owned[stage, partition].commit(outgoing, next_offset=0, config=config, first_offsets={})


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Writer]:
    bus = await SqliteBus.open(tmp_path / "ptc.sqlite", partitions=2, purpose="test")
    yield Writer(tmp_path / "ptc.sqlite", bus)
    await bus.close()


async def test_runs_are_listed_in_the_order_in_which_they_began(writer: Writer) -> None:
    with Store(writer.path) as store:
        assert store.runs() == []
        with pytest.raises(ConfigurationError, match=r"holds no run \(there are: none\)"):
            store.one_run()
        await writer.write(flat_exposure(1, run="b"))
        assert store.one_run() == ("TestCam", "b")
        await writer.write(flat_exposure(2, run="a"), flat_exposure(3, run="b"))
        assert store.runs() == [("TestCam", "b"), ("TestCam", "a")]


async def test_one_run_is_chosen_by_name_or_because_it_is_the_only_one(writer: Writer) -> None:
    await writer.write(
        flat_exposure(1, run="a"), flat_exposure(1, run="b"), flat_exposure(1, instrument="Other", run="b")
    )
    with Store(writer.path) as store:
        assert store.one_run("a") == ("TestCam", "a")
        with pytest.raises(ConfigurationError, match=r"several runs \(a, b\): choose one with --run"):
            store.one_run()
        with pytest.raises(ConfigurationError, match=r"holds no run c \(there are: a, b\)"):
            store.one_run("c")
        with pytest.raises(ConfigurationError):  # two cameras have a run of this name
            store.one_run("b")


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such store"):
        Store(tmp_path / "nowhere.sqlite")


async def test_superseded_pairs_are_left_out_of_pairs_and_not_of_covariances(writer: Writer) -> None:
    old, new = flat_pair(pair_id="old"), flat_pair(pair_id="new", supersedes=("old",))
    other_run = flat_pair(pair_id="other", run="13601", supersedes=("new",))
    await writer.write(new, old, other_run)
    measured = [pair_covariances(pair_id="old"), pair_covariances(pair_id="new", supersedes=("old",))]
    await writer.write(*measured)
    with Store(writer.path) as store:
        assert store.pairs(RUN) == [new]
        assert store.covariances(RUN) == measured


async def test_covariances_of_a_run_and_of_a_detector(writer: Writer) -> None:
    """A bar in a name must not let one run see another's."""
    records = [
        pair_covariances(),
        pair_covariances(detector="R22_S12"),
        pair_covariances(detector="R22"),
        pair_covariances(run="136"),
        pair_covariances(run="13600|R22_S11"),
    ]
    await writer.write(*records)
    with Store(writer.path) as store:
        assert store.covariances(RUN) == records[:3]
        assert store.covariances(RUN, "R22_S12") == [records[1]]
        assert store.covariances(RUN, "R22") == [records[2]]
        assert store.covariances(("TestCam", "13600|R22_S11")) == [records[4]]


async def test_fits_are_the_newest_of_each_detector_and_history_is_all_of_one(writer: Writer) -> None:
    fits = [ptc_fit(pairs=n) for n in (3, 4, 5)]
    other = ptc_fit(detector="R22_S12", pairs=9)
    await writer.write(*fits)
    await writer.write(other, partition=1)
    with Store(writer.path) as store:
        assert store.fits(RUN) == [fits[-1], other]
        assert store.history(fits[0].group, "EXPAPPROXIMATION") == fits
        assert store.history(fits[0].group, "POLYNOMIAL") == []
        assert store.fits(("TestCam", "1360")) == []


async def test_the_model_that_was_fitted_last_is_the_default(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    from ptc_stream.bus import sqlite

    now_ms = iter(range(1000, 9000, 1000))
    monkeypatch.setattr(sqlite, "time", types.SimpleNamespace(time_ns=lambda: next(now_ms) * 1_000_000))
    with Store(writer.path) as store:
        assert store.models(RUN) == []
        assert store.fits(RUN) == []
        await writer.write(ptc_fit(model="POLYNOMIAL"))
        await writer.write(ptc_fit())
        assert store.models(RUN) == ["POLYNOMIAL", "EXPAPPROXIMATION"]
        assert [fit.model for fit in store.fits(RUN)] == ["EXPAPPROXIMATION"]
        await writer.write(ptc_fit(model="POLYNOMIAL", pairs=41))
        assert store.models(RUN) == ["EXPAPPROXIMATION", "POLYNOMIAL"]
        assert [fit.pairs for fit in store.fits(RUN)] == [41]
        assert [fit.model for fit in store.fits(RUN, "EXPAPPROXIMATION")] == ["EXPAPPROXIMATION"]


async def test_flats_that_wait_are_found_under_the_settings_of_the_store(writer: Writer) -> None:
    flats = [flat_exposure(n, exposure_time=time) for n, time in ((1, 1.0), (2, 1.05), (3, 7.0))]
    await writer.write(*flats, flat_exposure(4, run="13601"))
    with Store(writer.path) as store:
        assert store.pairing_config() == PairingConfig()
        assert store.waiting(RUN) == flats
        loose = PairingConfig(time_tolerance=0.1)
        config = canonical_json({"pairing": loose, "measuring_digest": "x"})
        await writer.write(stage="pairing", config=config)
        assert store.pairing_config() == loose
        assert store.stage_config("pairing") is not None
        assert store.stage_config("measuring") is None
        assert store.waiting(RUN) == flats[2:]


async def test_rejects_tell_where_their_original_stood(writer: Writer) -> None:
    origin = [
        ("ptc-origin-topic", b"ptc.pairs"),
        ("ptc-origin-partition", b"1"),
        ("ptc-origin-offset", b"17"),
    ]
    await writer.write(rejected(), headers=origin)
    await writer.write(rejected(stage="ingest"))
    with Store(writer.path) as store:
        first, second = store.rejected()
        assert (first.record, first.origin) == (rejected(), "ptc.pairs/1@17")
        assert (second.record.stage, second.origin) == ("ingest", "")


async def test_alerts_of_a_run_or_of_all(writer: Writer) -> None:
    mine, other = alert(), alert(run="13601")
    await writer.write(mine, other)
    with Store(writer.path) as store:
        assert store.alerts() == [mine, other]
        assert store.alerts(RUN) == [mine]


@pytest.mark.parametrize("topic", ["exposures", "pairs", "covariances", "fits", "alerts"])
async def test_bytes_that_are_no_record_hide_nothing(writer: Writer, topic: str) -> None:
    """Whoever should have used them has rejected them; people must still see the rest."""
    await writer.write(
        (topic, b"garbage"),
        flat_exposure(1),
        flat_pair(),
        pair_covariances(),
        ptc_fit(),
        alert(),
        (topic, b""),
    )
    with Store(writer.path) as store:
        assert list(store.exposures()) == [flat_exposure(1)]
        assert store.pairs(RUN) == [flat_pair()]
        assert store.covariances(RUN) == [pair_covariances()]
        assert store.fits(RUN) == [ptc_fit()]
        assert store.alerts() == [alert()]


async def test_the_result_puts_all_of_it_together(writer: Writer) -> None:
    await writer.write(flat_exposure(1), pair_covariances(), ptc_fit(), rejected())
    with Store(writer.path) as store:
        shown: Any = store.result().to_json()
        assert (shown["run"], shown["unpaired"], shown["rejected"]) == ("13600", 1, 1)
        assert [it["detector"] for it in shown["detectors"]] == ["R22_S11"]


async def test_a_store_follows_what_is_written(writer: Writer) -> None:
    with Store(writer.path) as store:
        before = store.version()
        assert store.version() == before
        await writer.write(ptc_fit())
        assert store.version() != before
        assert len(store.fits(RUN)) == 1
        assert store.path == str(writer.path)
        assert store.reader.partitions == 2
