from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ptc_stream.bus import reader as reader_module
from ptc_stream.bus import store
from ptc_stream.bus.api import Outgoing, StagePosition
from ptc_stream.bus.reader import SqliteReader
from ptc_stream.bus.sqlite import SqliteBus
from ptc_stream.errors import BusError, ConfigurationError, StoreMismatch


async def publish(bus: SqliteBus, *keys: str, topic: str = "fits", partition: int = 0) -> None:
    owner = await bus.own("writer", partition)
    await owner.commit(
        [Outgoing(topic=topic, partition=partition, key=key, value=key.encode()) for key in keys],
        next_offset=3,
        config="c",
        first_offsets={"g": 1},
    )


def allow(folder: Path, mode: int) -> None:
    folder.chmod(mode)


def damage(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run #1?.sqlite"


@pytest.fixture
async def bus(path: Path) -> AsyncIterator[SqliteBus]:
    bus = await SqliteBus.open(path, partitions=3, purpose="test")
    yield bus
    await bus.close()


async def test_reads_while_the_writer_runs(path: Path, bus: SqliteBus) -> None:
    with SqliteReader(path) as reader:
        assert reader.partitions == 3
        assert reader.topics() == []
        assert (reader.beginning("fits", 0), reader.end("fits", 0), reader.count("fits")) == (0, 0, 0)
        await publish(bus, "a", "b")
        await publish(bus, "c", partition=2)
        await publish(bus, "x", topic="alerts")
        assert reader.topics() == ["alerts", "fits"]
        assert (reader.end("fits", 0), reader.count("fits")) == (2, 3)
        assert reader.read("fits", 0, 1, max_records=5) == await bus.read("fits", 0, 1, max_records=5)
        assert [r.key for r in reader.scan("fits")] == ["a", "b", "c"]
        assert reader.stages() == {
            ("writer", 0): StagePosition(next_offset=3, config="c", first_offsets={"g": 1}),
            ("writer", 2): StagePosition(next_offset=3, config="c", first_offsets={"g": 1}),
        }


async def test_a_scan_comes_in_pages_and_ends_where_it_began(
    path: Path, bus: SqliteBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_PAGE_RECORDS", 4)
    monkeypatch.setattr(reader_module, "_PAGE_BYTES", 6)
    await publish(bus, *(f"{i:02}" for i in range(11)))
    await publish(bus, *(f"{i:02}" for i in range(50, 53)), partition=2)
    with SqliteReader(path) as reader:
        scan = reader.scan("fits")
        found = [next(scan).key]
        await publish(bus, "late")
        await publish(bus, "late", partition=1)
        found += [record.key for record in scan]
        assert found == [f"{i:02}" for i in (*range(11), 50, 51, 52)]


async def test_no_transaction_stays_open_between_pages(path: Path, bus: SqliteBus) -> None:
    await publish(bus, *(f"{i:03}" for i in range(600)))
    with SqliteReader(path) as reader:
        scans = reader.scan("fits"), reader.latest("fits")
        for scan in scans:
            next(scan)
        assert reader.read("fits", 0, 0, max_records=600, max_bytes=10)
        # A checkpoint that empties the log is busy as long as anybody reads an old state.
        (busy, _, _) = await bus._call(
            lambda: bus._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        )
        assert busy == 0


async def test_the_newest_record_of_every_key(path: Path, bus: SqliteBus) -> None:
    await publish(bus, "b", "a", "b")
    await publish(bus, "c", partition=2)
    await publish(bus, "a", topic="alerts")
    with SqliteReader(path) as reader:
        assert [(r.key, r.offset) for r in reader.latest("fits")] == [("a", 1), ("b", 2), ("c", 0)]
        assert list(reader.latest("nothing")) == []


async def test_a_prefix_is_taken_literally(path: Path, bus: SqliteBus) -> None:
    top = chr(0x10FFFF)
    names = [
        "",
        "a",
        "a%",
        "a_",
        "ab",
        f"a{top}",
        f"a{top}z",
        "b",
        "\ud7ff",
        "\ud7ffx",
        "\ue000",
        top,
        f"{top}x",
    ]
    await publish(bus, *names)
    with SqliteReader(path) as reader:
        for prefix in (*names, "a\x00", "zz", top + top):
            expected = sorted((n for n in names if n.startswith(prefix)), key=str.encode)
            assert [r.key for r in reader.latest("fits", key_prefix=prefix)] == expected


async def test_the_data_version_tells_of_commits(path: Path, bus: SqliteBus) -> None:
    with SqliteReader(path) as reader:
        version = reader.data_version()
        assert reader.data_version() == version
        await publish(bus, "a")
        assert reader.data_version() != version


async def test_a_reader_cannot_write(path: Path, bus: SqliteBus) -> None:
    with SqliteReader(path) as reader, pytest.raises(ConfigurationError, match="readonly"):
        reader._ask(reader_module._rows, "DELETE FROM records")


async def test_reads_without_a_writer_and_after_a_close(path: Path, bus: SqliteBus) -> None:
    await publish(bus, "a")
    await bus.close()
    reader = SqliteReader(path)
    assert reader.count("fits") == 1
    reader.close()
    reader.close()
    assert reader.count("fits") == 1
    reader.close()


READ_ONLY = """
import os, sys
from ptc_stream.bus.reader import SqliteReader
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
reader = SqliteReader(sys.argv[1])
for _ in sys.stdin:
    print(reader.data_version(), *(record.key for record in reader.scan("fits")), flush=True)
"""


class ForeignReader:
    """A reader in a process that may not write to the folder of the store, also when tests run as root."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", READ_ONLY, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self) -> tuple[str, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        version, _, keys = self._process.stdout.readline().strip().partition(") ")
        return version, keys

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def archive() -> Iterator[Path]:
    with TemporaryDirectory() as folder:  # unlike tmp_path, every user may be let in
        yield Path(folder)


async def test_an_archive_that_cannot_be_written_is_read_and_followed(archive: Path) -> None:
    path = archive / "ptc.sqlite"
    bus = await SqliteBus.open(path, purpose="test")
    await publish(bus, "a")
    await bus.close()
    allow(archive, 0o555)
    reader = ForeignReader(path)
    try:
        version, keys = reader.ask()
        assert keys == "a"
        assert reader.ask() == (version, "a")
        allow(archive, 0o755)
        bus = await SqliteBus.open(path, purpose="test")
        await publish(bus, "b")
        later, keys = reader.ask()
        assert keys == "a b"
        assert later != version
        await bus.close()
        assert reader.ask()[1] == "a b"
        bus = await SqliteBus.open(path, purpose="test")
        await publish(bus, "c")
        await bus.close()
        assert reader.ask()[1] == "a b c"
    finally:
        reader.close()


async def test_a_log_that_was_left_behind_is_read_too(archive: Path) -> None:
    path = archive / "ptc.sqlite"
    bus = await SqliteBus.open(path, purpose="test")
    await publish(bus, "a")
    copy = archive / "copy"
    copy.mkdir()
    for name in ("ptc.sqlite", "ptc.sqlite-wal", "ptc.sqlite-shm"):
        shutil.copy(archive / name, copy / name)
    await bus.close()
    allow(archive, 0o755)
    allow(copy, 0o555)
    reader = ForeignReader(copy / "ptc.sqlite")
    try:
        assert reader.ask()[1] == "a"
    finally:
        reader.close()
        allow(copy, 0o755)


def test_a_missing_store_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such store"):
        SqliteReader(tmp_path / "missing.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("EXPTIME = 3\n" * 100)
    with pytest.raises(ConfigurationError, match="is not a ptc_stream store"):
        SqliteReader(tmp_path / "text")
    connection = sqlite3.connect(tmp_path / "mine")
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(ConfigurationError, match="is not a ptc_stream store"):
        SqliteReader(tmp_path / "mine")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="is empty"):
        SqliteReader(tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="no such store"):
        SqliteReader(tmp_path)


async def test_a_newer_format_is_refused(path: Path, bus: SqliteBus) -> None:
    await bus.close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {store.FORMAT_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreMismatch, match="update ptc_stream"):
        SqliteReader(path)


async def test_a_damaged_store_says_so(path: Path, bus: SqliteBus) -> None:
    await publish(bus, *(f"{i:05}" for i in range(3000)))
    await bus.close()
    damage(path)
    with pytest.raises(BusError, match="is damaged"), SqliteReader(path) as reader:
        list(reader.scan("fits"))
