"""All figures of a run as files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.plot_style import FORMATS, save_figure
from ptc_stream.export.results import DETECTOR_FIGURES, RunResult
from ptc_stream.export.run_plots import Truth, convergence, gain_noise_summary, run_overview
from ptc_stream.records import PtcFit

__all__ = ["save_all"]


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
        The files: ``summary`` and ``overview``, and for each detector ``ptc_DETECTOR``,
        ``ptc_log_DETECTOR``, ``variance_over_mean_DETECTOR``, ``covariance_over_mean_DETECTOR`` and
        ``convergence_DETECTOR``.

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
    for name, draw in _figures(result, truth, history or ()):
        figure = draw()
        saved += [save_figure(figure, target / f"{name}.{kind}") for kind in formats]
    return saved


def _figures(
    result: RunResult, truth: Truth | None, history: Sequence[PtcFit]
) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Name each figure; it is drawn only when its turn comes, so that one at a time is in memory."""
    yield "summary", partial(gain_noise_summary, result.fits, truth=truth)
    yield "overview", partial(run_overview, result.fits)
    for fit in result.fits:
        curves = result.curves(fit.detector)
        name = _file_name(fit.detector)
        for kind, draw in DETECTOR_FIGURES.items():
            yield f"{kind}_{name}", partial(draw, fit, curves)
        own = [past for past in history if past.group == fit.group and past.model == fit.model]
        if own:
            yield f"convergence_{name}", partial(convergence, own)


def _file_name(detector: str) -> str:
    """Return a detector's name without what a file name cannot hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", detector) or "detector"
