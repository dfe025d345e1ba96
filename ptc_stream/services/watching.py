"""Wiring of the watching stage: fits in, alerts out."""

from __future__ import annotations

from functools import partial

from ptc_stream.config import canonical_json
from ptc_stream.core.watching import AlertRules, WatchingConfig
from ptc_stream.offload import Offload
from ptc_stream.records import PtcFit
from ptc_stream.services.runner import OnChange, Stage

__all__ = ["watching_stage"]


def watching_stage(config: WatchingConfig, *, offload: Offload) -> Stage:
    """Make the stage. Under other limits it judges all fits again."""
    return Stage(
        name="watching",
        input_type=PtcFit,
        make_core=partial(AlertRules, config=config),
        config=canonical_json({"watching": config}),
        on_change=OnChange.RESTART,
        offload=offload,
    )
