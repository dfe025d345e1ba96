"""Reading a store while its owner writes, or when nobody does.

Every question is one short transaction, and long answers come in pages with none open in between: a
transaction left open would keep the writer from folding its log back into the store.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ptc_stream.bus import store
from ptc_stream.bus.api import BusRecord, StagePosition
from ptc_stream.errors import ConfigurationError

__all__ = ["SqliteReader"]

_BUSY_S = 5.0
_PAGE_RECORDS = 500
_PAGE_BYTES = 4_000_000

_NO_PLACE_FOR_LOG = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)

_P = ParamSpec("_P")
_R = TypeVar("_R")


class SqliteReader:
    """A store, read-only, by plain calls (for notebooks, `show`, the live page). One thread at a time.

    Parameters
    ----------
    path
        A store that exists.

    Raises
    ------
    ConfigurationError
        There is no file, it is not a store, or it may not be read.
    StoreMismatch
        A newer ptc_stream made it.
    BusError
        It is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).absolute()
        self._connection: sqlite3.Connection | None = None
        self._frozen: tuple[int, ...] | None = None
        self._openings = 0
        self._partitions = self._ask(store.stored_partitions)

    @property
    def partitions(self) -> int:
        """Partitions per topic."""
        return self._partitions

    def read(
        self, topic: str, partition: int, start: int, *, max_records: int, max_bytes: int = 16_000_000
    ) -> list[BusRecord]:
        """Return the records from offset `start` on: see `ptc_stream.bus.api.Bus.read`."""
        return self._ask(
            store.read_records, topic, partition, start, max_records=max_records, max_bytes=max_bytes
        )

    def beginning(self, topic: str, partition: int) -> int:
        """Offset of the oldest record (``end`` when there is none)."""
        return self._ask(store.first_offset, topic, partition)

    def end(self, topic: str, partition: int) -> int:
        """Offset that the next record will have."""
        return self._ask(store.next_offset, topic, partition)

    def topics(self) -> list[str]:
        """Names of the topics that hold records, sorted."""
        return [name for (name,) in self._ask(_rows, "SELECT DISTINCT topic FROM records ORDER BY topic")]

    def count(self, topic: str) -> int:
        """Return the number of records in `topic`."""
        ((count,),) = self._ask(_rows, "SELECT count(*) FROM records WHERE topic = ?", topic)
        return int(count)

    def scan(self, topic: str) -> Iterator[BusRecord]:
        """Yield the records that `topic` holds now, by partition and offset."""
        ends = self._ask(
            _rows,
            'SELECT partition, min("offset"), max("offset") + 1 FROM records WHERE topic = ?'
            " GROUP BY partition ORDER BY partition",
            topic,
        )
        for partition, start, end in ends:
            position = start
            while position < end:
                page = self.read(
                    topic,
                    partition,
                    position,
                    max_records=min(_PAGE_RECORDS, end - position),
                    max_bytes=_PAGE_BYTES,
                )
                yield from page
                position = page[-1].offset + 1

    def latest(self, topic: str, *, key_prefix: str = "") -> Iterator[BusRecord]:
        """Yield the newest record of every key that begins with `key_prefix`, sorted by key."""
        newest = self._ask(
            _rows,
            "SELECT max(rowid) FROM records WHERE topic = ? AND key >= ? AND key < ?"
            " GROUP BY key ORDER BY key",
            topic,
            key_prefix,
            _after_prefix(key_prefix),
        )
        for (rowid,) in newest:
            (columns,) = self._ask(
                _rows,
                'SELECT topic, partition, "offset", key, value, headers, timestamp_ms'
                " FROM records WHERE rowid = ?",
                rowid,
            )
            yield store.record_from_row(columns)

    def stages(self) -> dict[tuple[str, int], StagePosition]:
        """Where every stage stands in every partition that it has owned."""
        owned = self._ask(_rows, "SELECT stage, partition FROM stages ORDER BY stage, partition")
        return {
            (stage, partition): self._ask(store.stage_position, stage, partition)
            for stage, partition in owned
        }

    def data_version(self) -> tuple[int, int]:
        """Return a value that differs from the last one when something was committed in between."""
        ((version,),) = self._ask(_rows, "PRAGMA data_version")
        return self._openings, int(version)

    def close(self) -> None:
        """Give the file back. Idempotent; a later question opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(
        self,
        question: Callable[Concatenate[sqlite3.Connection, _P], _R],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _R:
        with store.explained(str(self._path)):
            return question(self._opened(), *args, **kwargs)

    def _opened(self) -> sqlite3.Connection:
        if self._frozen is not None and self._frozen != self._state():
            self.close()  # opened as unchanging, and it has changed
        if self._connection is None:
            if not self._path.is_file():
                raise ConfigurationError(f"{self._path}: there is no such store")
            self._openings += 1
            self._frozen = None
            try:
                self._connection = self._connect("mode=ro")
            except sqlite3.OperationalError as error:
                # With a write-ahead log SQLite makes files beside the store. Where it may not (an archive, a
                # read-only mount), the store alone is whole as long as there is no log with something in it.
                state = self._state()
                if error.sqlite_errorcode & 0xFF not in _NO_PLACE_FOR_LOG or state[-1]:
                    raise
                self._connection = self._connect("mode=ro&immutable=1")
                self._frozen = state
        return self._connection

    def _connect(self, options: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?{options}", uri=True, timeout=_BUSY_S, isolation_level=None
        )
        try:
            store.check_format(connection, str(self._path))
        except BaseException:
            connection.close()
            raise
        return connection

    def _state(self) -> tuple[int, ...]:
        """Inode, time and size of the store, and size of its write-ahead log: they tell of any change."""
        status = self._path.stat()
        log = Path(f"{self._path}-wal")
        return status.st_ino, status.st_mtime_ns, status.st_size, log.stat().st_size if log.exists() else 0


def _rows(connection: sqlite3.Connection, query: str, *values: str | int | bytes) -> list[tuple[Any, ...]]:
    return connection.execute(query, values).fetchall()


def _after_prefix(prefix: str) -> str | bytes:
    """Return the least that comes, by code points, after every string that begins with `prefix`."""
    stem = prefix.rstrip(chr(0x10FFFF))
    if not stem:
        return b""  # no string does; SQLite sorts any blob after all of them
    following = ord(stem[-1]) + 1
    # Surrogates are no characters: UTF-8, which SQLite compares by, has no bytes for them.
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)
