"""`watch` on a directory that fills up as a camera and a slow copy fill it."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptc_stream.bus.reader import SqliteReader
from ptc_stream.errors import PtcStreamError
from ptc_stream.records import ExposureArrived, FlatPair, PairCovariances, PtcFit, Rejected
from ptc_stream.simulator import plan, write_exposure
from tests.conftest import SMALL
from tests.integration.commands import (
    SMALL_SETTINGS,
    Log,
    log_of,
    ptc_stream,
    records,
    result,
    same_log,
    start,
    until,
)

QUICK = ("--poll", "0.1")


@contextmanager
def watching(*arguments: str | Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start("watch", *arguments, *QUICK, *SMALL_SETTINGS, output=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def count(store: Path, topic: str) -> int:
    try:
        with SqliteReader(store) as reader:
            return reader.count(f"ptc.{topic}")
    except PtcStreamError:
        return 0  # not made yet


def flats(directory: Path) -> list[Path]:
    """The flats of one detector; two in succession are a pair."""
    return [
        path for number, path in enumerate(sorted(directory.glob("*_R22_S11.fits"))) if number not in (0, 9)
    ]


def content(log: Log) -> dict[str, set[tuple[str, bytes]]]:
    """Per topic what was found, in whatever order the files came."""
    found: dict[str, set[tuple[str, bytes]]] = {}
    for (topic, _), values in log.items():
        found.setdefault(topic, set()).update(values)
    return found


def test_a_directory_that_fills_gives_the_result_of_a_run(small_run: Path, tmp_path: Path) -> None:
    """It does not exist at first; one file grows in three steps; one comes under a hidden name before."""
    directory, out = tmp_path / "small", tmp_path / "out"
    store = out / "ptc.sqlite"
    with watching(directory, "--out", out, "--until-idle", "3", output=tmp_path / "output.txt") as process:
        until(store.exists, what="store")
        directory.mkdir()
        files = sorted(small_run.glob("*.fits"))
        slow, hidden = files[4], files[8]
        whole = slow.read_bytes()
        growing = directory / slow.name
        growing.write_bytes(whole[: len(whole) // 3])
        shutil.copy(hidden, directory / f".{hidden.name}.part")
        for number, path in enumerate(files):
            if path not in {slow, hidden}:
                shutil.copy(path, directory)
            if number == len(files) // 2:
                until(lambda: count(store, "exposures") >= 5, what="first exposures")
                assert not any(slow.name in e.uri for e in records(store, ExposureArrived))
                growing.write_bytes(whole[: len(whole) * 2 // 3])
        (directory / f".{hidden.name}.part").rename(directory / hidden.name)
        until(lambda: count(store, "exposures") == len(files) - 1, what="all other exposures")
        assert not any(slow.name in e.uri for e in records(store, ExposureArrived))
        growing.write_bytes(whole)
        assert process.wait(timeout=60) == 0, (tmp_path / "output.txt").read_text()
    assert records(store, Rejected) == []
    assert "15 pairs" in (tmp_path / "output.txt").read_text()

    ptc_stream("run", directory, "--out", tmp_path / "run", *SMALL_SETTINGS)
    watched, run = content(log_of(store)), content(log_of(tmp_path / "run" / "ptc.sqlite"))
    for topic in ("ptc.exposures", "ptc.pairs", "ptc.covariances"):
        assert watched[topic] == run[topic]
    # Fits grow in another order; the last one is of the same pairs.
    assert result("show", store)["detectors"] == result("show", tmp_path / "run" / "ptc.sqlite")["detectors"]


def test_a_file_sent_again_is_a_new_revision(small_run: Path, tmp_path: Path) -> None:
    directory, out = tmp_path / "small", tmp_path / "out"
    directory.mkdir()
    store = out / "ptc.sqlite"
    for path in flats(small_run)[:6]:
        shutil.copy(path, directory)
    exposure = next(e for e in plan(SMALL) if e.file_name == flats(small_run)[2].name)
    with watching(directory, "--out", out, output=tmp_path / "output.txt") as process:
        until(lambda: count(store, "fits") == 3, what="three fits")
        write_exposure(SMALL, dataclasses.replace(exposure, revision=2), directory)
        until(lambda: count(store, "fits") == 4, what="fit of the new revision")
        # The same file once more, under another time of change: nothing new.
        (directory / exposure.file_name).touch()
        shutil.copy(flats(small_run)[6], directory)
        until(lambda: count(store, "exposures") == 8, what="exposure after it")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    pairs = records(store, FlatPair)
    assert len(pairs) == 4
    (new,) = (pair for pair in pairs if pair.supersedes)
    assert new.supersedes[0] in {pair.pair_id for pair in pairs if not pair.supersedes}
    assert exposure.exposure in {new.first.exposure, new.second.exposure}
    assert [fit.pairs for fit in records(store, PtcFit)] == [1, 2, 3, 3]
    assert len(records(store, ExposureArrived)) == 8


def test_an_upload_that_breaks_off_is_rejected_and_mended_by_the_whole_file(
    small_run: Path, tmp_path: Path
) -> None:
    directory, out = tmp_path / "small", tmp_path / "out"
    directory.mkdir()
    store = out / "ptc.sqlite"
    first, second = flats(small_run)[:2]
    shutil.copy(first, directory)
    whole = second.read_bytes()
    (directory / second.name).write_bytes(whole[: len(whole) * 6 // 10])
    with watching(directory, "--out", out, "--settle", "0.5", output=tmp_path / "output.txt") as process:
        until(lambda: count(store, "rejected") == 1, what="rejected pair")
        assert records(store, PairCovariances) == []
        (directory / second.name).write_bytes(whole)
        until(lambda: count(store, "fits") == 1, what="fit")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    (record,) = records(store, Rejected)
    assert (record.stage, record.reason) == ("measuring", "IMAGE_UNREADABLE")
    old, new = records(store, FlatPair)
    assert new.supersedes == (old.pair_id,)


def test_watching_again_finds_nothing_new(small_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("watch", small_run, "--out", out, "--until-idle", "0.5", *QUICK, *SMALL_SETTINGS)
    first = result(*arguments)
    assert first["pairs"] == 15
    before = log_of(out / "ptc.sqlite")
    assert result(*arguments) == first
    same_log(log_of(out / "ptc.sqlite"), before)


def test_an_idle_directory_without_files_ends_without_results(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = (tmp_path / "empty", "--out", tmp_path / "out", "--until-idle", "0.2", *QUICK)
    assert result("watch", *arguments) == []
