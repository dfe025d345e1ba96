"""Histograms of the results over all amplifiers of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ptc_stream.export.notation import counted
from ptc_stream.export.plot_style import (
    BAD,
    FIT,
    LABEL_SIZE,
    MUTED,
    USED,
    ResultFigure,
    clamp,
    draw_grid_lines,
    legend_below,
    robust_range,
    write_big,
)
from ptc_stream.export.quantities import QUANTITIES, Quantity
from ptc_stream.physics.fitting import FitStatus
from ptc_stream.records import AmplifierFitResult, PtcFit

__all__ = ["run_distributions"]

_MOST_BINS = 40


def run_distributions(fits: Sequence[PtcFit]) -> Figure:
    """Draw a histogram of gain, read noise, a00 and turnoff over all amplifiers.

    Parameters
    ----------
    fits
        One fit per detector.

    Returns
    -------
    Figure
        One axes per quantity, with median and scatter. Amplifiers with a status other than OK are a bar of
        their own colour on top; values off the scale count in its last bins, and are numbered, as are
        amplifiers without a value.
    """
    figure = ResultFigure(12.0, 8.5)
    results = [result for fit in fits for result in fit.amplifiers]
    for axes, quantity in zip(figure.subplots(2, 2).flat, QUANTITIES, strict=True):
        _draw(axes, quantity, results)
    runs = "".join(f" · run {run}" for run in dict.fromkeys(fit.run for fit in fits))
    number = f"{counted(len(results), 'amplifier')} of {counted(len(fits), 'detector')}"
    figure.suptitle(f"Distribution over {number}{runs}", fontsize=LABEL_SIZE + 2, parse_math=False)
    handles: list[Artist] = [
        Patch(color=USED, label="status OK"),
        Patch(color=BAD, label="other status"),
        Line2D([], [], color=FIT, linewidth=1.2, label="median"),
        Patch(color=MUTED, alpha=0.3, label="± 1.4826 MAD"),
    ]
    if any(result.turnoff_is_lower_limit for result in results):
        handles.append(Patch(facecolor="white", edgecolor=USED, hatch="////", label="lower limit"))
    legend_below(figure, handles, columns=5)
    return figure


def _draw(axes: Axes, quantity: Quantity, results: Sequence[AmplifierFitResult]) -> None:
    known = [result for result in results if math.isfinite(quantity.value(result))]
    axes.set_xlabel(f"{quantity.label} [{quantity.unit}]", fontsize=LABEL_SIZE - 1)
    axes.set_ylabel("amplifiers", fontsize=LABEL_SIZE - 1)
    draw_grid_lines(axes, "y")
    if not known:
        write_big(axes, "no values")
        return
    values = np.array([quantity.value(result) for result in known], dtype=np.float64)
    limits = robust_range(values)
    shown = clamp(values, limits, margin=0.001)
    # Square root of the number: more bins would show the scatter of counts, fewer hide a second peak.
    bins = np.linspace(limits.low, limits.high, min(_MOST_BINS, max(8, 2 * math.isqrt(values.size))) + 1)
    good = np.array([result.status == FitStatus.OK for result in known], dtype=np.bool_)
    limit = np.array(
        [quantity.name == "turnoff" and result.turnoff_is_lower_limit for result in known], dtype=np.bool_
    )
    bottom = np.zeros(bins.size - 1)
    for chosen, color, hatch in ((good & ~limit, USED, ""), (good & limit, USED, "////"), (~good, BAD, "")):
        heights = np.histogram(shown.values[chosen], bins)[0].astype(np.float64)
        face = "white" if hatch else color
        bars = axes.bar(bins[:-1], heights, np.diff(bins), bottom, align="edge", facecolor=face, hatch=hatch)
        for bar in bars if hatch else ():
            bar.set(edgecolor=color, linewidth=0.6)
        bottom += heights
    median = float(np.median(values))
    scatter = 1.4826 * float(np.median(np.abs(values - median)))
    axes.axvline(median, color=FIT, linewidth=1.2)
    axes.axvspan(median - scatter, median + scatter, color=MUTED, alpha=0.3, linewidth=0, zorder=0)
    axes.set(xlim=limits, ylim=(0, 1.15 * float(bottom.max())))
    lines = [f"median {median:.4g}", f"scatter {scatter:.2g}"]
    if shown.beyond.any():
        lines.append(f"{int(shown.beyond.sum())} off the scale")
    if len(known) < len(results):
        lines.append(f"{len(results) - len(known)} without a value")
    axes.text(
        0.98,
        0.96,
        "\n".join(lines),
        transform=axes.transAxes,
        fontsize=LABEL_SIZE - 3,
        va="top",
        ha="right",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
    )
