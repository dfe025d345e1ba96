"""The window of input records being worked on: results leave in input order, whatever order they come in.

Theory of operation: every admitted record has a line of slots, one per effect. A slot is filled at once
(`Emit`, `Reject`) or when its job is done (`Compute`). ``pop_ready`` hands out the records at the front
whose slots are all full, so the position that may be committed never passes an unfinished record.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Generic, TypeVar

__all__ = ["Finished", "InflightWindow", "Slot"]

OutputT = TypeVar("OutputT")


@dataclasses.dataclass(slots=True, eq=False)
class Slot(Generic[OutputT]):
    """Place of one effect's outputs; ``outputs`` is None while its job runs."""

    outputs: tuple[OutputT, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Finished(Generic[OutputT]):
    """An input record with everything it led to; ``next_offset`` may be committed with it."""

    next_offset: int
    new_group: str | None
    offset: int
    outputs: tuple[OutputT, ...]


@dataclasses.dataclass(slots=True)
class _Entry(Generic[OutputT]):
    offset: int
    new_group: str | None
    slots: list[Slot[OutputT]]


class InflightWindow(Generic[OutputT]):
    """First in, first out, with slots that fill in any order.

    Parameters
    ----------
    limit
        Records that may be under way at once; ``room`` tells how many more are welcome.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: collections.deque[_Entry[OutputT]] = collections.deque()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def room(self) -> int:
        """Records that may still be admitted."""
        return self._limit - len(self._entries)

    def admit(self, offset: int, slots: list[Slot[OutputT]], *, new_group: str | None = None) -> None:
        """Take in the record at `offset` with its `slots`, in effect order; `new_group` if it is a first."""
        self._entries.append(_Entry(offset, new_group, slots))

    def pop_ready(self) -> list[Finished[OutputT]]:
        """Remove and return the finished records at the front, in order."""
        ready: list[Finished[OutputT]] = []
        while self._entries:
            entry = self._entries[0]
            outputs: list[OutputT] = []
            for slot in entry.slots:
                if slot.outputs is None:
                    return ready
                outputs.extend(slot.outputs)
            self._entries.popleft()
            ready.append(Finished(entry.offset + 1, entry.new_group, entry.offset, tuple(outputs)))
        return ready
