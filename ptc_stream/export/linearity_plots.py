"""Figure of linearity: what mean signal lacks of being proportional to exposure, per amplifier."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ptc_stream.export.curve import AmplifierCurve
from ptc_stream.export.panels import Curves, Frame, Panel, draw_points, lay_out_panels
from ptc_stream.export.plot_style import (
    BAD,
    FIT,
    LABEL_SIZE,
    MUTED,
    USED,
    Range,
    legend_below,
    reason_styles,
    write_big,
)
from ptc_stream.physics.linearity import LinearityConfig, fit_linearity
from ptc_stream.records import ExposureReference, LinearityResult, PtcFit, join_key

__all__ = ["linearity_residuals"]

FloatArray = NDArray[np.float64]

_AGAINST = {"exposure_time": "exposure time", "lamp_dose": "lamp dose"}
# In units of the limit. Twice shows both sides of it, more would hide what lies within.
_LEAST_REACH, _LARGEST_REACH = 1.5, 5.0


def linearity_residuals(fit: PtcFit, curves: Curves, *, config: LinearityConfig | None = None) -> Figure:
    """Draw the deviation of mean signal from its line against mean signal, a panel per amplifier.

    Parameters
    ----------
    fit
        The fit of one detector, with its linearity.
    curves
        Its points, by amplifier.
    config
        Limit (drawn as two lines) and the least signal that is judged.

    Returns
    -------
    Figure
        One axes per amplifier, all of the same range; what lies beyond is drawn hollow at the edge.
    """
    config = config or LinearityConfig()
    against = next(
        (result.linearity.against for result in fit.amplifiers if result.linearity is not None), ""
    )
    figure, panels = lay_out_panels(
        fit, curves, x_label="Mean signal µ [ADU]", y_label="Deviation from the line [%]"
    )
    deviations = [100 * _deviation(panel, config) for panel in panels]
    frame = _frame(panels, deviations, 100 * config.linearity_limit)
    styles = reason_styles(reason for panel in panels for reason in panel.curve.reasons if reason)
    beyond = False
    for panel, deviation in zip(panels, deviations, strict=True):
        frame.apply(panel.axes)
        panel.axes.axhline(0, color=FIT, linewidth=0.8, zorder=1)
        for sign in (-1, 1):
            limit = 100 * sign * config.linearity_limit
            panel.axes.axhline(limit, color=MUTED, linewidth=0.9, linestyle=(0, (5, 3)), zorder=1)
        beyond |= draw_points(panel.axes, panel.curve, deviation, styles, frame)
        _write(panel, deviation)
    what = f"Linearity against {_AGAINST.get(against, 'exposure')}"
    figure.suptitle(
        f"{what} · {fit.instrument} {fit.detector} · run {fit.run}\n{fit.pairs} pairs",
        fontsize=LABEL_SIZE + 2,
        parse_math=False,
    )
    handles: list[Artist] = [
        Line2D([], [], linestyle="", marker="o", color=USED, markersize=4, label="below the PTC turnoff"),
        *(
            Line2D(
                [],
                [],
                linestyle="",
                marker=style.marker,
                color=style.color,
                markersize=6,
                label=f"not used: {reason}",
            )
            for reason, style in styles.items()
        ),
        Line2D(
            [],
            [],
            color=MUTED,
            linestyle=(0, (5, 3)),
            label=f"± {100 * config.linearity_limit:g} %",
        ),
        Line2D([], [], color=BAD, label="linearity turnoff (dashed: lower limit)"),
    ]
    if beyond:
        hollow = Line2D([], [], linestyle="", marker="o", color=MUTED, markerfacecolor="white", markersize=5)
        hollow.set_label("hollow: beyond the axis")
        handles.append(hollow)
    legend_below(figure, handles, columns=max(1, min(len(handles), int(figure.get_figwidth() / 2.6))))
    return figure


def _deviation(panel: Panel, config: LinearityConfig) -> FloatArray:
    """Return mean / line - 1 of every point [1], shape (N,); the record has the line of one setting only."""
    curve, linearity = panel.curve, panel.result.linearity
    nothing: FloatArray = np.full(len(curve.points), np.nan)
    if linearity is None or not curve.points:
        return nothing
    found = fit_linearity(
        curve.mean,
        _exposures(curve, linearity),
        [join_key(pair.filter, pair.lamp) for pair in curve.pairs],
        below_turnoff=curve.used,
        config=config,
    )
    return nothing if found is None else found.deviation


def _exposures(curve: AmplifierCurve, linearity: LinearityResult) -> FloatArray:
    """Return exposure time [s] or lamp dose of each point, the mean of both exposures; NaN where unknown."""

    def value(exposure: ExposureReference) -> float:
        known = exposure.lamp_dose if linearity.against == "lamp_dose" else exposure.exposure_time
        return math.nan if known is None else known

    return np.array([(value(pair.first) + value(pair.second)) / 2 for pair in curve.pairs], dtype=np.float64)


def _frame(panels: list[Panel], deviations: list[FloatArray], limit: float) -> Frame:
    judged: list[float] = []
    typical = [_LEAST_REACH * limit]
    for panel, deviation in zip(panels, deviations, strict=True):
        drawn = np.isfinite(deviation)
        # A saturated point is worth its place on the axis; a mean of 1e9 ADU is not.
        reach = 3 * panel.result.turnoff_last_used
        near = panel.curve.mean[drawn & (panel.curve.mean <= (reach if reach > 0 else np.inf))]
        judged += near.tolist()
        typical += np.abs(deviation[drawn & panel.curve.used]).tolist()
    low, high = min(judged, default=1e2), max(judged, default=1e5)
    largest = min(1.15 * max(typical), _LARGEST_REACH * limit)
    return Frame(Range(low / 1.6, 1.6 * high), Range(-largest, largest), x_scale="log")


def _write(panel: Panel, deviation: FloatArray) -> None:
    result, axes = panel.result, panel.axes
    axes.text(
        0.03,
        0.965,
        result.name,
        transform=axes.transAxes,
        fontsize=LABEL_SIZE - 1,
        weight="bold",
        va="top",
        parse_math=False,
    )
    linearity = result.linearity
    if linearity is None:
        write_big(axes, "no line")
        return
    largest, where = 100 * linearity.max_deviation, linearity.max_deviation_mean / 1000
    lines = [f"largest deviation {largest:.2g} % at {where:.3g}·10³ ADU"]
    if math.isfinite(linearity.turnoff):
        sign = ">" if linearity.turnoff_is_lower_limit else "="
        lines.append(f"turnoff {sign} {linearity.turnoff / 1000:.4g}·10³ ADU")
        style = (0, (4, 3)) if linearity.turnoff_is_lower_limit else "-"
        axes.axvline(linearity.turnoff, color=BAD, linewidth=0.9, linestyle=style, zorder=1)
    hidden = int(np.count_nonzero(~np.isfinite(deviation)))
    if hidden:
        lines.append(f"{hidden} of {deviation.size} points not judged")
    axes.text(
        0.03,
        0.04,
        "\n".join(lines),
        transform=axes.transAxes,
        fontsize=7.5,
        va="bottom",
        linespacing=1.35,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )
