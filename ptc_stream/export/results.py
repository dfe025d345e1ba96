"""What people get: the results of a run as an object, as JSON, as tables and figures."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from astropy.table import Table
from matplotlib.figure import Figure

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.curve import AmplifierCurve, join_curves
from ptc_stream.export.distribution_plots import run_distributions
from ptc_stream.export.linearity_plots import linearity_residuals
from ptc_stream.export.matrix_plots import bf_cumulative, bf_distance, bf_matrices, has_matrices
from ptc_stream.export.plots import covariance_over_mean, ptc_grid, variance_over_mean
from ptc_stream.export.run_plots import convergence, gain_noise_summary, run_overview
from ptc_stream.export.tables import display_table, fit_table, points_table
from ptc_stream.physics.fitting import FitStatus
from ptc_stream.records import AmplifierFitResult, LinearityResult, Matrix, PairCovariances, PtcFit

__all__ = ["DETECTOR_FIGURES", "RUN_FIGURES", "RunResult", "detector_figures", "detector_json", "run_json"]

DETECTOR_FIGURES: Mapping[str, Callable[..., Figure]] = {
    "ptc": ptc_grid,
    "ptc_log": partial(ptc_grid, scale="log"),
    "variance_over_mean": variance_over_mean,
    "covariance_over_mean": covariance_over_mean,
    "linearity": linearity_residuals,
    "bf_matrices": bf_matrices,
    "bf_distance": bf_distance,
    "bf_cumulative": bf_cumulative,
}
"""Figures of one detector by name: called with its fit, its curves and options."""

RUN_FIGURES: Mapping[str, Callable[..., Figure]] = {
    "summary": gain_noise_summary,
    "overview": run_overview,
    "distributions": run_distributions,
}
"""Figures of the run by name: called with its fits and options."""


def detector_figures(fit: PtcFit) -> list[str]:
    """Name those of `DETECTOR_FIGURES` that `fit` has something to show in."""
    without: set[str] = set()
    if not has_matrices(fit):
        without |= {"bf_matrices", "bf_distance", "bf_cumulative"}
    if all(result.linearity is None for result in fit.amplifiers):
        without.add("linearity")
    return [name for name in DETECTOR_FIGURES if name not in without]


_MOST_ROWS_IN_NOTEBOOK = 64


def _number(value: float | None) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return value if value is not None and math.isfinite(value) else None


def _amplifier_json(fit: PtcFit, result: AmplifierFitResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "model": fit.model,
        "status": result.status,
        "gain": _number(result.gain),
        "gain_error": _number(result.gain_error),
        "read_noise": _number(result.read_noise),
        "read_noise_error": _number(result.read_noise_error),
        "a00": _number(result.a00),
        "a00_error": _number(result.a00_error),
        "turnoff": _number(result.turnoff),
        "turnoff_error": _number(result.turnoff_error),
        "turnoff_is_lower_limit": result.turnoff_is_lower_limit,
        "chi2_per_dof": _number(result.chi2_per_dof),
        "pairs_used": result.pairs_used,
        "pairs_not_used": {unused.reason: unused.pairs for unused in result.unused if unused.pairs},
        "points_used": result.points_used,
        "points_not_used": {unused.reason: unused.count for unused in result.unused},
        "overscan_read_noise": _number(result.overscan_read_noise),
        "turnoff_last_used": _number(result.turnoff_last_used),
        "dof": result.dof,
        "floor": _number(result.floor),
        "parameters": [_number(value) for value in result.parameters],
        "notes": list(result.notes),
        **{
            f"{name}{end}": _numbers(getattr(result, f"{name}{end}"))
            for name in ("a_matrix", "b_matrix", "noise_matrix")
            for end in ("", "_error")
        },
        "linearity": _linearity_json(result.linearity),
        "lamp_drift": _number(result.lamp_drift),
    }


def _numbers(matrix: Matrix | None) -> list[list[float | None]] | None:
    return None if matrix is None else [[_number(value) for value in row] for row in matrix]


def _linearity_json(linearity: LinearityResult | None) -> dict[str, Any] | None:
    if linearity is None:
        return None
    return {
        name: _number(value) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(linearity).items()
    }


def detector_json(fit: PtcFit) -> dict[str, Any]:
    """Write the fit of one detector as JSON values.

    Parameters
    ----------
    fit
        The fit.

    Returns
    -------
    dict
        ``{"detector", "history_incomplete", "amplifiers": [...]}``. Units: ADU, e-/ADU, e-, 1/e-; null where
        a value was not determined. ``pairs_not_used`` counts the pairs of which no point is used, by the
        reason of the first; with ``pairs_used`` it adds up to the pairs that have this amplifier. Matrices
        have the x lag first; null where the model has none.
    """
    return {
        "detector": fit.detector,
        "history_incomplete": fit.history_incomplete,
        "amplifiers": [_amplifier_json(fit, result) for result in fit.amplifiers],
    }


def run_json(run: str, fits: Iterable[PtcFit], *, pairs: int, unpaired: int, rejected: int) -> dict[str, Any]:
    """Write the results of a run as JSON values.

    Parameters
    ----------
    run
        Name of the run.
    fits
        The last fit of each detector (and model).
    pairs, unpaired, rejected
        How many pairs were measured, flats wait for a partner, records were rejected.

    Returns
    -------
    dict
        ``{"run", "pairs", "unpaired", "rejected", "detectors": [...]}``, detectors by name, then model.
    """
    ordered = sorted(fits, key=lambda fit: (fit.detector, fit.model))
    return {
        "run": run,
        "pairs": pairs,
        "unpaired": unpaired,
        "rejected": rejected,
        "detectors": [detector_json(fit) for fit in ordered],
    }


class RunResult:
    """The results of one run, of one fit model.

    Parameters
    ----------
    run
        Name of the run.
    fits
        Fits in the order of the log: the last one of each detector counts.
    covariances
        Covariance records of the run in the order of the log. Without them there are results but no points.
    unpaired, rejected
        How many flats wait for a partner, records were rejected.

    Raises
    ------
    ConfigurationError
        The fits are of several runs, models or instruments, so that "the gain" would mean nothing.
    """

    def __init__(
        self,
        run: str,
        fits: Iterable[PtcFit],
        covariances: Iterable[PairCovariances] = (),
        *,
        unpaired: int = 0,
        rejected: int = 0,
    ) -> None:
        given = list(fits)
        last = {fit.detector: fit for fit in given}
        for what, names in (
            ("runs", {fit.run for fit in given} | {run}),
            ("models", {fit.model for fit in given}),
            ("instruments", {fit.instrument for fit in given}),
        ):
            if len(names) > 1:
                raise ConfigurationError(
                    f"these fits are of several {what}, choose one: {', '.join(sorted(names))}"
                )
        self.run = run
        self.fits: tuple[PtcFit, ...] = tuple(last[detector] for detector in sorted(last))
        self.covariances: dict[str, tuple[PairCovariances, ...]] = {
            detector: tuple(own) for detector, own in _by_detector(covariances).items() if detector in last
        }
        self._unpaired = unpaired
        self._rejected = rejected
        self._curves: dict[str, dict[str, AmplifierCurve]] = {}

    @property
    def detectors(self) -> tuple[str, ...]:
        """Names of the detectors, sorted."""
        return tuple(fit.detector for fit in self.fits)

    @property
    def pairs(self) -> int:
        """Number of pairs in the fits, all detectors together."""
        return sum(fit.pairs for fit in self.fits)

    @property
    def gain(self) -> dict[str, dict[str, float]]:
        """Gain [e-/ADU] by detector and amplifier; NaN where there is none."""
        return self._values("gain")

    @property
    def read_noise(self) -> dict[str, dict[str, float]]:
        """Read noise from the fit [e-] by detector and amplifier; NaN where there is none."""
        return self._values("read_noise")

    @property
    def a00(self) -> dict[str, dict[str, float]]:
        """Brighter-fatter coefficient a_00 [1/e-] by detector and amplifier; NaN where there is none."""
        return self._values("a00")

    @property
    def turnoff(self) -> dict[str, dict[str, float]]:
        """Turnoff [ADU] by detector and amplifier, a lower limit included; NaN where there is none."""
        return self._values("turnoff")

    def _values(self, quantity: str) -> dict[str, dict[str, float]]:
        return {
            fit.detector: {result.name: getattr(result, quantity) for result in fit.amplifiers}
            for fit in self.fits
        }

    def fit(self, detector: str | None = None) -> PtcFit:
        """Return the fit of one detector, of the first if none is named.

        Raises
        ------
        ConfigurationError
            There is no such detector.
        """
        found = [fit for fit in self.fits if detector in (None, fit.detector)]
        if not found:
            raise ConfigurationError(
                f"run {self.run} has no result for detector {detector or 'any'}; "
                f"there are: {', '.join(self.detectors) or 'none'}"
            )
        return found[0]

    def curves(self, detector: str | None = None) -> Mapping[str, AmplifierCurve]:
        """Return the points of one detector (of the first if none is named), by amplifier.

        Raises
        ------
        ConfigurationError
            There is no such detector.
        InvalidRecord
            The covariances are not those that the fit was made of.
        """
        fit = self.fit(detector)
        if fit.detector not in self._curves:
            self._curves[fit.detector] = join_curves(fit, self.covariances.get(fit.detector, ()))
        return self._curves[fit.detector]

    def table(self) -> Table:
        """Return one row per amplifier, with units; see `tables.fit_table`."""
        return fit_table(self.fits, run=self.run)

    def points(self, detector: str, amplifier: str, *, matrices: bool = False) -> Table:
        """Return the points of one amplifier, used or not and why; see `tables.points_table`.

        Raises
        ------
        ConfigurationError
            There is no such detector or amplifier.
        """
        curves = self.curves(detector)
        if amplifier not in curves:
            raise ConfigurationError(
                f"detector {detector} has no amplifier {amplifier}; there are: {', '.join(curves) or 'none'}"
            )
        return points_table(self.fit(detector), curves[amplifier], lags=self._lags if matrices else 0)

    @cached_property
    def _lags(self) -> int:
        """Largest number of lags of any point of the run: tables of one shape can be put below each other."""
        return max(
            (
                len(point.covariances)
                for own in self.covariances.values()
                for record in own
                for amplifier in record.amplifiers
                for point in amplifier.points
            ),
            default=0,
        )

    def plot(self, kind: str = "ptc", *, detector: str | None = None, **options: Any) -> Figure:
        """Draw one figure.

        Parameters
        ----------
        kind
            Of one detector: ``ptc``, ``ptc_log``, ``variance_over_mean``, ``covariance_over_mean``,
            ``linearity``, ``bf_matrices``, ``bf_distance``, ``bf_cumulative`` (the last three of a full
            covariance model). Of the run: ``summary`` (``truth=...``), ``overview``, ``distributions``.
        detector
            For a figure of one detector which; the first by default. The title names it.
        **options
            Of the figure's own function.

        Returns
        -------
        Figure
            Shows itself in a notebook; save it with its ``savefig``.

        Raises
        ------
        ConfigurationError
            There is no such kind or detector, or a figure of the whole run was given a detector.
        """
        if kind in DETECTOR_FIGURES:
            return DETECTOR_FIGURES[kind](self.fit(detector), self.curves(detector), **options)
        if kind not in RUN_FIGURES:
            raise ConfigurationError(
                f"no figure is called {kind}; there are: {', '.join((*DETECTOR_FIGURES, *RUN_FIGURES))}"
            )
        if detector is not None:
            raise ConfigurationError(
                f"the figure {kind} shows the whole run: detector={detector} has no effect"
            )
        return RUN_FIGURES[kind](self.fits, **options)

    def plot_convergence(self, history: Sequence[PtcFit]) -> Figure:
        """Draw how the results settled; `history` holds the fits of the run in the order of the log."""
        return convergence(history)

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON values; see `run_json`."""
        return run_json(
            self.run, self.fits, pairs=self.pairs, unpaired=self._unpaired, rejected=self._rejected
        )

    def __repr__(self) -> str:
        amplifiers = [result for fit in self.fits for result in fit.amplifiers]
        good = sum(result.status == FitStatus.OK for result in amplifiers)
        return (
            f"<RunResult of run {self.run}: {len(self.fits)} detectors, {self.pairs} pairs, "
            f"{good} of {len(amplifiers)} amplifiers OK>"
        )

    def _repr_html_(self) -> str:
        table = display_table(self.fits)
        shown = table[:_MOST_ROWS_IN_NOTEBOOK]
        more = len(table) - len(shown)
        lines = shown.pformat(max_lines=-1, max_width=-1, html=True)
        note = f"<p>… and {more} more amplifiers: see <code>.table()</code></p>" if more else ""
        return f"<p>{html.escape(repr(self))}</p>" + "\n".join(lines) + note


def _by_detector(covariances: Iterable[PairCovariances]) -> dict[str, list[PairCovariances]]:
    grouped: dict[str, list[PairCovariances]] = {}
    for record in covariances:
        grouped.setdefault(record.detector, []).append(record)
    return grouped
