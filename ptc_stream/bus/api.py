"""The words of transport, defined before its methods.

record
    key, value and headers at one offset of one partition of one topic; `ptc_stream.codec` reads the bytes
offset
    Number of a record in its partition. Wherever an offset is stored or returned as a place to go on from
    it is the *next* record to read. Offsets rise; they need not be consecutive (Kafka's control records).
partition
    ``murmur2(instrument|detector) mod P``, the same P for every topic, computed here and passed explicitly,
    so that both buses place records alike and both flats of a detector meet.
position
    Of a stage in a partition: the next offset of its input, the settings it worked under, and the first
    offset of every group it has met. Written in the same transaction as the outputs.
ownership
    The right of one process to write for (stage, partition). Taking it fences the predecessor: whatever that
    one commits afterwards fails with `PartitionLost` and leaves no trace.
transaction
    Outputs and position of one commit: all visible to readers at once, or none of them.

What every implementation promises (one suite in ``tests/contract`` runs over all of them)
--------------------------------------------------------------------------------------------
1. ``read`` returns committed records only, in offset order, and never skips one.
2. ``Ownership.commit`` is atomic; when it raises, either nothing was written or the commit took place, and
   only a new ``own`` tells which.
3. After any exception in ``commit``, cancellation included, that ownership is finished: the next one raises
   `PartitionLost`. One commit at a time.
4. ``read`` raises `PositionLost` where the record at the wanted offset is no longer in the log.
5. After ``close`` every call raises `BusUnavailable`.
6. After ``own`` returns, no commit of an earlier owner of (stage, partition) can take effect, and
   ``Ownership.position`` holds everything that any of them committed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

__all__ = ["Bus", "BusRecord", "Outgoing", "Ownership", "StagePosition", "Topics", "partition_of"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BusRecord:
    """One committed record as it lies in the log."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One record to be written."""

    topic: str
    partition: int
    key: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StagePosition:
    """Where a stage stands in one partition; ``config`` is None when it has never been here."""

    next_offset: int = 0
    config: str | None = None
    first_offsets: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Topics:
    """Full topic names for one prefix (``ptc``, ``teststand3.ptc``, ``replay-7.ptc``)."""

    prefix: str = "ptc"

    def name(self, short: str) -> str:
        """Full name of the topic called `short` in `ptc_stream.records`."""
        return f"{self.prefix}.{short}"


class Ownership(Protocol):
    """The right to write for one stage in one partition."""

    @property
    def position(self) -> StagePosition:
        """What the stage had committed when this ownership was taken."""
        ...

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

        Parameters
        ----------
        outputs
            Records, in order.
        next_offset
            Next input record to read.
        config
            Settings of the stage, canonical JSON.
        first_offsets
            Groups met for the first time in this transaction, with the offset of their first record.
        forget_groups
            The stage began again from the start of its input: earlier first offsets no longer count.

        Raises
        ------
        PartitionLost
            Another owner has taken over. Nothing was written.
        BusUnavailable
            The log cannot be reached; take ownership again to learn what was written.
        """
        ...

    async def release(self) -> None:
        """Give the partition up. Idempotent; never raises `PartitionLost`."""
        ...


class Bus(Protocol):
    """A partitioned log of records with transactions."""

    @property
    def partitions(self) -> int:
        """Partitions per topic."""
        ...

    async def own(self, stage: str, partition: int) -> Ownership:
        """Take (stage, partition), fencing any earlier owner."""
        ...

    async def read(
        self, topic: str, partition: int, start: int, *, max_records: int, max_bytes: int = 16_000_000
    ) -> list[BusRecord]:
        """Return the committed records from offset `start` on; empty at the end of the log.

        At least one record is returned when there is one, even if it is larger than `max_bytes`.
        """
        ...

    async def beginning(self, topic: str, partition: int) -> int:
        """Offset of the oldest record still in the log (``end`` when there is none)."""
        ...

    async def end(self, topic: str, partition: int) -> int:
        """Return the offset that the next committed record will have at least; none is missing below."""
        ...

    async def wait_beyond(self, topic: str, partition: int, offset: int) -> None:
        """Return when ``end`` has passed `offset` (or may have: a wake-up for nothing is allowed)."""
        ...

    async def close(self) -> None:
        """Give everything back. Idempotent."""
        ...


_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def _murmur2(data: bytes) -> int:
    """Java Kafka's murmur2, 32 bits (org.apache.kafka.common.utils.Utils.murmur2), as an unsigned integer."""
    length = len(data)
    h = (0x9747B28C ^ length) & _MASK
    whole = length - length % 4
    for index in range(0, whole, 4):
        k = int.from_bytes(data[index : index + 4], "little")
        k = (k * _M) & _MASK
        k ^= k >> 24
        k = (k * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    tail = data[whole:]
    if tail:
        h = ((h ^ int.from_bytes(tail, "little")) * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    return h ^ (h >> 15)


def partition_of(instrument: str, detector: str, partitions: int) -> int:
    """Partition of everything that belongs to `detector` of `instrument`."""
    from_key = f"{instrument}|{detector}".encode()
    return (_murmur2(from_key) & 0x7FFFFFFF) % partitions
