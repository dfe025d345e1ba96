"""The file format of the embedded log, and the questions that are put to it.

Everything here takes an open connection and answers at once; who may write, and on which thread, is decided
in `ptc_stream.bus.sqlite` and `ptc_stream.bus.reader`.

Tables
------
records
    The log. Offsets run from 0 without gaps per (topic, partition); the rowid is the order of commit.
stages
    One row per (stage, partition): the epoch of its owner, the next offset, the settings. Epoch and position
    in one row make the fence a single UPDATE with both in its WHERE.
groups
    First offset of every group that a stage has met in a partition.
meta
    Number of partitions.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator

from ptc_stream.bus.api import BusRecord, StagePosition
from ptc_stream.errors import (
    BusError,
    BusUnavailable,
    ConfigurationError,
    PositionLost,
    StoreMismatch,
)

__all__ = [
    "APPLICATION_ID",
    "DEFAULT_PARTITIONS",
    "FORMAT_VERSION",
    "check_format",
    "create",
    "explained",
    "first_offset",
    "is_empty",
    "next_offset",
    "pack_headers",
    "read_records",
    "record_from_row",
    "stage_position",
    "stored_partitions",
    "transaction",
]

APPLICATION_ID = 0x50544353
"""``PTCS`` in the header of the file: tells our stores from any other SQLite file."""

FORMAT_VERSION = 1
"""Rises when an older ptc_stream could no longer read the tables."""

DEFAULT_PARTITIONS = 16

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE records (
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        "offset" INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        headers TEXT NOT NULL,
        timestamp_ms INTEGER NOT NULL)""",
    'CREATE UNIQUE INDEX records_by_offset ON records (topic, partition, "offset")',
    # The newest record of every key is read from this index alone: `show` and the live page ask for it.
    "CREATE INDEX records_by_key ON records (topic, key)",
    """CREATE TABLE stages (
        stage TEXT NOT NULL,
        partition INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        next_offset INTEGER NOT NULL,
        config TEXT,
        PRIMARY KEY (stage, partition)) WITHOUT ROWID""",
    """CREATE TABLE groups (
        stage TEXT NOT NULL,
        partition INTEGER NOT NULL,
        name TEXT NOT NULL,
        first_offset INTEGER NOT NULL,
        PRIMARY KEY (stage, partition, name)) WITHOUT ROWID""",
)

_NOT_NOW = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_NOT_ALLOWED = frozenset(
    {sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY}
)


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn what SQLite says about the store at `path` into our errors; mistakes of ours stay as they are.

    Raises
    ------
    BusUnavailable
        Locked, disk full, input/output error: it may work later.
    ConfigurationError
        No store of ours, or one that may not be opened.
    BusError
        The file is damaged.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the upper bytes hold the details of the code
        if code in _NOT_NOW:
            raise BusUnavailable(f"{path}: {error}") from error
        if code in _NOT_ALLOWED:
            raise ConfigurationError(f"{path}: {error}") from error
        if code == sqlite3.SQLITE_NOTADB:
            raise ConfigurationError(f"{path} is not a ptc_stream store") from error
        if code == sqlite3.SQLITE_CORRUPT:
            raise BusError(f"{path} is damaged ({error}): restore it, or begin with a new store") from error
        raise


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; the lock for writing is taken at once, so that what is read inside stays true."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        raise


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether nothing was ever written to this file: a new one, or one whose creation was interrupted."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(tables == 0)


def create(connection: sqlite3.Connection, partitions: int) -> None:
    """Write the empty tables and the number of partitions, in one transaction."""
    with transaction(connection):
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('partitions', ?)", (partitions,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def check_format(connection: sqlite3.Connection, path: str) -> None:
    """Raise unless this is a store that this version of ptc_stream can read.

    Raises
    ------
    ConfigurationError
        It is empty, or some other SQLite file.
    StoreMismatch
        A newer ptc_stream made it.
    """
    if is_empty(connection):
        raise ConfigurationError(f"{path} is empty: nothing was ever stored in it")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise ConfigurationError(f"{path} is not a ptc_stream store")
    if version > FORMAT_VERSION:
        raise StoreMismatch(
            f"{path} has format {version}, this ptc_stream reads up to {FORMAT_VERSION}: update ptc_stream"
        )


def stored_partitions(connection: sqlite3.Connection) -> int:
    """Partitions per topic that the store was made with."""
    (partitions,) = connection.execute("SELECT value FROM meta WHERE name = 'partitions'").fetchone()
    return int(partitions)


def first_offset(connection: sqlite3.Connection, topic: str, partition: int) -> int:
    """Offset of the oldest record; `next_offset` when there is none."""
    (offset,) = connection.execute(
        'SELECT coalesce(min("offset"), 0) FROM records WHERE topic = ? AND partition = ?', (topic, partition)
    ).fetchone()
    return int(offset)


def next_offset(connection: sqlite3.Connection, topic: str, partition: int) -> int:
    """Offset that the next record will get."""
    (offset,) = connection.execute(
        'SELECT coalesce(max("offset") + 1, 0) FROM records WHERE topic = ? AND partition = ?',
        (topic, partition),
    ).fetchone()
    return int(offset)


def pack_headers(headers: tuple[tuple[str, bytes], ...]) -> str:
    """Headers as JSON with hexadecimal values, which any tool can read."""
    return json.dumps([[name, value.hex()] for name, value in headers]) if headers else "[]"


def record_from_row(row: tuple[str, int, int, str, bytes, str, int]) -> BusRecord:
    """Make a record of the columns topic, partition, offset, key, value, headers, timestamp_ms."""
    topic, partition, offset, key, value, headers, timestamp_ms = row
    return BusRecord(
        topic=topic,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=tuple((name, bytes.fromhex(digits)) for name, digits in json.loads(headers)),
        timestamp_ms=timestamp_ms,
    )


def read_records(
    connection: sqlite3.Connection,
    topic: str,
    partition: int,
    start: int,
    *,
    max_records: int,
    max_bytes: int,
) -> list[BusRecord]:
    """Read the records from offset `start` on: see `ptc_stream.bus.api.Bus.read`.

    Raises
    ------
    PositionLost
        The record at `start` was there once and is not any more.
    """
    if max_records < 1:
        raise ValueError(f"max_records is {max_records}; it must be at least 1")
    page: list[BusRecord] = []
    size = 0
    cursor = connection.execute(
        'SELECT topic, partition, "offset", key, value, headers, timestamp_ms FROM records'
        ' WHERE topic = ? AND partition = ? AND "offset" >= ? ORDER BY "offset" LIMIT ?',
        (topic, partition, start, max_records),
    )
    try:
        for row in cursor:
            record = record_from_row(row)
            size += len(record.value)
            if page and size > max_bytes:
                break
            page.append(record)
    finally:
        cursor.close()  # ends the read transaction also when rows are left over
    if page and page[0].offset != start:
        raise PositionLost(
            f"{topic}, partition {partition}: offset {start} is gone, the oldest record is {page[0].offset}"
        )
    return page


def stage_position(connection: sqlite3.Connection, stage: str, partition: int) -> StagePosition:
    """Where `stage` stands in `partition`."""
    row = connection.execute(
        "SELECT next_offset, config FROM stages WHERE stage = ? AND partition = ?", (stage, partition)
    ).fetchone()
    if row is None:
        return StagePosition()
    groups = connection.execute(
        "SELECT name, first_offset FROM groups WHERE stage = ? AND partition = ?", (stage, partition)
    ).fetchall()
    return StagePosition(next_offset=row[0], config=row[1], first_offsets=dict(groups))
