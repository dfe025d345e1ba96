"""A grid of panels, one per amplifier, and what is drawn into each.

All panels of a figure share their ranges, so one column of numbers on the left and one row at the bottom
label them all, and amplifiers compare at a glance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ptc_stream.export.curve import AmplifierCurve, model_variance
from ptc_stream.export.notation import with_error
from ptc_stream.export.plot_style import (
    BAD,
    FIT,
    LABEL_SIZE,
    MUTED,
    USED,
    PointStyle,
    Range,
    ResultFigure,
    clamp,
    draw_grid_lines,
    grid_shape,
    legend_below,
    write_big,
)
from ptc_stream.physics.fitting import FitStatus
from ptc_stream.records import AmplifierFitResult, PtcFit

__all__ = [
    "Curves",
    "Frame",
    "Panel",
    "Scale",
    "add_legend",
    "draw_points",
    "lay_out_panels",
    "over",
    "shade_turnoff",
    "write_result",
]

FloatArray = NDArray[np.float64]
Curves: TypeAlias = Mapping[str, AmplifierCurve]
Scale: TypeAlias = Literal["linear", "log"]

_TEXT_SIZE = 7.5
# Heights of a curve and of the residuals below it.
_HEIGHTS = (3.2, 1.0)
# Space between panels, as a fraction of their height; residuals touch their curve.
_SPACE = 0.03


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """Ranges and scales of two axes; `margin` is the part of the height that a marker at the edge needs."""

    x: Range
    y: Range
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    margin: float = 0.02

    def apply(self, axes: Axes) -> None:
        """Give `axes` these ranges and scales, and faint lines at the ticks."""
        axes.set_xscale(self.x_scale)
        axes.set_yscale(self.y_scale)
        axes.set(xlim=self.x, ylim=self.y)
        # A dozen minor ticks on each of 64 axes take longer to lay out than all the rest.
        axes.minorticks_off()
        draw_grid_lines(axes)

    def samples(self, number: int) -> FloatArray:
        """Return `number` values of x, evenly spaced to the eye."""
        spaced = np.geomspace if self.x_scale == "log" else np.linspace
        return np.asarray(spaced(self.x.low, self.x.high, number), dtype=np.float64)


@dataclasses.dataclass(frozen=True, slots=True)
class Panel:
    """One amplifier and the axes that show it."""

    model: str
    result: AmplifierFitResult
    curve: AmplifierCurve
    axes: Axes
    residual_axes: Axes | None

    @property
    def all_axes(self) -> tuple[Axes, ...]:
        """The axes of the curve and, if there are any, of the residuals."""
        return (self.axes,) if self.residual_axes is None else (self.axes, self.residual_axes)

    def model_at(self, mean: FloatArray) -> FloatArray | None:
        """Evaluate the fitted C_00 [ADU^2] at `mean` [ADU], if there is one."""
        return model_variance(self.model, self.result, mean)


def lay_out_panels(
    fit: PtcFit, curves: Curves, *, x_label: str, y_label: str, residual_label: str | None = None
) -> tuple[Figure, list[Panel]]:
    """Make a figure with a panel for every amplifier of `fit`.

    Parameters
    ----------
    fit
        The fit of one detector.
    curves
        Its points, by amplifier; an amplifier without gets an empty curve.
    x_label, y_label, residual_label
        Labels of the outer axes. Without the last there are no residuals.

    Returns
    -------
    figure : Figure
        With a note instead of panels if there are no amplifiers.
    panels : list of Panel
        In the order of the fit.
    """
    total = len(fit.amplifiers)
    rows, columns = grid_shape(total)
    # A single panel gets the size of a page's figure.
    height = rows * (3.5 if residual_label else 2.7) + 1.0
    figure = ResultFigure(max(8.5, 4.0 * columns), max(5.5, height))
    figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.03)
    cells = figure.add_gridspec(rows, columns, hspace=_SPACE, wspace=0.0)
    panels: list[Panel] = []
    for index, result in enumerate(fit.amplifiers):
        curve = curves.get(result.name) or AmplifierCurve(
            amplifier=result.name, pairs=(), points=(), reasons=()
        )
        cell = cells[index // columns, index % columns]
        if residual_label:
            parts = cell.subgridspec(2, 1, height_ratios=_HEIGHTS, hspace=0.0)
            axes, below = figure.add_subplot(parts[0]), figure.add_subplot(parts[1])
            # Ticks that point down would keep the two apart.
            axes.tick_params(axis="x", direction="in")
        else:
            axes, below = figure.add_subplot(cell), None
        panels.append(Panel(fit.model, result, curve, axes, below))
        left, lowest = index % columns == 0, index + columns >= total
        for part, label in ((axes, y_label), (below, residual_label)):
            if part is None:
                continue
            bottom = lowest and part is (below or axes)
            part.tick_params(labelsize=_TEXT_SIZE + 1, labelleft=left, labelbottom=bottom)
            if left:
                part.set_ylabel(label or "", fontsize=LABEL_SIZE - 2)
            if bottom:
                part.set_xlabel(x_label, fontsize=LABEL_SIZE - 2)
    if not panels:
        axes = figure.add_subplot(cells[0, 0])
        axes.set_axis_off()
        write_big(axes, "no amplifiers")
    return figure, panels


def over(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide; NaN where the denominator is not above zero."""
    ratio: FloatArray = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def draw_points(
    axes: Axes, curve: AmplifierCurve, y: FloatArray, styles: Mapping[str, PointStyle], frame: Frame
) -> bool:
    """Draw used and unused points against their mean signal, each reason by its own marker.

    Parameters
    ----------
    axes
        Where to.
    curve
        The points.
    y
        What to draw of them, shape (N,); what is not finite cannot be drawn.
    styles
        Colour and marker of each reason.
    frame
        The axes' own: a point beyond is drawn hollow at the edge.

    Returns
    -------
    bool
        True if there were points beyond.
    """
    x, reasons = curve.mean, curve.reasons
    shown_x = clamp(x, frame.x, log=frame.x_scale == "log")
    shown_y = clamp(y, frame.y, log=frame.y_scale == "log", margin=frame.margin)
    drawable = np.isfinite(x) & np.isfinite(y)
    beyond = (shown_x.beyond | shown_y.beyond) & drawable
    names = np.array(reasons, dtype=np.str_)
    for reason, style in {"": PointStyle(USED, "o"), **styles}.items():
        for hollow in (False, True):
            chosen = (names == reason) & drawable & (beyond == hollow)
            if chosen.any():
                axes.plot(
                    shown_x.values[chosen],
                    shown_y.values[chosen],
                    linestyle="",
                    marker=style.marker,
                    color=style.color,
                    markerfacecolor="white" if hollow else style.color,
                    markersize=4.5 if reason else 2.8,
                    markeredgewidth=0.8,
                    zorder=4 if reason else 3,
                    label=(reason or "used") + (" (beyond)" if hollow else ""),
                )
    return bool(beyond.any())


