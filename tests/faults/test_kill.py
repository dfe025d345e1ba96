"""SIGKILL at random moments, then resume: the log must be that of an undisturbed run, byte for byte.

Fourteen kills hit the real command with its worker processes. More than a hundred hit a child of
`killable.py`, which has everything imported already and so is killed at work instead of at start-up.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptc_stream.bus.reader import SqliteReader
from ptc_stream.errors import PtcStreamError
from tests.integration.commands import (
    SMALL_SETTINGS,
    Log,
    descendants,
    environment,
    log_of,
    pair_ids,
    ptc_stream,
    same_log,
    start,
    until,
)

COMMAND_KILLS = 14
CHILD_KILLS = 120

# So that pairing raises an alert of its own, beside the one for the dead amplifier.
SETTINGS = (*SMALL_SETTINGS, "pairing.unpaired_after=2")


@pytest.fixture(scope="module")
def images(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run, and two files that end in `rejected`: one at ingest, one in a worker."""
    directory = tmp_path_factory.mktemp("killed") / "small"
    shutil.copytree(small_run, directory)
    (directory / "broken.fits").write_bytes(b"SIMPLE  = no FITS file at all")
    cut = sorted(directory.glob("*_R22_S11.fits"))[4]
    os.truncate(cut, cut.stat().st_size * 6 // 10)
    return directory


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nobody killed."""
    out = tmp_path_factory.mktemp("undisturbed")
    ptc_stream("run", images, "--out", out, "--workers", "2", *SETTINGS)
    store = out / "ptc.sqlite"
    log = log_of(store)
    assert {topic for topic, _ in log} == {
        f"ptc.{name}" for name in ("exposures", "pairs", "covariances", "fits", "alerts", "rejected")
    }
    assert sum(len(records) for (topic, _), records in log.items() if topic == "ptc.rejected") == 2
    return store


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_survives_sigkill_at_any_moment(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    wanted = log_of(undisturbed)
    chance = random.Random(1)
    kills = rounds = 0
    while kills < COMMAND_KILLS:
        rounds += 1
        assert rounds <= COMMAND_KILLS, "runs end before they can be killed"
        out = tmp_path / f"round{rounds}"
        store = out / "ptc.sqlite"
        arguments = ("run", images, "--out", out, "--workers", "2", *SETTINGS, "runner.window=2")
        for _ in range(5):
            process = start(*arguments, output=tmp_path / "output.txt")
            try:
                killed = _kill_at_work(process, store, chance)
            finally:
                process.kill()
                process.wait()
            kills += killed
            if not killed:
                break
        ptc_stream(*arguments)
        _hold_to(log_of(store), wanted)


def _kill_at_work(process: subprocess.Popen[bytes], store: Path, chance: random.Random) -> bool:
    """Kill at a random moment after start-up; False if the run was over before."""
    began = _written(store)
    if chance.random() < 0.75:
        commits = chance.randint(1, 15)
        until(
            lambda: process.poll() is not None or _written(store) >= began + commits,
            what=f"record {commits} of this run",
        )
    else:
        lock = Path(f"{store}.lock")
        until(lambda: process.poll() is not None or (lock.exists() and lock.stat().st_size), what="lock")
        time.sleep(chance.uniform(0.0, 3.0))
    if process.poll() is not None:
        assert process.returncode == 0
        return False
    workers = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not any(_alive(pid) for pid in workers), timeout=10.0, what="end of the workers")
    return True


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie waits for the reaper of this machine, not for us


def _written(store: Path) -> int:
    """Records in the store so far."""
    try:
        with SqliteReader(store) as reader:
            return sum(reader.count(topic) for topic in reader.topics())
    except PtcStreamError:
        return 0  # not made yet


def _hold_to(found: Log, wanted: Log) -> None:
    same_log(found, wanted)
    ids = list(pair_ids(found))
    assert len(ids) == len(set(ids)), "a pair stands in the log twice"


@pytest.fixture
def killable(tmp_path: Path, undisturbed: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that forks children, which process the small run and are killed."""
    program = Path(__file__).with_name("killable.py")
    with subprocess.Popen(
        [sys.executable, str(program), str(undisturbed), str(tmp_path / "warm.sqlite")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        try:
            yield process
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def _say(process: subprocess.Popen[str], line: str | None = None) -> int:
    """Send a line, and return the number that answers it."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line is not None:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    return int(process.stdout.readline())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_pipeline_survives_sigkill_in_the_middle_of_its_work(
    killable: subprocess.Popen[str], undisturbed: Path, tmp_path: Path
) -> None:
    wanted = log_of(undisturbed)
    chance = random.Random(2)
    statements = _say(killable)
    _hold_to(log_of(tmp_path / "warm.sqlite"), wanted)
    kills = rounds = 0
    while kills < CHILD_KILLS:
        rounds += 1
        assert rounds <= CHILD_KILLS, "runs end before they can be killed"
        store = tmp_path / f"round{rounds}.sqlite"
        for _ in range(6):
            status = _say(killable, f"{chance.randint(1, statements * 2 // 3)} {store}")
            assert status in {0, -signal.SIGKILL}
            if status == 0:
                break
            kills += 1
        assert _say(killable, f"0 {store}") == 0
        _hold_to(log_of(store), wanted)
