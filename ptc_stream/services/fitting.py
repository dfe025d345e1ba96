"""Wiring of the fitting stage: covariances in, one fit per record out. One stage per model."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from ptc_stream.config import canonical_json, digest
from ptc_stream.core.fit_job import FitJob, fit_pairs
from ptc_stream.core.fitting import PtcAggregator
from ptc_stream.offload import Offload
from ptc_stream.physics.fitting import FitConfig
from ptc_stream.physics.linearity import LinearityConfig
from ptc_stream.records import PairCovariances
from ptc_stream.services.runner import OnChange, Stage

__all__ = ["FittingSettings", "fitting_stage"]


class FittingSettings(NamedTuple):
    """Everything that a fit depends on, beside its pairs."""

    fitting: FitConfig
    linearity: LinearityConfig

    @property
    def config(self) -> str:
        """The settings as canonical JSON."""
        return canonical_json({"fitting": self.fitting, "linearity": self.linearity})

    @property
    def digest(self) -> str:
        """Hash of `config`, as it stands in the record of a fit."""
        return digest(self.config)


def fitting_stage(settings: FittingSettings, *, offload: Offload) -> Stage:
    """Make the stage of one model. Under other settings it starts again from the first covariances.

    The model is part of the stage's name, so that fits of several models live side by side and each goes
    on from where it was.
    """
    return Stage(
        name=f"fitting.{settings.fitting.model}",
        input_type=PairCovariances,
        make_core=partial(
            PtcAggregator,
            config=settings.fitting,
            fitting_digest=settings.digest,
            linearity=settings.linearity,
        ),
        config=settings.config,
        on_change=OnChange.RESTART,
        offload=offload,
        functions={FitJob: fit_pairs},
    )
