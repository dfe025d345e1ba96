"""Wiring of the fitting stage: covariances in, one fit per record out. One stage per model."""

from __future__ import annotations

from functools import partial

from ptc_stream.config import canonical_json, digest
from ptc_stream.core.fitting import FitJob, PtcAggregator, fit_pairs
from ptc_stream.offload import Offload
from ptc_stream.physics.fitting import FitConfig
from ptc_stream.records import PairCovariances
from ptc_stream.services.runner import OnChange, Stage

__all__ = ["fitting_digest", "fitting_stage"]


def fitting_digest(config: FitConfig) -> str:
    """Hash of the settings of a fit, as it stands in its record."""
    return digest(canonical_json({"fitting": config}))


def fitting_stage(config: FitConfig, *, offload: Offload) -> Stage:
    """Make the stage of one model. Under other settings it starts again from the first covariances.

    The model is part of the stage's name, so that fits of several models live side by side and each goes
    on from where it was.
    """
    return Stage(
        name=f"fitting.{config.model}",
        input_type=PairCovariances,
        make_core=partial(PtcAggregator, config=config, fitting_digest=fitting_digest(config)),
        config=canonical_json({"fitting": config}),
        on_change=OnChange.RESTART,
        offload=offload,
        functions={FitJob: fit_pairs},
    )
