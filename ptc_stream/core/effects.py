"""What a core may ask for, and what it must promise.

A *core* is the decision code of one stage for one group: records in, effects out. It does no I/O,
reads no clock, draws no random number. Its caller (`ptc_stream.services.runner`) owns everything else.

The contract, for whoever drives a core
---------------------------------------
- Call ``on_record`` once for every record of the group, in log order, starting with its first.
- Carry out the returned effects in their order, in one transaction with the position after the record.
- To bring a core back after a crash or an eviction, make a new one and feed it the same records again,
  throwing the effects away. This is exact because state changes on records only, never on results.

The contract, for whoever writes a core
---------------------------------------
- Never raise on a well-formed record: what cannot be used becomes a `Reject`.
- A duplicate record changes nothing and returns no effects.
- ``size`` is an honest estimate in bytes; groups are dropped from memory by it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, TypeAlias, TypeVar

from ptc_stream.records import Alert, ExposureArrived, FlatPair, PairCovariances, PtcFit

__all__ = ["Compute", "Core", "Effect", "Emit", "Reject"]


@dataclasses.dataclass(frozen=True, slots=True)
class Emit:
    """Publish `record` on its topic."""

    record: FlatPair | PairCovariances | PtcFit | Alert


@dataclasses.dataclass(frozen=True, slots=True)
class Compute:
    """Run `job` away from the event loop and publish the record that it returns.

    A job is plain data; the service knows the function for its type.
    """

    job: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Reject:
    """Publish the current input record, unmodified, on the topic of rejected records."""

    reason: str
    message: str


Effect: TypeAlias = Emit | Compute | Reject

InputT_contra = TypeVar(
    "InputT_contra", ExposureArrived, FlatPair, PairCovariances, PtcFit, contravariant=True
)


class Core(Protocol[InputT_contra]):
    """Decision code of one stage, for one group."""

    def on_record(self, record: InputT_contra) -> list[Effect]:
        """Take the next record of the group; return what is to be done about it."""
        ...

    def on_history_cut(self) -> None:
        """Learn that older records of the group are gone from the log, before the first ``on_record``."""
        ...

    def size(self) -> int:
        """Return the memory held, in bytes, about."""
        ...
