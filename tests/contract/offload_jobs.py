"""Jobs for the tests of the executors, in a module that worker processes can import."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path

from ptc_stream.errors import ImageUnreadable


class Awkward(Exception):
    """Pickles, and does not unpickle: its arguments are not what its constructor wants."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def square(number: int) -> int:
    return number * number


def echo(value: object) -> object:
    return value


def unreadable(name: str) -> None:
    raise ImageUnreadable(f"{name} is not FITS")


def fail(error: Exception) -> None:
    raise error


def raise_awkward(text: str) -> None:
    raise Awkward(text, text)


def exit_python(status: int) -> None:
    sys.exit(status)


def talk(text: str) -> str:
    print(text, flush=True)  # noqa: T201 - that is the point
    os.write(1, text.encode())
    logging.getLogger("jobs").warning("logged %s", text)
    warnings.warn(f"warned {text}", stacklevel=1)
    return text + sys.stdin.read()


def make_unpicklable(_: object) -> object:
    return lambda: None


def environment(name: str) -> str | None:
    return os.environ.get(name)


def exit_process(status: int) -> None:
    os._exit(status)


def kill_oneself(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tell_and_wait(folder: str) -> int:
    """Leave our process number in `folder`, wait until there is a file called ``go``."""
    (Path(folder) / str(os.getpid())).touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)
    return os.getpid()


def wait_and_fail(folder: str) -> None:
    tell_and_wait(folder)
    raise ValueError("failed late")


def concurrent_runs(folder: str) -> int:
    """Most runs of this function that were under way at once, as far as seen from here."""
    mine = Path(folder) / f"run-{os.getpid()}"
    mine.touch()
    most = 0
    for _ in range(10):
        most = max(most, len(list(Path(folder).glob("run-*"))))
        time.sleep(0.002)
    mine.unlink()
    return most


def die_once(folder: str) -> str:
    """Die when run for the first time; then tell whether there is the file that `tell_and_wait` waits for."""
    marker = Path(folder) / "died"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "after go" if (Path(folder) / "go").exists() else "before go"


def die_twice(marker: str) -> str:
    with Path(marker).open("a+", encoding="utf-8") as file:
        file.write("x")
        deaths = file.tell()
    if deaths <= 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def hang(marker: str) -> None:
    with Path(marker).open("a", encoding="utf-8") as file:
        file.write("x")
    while True:
        time.sleep(1)


def hang_once(marker: str) -> str:
    if not Path(marker).exists():
        hang(marker)
    return "done"


def allocate(size: int) -> int:
    return len(bytearray(size))


def set_up() -> None:
    os.environ["OFFLOAD_JOBS_SET_UP"] = "yes"


def refuse_to_set_up() -> None:
    raise ImportError("no such library")


def process_number(_: object) -> int:
    return os.getpid()
