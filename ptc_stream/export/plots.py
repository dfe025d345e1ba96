"""Figures of one detector: the curve of every amplifier, and its covariances.

Each function takes a fit and its points (`ptc_stream.export.curve.join_curves`) and returns a figure that
belongs to nobody else. No point is left out of sight: what the fit does not use is drawn with a marker that
tells why, what lies beyond an axis is drawn at its edge, what cannot be drawn is counted in the panel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ptc_stream.export.curve import AmplifierCurve, model_covariances
from ptc_stream.export.notation import counted
from ptc_stream.export.panels import (
    Curves,
    Frame,
    Panel,
    Scale,
    add_legend,
    draw_points,
    lay_out_panels,
    over,
    shade_turnoff,
    write_result,
)
from ptc_stream.export.plot_style import (
    BAD,
    FIT,
    LABEL_SIZE,
    MUTED,
    TRUTH,
    USED,
    PointStyle,
    Range,
    ResultFigure,
    clamp,
    draw_grid_lines,
    in_thousands,
    legend_below,
    reason_styles,
    robust_range,
    write_big,
)
from ptc_stream.records import AmplifierFitResult, PtcFit

__all__ = ["covariance_over_mean", "ptc_grid", "variance_over_mean"]

FloatArray = NDArray[np.float64]

_MODEL_SAMPLES = 200
# In units of the last used mean of the detector.
_FARTHEST = 3.0


def ptc_grid(fit: PtcFit, curves: Curves, *, scale: Scale = "linear") -> Figure:
    """Draw variance against mean signal with the fitted model, a panel and its residuals per amplifier.

    Parameters
    ----------
    fit
        The fit of one detector.
    curves
        Its points, by amplifier; without them only the model is drawn.
    scale
        Both axes linear, which shows the brighter-fatter curvature and the turnoff, or both logarithmic,
        which shows the noise.

    Returns
    -------
    Figure
        Two axes per amplifier: the curve, and below it the relative residuals.
    """
    thousand = "10³ " if scale == "linear" else ""
    figure, panels = lay_out_panels(
        fit,
        curves,
        x_label=f"Mean signal µ [{thousand}ADU]",
        y_label=f"Variance $C_{{00}}$ [{thousand}ADU²]",
        residual_label="resid. [%]",
    )
    frame = _curve_frame(panels, scale)
    residual_frame = Frame(frame.x, _residual_range(panels), x_scale=scale, margin=0.08)
    styles = _styles_of(panels)
    beyond = False
    for panel in panels:
        frame.apply(panel.axes)
        _draw_model(panel, frame)
        variance = panel.curve.variance
        beyond |= draw_points(panel.axes, panel.curve, variance, styles, frame)
        if panel.residual_axes is not None:
            beyond |= _draw_residuals(panel, panel.residual_axes, styles, residual_frame)
        shade_turnoff(panel, frame.x)
        write_result(panel, variance, corner="top")
        if scale == "linear":
            # The lowest number would touch the highest of the residuals.
            panel.axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], prune="lower"))
            in_thousands(panel.axes.yaxis)
            for axes in panel.all_axes:
                in_thousands(axes.xaxis)
    figure.suptitle(_title(fit, "Photon transfer curve"), fontsize=LABEL_SIZE + 2, parse_math=False)
    add_legend(figure, styles, beyond=beyond, floor=any(panel.result.floor > 0 for panel in panels))
    return figure


def variance_over_mean(fit: PtcFit, curves: Curves) -> Figure:
    """Draw variance over mean against mean signal, a panel per amplifier.

    A detector of pure shot noise would give a horizontal line at 1/gain; the brighter-fatter effect bends it
    down, read noise lifts its left end.

    Parameters
    ----------
    fit
        The fit of one detector.
    curves
        Its points, by amplifier.

    Returns
    -------
    Figure
        One axes per amplifier.
    """
    figure, panels = lay_out_panels(
        fit, curves, x_label="Mean signal µ [ADU]", y_label=r"$C_{00}\,/\,\mu$ [ADU]"
    )
    ratios = [over(panel.curve.variance, panel.curve.mean) for panel in panels]
    used = [ratio[panel.curve.used] for ratio, panel in zip(ratios, panels, strict=True)]
    high = robust_range(np.concatenate([*used, np.zeros(0)]), pad=0.25).high
    frame = Frame(_curve_frame(panels, "log").x, Range(0.0, high), x_scale="log")
    styles = _styles_of(panels)
    beyond = False
    for panel, ratio in zip(panels, ratios, strict=True):
        frame.apply(panel.axes)
        _draw_model(panel, frame, over_mean=True)
        beyond |= draw_points(panel.axes, panel.curve, ratio, styles, frame)
        shade_turnoff(panel, frame.x)
        write_result(panel, ratio, corner="bottom")
    figure.suptitle(_title(fit, "Variance over mean"), fontsize=LABEL_SIZE + 2, parse_math=False)
    add_legend(figure, styles, beyond=beyond)
    return figure


def _title(fit: PtcFit, what: str) -> str:
    cut = ", history incomplete" if fit.history_incomplete else ""
    return f"{what} · {fit.instrument} {fit.detector} · run {fit.run}\n{fit.model}, {fit.pairs} pairs{cut}"


def _styles_of(panels: Sequence[Panel]) -> dict[str, PointStyle]:
    return reason_styles(reason for panel in panels for reason in panel.curve.reasons if reason)


def _curve_frame(panels: Sequence[Panel], scale: Scale) -> Frame:
    """Choose ranges that hold every used point and every model of the detector, but no absurd outlier."""
    mean = np.concatenate([*(panel.curve.mean for panel in panels), np.zeros(0)])
    mean = mean[np.isfinite(mean) & (mean > 0)]
    # Without points, the model is worth drawing as far as it was fitted.
    fitted = max((p.result.turnoff_last_used for p in panels if p.result.turnoff_last_used > 0), default=1.0)
    # Saturated points lie within a factor of two of the used ones; a mean of 1e9 ADU must not hide these.
    near = mean[mean <= _FARTHEST * fitted] if fitted > 1 else mean
    top = float(near.max()) if near.size else fitted
    peaks: list[float] = []
    lows: list[float] = []
    for panel in panels:
        used = panel.curve.variance[panel.curve.used]
        model = panel.model_at(np.array([top]))
        heights = [
            h for h in (*used.tolist(), *([] if model is None else model.tolist())) if 0 < h < math.inf
        ]
        peaks += [max(heights)] if heights else []
        lows += heights
    # One amplifier with a wild fit must not flatten the other fifteen.
    high = min(max(peaks), 2.5 * float(np.median(peaks))) if peaks else 1.0
    if scale == "linear":
        return Frame(Range(0.0, 1.05 * top), Range(0.0, 1.15 * high))
    # Four decades: below, a bias pair or a dead amplifier would squeeze the curves into a corner.
    left = max(float(mean.min()) if mean.size else 0.0, top / 1e4)
    low = max(min(lows, default=0.0), high / 1e4)
    return Frame(Range(left / 1.6, 1.6 * top), Range(low / 2, 6 * high), "log", "log")


def _residual_range(panels: Sequence[Panel]) -> Range:
    """Choose one range for all residuals [%]: twice that of a typical amplifier's used points."""
    largest: list[float] = []
    for panel in panels:
        used = panel.curve.used
        model = panel.model_at(panel.curve.mean[used])
        if model is not None and model.size:
            residual = np.abs(100 * (over(panel.curve.variance[used], model) - 1))
            largest += [float(residual[np.isfinite(residual)].max())] if np.isfinite(residual).any() else []
    # At least 0.5 %: below, residuals are as good as none.
    reach = max(0.5, 2 * float(np.median(largest))) if largest else 1.0
    return Range(-reach, reach)


