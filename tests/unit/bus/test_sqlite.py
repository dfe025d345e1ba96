from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ptc_stream.bus import sqlite, store
from ptc_stream.bus.api import Outgoing
from ptc_stream.bus.sqlite import MEMORY, SqliteBus
from ptc_stream.errors import (
    BusError,
    BusUnavailable,
    ConfigurationError,
    PartitionLost,
    PositionLost,
    StoreInUse,
    StoreMismatch,
)


def outgoing(key: str, value: bytes = b"") -> Outgoing:
    return Outgoing(topic="a", partition=0, key=key, value=value)


def damage(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))


def has_log(path: Path) -> bool:
    return Path(f"{path}-wal").exists()


def descriptors() -> set[int]:
    found = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
    return {fd for fd in found if Path(f"/proc/self/fd/{fd}").is_symlink()}  # not the one that was listing


async def publish(bus: SqliteBus, *keys: str, value: bytes = b"") -> None:
    owner = await bus.own("writer", 0)
    await owner.commit([outgoing(key, value) for key in keys], next_offset=0, config="c", first_offsets={})


async def test_offsets_are_consecutive_from_zero() -> None:
    bus = await SqliteBus.open(MEMORY, purpose="test")
    await publish(bus, "a", "b")
    await publish(bus, "c")
    assert [r.offset for r in await bus.read("a", 0, 0, max_records=9)] == [0, 1, 2]
    assert await bus.end("a", 0) == 3
    await bus.close()


async def test_a_store_keeps_its_number_of_partitions(tmp_path: Path) -> None:
    path = tmp_path / "ptc.sqlite"
    bus = await SqliteBus.open(path, partitions=5, purpose="test")
    assert (bus.partitions, bus.notice) == (5, None)
    await bus.close()
    bus = await SqliteBus.open(path, purpose="test")
    assert bus.partitions == 5
    await bus.close()
    with pytest.raises(StoreMismatch, match="made with 5 partitions, not 6"):
        await SqliteBus.open(path, partitions=6, purpose="test")
    await (await SqliteBus.open(path, partitions=5, purpose="test")).close()


async def test_a_new_store_has_sixteen_partitions() -> None:
    bus = await SqliteBus.open(MEMORY, purpose="test")
    assert bus.partitions == 16
    await bus.close()
    with pytest.raises(ConfigurationError, match="at least one"):
        await SqliteBus.open(MEMORY, partitions=0, purpose="test")


async def test_one_bus_per_store(tmp_path: Path) -> None:
    path = tmp_path / "ptc.sqlite"
    bus = await SqliteBus.open(path, purpose="ptc-stream watch")
    with pytest.raises(StoreInUse, match=r"\(ptc-stream watch, since"):
        await SqliteBus.open(path, purpose="test")
    await bus.close()
    await (await SqliteBus.open(path, purpose="test")).close()


async def test_a_cancelled_open_leaves_the_store_free(tmp_path: Path) -> None:
    path = tmp_path / "ptc.sqlite"
    for steps in (1, 2, 30):
        opening = asyncio.create_task(SqliteBus.open(path, purpose="cancelled"))
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        for thread in threading.enumerate():
            if thread.name.startswith("ptc_stream.bus.sqlite"):
                thread.join()
        bus = await opening if not opening.cancelled() else await SqliteBus.open(path, purpose="test")
        await bus.close()


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (b"SIMPLE  =                    T" * 100, ConfigurationError, "is not a ptc_stream store"),
        (b"", None, ""),
    ],
)
async def test_a_file_that_is_no_store_is_left_as_it_is(
    tmp_path: Path, content: bytes, error: type[Exception] | None, text: str
) -> None:
    path = tmp_path / "ptc.sqlite"
    path.write_bytes(content)
    if error is None:
        await (await SqliteBus.open(path, purpose="test")).close()
        return
    with pytest.raises(error, match=text):
        await SqliteBus.open(path, purpose="test")
    assert path.read_bytes() == content


async def test_another_sqlite_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ptc.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="is not a ptc_stream store"):
        await SqliteBus.open(path, purpose="test")
    assert path.read_bytes() == before


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ptc.sqlite"
    await (await SqliteBus.open(path, purpose="test")).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {store.FORMAT_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreMismatch, match="has format 2, this ptc_stream reads up to 1"):
        await SqliteBus.open(path, purpose="test")


async def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ptc.sqlite"
    bus = await SqliteBus.open(path, purpose="test")
    await publish(bus, *(f"k{i}" for i in range(2000)), value=bytes(100))
    await bus.close()
    damage(path)
    bus = await SqliteBus.open(path, purpose="test")
    with pytest.raises(BusError, match="is damaged"):
        await bus.read("a", 0, 0, max_records=2000)
    await bus.close()


async def test_a_folder_that_does_not_exist_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        await SqliteBus.open(tmp_path / "missing" / "ptc.sqlite", purpose="test")


async def test_a_full_disk_writes_nothing_and_may_pass(tmp_path: Path) -> None:
    bus = await SqliteBus.open(tmp_path / "ptc.sqlite", purpose="test")
    await publish(bus, "before")
    (pages,) = await bus._call(lambda: bus._connection.execute("PRAGMA page_count").fetchone())
    await bus._call(lambda: bus._connection.execute(f"PRAGMA max_page_count = {pages + 3}").fetchone())
    with pytest.raises(BusUnavailable, match="full"):
        await publish(bus, "large", value=bytes(100_000))
    assert [r.key for r in await bus.read("a", 0, 0, max_records=9)] == ["before"]
    await bus._call(lambda: bus._connection.execute("PRAGMA max_page_count = 100000").fetchone())
    await publish(bus, "large", value=bytes(100_000))
    assert await bus.end("a", 0) == 2
    await bus.close()


