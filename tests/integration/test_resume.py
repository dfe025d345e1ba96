"""Start again, with more files, other models, other settings, a second process, or after a signal."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from ptc_stream.bus.reader import SqliteReader
from ptc_stream.errors import ConfigurationError
from ptc_stream.records import Alert, ExposureArrived, FlatPair, PairCovariances, PtcFit
from tests.integration.commands import (
    SMALL_SETTINGS,
    descendants,
    log_of,
    one_line,
    ptc_stream,
    records,
    result,
    same_log,
    start,
    until,
)


def measured(store: Path) -> Counter[str]:
    """How often each pair was measured: every measurement is one record."""
    return Counter(record.key for record in records(store, PairCovariances))


@pytest.fixture
def images(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "small"))


@pytest.fixture(scope="module")
def finished(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a run over all files. Whoever writes to it copies it first."""
    out = tmp_path_factory.mktemp("finished") / "out"
    ptc_stream("run", small_run, "--out", out, *SMALL_SETTINGS)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_running_again_does_nothing_again(small_run: Path, out: Path) -> None:
    before = log_of(out / "ptc.sqlite")
    shape = result("run", small_run, "--out", out, *SMALL_SETTINGS)
    assert log_of(out / "ptc.sqlite") == before
    assert shape["pairs"] == 15
    assert shape["unpaired"] == 1


def test_only_new_files_are_measured_and_a_late_twin_makes_its_pair(images: Path, tmp_path: Path) -> None:
    flats = sorted(images.glob("*_R22_S11.fits"))
    late, more = flats[3], flats[12:]
    kept = tmp_path / "later"
    kept.mkdir()
    for path in (late, *more):
        path.rename(kept / path.name)
    store = tmp_path / "out" / "ptc.sqlite"
    arguments = ("run", images, "--out", tmp_path / "out", *SMALL_SETTINGS)

    first = result(*arguments)
    before = measured(store)
    for path in more:
        shutil.move(kept / path.name, path)
    second = result(*arguments)
    assert second["pairs"] > first["pairs"]
    assert second["unpaired"] == 2  # the twins of the late flat and of the one that never comes
    assert before < measured(store)

    between = measured(store)
    shutil.move(kept / late.name, late)
    third = result(*arguments)
    assert third["unpaired"] == 1
    assert third["pairs"] == second["pairs"] + 1
    added = measured(store) - between
    assert len(added) == 1
    (pair,) = (pair for pair in records(store, FlatPair) if pair.key in added)
    assert late.stem.removesuffix("_R22_S11") in {pair.first.exposure, pair.second.exposure}
    assert set(measured(store).values()) == {1}


def test_another_model_makes_only_fits_and_the_first_one_makes_nothing(small_run: Path, out: Path) -> None:
    store = out / "ptc.sqlite"
    before = log_of(store)
    other = result("run", small_run, "--out", out, "--model", "POLYNOMIAL", *SMALL_SETTINGS)
    assert {a["model"] for d in other["detectors"] for a in d["amplifiers"]} == {"POLYNOMIAL"}
    after = log_of(store)
    same_log(after, before, leave_out=("fits", "alerts"))
    models = Counter(fit.model for fit in records(store, PtcFit))
    assert models == {"EXPAPPROXIMATION": 15, "POLYNOMIAL": 15}
    assert {alert.model for alert in records(store, Alert)} == {"EXPAPPROXIMATION", "POLYNOMIAL"}

    again = result("run", small_run, "--out", out, *SMALL_SETTINGS)
    assert {a["model"] for d in again["detectors"] for a in d["amplifiers"]} == {"EXPAPPROXIMATION"}
    assert log_of(store) == after


def test_other_fit_settings_refit_every_pair_and_measure_none(small_run: Path, out: Path) -> None:
    store = out / "ptc.sqlite"
    before = log_of(store)
    other = (*SMALL_SETTINGS, "fitting.max_mean=30000", "--json")
    done = ptc_stream("-vv", "run", small_run, "--out", out, *other)
    assert "fitting.max_mean was" in " ".join(done.stderr.split())
    assert json.loads(done.stdout)["pairs"] == 15  # what is logged does not get into it
    same_log(log_of(store), before, leave_out=("fits", "alerts"))
    fits = records(store, PtcFit)
    assert Counter(fit.fitting_digest for fit in fits).most_common() == [
        (digest, 15) for digest in dict.fromkeys(fit.fitting_digest for fit in fits)
    ]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("measuring.max_lag=6",), "measuring.max_lag was 4, is now 6"),
        (("pairing.time_tolerance=0.5",), "pairing.time_tolerance was"),
    ],
)
def test_other_measuring_settings_are_refused_in_one_line(
    small_run: Path, out: Path, options: tuple[str, ...], named: str
) -> None:
    store = out / "ptc.sqlite"
    before = log_of(store)
    done = ptc_stream("run", small_run, "--out", out, *SMALL_SETTINGS, *options, exit_code=2)
    line = one_line(done)
    assert named in line
    assert "--store" in line
    assert "replay" in line
    assert log_of(store) == before


def test_a_second_process_is_told_who_the_first_one_is(small_run: Path, out: Path, tmp_path: Path) -> None:
    """The first one watches an empty directory, so it holds the store until it is told to end."""
    store = out / "ptc.sqlite"
    (tmp_path / "empty").mkdir()
    first = start("watch", tmp_path / "empty", "--out", out, *SMALL_SETTINGS, output=tmp_path / "first.txt")
    try:
        lock = Path(f"{store}.lock")
        until(lambda: lock.exists() and lock.stat().st_size, what="lock")
        done = ptc_stream("run", small_run, "--out", out, *SMALL_SETTINGS, exit_code=3)
        line = one_line(done)
        assert f"pid {first.pid} " in line
        assert "ptc-stream watch" in line
        # Looking is allowed meanwhile.
        assert result("show", store)["pairs"] == 15
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=60) == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_same_command_goes_on(
    number: signal.Signals, small_run: Path, finished: Path, tmp_path: Path
) -> None:
    store = tmp_path / "out" / "ptc.sqlite"
    arguments = ("run", small_run, "--out", tmp_path / "out", "--workers", "1", *SMALL_SETTINGS)
    process = start(*arguments, "runner.window=1", output=tmp_path / "output.txt")
    try:
        until(lambda: store.exists() and _measured_so_far(store) >= 2, what="second measurement")
        workers = descendants(process.pid)
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    finally:
        process.kill()
        process.wait()
    text = (tmp_path / "output.txt").read_text()
    assert "stopping" in text
    assert "interrupted" in text
    assert "Traceback" not in text
    assert 2 <= len(measured(store)) < 15
    assert len(records(store, ExposureArrived)) > 0
    ptc_stream(*arguments)
    same_log(log_of(store), log_of(finished / "ptc.sqlite"))


def _measured_so_far(store: Path) -> int:
    try:
        with SqliteReader(store) as reader:
            return reader.count("ptc.covariances")
    except ConfigurationError:  # the file is there, its tables are not yet
        return 0
