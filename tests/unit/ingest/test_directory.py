from __future__ import annotations

import contextlib
import os
import types
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptc_stream.errors import StorageUnavailable
from ptc_stream.ingest import directory as directory_module
from ptc_stream.ingest.directory import arriving_files
from tests.unit.images.layouts import write_image

POLL_S = 0.001


def image(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_image(path, np.full((40, 40), value, dtype=np.int16))


class Watch:
    """The looks at a directory, one by one."""

    def __init__(self, arrivals: AsyncIterator[list[Path]]) -> None:
        self._arrivals = arrivals

    async def look(self) -> list[str]:
        return [path.name for path in await anext(self._arrivals)]


@contextlib.asynccontextmanager
async def watching(
    path: Path, *, settle_s: float = 1e6, idle: Callable[[float], bool] | None = None
) -> AsyncIterator[Watch]:
    arrivals: Any = arriving_files(path, poll_s=POLL_S, settle_s=settle_s, idle=idle)
    try:
        yield Watch(arrivals)
    finally:
        await arrivals.aclose()


async def test_a_file_is_taken_when_two_looks_find_it_the_same(tmp_path: Path) -> None:
    image(tmp_path / "b.fits")
    image(tmp_path / "deep" / "a.fits")
    async with watching(tmp_path) as watch:
        assert await watch.look() == []
        assert await watch.look() == ["b.fits", "a.fits"]
        image(tmp_path / "c.fits")
        assert [await watch.look() for _ in range(3)] == [[], ["c.fits"], []]


async def test_a_directory_may_come_later(tmp_path: Path) -> None:
    async with watching(tmp_path / "later") as watch:
        assert await watch.look() == []
        image(tmp_path / "later" / "a.fits")
        assert [await watch.look() for _ in range(2)] == [[], ["a.fits"]]


async def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    whole = image(tmp_path / "whole.dat").read_bytes()
    growing = tmp_path / "a.fits"
    async with watching(tmp_path) as watch:
        for length in (1, 100, 2880, 3000, 2880 + 3199):
            growing.write_bytes(whole[:length])
            assert [await watch.look() for _ in range(3)] == [[], [], []]
        growing.write_bytes(whole)
        assert [await watch.look() for _ in range(3)] == [[], ["a.fits"], []]


async def test_one_that_stays_incomplete_is_taken_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(directory_module, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    (tmp_path / "torn.fits").write_bytes(b"SIMPLE  =")
    async with watching(tmp_path, settle_s=30.0) as watch:
        assert [await watch.look() for _ in range(2)] == [[], []]
        now[0] = 29.0
        (tmp_path / "torn.fits").write_bytes(b"SIMPLE  = ")  # it grows: wait anew
        assert await watch.look() == []
        now[0] = 58.0
        assert await watch.look() == []
        now[0] = 59.0
        assert [await watch.look() for _ in range(2)] == [["torn.fits"], []]


async def test_a_new_revision_is_taken_again_and_a_touched_hidden_file_never(tmp_path: Path) -> None:
    image(tmp_path / "a.fits")
    image(tmp_path / ".a.fits.tmp.fits")
    async with watching(tmp_path) as watch:
        assert [await watch.look() for _ in range(3)] == [[], ["a.fits"], []]
        (tmp_path / "a.fits").unlink()
        image(tmp_path / "a.fits", value=7)
        os.utime(tmp_path / "a.fits", ns=(1, 1))  # the size is the same, the time is not
        assert [await watch.look() for _ in range(3)] == [[], ["a.fits"], []]


async def test_idle_is_asked_with_the_time_since_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    asked: list[float] = []

    def idle(seconds: float) -> bool:
        asked.append(seconds)
        return seconds >= 10.0

    monkeypatch.setattr(directory_module, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    image(tmp_path / "a.fits")
    async with watching(tmp_path, idle=idle) as watch:
        now[0] = 1.0
        assert await watch.look() == []  # first seen: not asked while it is waited for
        now[0] = 2.0
        assert await watch.look() == ["a.fits"]
        now[0] = 7.0
        assert await watch.look() == []
        now[0] = 12.0
        with pytest.raises(StopAsyncIteration):
            await watch.look()
    assert asked == [5.0, 10.0]


async def test_a_file_that_went_away_is_not_waited_for(tmp_path: Path) -> None:
    """An upload that was given up must not keep `--until-idle` from ending."""
    (tmp_path / "torn.fits").write_bytes(b"SIMPLE  =")
    async with watching(tmp_path, idle=lambda _: True) as watch:
        assert await watch.look() == []
        (tmp_path / "torn.fits").unlink()
        assert await watch.look() == []
        with pytest.raises(StopAsyncIteration):
            await watch.look()


async def test_a_file_that_went_away_and_came_back_whole_is_taken(tmp_path: Path) -> None:
    path = image(tmp_path / "a.fits")
    whole = path.read_bytes()
    async with watching(tmp_path) as watch:
        assert await watch.look() == []
        path.unlink()
        assert await watch.look() == []
        path.write_bytes(whole)
        assert [await watch.look() for _ in range(2)] == [[], ["a.fits"]]


async def test_storage_that_is_away_for_a_while_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "a.fits")
    faults = ["list", "check"]

    def listed(path: Path) -> bool:
        if faults and faults[0] == "list":
            faults.pop(0)
            raise OSError(116, "Stale file handle")
        return path.name.endswith(".fits")

    def checked(path: Path) -> None:
        if faults and faults[0] == "check":
            faults.pop(0)
            raise StorageUnavailable("time-out")

    monkeypatch.setattr(directory_module, "is_exposure_file", listed)
    monkeypatch.setattr(directory_module, "check_whole", checked)
    async with watching(tmp_path) as watch:
        assert [await watch.look() for _ in range(5)] == [[], [], [], ["a.fits"], []]
    assert faults == []
