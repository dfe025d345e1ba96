"""The groups of one partition that are in memory, and how the others come back from the log.

State is never serialised. A group that is not in memory is brought back by feeding a new core the group's
records again, from its first offset to here, with the effects thrown away. Dropping a group costs time and
means nothing.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable
from typing import Any

from ptc_stream.bus.api import Bus
from ptc_stream.codec import decode
from ptc_stream.core.effects import Core, Effect, Reject
from ptc_stream.errors import DecodeError
from ptc_stream.records import GroupKey, split_key

__all__ = ["GroupCores", "feed"]

_PAGE_RECORDS = 500

_log = logging.getLogger(__name__)


def feed(core: Core[Any], record: Any) -> list[Effect]:
    """Give `record` to `core`; a defect of the core becomes a rejected record, and the stream goes on.

    The same record meets the same defect when the group is folded again, so the result is still a function
    of the log alone.
    """
    try:
        return core.on_record(record)
    except Exception as error:  # noqa: BLE001 - a defect of ours must not stop the partition's other groups
        _log.exception("defect in %s on %s", type(core).__name__, record.key)
        return [Reject("DEFECT", f"{type(error).__name__}: {error}")]


class GroupCores:
    """Cores of one stage in one partition, least recently used dropped first.

    Parameters
    ----------
    bus, topic, partition
        Where the input records are.
    record_type
        Type of the input records.
    make_core
        Makes the core of a group.
    first_offsets
        Offset of the first record of each known group; grown by `core_for`.
    memory_limit
        Bytes that all cores together may hold, about; the one in use always stays.
    """

    def __init__(
        self,
        bus: Bus,
        topic: str,
        partition: int,
        *,
        record_type: type[Any],
        make_core: Callable[[GroupKey], Core[Any]],
        first_offsets: dict[str, int],
        memory_limit: int,
    ) -> None:
        self._bus = bus
        self._topic = topic
        self._partition = partition
        self._record_type = record_type
        self._make_core = make_core
        self._first_offsets = first_offsets
        self._memory_limit = memory_limit
        self._cores: collections.OrderedDict[str, Core[Any]] = collections.OrderedDict()
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._cores)

    @property
    def loaded(self) -> list[str]:
        """Keys of the groups in memory, least recently used first."""
        return list(self._cores)

    async def core_for(self, group: GroupKey, offset: int) -> tuple[Core[Any], bool]:
        """Return the core of `group`, ready for its record at `offset`, and whether the group is new."""
        key = str(group)
        new = key not in self._first_offsets
        if new:
            self._first_offsets[key] = offset
            self._cores[key] = self._make_core(group)
        elif key not in self._cores:
            await self._load_run(group, offset)
        self._cores.move_to_end(key)
        return self._cores[key], new

    def note_size(self, group: GroupKey) -> None:
        """Take note that the core of `group` has changed; drop others if memory is over its limit."""
        self._sizes[str(group)] = self._cores[str(group)].size()
        while len(self._cores) > 1 and sum(self._sizes.values()) > self._memory_limit:
            self.forget(next(iter(self._cores)))

    def forget(self, key: str) -> None:
        """Drop a group from memory; it comes back from the log when it is needed."""
        self._cores.pop(key, None)
        self._sizes.pop(key, None)

    async def _load_run(self, group: GroupKey, end: int) -> None:
        """Bring `group` back, and with the same scan every other known group of its run."""
        run = group[:2]
        keys = [key for key in self._first_offsets if key not in self._cores and split_key(key)[:2] == run]
        beginning = await self._bus.beginning(self._topic, self._partition)
        cores: dict[str, Core[Any]] = {}
        for key in keys:
            cores[key] = self._make_core(GroupKey(*split_key(key)))
            if self._first_offsets[key] < beginning:
                cores[key].on_history_cut()
        offset = max(beginning, min(self._first_offsets[key] for key in keys))
        while offset < end:
            page = await self._bus.read(self._topic, self._partition, offset, max_records=_PAGE_RECORDS)
            if not page:
                break
            for bus_record in page:
                if bus_record.offset >= end:
                    break
                try:
                    record = decode(bus_record.value, self._record_type)
                except DecodeError:
                    continue  # it was rejected when it was met first; it never reached a core
                core = cores.get(str(record.group))
                if core is not None:
                    feed(core, record)
            offset = page[-1].offset + 1
        for key, core in cores.items():
            self._cores[key] = core
            self._sizes[key] = core.size()