def shade_turnoff(panel: Panel, x_limits: Range) -> None:
    """Shade the interval that the turnoff lies in; a lower limit is a dashed line."""
    result = panel.result
    if not math.isfinite(result.turnoff):
        return
    for axes in panel.all_axes:
        if result.turnoff_is_lower_limit or not math.isfinite(result.turnoff_error):
            axes.axvline(result.turnoff, color=BAD, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        else:
            # The error is width / sqrt(12); at least 0.4 % of the axis, to be seen.
            half = max(math.sqrt(3) * result.turnoff_error, 0.002 * x_limits.high)
            low, high = result.turnoff - half, result.turnoff + half
            axes.axvspan(low, high, color=BAD, alpha=0.25, linewidth=0, zorder=1)


def write_result(panel: Panel, y: FloatArray, *, corner: Literal["top", "bottom"]) -> None:
    """Write name, status and values into a panel.

    Parameters
    ----------
    panel
        The panel.
    y
        What is drawn of its points, shape (N,): those that no axis can show are counted.
    corner
        Where the curve leaves room on the left.
    """
    result, axes = panel.result, panel.axes
    top = corner == "top"
    axes.text(
        0.03 if top else 0.97,
        0.965,
        result.name,
        transform=axes.transAxes,
        fontsize=LABEL_SIZE - 1,
        weight="bold",
        va="top",
        ha="left" if top else "right",
        parse_math=False,
    )
    axes.text(
        0.03,
        0.865 if top else 0.04,
        "\n".join([*_value_lines(result), *_point_lines(panel.curve, y)]),
        transform=axes.transAxes,
        fontsize=_TEXT_SIZE,
        va="top" if top else "bottom",
        linespacing=1.35,
        zorder=5,
    )
    if result.status == FitStatus.OK:
        return
    if math.isfinite(result.gain):
        axes.text(
            0.97,
            0.04,
            result.status,
            transform=axes.transAxes,
            color=BAD,
            fontsize=_TEXT_SIZE + 1,
            ha="right",
            weight="bold",
            zorder=5,
        )
    else:
        write_big(axes, result.status)


def _value_lines(result: AmplifierFitResult) -> list[str]:
    lines: list[str] = []
    if math.isfinite(result.gain):
        lines.append("$g$ = " + with_error(result.gain, result.gain_error, unit="e⁻/ADU"))
    if math.isfinite(result.read_noise):
        lines.append("$σ$ = " + with_error(result.read_noise, result.read_noise_error, unit="e⁻"))
    if math.isfinite(result.a00):
        lines.append("$a_{00}$ = " + _times(with_error(result.a00, result.a00_error, scale=1e6), "10⁻⁶/e⁻"))
    if math.isfinite(result.turnoff):
        error = math.nan if result.turnoff_is_lower_limit else result.turnoff_error
        sign = ">" if result.turnoff_is_lower_limit else "="
        lines.append(f"turnoff {sign} {_times(with_error(result.turnoff, error, scale=1e-3), '10³ ADU')}")
    if math.isfinite(result.chi2_per_dof):
        lines.append(f"χ²/dof = {result.chi2_per_dof:.3g}")
    return lines


def _times(text: str, factor: str) -> str:
    """Write a factor behind a value, which with an error then needs parentheses."""
    return f"({text}) {factor}" if "±" in text else f"{text} {factor}"


def _point_lines(curve: AmplifierCurve, y: FloatArray) -> list[str]:
    if not curve.points:
        return ["no points"]
    hidden = int(np.count_nonzero(~(np.isfinite(curve.mean) & np.isfinite(y))))
    return [f"{hidden} of {len(curve.points)} points cannot be shown"] if hidden else []


def add_legend(
    figure: Figure, styles: Mapping[str, PointStyle], *, beyond: bool, floor: bool = False
) -> None:
    """Explain every colour and marker below the panels."""
    handles: list[Artist] = [
        Line2D([], [], linestyle="", marker="o", color=USED, markersize=4, label="used"),
        Line2D([], [], color=FIT, linewidth=1, label="model"),
    ]
    for reason, style in styles.items():
        label = f"not used: {reason}"
        handles.append(
            Line2D([], [], linestyle="", marker=style.marker, color=style.color, markersize=6, label=label)
        )
    if beyond:
        hollow = Line2D([], [], linestyle="", marker="o", color=MUTED, markerfacecolor="white", markersize=5)
        hollow.set_label("hollow: beyond the axis")
        handles.append(hollow)
    handles.append(Patch(color=BAD, alpha=0.25, label="turnoff interval (dashed: lower limit)"))
    if floor:
        handles.append(Patch(color=MUTED, alpha=0.25, label="floor of the relative error"))
    # As many columns as the width holds entries of about 2.6 inches.
    columns = max(1, min(len(handles), int(figure.get_figwidth() / 2.6)))
    legend_below(figure, handles, columns=columns)
