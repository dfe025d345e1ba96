"""All figures of a run as files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.notation import file_name
from ptc_stream.export.plot_style import FORMATS, save_figure
from ptc_stream.export.results import DETECTOR_FIGURES, RUN_FIGURES, RunResult, detector_figures
from ptc_stream.export.run_plots import Truth, convergence
from ptc_stream.records import PtcFit

__all__ = ["PlannedFigure", "plan_figures", "save_all"]


def save_all(
    result: RunResult,
    directory: str | Path,
    *,
    formats: Sequence[str] = ("png",),
    truth: Truth | None = None,
    history: Sequence[PtcFit] | None = None,
) -> list[Path]:
    """Draw every figure of a run and save it.

    Parameters
    ----------
    result
        The run.
    directory
        Where to; it is made if need be, older figures of the same names are replaced.
    formats
        File formats, of `ptc_stream.export.plot_style.FORMATS`.
    truth
        True values, for the summary.
    history
        Fits of the run in the order of the log, for the figure of convergence; without, it is not drawn.

    Returns
    -------
    list of Path
        The files: ``summary``, ``overview`` and ``distributions``, and for each detector ``ptc_DETECTOR``,
        ``ptc_log_DETECTOR``, ``variance_over_mean_DETECTOR``, ``covariance_over_mean_DETECTOR``, where there
        is a linearity ``linearity_DETECTOR``, with a full covariance model ``bf_matrices_DETECTOR``,
        ``bf_distance_DETECTOR`` and ``bf_cumulative_DETECTOR``, and ``convergence_DETECTOR``.

    Raises
    ------
    ConfigurationError
        A format is not known, or a file cannot be written.
    InvalidRecord
        The covariances of `result` are not those that its fits were made of.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ConfigurationError(
            f"figures are saved as {', '.join(FORMATS)}, not as {', '.join(unknown) or 'nothing'}"
        )
    target = Path(directory)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {target}: {error.strerror or error}") from error
    saved: list[Path] = []
    for planned in plan_figures(result, truth=truth, history=history or ()):
        figure = planned.draw()
        saved += [save_figure(figure, target / f"{planned.name}.{kind}") for kind in formats]
    return saved


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedFigure:
    """A figure that is drawn only when its turn comes, so that one at a time is in memory.

    Attributes
    ----------
    kind
        What it shows, as in ``RunResult.plot``, or ``convergence``.
    detector
        Of which detector; None for the whole run.
    draw
        Draws it.
    """

    kind: str
    detector: str | None
    draw: Callable[[], Figure]

    @property
    def name(self) -> str:
        """The kind and the detector's name without what a file name cannot hold."""
        if self.detector is None:
            return self.kind
        return f"{self.kind}_{file_name(self.detector)}"


def plan_figures(
    result: RunResult,
    *,
    truth: Truth | None = None,
    history: Sequence[PtcFit] = (),
    detectors: Collection[str] | None = None,
) -> Iterator[PlannedFigure]:
    """Name every figure that a run has something to show in.

    Parameters
    ----------
    result
        The run.
    truth
        True values, for the summary.
    history
        Fits of the run in the order of the log, for the figures of convergence.
    detectors
        Those whose own figures are wanted; all by default.

    Yields
    ------
    PlannedFigure
        Those of the run, then those of each detector.

    Raises
    ------
    InvalidRecord
        The covariances of `result` are not those that its fits were made of.
    """
    for kind, draw in RUN_FIGURES.items():
        options = {"truth": truth} if kind == "summary" else {}
        yield PlannedFigure(kind, None, partial(draw, result.fits, **options))
    for fit in result.fits:
        if detectors is not None and fit.detector not in detectors:
            continue
        curves = result.curves(fit.detector)
        for kind in detector_figures(fit):
            yield PlannedFigure(kind, fit.detector, partial(DETECTOR_FIGURES[kind], fit, curves))
        own = [past for past in history if past.group == fit.group and past.model == fit.model]
        if own:
            yield PlannedFigure("convergence", fit.detector, partial(convergence, own))