def _draw_model(panel: Panel, frame: Frame, *, over_mean: bool = False) -> None:
    samples = frame.samples(_MODEL_SAMPLES)
    model = panel.model_at(samples)
    if model is not None:
        heights = model / samples if over_mean else model
        panel.axes.plot(samples, heights, color=FIT, linewidth=0.9, zorder=2, label="model")


def _draw_residuals(panel: Panel, axes: Axes, styles: Mapping[str, PointStyle], frame: Frame) -> bool:
    curve = panel.curve
    frame.apply(axes)
    axes.axhline(0, color=FIT, linewidth=0.8, zorder=1)
    model = panel.model_at(curve.mean)
    if model is None:
        return False
    if panel.result.floor > 0:
        floor = 100 * panel.result.floor
        axes.axhspan(-floor, floor, color=MUTED, alpha=0.25, linewidth=0, zorder=0)
    residual = 100 * (over(curve.variance, model) - 1)
    shown = curve.used & (np.abs(residual) <= frame.y.high)
    # The sampling variance of a Gaussian variance is 2 C_00^2 / n_pix.
    error = 100 * np.sqrt(2 / np.maximum(curve.pixel_count, 1))
    axes.errorbar(
        curve.mean[shown], residual[shown], error[shown], fmt="none", ecolor=USED, elinewidth=0.7, zorder=2
    )
    return draw_points(axes, curve, residual, styles, frame)


