"""The embedded bus: a partitioned log in one SQLite file, or in memory.

One connection on one thread of its own, so that the event loop never waits for a disk; one database
transaction is one transaction of the bus. What is committed survives SIGKILL at any moment. After a loss of
power the newest transactions may be missing (``synchronous = NORMAL``), each of them whole: outputs and
position go back together, so the work is done again and nothing is lost or doubled.

The fence is the epoch of (stage, partition): taking ownership raises it, and a commit is an UPDATE that
finds its row only under the epoch and at the position which the owner knows.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from ptc_stream.bus import store
from ptc_stream.bus.api import BusRecord, Outgoing, StagePosition
from ptc_stream.bus.lock import StoreLock
from ptc_stream.bus.mounts import network_filesystem
from ptc_stream.errors import BusUnavailable, ConfigurationError, PartitionLost, StoreMismatch

__all__ = ["MEMORY", "SqliteBus", "SqliteOwnership"]

MEMORY = ":memory:"
"""Path of a store that lives as long as its bus: the test double, by the same code."""

# A writer waits for readers only where the rollback journal is used, and those read in short pages; beyond
# this many seconds someone holds the file open in a transaction, and saying so is better than waiting.
_BUSY_S = 5.0

# The log is folded back into the store after every 4 MB; a reader may hold that up for a while, and without
# this limit the file would then keep its largest size for ever.
_LOG_LIMIT_BYTES = 64_000_000

_P = ParamSpec("_P")
_R = TypeVar("_R")


class SqliteBus:
    """A `ptc_stream.bus.api.Bus` on one machine. Make it with `open`, on the event loop that will use it."""

    def __init__(
        self,
        path: str,
        *,
        loop: asyncio.AbstractEventLoop,
        thread: ThreadPoolExecutor,
        connection: sqlite3.Connection,
        lock: StoreLock | None,
        notice: str | None,
    ) -> None:
        self._path = path
        self._loop = loop
        self._thread = thread
        self._connection = connection
        self._lock = lock
        self._notice = notice
        self._partitions = store.stored_partitions(connection)
        self._waiting: dict[tuple[str, int], asyncio.Event] = {}
        self._ending: Future[None] | None = None

    @classmethod
    async def open(
        cls, path: str | os.PathLike[str], *, partitions: int | None = None, purpose: str
    ) -> SqliteBus:
        """Open the store at `path`, or make it.

        Parameters
        ----------
        path
            A file, or ``":memory:"``.
        partitions
            Partitions per topic of a new store, 16 unless given. Of a store that exists it must be the
            stored number, which is taken when None.
        purpose
            What this process is doing; a second process that wants the store is told.

        Raises
        ------
        StoreInUse
            Another process has it open.
        StoreMismatch
            It has another number of partitions, or a newer format.
        ConfigurationError
            It is not a store, or cannot be made or written here.
        BusUnavailable
            Disk full or input/output error.
        """
        return await cls._open(os.fspath(path), partitions, purpose, exclusive=True)

    @classmethod
    async def _open(cls, path: str, partitions: int | None, purpose: str, *, exclusive: bool) -> SqliteBus:
        """Open with or without the lock; without it only the tests of the fence do."""
        if partitions is not None and partitions < 1:
            raise ConfigurationError(f"{partitions} partitions: there must be at least one")
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ptc_stream.bus.sqlite")
        loop = asyncio.get_running_loop()
        opening = thread.submit(
            cls._connect, path, partitions, purpose, loop=loop, thread=thread, exclusive=exclusive
        )
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            # The thread may have opened the store all the same, and would keep it locked.
            opening.add_done_callback(_end_unwanted)
            thread.shutdown(wait=False)
            raise
        except BaseException:
            thread.shutdown(wait=False)
            raise

    @classmethod
    def _connect(
        cls,
        path: str,
        partitions: int | None,
        purpose: str,
        *,
        loop: asyncio.AbstractEventLoop,
        thread: ThreadPoolExecutor,
        exclusive: bool,
    ) -> SqliteBus:
        on_disk = path != MEMORY
        lock = StoreLock.acquire(path, purpose=purpose) if on_disk and exclusive else None
        try:
            with store.explained(path):
                connection = sqlite3.connect(
                    path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
                )
                try:
                    notice = _prepare(
                        connection, path, partitions, network_filesystem(path) if on_disk else None
                    )
                    return cls(
                        path, loop=loop, thread=thread, connection=connection, lock=lock, notice=notice
                    )
                except BaseException:
                    connection.close()
                    raise
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @property
    def partitions(self) -> int:
        """Partitions per topic."""
        return self._partitions

    @property
    def notice(self) -> str | None:
        """What the user should know about this store (slow file system), one line, or None."""
        return self._notice

    async def own(self, stage: str, partition: int) -> SqliteOwnership:
        """Take (stage, partition), fencing any earlier owner."""
        self._check(partition)
        epoch, position = await self._call(self._raise_epoch, stage, partition)
        return SqliteOwnership(self, stage, partition, epoch, position)

    async def read(
        self, topic: str, partition: int, start: int, *, max_records: int, max_bytes: int = 16_000_000
    ) -> list[BusRecord]:
        """Return the committed records from offset `start` on; empty at the end of the log.

        Raises
        ------
        PositionLost
            The record at `start` was there once and is not any more.
        """
        self._check(partition)
        return await self._call(
            store.read_records,
            self._connection,
            topic,
            partition,
            start,
            max_records=max_records,
            max_bytes=max_bytes,
        )

    async def beginning(self, topic: str, partition: int) -> int:
        """Offset of the oldest record still in the log (``end`` when there is none)."""
        self._check(partition)
        return await self._call(store.first_offset, self._connection, topic, partition)

    async def end(self, topic: str, partition: int) -> int:
        """Return the offset that the next committed record will have."""
        self._check(partition)
        return await self._call(store.next_offset, self._connection, topic, partition)

    async def wait_beyond(self, topic: str, partition: int, offset: int) -> None:
        """Return when ``end`` has passed `offset`."""
        while True:
            # First listen, then look: a commit in between sets the event.
            event = self._waiting.setdefault((topic, partition), asyncio.Event())
            if await self.end(topic, partition) > offset:
                return
            await event.wait()

    async def close(self) -> None:
        """Let commits under way end, then give the store back. Idempotent."""
        if self._ending is None:
            self._ending = self._thread.submit(self._end)
            self._thread.shutdown(wait=False)
            self._wake(tuple(self._waiting))
        await asyncio.shield(asyncio.wrap_future(self._ending))

    async def _commit(
        self,
        owner: tuple[str, int, int, int],
        outputs: Sequence[Outgoing],
        position: StagePosition,
        *,
        forget_groups: bool,
    ) -> None:
        for output in outputs:
            self._check(output.partition)
        await self._call(self._write, owner, outputs, position, forget_groups=forget_groups)

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self._partitions:
            raise ValueError(f"partition {partition} of {self._partitions}")

    async def _call(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Run `function` on the thread of the connection; when cancelled, all of it or nothing is done."""
        if self._ending is not None:
            raise BusUnavailable(f"{self._path}: the bus is closed")
        with store.explained(self._path):
            return await asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))

    def _wake(self, logs: Sequence[tuple[str, int]]) -> None:
        for log in logs:
            event = self._waiting.pop(log, None)
            if event is not None:
                event.set()

    # What follows runs on the thread of the connection.

    def _raise_epoch(self, stage: str, partition: int) -> tuple[int, StagePosition]:
        with store.transaction(self._connection):
            (epoch,) = self._connection.execute(
                "INSERT INTO stages VALUES (?, ?, 1, 0, NULL)"
                " ON CONFLICT (stage, partition) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
                (stage, partition),
            ).fetchone()
            return epoch, store.stage_position(self._connection, stage, partition)

    def _write(
        self,
        owner: tuple[str, int, int, int],
        outputs: Sequence[Outgoing],
        position: StagePosition,
        *,
        forget_groups: bool,
    ) -> None:
        stage, partition, epoch, expected = owner
        now_ms = time.time_ns() // 1_000_000
        ends: dict[tuple[str, int], int] = {}
        with store.transaction(self._connection):
            moved = self._connection.execute(
                "UPDATE stages SET next_offset = ?, config = ?"
                " WHERE stage = ? AND partition = ? AND epoch = ? AND next_offset = ?",
                (position.next_offset, position.config, stage, partition, epoch, expected),
            )
            if moved.rowcount != 1:
                raise PartitionLost(f"{stage}, partition {partition}: another owner has taken over")
            if forget_groups:
                self._connection.execute(
                    "DELETE FROM groups WHERE stage = ? AND partition = ?", (stage, partition)
                )
            self._connection.executemany(
                "INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?)",
                [(stage, partition, name, offset) for name, offset in position.first_offsets.items()],
            )
            rows = []
            for output in outputs:
                log = output.topic, output.partition
                offset = ends[log] if log in ends else store.next_offset(self._connection, *log)
                ends[log] = offset + 1
                headers = store.pack_headers(output.headers)
                rows.append((*log, offset, output.key, output.value, headers, now_ms))
            self._connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        # From here, not from the coroutine: that one may have been cancelled while the commit took place.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, tuple(ends))

    def _end(self) -> None:
        try:
            self._connection.close()
        finally:
            if self._lock is not None:
                self._lock.release()


