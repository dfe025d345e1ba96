"""What all tests share: hypothesis, a small simulated run, and a look for what is left over."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from ptc_stream.simulator import Scenario, write_run

# Derandomised: a gate that fails by chance is believed by nobody. No deadline: numba compiles when it likes.
hypothesis.settings.register_profile("gate", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("gate")

SMALL = Scenario(
    seed=20260214,
    run="small",
    detectors=("R22_S11", "R22_S12"),
    amplifiers=2,
    shape=(160, 96),
    prescan_columns=4,
    overscan_columns=24,
    overscan_rows=20,
    levels=8,
    lowest_level=2_000.0,
    highest_level=80_000.0,  # below every full well: a turnoff takes more levels than these
    biases_every=4,
    darks_every=0,
    dead_amplifiers=("R22_S12/C11",),
    missing=1,
    cosmic_rays=0.0,
)
"""2 detectors x 2 amplifiers (one of them dead) x 8 levels, and one flat that never comes: 15 pairs."""


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `SMALL`. Whoever changes them copies them first."""
    directory = tmp_path_factory.mktemp("simulated") / "small"
    write_run(SMALL, directory)
    return directory


@pytest.fixture(autouse=True)
def nothing_left_over(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a task, a child process or an open store behind."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_task_left_over")
    children, stores = _children(), _open_stores()
    yield
    assert not _settled(lambda: _children() - children), "child processes are left over"
    if _open_stores() - stores:
        gc.collect()
    assert not _open_stores() - stores, "stores are left open"


@pytest.fixture
async def no_task_left_over() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for _ in range(3):  # a cancelled task needs a turn of the loop to end
        await asyncio.sleep(0)
    own = asyncio.current_task()
    left = {task for task in asyncio.all_tasks() - before if task is not own and not task.done()}
    assert not left, "tasks are left over"


def _settled(left: object) -> set[int]:
    """What is left when two seconds have passed: a process that was told to end needs its time."""
    assert callable(left)
    until = time.monotonic() + 2.0
    while left() and time.monotonic() < until:
        time.sleep(0.01)
    found: set[int] = left()
    return found


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except OSError:
            continue  # that thread has just ended
    return found


def _open_stores() -> set[str]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the directory itself is one of them
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        except OSError:
            continue
        if ".sqlite" in target:
            found.add(f"{descriptor} {target}")
    return found
