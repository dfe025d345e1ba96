"""Wiring of the pairing stage: exposures in, flat pairs out."""

from __future__ import annotations

from functools import partial

from ptc_stream.config import canonical_json
from ptc_stream.core.matching import PairingConfig
from ptc_stream.core.pairing import PairingBuffer
from ptc_stream.offload import Offload
from ptc_stream.records import ExposureArrived
from ptc_stream.services.runner import OnChange, Stage

__all__ = ["pairing_stage"]


def pairing_stage(config: PairingConfig, *, measuring_digest: str, offload: Offload) -> Stage:
    """Make the stage; its pair ids carry `measuring_digest`, so that another measurement is another pair."""
    return Stage(
        name="pairing",
        input_type=ExposureArrived,
        make_core=partial(PairingBuffer, config=config, measuring_digest=measuring_digest),
        config=canonical_json({"pairing": config, "measuring_digest": measuring_digest}),
        on_change=OnChange.REFUSE,
        offload=offload,
        waiting=lambda core: len(core.waiting()),
    )