_LAG_NAMES: Mapping[tuple[int, int], str] = {
    (0, 1): "parallel neighbour",
    (1, 0): "serial neighbour",
    (1, 1): "diagonal neighbour",
}
_BINS = 20
# Points of like signal that choose the range of the axis together.
_GROUP = 12
# With more points than this only transparent ones show where most are.
_CROWD = 200
# With fewer points a bin's mean says nothing that its points do not.
_FEWEST_IN_BIN = 3


def covariance_over_mean(
    fit: PtcFit, curves: Curves, *, lags: Sequence[tuple[int, int]] = ((0, 1), (1, 0), (1, 1))
) -> Figure:
    """Draw covariance over mean against mean signal at small lags, all amplifiers together.

    A straight line through zero is the brighter-fatter effect; an offset at low signal is correlated noise.

    Parameters
    ----------
    fit
        The fit of one detector.
    curves
        Its points, by amplifier.
    lags
        (lag along x, lag along y) [pixels], one panel each.

    Returns
    -------
    Figure
        One axes per lag: the used points of all amplifiers, their weighted mean in bins of signal, and the
        mean of the fitted models where these have covariances.
    """
    figure = ResultFigure(5.2 * len(lags), 5.0)
    shown = [curve for curve in curves.values() if curve.used.any()]
    mean = np.concatenate([*(curve.mean[curve.used] for curve in shown), np.zeros(0)])
    beyond = modelled = False
    for axes, (lag_x, lag_y) in zip(figure.subplots(1, len(lags), squeeze=False)[0], lags, strict=True):
        cov = np.concatenate([*(curve.covariance(lag_x, lag_y)[curve.used] for curve in shown), np.zeros(0)])
        count = np.concatenate([*(c.lag_pixel_count(lag_x, lag_y)[c.used] for c in shown), np.zeros(0)])
        beyond |= _draw_covariances(axes, mean, over(cov, mean), count)
        modelled |= _draw_model_covariance(axes, fit, shown, (lag_x, lag_y))
        name = _LAG_NAMES.get((lag_x, lag_y))
        axes.set_title(f"$C_{{{lag_x}{lag_y}}}$" + (f": {name}" if name else ""), fontsize=LABEL_SIZE)
        axes.set_xlabel("Mean signal µ [10³ ADU]", fontsize=LABEL_SIZE - 1)
        axes.set_ylabel(rf"$C_{{{lag_x}{lag_y}}}\,/\,\mu$ [ADU]", fontsize=LABEL_SIZE - 1)
    figure.suptitle(_title(fit, "Covariances over mean"), fontsize=LABEL_SIZE + 2, parse_math=False)
    number = counted(len(shown), "amplifier")
    handles: list[Artist] = [
        Line2D([], [], linestyle="", marker=".", color=USED, alpha=0.6, label=f"used points of {number}"),
        Line2D([], [], marker="o", color=FIT, markersize=4, label="weighted mean in bins of signal"),
    ]
    if beyond:
        handles.append(
            Line2D([], [], linestyle="", marker="d", color=BAD, markersize=4, label="beyond the axis")
        )
    if modelled:
        handles.append(Line2D([], [], color=TRUTH, linewidth=2.2, label="fitted models (thin), their mean"))
    legend_below(figure, handles, columns=4)
    return figure


