"""Every bus that the contract holds for, behind one fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from ptc_stream.bus.api import Bus
from ptc_stream.bus.sqlite import MEMORY, SqliteBus


class Place:
    """A bus, and the same log as a second process would hold it (where only one may: the same bus)."""

    def __init__(self, bus: Bus, other: Callable[[], Awaitable[Bus]]) -> None:
        self.bus = bus
        self._other = other
        self._opened: list[Bus] = []

    async def other(self) -> Bus:
        bus = await self._other()
        self._opened.append(bus)
        return bus

    async def close(self) -> None:
        for bus in (*self._opened, self.bus):
            await bus.close()


async def _memory(_: Path) -> Place:
    bus = await SqliteBus.open(MEMORY, partitions=4, purpose="contract")

    async def same() -> Bus:
        return bus

    return Place(bus, same)


async def _file(folder: Path) -> Place:
    path = str(folder / "log.sqlite")

    async def without_lock() -> Bus:
        return await SqliteBus._open(path, None, "contract", exclusive=False)

    return Place(await SqliteBus.open(path, partitions=4, purpose="contract"), without_lock)


_PLACES = {"memory": _memory, "file": _file}


@pytest.fixture(params=sorted(_PLACES))
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    made = await _PLACES[request.param](tmp_path)
    yield made
    await made.close()
