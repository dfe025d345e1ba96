"""The command line as its users meet it: processes, exit codes, what the log holds afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ptc_stream.bus.reader import SqliteReader
from ptc_stream.codec import decode
from ptc_stream.records import (
    Alert,
    ExposureArrived,
    FlatPair,
    PairCovariances,
    PtcFit,
    Rejected,
)

__all__ = [
    "SMALL_SETTINGS",
    "Log",
    "command",
    "descendants",
    "log_of",
    "one_line",
    "ptc_stream",
    "records",
    "result",
    "same_log",
    "start",
    "until",
]

# The amplifiers of the small run have 160 x 96 pixels.
SMALL_SETTINGS = ("--set", "measuring.edge=4", "measuring.min_pixels=1000", "measuring.max_lag=4")

_UNORDERED = ("rejected", "alerts")  # several stages write them, so only the set is a function of the input
_CHECKOUT = Path(__file__).parents[2]

RecordT = TypeVar("RecordT", ExposureArrived, FlatPair, PairCovariances, PtcFit, Alert, Rejected)
ValueT = TypeVar("ValueT")

Log = dict[tuple[str, int], list[tuple[str, bytes]]]


def command(*arguments: str | os.PathLike[str]) -> list[str]:
    """The words that start `ptc-stream`, with this interpreter."""
    return [sys.executable, "-m", "ptc_stream", *(os.fspath(argument) for argument in arguments)]


def environment() -> dict[str, str]:
    """As a user's shell has it, wide enough that tables do not wrap, and without settings of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PTC_STREAM_")}
    return kept | {"COLUMNS": "240", "PYTHONPATH": str(_CHECKOUT), "PYTHONWARNINGS": "error"}


def ptc_stream(
    *arguments: str | os.PathLike[str], exit_code: int = 0, timeout: float = 100.0, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end and hold it to its exit code."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=cwd,
        env=environment(),
    )
    assert done.returncode == exit_code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def result(*arguments: str | os.PathLike[str], timeout: float = 100.0) -> Any:
    """Run one command with --json and return what it prints."""
    return json.loads(ptc_stream(*arguments, "--json", timeout=timeout).stdout)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command says what is wrong."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("ptc-stream: error: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == lines[0], done.stderr
    return lines[0].removeprefix("ptc-stream: error: ")


def start(*arguments: str | os.PathLike[str], output: Path) -> subprocess.Popen[bytes]:
    """Start a command in the background; what it says goes to the file `output`."""
    with output.open("wb") as file:
        return subprocess.Popen(command(*arguments), stdout=file, stderr=subprocess.STDOUT, env=environment())


def until(condition: Callable[[], ValueT], *, timeout: float = 60.0, what: str) -> ValueT:
    """Wait until `condition` returns something true, and return it."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"no {what} within {timeout} s"
        time.sleep(0.01)
    return value


def descendants(pid: int) -> set[int]:
    """Processes that `pid` has started, and those that they have."""
    found: set[int] = set()
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found |= {child} | descendants(child)
    except OSError:
        pass  # it has ended meanwhile
    return found


def records(store: Path, record_type: type[RecordT]) -> list[RecordT]:
    """Every record of one type in a store."""
    with SqliteReader(store) as reader:
        return [decode(record.value, record_type) for record in reader.scan(f"ptc.{record_type.topic}")]


def log_of(store: Path) -> Log:
    """(key, value) of every record of every topic and partition, in order."""
    log: Log = {}
    with SqliteReader(store) as reader:
        for topic in reader.topics():
            for record in reader.scan(topic):
                log.setdefault((topic, record.partition), []).append((record.key, record.value))
    return log


def same_log(found: Log, wanted: Log, *, leave_out: Sequence[str] = ()) -> None:
    """Hold two logs to the same bytes in the same order; `rejected` and `alerts` as sets.

    Their numbers count too: an alert that is raised twice is a defect.
    """
    ours, theirs = _comparable(found, leave_out), _comparable(wanted, leave_out)
    assert {log: len(values) for log, values in ours.items()} == {
        log: len(values) for log, values in theirs.items()
    }
    for log, values in theirs.items():
        differing = [
            index for index, pair in enumerate(zip(ours[log], values, strict=True)) if len({*pair}) > 1
        ]
        assert not differing, f"{log}: records {differing} of {len(values)} differ"


def _comparable(log: Log, leave_out: Sequence[str]) -> dict[tuple[str, int], list[tuple[str, bytes]]]:
    return {
        (topic, partition): sorted(values) if topic.removeprefix("ptc.") in _UNORDERED else values
        for (topic, partition), values in sorted(log.items())
        if topic.removeprefix("ptc.") not in leave_out
    }


def pair_ids(log: Log) -> Iterator[str]:
    """Identity of every record of `pairs` and `covariances`, to be looked at for doubles."""
    for (topic, _), values in log.items():
        if topic in {"ptc.pairs", "ptc.covariances"}:
            yield from (f"{topic} {key}" for key, _ in values)