def _draw_model_covariance(
    axes: Axes, fit: PtcFit, shown: Sequence[AmplifierCurve], lag: tuple[int, int]
) -> bool:
    """Draw each amplifier's model as far as its points are used, and the mean of those that reach far."""
    names = {curve.amplifier for curve in shown}
    models: list[tuple[float, AmplifierFitResult]] = [
        (result.turnoff_last_used, result)
        for result in fit.amplifiers
        if result.name in names and result.turnoff_last_used > 0 and len(result.a_matrix or ()) > max(lag)
    ]
    if not models:
        return False
    # A mean over amplifiers that drop out one by one would jump at each of them.
    end = float(np.quantile([last for last, _ in models], 0.25))
    common: list[FloatArray] = []
    for last, result in models:
        samples = np.linspace(0.01 * end, last, _MODEL_SAMPLES)
        model = model_covariances(result, samples)
        if model is not None:
            own = model[:, lag[0], lag[1]] / samples
            axes.plot(samples, own, color=TRUTH, linewidth=0.6, alpha=0.5, zorder=2)
            if last >= end:
                common.append(np.interp(np.linspace(0.01 * end, end, _MODEL_SAMPLES), samples, own))
    if common:
        samples = np.linspace(0.01 * end, end, _MODEL_SAMPLES)
        axes.plot(samples, np.mean(common, axis=0), color=TRUTH, linewidth=2.2, zorder=5, label="model")
    return bool(common)


def _draw_covariances(axes: Axes, mean: FloatArray, ratio: FloatArray, count: FloatArray) -> bool:
    # By groups of like signal, since what is absurd at low signal may be common at high signal.
    by_signal = ratio[np.argsort(mean, kind="stable")]
    ranges = [robust_range(group) for group in np.array_split(by_signal, 1 + by_signal.size // _GROUP)]
    limits = Range(min(0.0, *(r.low for r in ranges), 0.0), max(0.0, *(r.high for r in ranges), 0.0))
    clamped = clamp(ratio, limits)
    inside = ~clamped.beyond
    axes.axhline(0, color=FIT, linewidth=0.8, zorder=1)
    alpha = 0.35 if mean.size > _CROWD else 1.0
    axes.plot(mean[inside], ratio[inside], ".", color=USED, alpha=alpha, markersize=4, label="used")
    axes.plot(mean[~inside], clamped.values[~inside], "d", color=BAD, markersize=4, label="beyond the axis")
    rows = [_average(mean[b], ratio[b], count[b]) for b in _bins(mean, ratio, count)]
    centre, average, error = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    axes.errorbar(
        centre,
        average,
        error,
        fmt="o-",
        color=FIT,
        markersize=4,
        linewidth=1,
        zorder=4,
        label="weighted mean",
    )
    axes.set(xlim=(0, 1.05 * float(mean.max()) if mean.size else 1000.0), ylim=limits)
    in_thousands(axes.xaxis)
    draw_grid_lines(axes)
    if not np.isfinite(ratio).any():
        write_big(axes, "no points")
    return bool(clamped.beyond.any())


def _bins(mean: FloatArray, ratio: FloatArray, count: FloatArray) -> list[NDArray[np.bool_]]:
    good = np.isfinite(mean) & np.isfinite(ratio) & (count > 0)
    if not good.any():
        return []
    edges = np.linspace(0.0, float(mean[good].max()), _BINS + 1)[1:-1]
    place = np.digitize(mean, edges)
    bins = [good & (place == index) for index in range(_BINS)]
    return [inside for inside in bins if int(inside.sum()) >= _FEWEST_IN_BIN]


def _average(mean: FloatArray, ratio: FloatArray, count: FloatArray) -> tuple[float, float, float]:
    """Return mean signal, weighted mean and the error that follows from the scatter in one bin."""
    weight = count / count.sum()
    average = float(np.sum(weight * ratio))
    scatter = float(np.sum(weight**2 * (ratio - average) ** 2))
    return float(np.sum(weight * mean)), average, math.sqrt(scatter)