async def test_a_store_locked_by_a_stranger_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_S", 0.0)
    path = tmp_path / "ptc.sqlite"
    bus = await SqliteBus.open(path, purpose="test")
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusUnavailable, match="locked"):
        await publish(bus, "k")
    stranger.execute("ROLLBACK")
    stranger.close()
    await publish(bus, "k")
    await bus.close()


async def test_records_that_were_cut_off_are_missed(tmp_path: Path) -> None:
    bus = await SqliteBus.open(tmp_path / "ptc.sqlite", purpose="test")
    await publish(bus, *"abcd")
    await bus._call(lambda: bus._connection.execute('DELETE FROM records WHERE "offset" < 2'))
    assert await bus.beginning("a", 0) == 2
    with pytest.raises(PositionLost, match="offset 1 is gone, the oldest record is 2"):
        await bus.read("a", 0, 1, max_records=9)
    assert [r.key for r in await bus.read("a", 0, 2, max_records=9)] == ["c", "d"]
    await bus.close()


async def test_a_commit_from_another_position_than_the_stored_one_is_refused() -> None:
    bus = await SqliteBus.open(MEMORY, purpose="test")
    owner = await bus.own("writer", 0)
    await bus._call(lambda: bus._connection.execute("UPDATE stages SET next_offset = 7"))
    with pytest.raises(PartitionLost):
        await owner.commit([outgoing("k")], next_offset=1, config="c", first_offsets={})
    assert await bus.end("a", 0) == 0
    await bus.close()


async def test_a_page_of_no_records_is_a_mistake() -> None:
    bus = await SqliteBus.open(MEMORY, purpose="test")
    with pytest.raises(ValueError, match="max_records"):
        await bus.read("a", 0, 0, max_records=0)
    await bus.close()


async def test_on_a_network_file_system_there_is_no_write_ahead_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ptc.sqlite"
    bus = await SqliteBus.open(path, purpose="test")
    await publish(bus, "local")
    await bus.close()
    with monkeypatch.context() as network:
        network.setattr(sqlite, "network_filesystem", lambda _: "nfs4")
        bus = await SqliteBus.open(path, purpose="test")
        assert bus.notice is not None
        assert "network file system (nfs4)" in bus.notice
        assert "\n" not in bus.notice
        await publish(bus, "far")
        assert not has_log(path)
        await bus.close()
    bus = await SqliteBus.open(path, purpose="test")
    assert bus.notice is None
    assert [r.key for r in await bus.read("a", 0, 0, max_records=9)] == ["local", "far"]
    assert has_log(path)
    await bus.close()


CRASHING = """
import asyncio, sys, time
from ptc_stream.bus.api import Outgoing
from ptc_stream.bus.sqlite import SqliteBus
from ptc_stream.offload import ProcessOffload

async def main():
    bus = await SqliteBus.open(sys.argv[1], partitions=2, purpose="crashing")
    offload = ProcessOffload(1, deadline_s=100)
    busy = asyncio.ensure_future(offload.run(time.sleep, 60))
    while not offload._workers:
        await asyncio.sleep(0)
    owner = await bus.own("writer", 0)
    offset = owner.position.next_offset
    while True:
        offset += 1
        outputs = [Outgoing(topic="a", partition=p, key=str(offset), value=bytes(3000)) for p in (0, 1)]
        await owner.commit(outputs, next_offset=offset, config="c", first_offsets={str(offset): offset})
        print(offset, flush=True)

asyncio.run(main())
"""


def crash(path: Path, commits: int) -> int:
    """Kill a writer after it has confirmed `commits` commits or a few more; return the last confirmed one."""
    process = subprocess.Popen([sys.executable, "-c", CRASHING, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(commits)]
    process.kill()
    process.wait()
    rest, _ = process.communicate()
    return int([*lines, *rest.splitlines()][-1])


@pytest.mark.parametrize("commits", [1, 7, 40])
async def test_after_kill_9_amid_commits_the_store_opens_at_once_and_is_whole(
    tmp_path: Path, commits: int
) -> None:
    path = tmp_path / "ptc.sqlite"
    for _ in range(2):
        confirmed = crash(path, commits)
        bus = await SqliteBus.open(path, purpose="test")
        position = (await bus.own("writer", 0)).position
        written = list(range(1, position.next_offset + 1))
        assert position.next_offset in (confirmed, confirmed + 1)
        for partition in (0, 1):
            records = await bus.read("a", partition, 0, max_records=10_000)
            assert [int(record.key) for record in records] == written
        assert sorted(position.first_offsets.values()) == written
        await bus.close()


async def test_the_store_is_not_inherited_by_other_programs(tmp_path: Path) -> None:
    before = descriptors()
    bus = await SqliteBus.open(tmp_path / "ptc.sqlite", purpose="test")
    await publish(bus, "k")
    opened = descriptors() - before
    assert len(opened) >= 3  # the store, its log, the lock
    assert not any(os.get_inheritable(fd) for fd in opened)
    await bus.close()
