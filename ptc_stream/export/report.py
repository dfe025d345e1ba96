"""What a report of a run says, whatever it is written as: summary, tables, settings, figures."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ptc_stream.export.figures import PlannedFigure, plan_figures
from ptc_stream.export.notation import NOT_KNOWN, counted
from ptc_stream.export.results import RunResult
from ptc_stream.export.tables import display_table
from ptc_stream.physics.fitting import FitStatus
from ptc_stream.records import Alert, AmplifierFitResult, ExposureArrived, PtcFit, Rejected

__all__ = ["CAPTIONS", "ReportTable", "ResultRow", "RunReport"]

CAPTIONS: Mapping[str, str] = {
    "summary": "Gain, read noise, a00 and turnoff of every amplifier",
    "overview": "Maps of gain, read noise, a00 and turnoff",
    "distributions": "Distribution of gain, read noise, a00 and turnoff",
    "ptc": "Photon transfer curves and residuals",
    "ptc_log": "Photon transfer curves, both axes logarithmic",
    "variance_over_mean": "Variance over mean",
    "covariance_over_mean": "Covariances over mean",
    "linearity": "Deviation of mean signal from proportionality to exposure",
    "bf_matrices": "Matrices a, b and n",
    "bf_distance": "a and b against distance",
    "bf_cumulative": "Cumulative sum of a",
    "convergence": "Convergence of gain and a00 with the number of pairs",
}
"""What each kind of figure shows."""

# Eight figures of a detector are 2 MB: a report of 205 detectors would be a file that no browser opens.
_MOST_DETECTORS = 12


@dataclasses.dataclass(frozen=True, slots=True)
class ReportTable:
    """A small table of text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ResultRow:
    """Results of one amplifier: the text of each cell, and what it is sorted by (NaN: last)."""

    cells: tuple[str, ...]
    values: tuple[str | float, ...]
    ok: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """A run and all that is known about it.

    Attributes
    ----------
    result
        Fits and points.
    history
        Fits in the order of the log, for the figures of convergence.
    pairs_formed
        How many pairs were formed, measured or not.
    waiting
        Flats without partner.
    rejected
        What could not be used, and where it stood in the log.
    alerts
        The alerts that are active.
    settings
        Settings by stage and section, as the stages recorded them.
    most_detectors
        Figures of a single detector are shown for at most so many, those with problems first.
    """

    result: RunResult
    history: Sequence[PtcFit] = ()
    pairs_formed: int = 0
    waiting: Sequence[ExposureArrived] = ()
    rejected: Sequence[tuple[Rejected, str]] = ()
    alerts: Sequence[Alert] = ()
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    most_detectors: int = _MOST_DETECTORS

    @property
    def title(self) -> str:
        """Title of the report."""
        return f"Photon Transfer Curve, run {self.result.run}"

    @property
    def lead(self) -> str:
        """Instrument, model and detectors, in one line."""
        fits = self.result.fits
        instruments = ", ".join(dict.fromkeys(fit.instrument for fit in fits))
        models = ", ".join(dict.fromkeys(fit.model for fit in fits))
        return " · ".join(part for part in (instruments, models, counted(len(fits), "detector")) if part)

    @property
    def amplifiers(self) -> list[AmplifierFitResult]:
        """All amplifiers of all detectors."""
        return [result for fit in self.result.fits for result in fit.amplifiers]

    def summary(self) -> list[tuple[str, str]]:
        """Return the figures that a reader looks for first: name and value."""
        amplifiers = self.amplifiers
        good = sum(result.status == FitStatus.OK for result in amplifiers)
        medians = [
            (f"median {name}", self._median(field, scale, unit))
            for name, field, scale, unit in (
                ("gain", "gain", 1.0, "e⁻/ADU"),
                ("read noise", "read_noise", 1.0, "e⁻"),
                ("a00", "a00", 1e6, "10⁻⁶/e⁻"),
                ("turnoff", "turnoff", 1e-3, "10³ ADU"),
            )
        ]
        incomplete = [fit.detector for fit in self.result.fits if fit.history_incomplete]
        return [
            ("detectors", str(len(self.result.fits))),
            ("amplifiers OK", f"{good} of {len(amplifiers)}"),
            ("pairs in the fits", str(self.result.pairs)),
            ("pairs formed", str(max(self.pairs_formed, self.result.pairs))),
            ("flats without partner", str(len(self.waiting))),
            ("rejected", str(len(self.rejected))),
            ("active alerts", str(len(self.alerts))),
            *medians,
            *([("history incomplete", ", ".join(incomplete))] if incomplete else []),
        ]

    def _median(self, field: str, scale: float, unit: str) -> str:
        values = [float(getattr(result, field)) for result in self.amplifiers]
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return NOT_KNOWN
        return f"{float(np.median(finite)) * scale:.4g} {unit}".replace("-", "−")

    def statuses(self) -> ReportTable:
        """Return how many amplifiers have which status."""
        counts = Counter(result.status for result in self.amplifiers)
        return ReportTable(
            ("status", "amplifiers"), tuple((name, str(n)) for name, n in sorted(counts.items()))
        )

    @staticmethod
    def result_columns() -> tuple[str, ...]:
        """Name the columns of `results`."""
        return (*display_table(()).colnames, "notes")

    def results(self) -> Iterator[ResultRow]:
        """Yield the results of every amplifier."""
        owners = [(fit, result) for fit in self.result.fits for result in fit.amplifiers]
        for text, (fit, result) in zip(display_table(self.result.fits), owners, strict=True):
            notes = ", ".join(
                [*result.notes, *(f"{unused.reason} {unused.count}" for unused in result.unused)]
            )
            yield ResultRow(
                (*(str(cell) for cell in text), notes),
                (
                    fit.detector,
                    result.name,
                    result.status,
                    result.gain,
                    result.read_noise,
                    result.a00,
                    result.turnoff,
                    result.chi2_per_dof,
                    result.pairs_used,
                    notes,
                ),
                result.status == FitStatus.OK,
            )

    def alert_table(self) -> ReportTable:
        """Return the active alerts."""
        rows = tuple((alert.detector, alert.amplifier, alert.rule, alert.message) for alert in self.alerts)
        return ReportTable(("detector", "amplifier", "rule", "message"), rows)

    def waiting_table(self) -> ReportTable:
        """Return the flats that wait for a partner."""
        rows = tuple(
            (
                exposure.detector,
                exposure.exposure,
                NOT_KNOWN if exposure.exposure_time is None else f"{exposure.exposure_time:.6g}",
                exposure.filter,
            )
            for exposure in self.waiting
        )
        return ReportTable(("detector", "exposure", "time [s]", "filter"), rows)

    def rejected_table(self) -> ReportTable:
        """Return what could not be used, and why."""
        rows = tuple(
            (record.stage, record.reason, origin or record.source_key, record.message)
            for record, origin in self.rejected
        )
        return ReportTable(("stage", "reason", "origin", "message"), rows)

    def settings_table(self) -> ReportTable:
        """Return the settings that each stage worked under."""
        rows = tuple(
            (stage, name, value)
            for stage, settings in self.settings.items()
            for name, value in _flatten(settings)
        )
        return ReportTable(("stage", "setting", "value"), rows)

    def shown_detectors(self) -> list[str]:
        """Name the detectors whose figures are shown, by name."""
        by_need = sorted(
            self.result.fits,
            key=lambda fit: (-sum(a.status != FitStatus.OK for a in fit.amplifiers), fit.detector),
        )
        return sorted(fit.detector for fit in by_need[: self.most_detectors])

    def figures(self) -> Iterator[PlannedFigure]:
        """Yield the figures of the run, then those of `shown_detectors`."""
        return plan_figures(self.result, history=self.history, detectors=self.shown_detectors())

    def left_out(self) -> str:
        """Say which figures are missing; empty if none is."""
        missing = len(self.result.fits) - len(self.shown_detectors())
        if not missing:
            return ""
        return (
            f"Figures of {counted(missing, 'detector')} are not in this report (those with problems come "
            "first): `ptc-stream plot STORE --out DIR` draws all."
        )


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", NOT_KNOWN if value is None else str(value)