class SqliteOwnership:
    """A `ptc_stream.bus.api.Ownership`; see there. One commit at a time."""

    def __init__(
        self, bus: SqliteBus, stage: str, partition: int, epoch: int, position: StagePosition
    ) -> None:
        self._bus = bus
        self._stage = stage
        self._partition = partition
        self._epoch = epoch
        self._position = position
        self._next_offset: int | None = position.next_offset

    @property
    def position(self) -> StagePosition:
        """What the stage had committed when this ownership was taken."""
        return self._position

    async def commit(
        self,
        outputs: Sequence[Outgoing],
        *,
        next_offset: int,
        config: str,
        first_offsets: Mapping[str, int],
        forget_groups: bool = False,
    ) -> None:
        """Write `outputs`, the new position and the first offsets of newly met groups, all or nothing.

        After any exception, cancellation included, this ownership is at an end: take it again.
        """
        expected, self._next_offset = self._next_offset, None
        if expected is None:
            raise PartitionLost(
                f"{self._stage}, partition {self._partition}: this ownership was released, or a commit"
                " of it is under way or has failed"
            )
        position = StagePosition(next_offset=next_offset, config=config, first_offsets=dict(first_offsets))
        owner = (self._stage, self._partition, self._epoch, expected)
        await self._bus._commit(owner, tuple(outputs), position, forget_groups=forget_groups)  # noqa: SLF001 - one module
        self._next_offset = next_offset

    async def release(self) -> None:
        """Give the partition up. Idempotent; never raises `PartitionLost`."""
        self._next_offset = None


