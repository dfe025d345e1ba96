"""A pairing core with its ears open: feed it, then look at what it has asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

from ptc_stream.core.effects import Effect, Emit
from ptc_stream.core.pairing import PairingBuffer, PairingConfig
from ptc_stream.records import Alert, ExposureArrived, FlatPair
from tests.builders import exposure_arrived, flat_exposure

__all__ = ["Stream", "again", "dark"]


class Stream:
    """One group's pairing, and what it has asked for so far."""

    def __init__(self, config: PairingConfig | None = None) -> None:
        self.core = PairingBuffer(
            exposure_arrived().group, config or PairingConfig(), measuring_digest="digest"
        )
        self.effects: list[Effect] = []

    def take(self, *records: ExposureArrived) -> list[Effect]:
        """Feed the core; give the effects of the last record."""
        effects: list[Effect] = []
        for record in records:
            effects = self.core.on_record(record)
            self.effects += effects
        return effects

    @property
    def pairs(self) -> list[FlatPair]:
        return [it.record for it in self.effects if isinstance(it, Emit) and isinstance(it.record, FlatPair)]

    @property
    def alerts(self) -> list[Alert]:
        return [it.record for it in self.effects if isinstance(it, Emit) and isinstance(it.record, Alert)]

    @property
    def names(self) -> list[tuple[str, str]]:
        return [(pair.first.exposure, pair.second.exposure) for pair in self.pairs]

    @property
    def waiting(self) -> list[str]:
        return [it.exposure for it in self.core.waiting()]


def again(record: ExposureArrived, upload: int = 2, **changes: Any) -> ExposureArrived:
    """A new revision of `record`."""
    return dataclasses.replace(record, content_tag=f"upload {upload} of {record.exposure}", **changes)


def dark(number: int) -> ExposureArrived:
    return flat_exposure(number, image_type="dark")
