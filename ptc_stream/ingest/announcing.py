"""Writes exposures into the log, each revision once, whoever announces them and however often.

Theory of operation: what has been announced is read back from the log, so a run that is started again
announces only what is new, and a process killed half-way leaves exactly the exposures that it committed.
Per partition the order is the order of the calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TypeAlias

from ptc_stream.bus.api import Bus, BusRecord, Outgoing, Ownership, Topics, partition_of
from ptc_stream.codec import decode, encode, record_headers
from ptc_stream.errors import DecodeError
from ptc_stream.ingest.files import UnreadFile
from ptc_stream.records import ExposureArrived, Rejected

__all__ = ["STAGE", "Announcer"]

STAGE = "ingest"
_BATCH = 500
_PAGE = 1000
_Identity: TypeAlias = tuple[str, str]


class Announcer:
    """Writes exposures (and files that are none) into the log.

    Parameters
    ----------
    bus, topics
        Where to.
    on_committed
        Told (stage, partition, next offset, records) of what was written.
    """

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        *,
        on_committed: Callable[[str, int, int, Sequence[ExposureArrived | Rejected]], None],
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._on_committed = on_committed
        self._known: set[_Identity] = set()
        self._owned: dict[int, Ownership] = {}

    async def open(self) -> None:
        """Learn what the log already holds. Call once, before the first ``announce``."""
        for partition in range(self._bus.partitions):
            self._owned[partition] = await self._bus.own(STAGE, partition)
            async for bus_record in self._pages(self._topics.name(ExposureArrived.topic), partition):
                try:
                    self._known.add(_identity(decode(bus_record.value, ExposureArrived)))
                except DecodeError:
                    continue  # somebody else's malformed event: pairing rejects it, with its reason
            async for bus_record in self._pages(self._topics.name(Rejected.topic), partition):
                rejected = decode(bus_record.value, Rejected)
                if rejected.stage == STAGE:
                    self._known.add((rejected.source_key, rejected.original.decode()))

    async def announce(
        self, exposures: Sequence[ExposureArrived], unread: Sequence[UnreadFile] = ()
    ) -> tuple[int, int]:
        """Write what is new, in order; files that could not be read become rejected records.

        Parameters
        ----------
        exposures
            In the order in which they are to stand in the log.
        unread
            Files without a usable header.

        Returns
        -------
        tuple of int
            Exposures written, and files rejected.
        """
        fresh: list[tuple[_Identity, int, ExposureArrived | Rejected]] = []
        for exposure in exposures:
            partition = partition_of(exposure.instrument, exposure.detector, self._bus.partitions)
            fresh.append((_identity(exposure), partition, exposure))
        for file in unread:
            # Nobody knows whose exposure it was: its path decides the partition.
            partition = partition_of(file.uri, "", self._bus.partitions)
            rejected = Rejected(
                stage=STAGE,
                reason=file.reason,
                message=file.message,
                source_topic="",
                source_key=file.uri,
                original=file.stamp.encode(),
            )
            fresh.append(((file.uri, file.stamp), partition, rejected))
        by_partition: dict[int, dict[_Identity, ExposureArrived | Rejected]] = {}
        for identity, partition, record in fresh:
            if identity not in self._known:
                by_partition.setdefault(partition, {}).setdefault(identity, record)
        for partition, records in by_partition.items():
            await self._write(partition, records)
        written = [record for records in by_partition.values() for record in records.values()]
        rejects = sum(isinstance(record, Rejected) for record in written)
        return len(written) - rejects, rejects

    async def close(self) -> None:
        """Give the partitions up."""
        for ownership in self._owned.values():
            await ownership.release()
        self._owned.clear()

    async def _write(self, partition: int, records: Mapping[_Identity, ExposureArrived | Rejected]) -> None:
        entries = list(records.items())
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            await self._owned[partition].commit(
                [
                    Outgoing(
                        topic=self._topics.name(record.topic),
                        partition=partition,
                        key=record.key,
                        value=encode(record),
                        headers=record_headers(record),
                    )
                    for _, record in batch
                ],
                next_offset=0,
                config="{}",
                first_offsets={},
            )
            # Known from now on and not before: what a failed commit left out is announced again.
            self._known.update(identity for identity, _ in batch)
            self._on_committed(STAGE, partition, 0, [record for _, record in batch])

    async def _pages(self, topic: str, partition: int) -> AsyncIterator[BusRecord]:
        offset = await self._bus.beginning(topic, partition)
        while page := await self._bus.read(topic, partition, offset, max_records=_PAGE):
            for bus_record in page:
                yield bus_record
            offset = page[-1].offset + 1


def _identity(exposure: ExposureArrived) -> _Identity:
    return exposure.key, exposure.content_tag