def _prepare(
    connection: sqlite3.Connection, path: str, partitions: int | None, network: str | None
) -> str | None:
    """Check or make the store; return what the user should know about it."""
    if network is not None:
        # Lets a store that was copied here with a write-ahead log be read without shared memory.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    fresh = store.is_empty(connection)
    if not fresh:
        store.check_format(connection, path)
        stored = store.stored_partitions(connection)
        if partitions not in (None, stored):
            raise StoreMismatch(
                f"{path} was made with {stored} partitions, not {partitions}: leave the number out,"
                " or name a new store"
            )
    wanted = "WAL" if network is None else "DELETE"
    (journal,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
    if network is not None:
        connection.execute("PRAGMA locking_mode = NORMAL")
    # With a rollback journal NORMAL may leave a damaged file after a loss of power; with the log it cannot.
    connection.execute(f"PRAGMA synchronous = {'NORMAL' if journal == 'wal' else 'FULL'}")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT_BYTES}")
    if fresh:
        store.create(connection, store.DEFAULT_PARTITIONS if partitions is None else partitions)
    if path == MEMORY or journal == "wal":
        return None
    where = f"a network file system ({network})" if network else "a file system without shared memory"
    return f"{path} lies on {where}: using the slower rollback journal; a local disk is better"


def _end_unwanted(opening: Future[SqliteBus]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()._end()  # noqa: SLF001 - one module
