"""Figures of the coefficients of the full covariance models: a_ij, b_ij, n_ij of one detector.

Amplifiers of one detector share their pixels' geometry, so their coefficients are averaged: each by its
error, and where the amplifiers disagree by more than their errors the mean's error grows by as much.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator
from numpy.typing import NDArray

from ptc_stream.export.notation import counted
from ptc_stream.export.panels import Curves
from ptc_stream.export.plot_style import (
    FIT,
    LABEL_SIZE,
    MUTED,
    TRUTH,
    USED,
    ResultFigure,
    clamp,
    draw_grid_lines,
    legend_below,
    robust_range,
    write_big,
)
from ptc_stream.records import AmplifierFitResult, PtcFit

__all__ = ["bf_cumulative", "bf_distance", "bf_matrices", "has_matrices", "mean_matrix"]

FloatArray = NDArray[np.float64]

# Less than this many sigmas from zero, a coefficient is marked as not seen.
_SEEN = 2.0
_NOTE = "no matrices: fit FULLCOVARIANCE"


@dataclasses.dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    symbol: str
    unit: str
    scale: float


_A = _Kind("a_matrix", "a", "1/e⁻", 1.0)
_B = _Kind("b_matrix", "b", "10⁻⁶/e⁻", 1e6)
_NOISE = _Kind("noise_matrix", "n", "(e⁻)²", 1.0)


def has_matrices(fit: PtcFit) -> bool:
    """Return whether any amplifier of `fit` has a matrix a_ij."""
    return any(result.a_matrix is not None for result in fit.amplifiers)


def mean_matrix(
    fit: PtcFit, name: str, *, amplifier: str | None = None
) -> tuple[FloatArray, FloatArray, int] | None:
    """Average a matrix of coefficients over the amplifiers of a detector.

    Parameters
    ----------
    fit
        The fit of one detector.
    name
        ``a_matrix`` [1/e-], ``b_matrix`` [1/e-] or ``noise_matrix`` [e-^2].
    amplifier
        Only this one.

    Returns
    -------
    mean, error : ndarray
        Shape (R, R), first index x lag: mean weighted by the errors, and its error, larger by the root of
        chi2/dof where the amplifiers disagree.
    number : int
        Of amplifiers; the result is None if there is none with such a matrix.
    """
    chosen = [result for result in fit.amplifiers if amplifier in (None, result.name)]
    # b = c / a is the ratio of two fitted numbers. A mean of ratios is biased where a is badly known, and
    # their errors favour those with a large by chance: c and a are averaged, and then divided.
    ratio = name == "b_matrix"
    found = [pair for result in chosen if (pair := _products(result) if ratio else _matrices(result, name))]
    mean = _mean(found)
    if mean is None or not ratio:
        return mean
    below = _mean([pair for result in chosen if (pair := _matrices(result, "a_matrix"))])
    if below is None or below[0].shape != mean[0].shape:
        return None
    (c, c_error, number), (a, a_error, _) = mean, below
    b, b_error = np.full(a.shape, np.nan), np.full(a.shape, np.nan)
    np.divide(c, a, out=b, where=a != 0)
    np.divide(np.hypot(c_error, b * a_error), np.abs(a), out=b_error, where=a != 0)
    return b, b_error, number


def _mean(found: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray, int] | None:
    """Return the weighted mean of the largest matrices, its error, and how many there are."""
    size = max((values.shape[0] for values, _ in found), default=0)
    found = [(values, errors) for values, errors in found if values.shape[0] == size]
    if not found:
        return None
    values, errors = (np.stack(part) for part in zip(*found, strict=True))
    good = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    weights = np.zeros(values.shape)
    np.divide(1.0, errors**2, out=weights, where=good)
    total = weights.sum(axis=0)
    seen = total > 0
    safe = np.where(seen, total, 1.0)
    mean = np.where(seen, (weights * np.where(good, values, 0.0)).sum(axis=0) / safe, np.nan)
    chi2 = (weights * np.where(good, values - mean, 0.0) ** 2).sum(axis=0)
    dof = np.maximum(good.sum(axis=0) - 1, 1)
    error = np.where(seen, np.sqrt(np.maximum(chi2 / dof, 1.0) / safe), np.nan)
    return mean, error, len(found)


def _products(result: AmplifierFitResult) -> tuple[FloatArray, FloatArray] | None:
    """Return c = a b [1/e-^2] and its error, which at fixed a is that of b times a."""
    a, b = _matrices(result, "a_matrix"), _matrices(result, "b_matrix")
    if a is None or b is None:
        return None
    return a[0] * b[0], np.abs(a[0]) * b[1]


def _matrices(result: AmplifierFitResult, name: str) -> tuple[FloatArray, FloatArray] | None:
    values, errors = getattr(result, name), getattr(result, f"{name}_error")
    if not values or not errors or not math.isfinite(result.gain):
        return None
    return np.array(values, dtype=np.float64), np.array(errors, dtype=np.float64)


def bf_matrices(fit: PtcFit, curves: Curves, *, amplifier: str | None = None) -> Figure:
    """Draw the matrices a, b and n as maps of their absolute value.

    Parameters
    ----------
    fit
        The fit of one detector.
    curves
        Not needed: every figure of a detector takes them.
    amplifier
        Only this one; else the mean of all.

    Returns
    -------
    Figure
        One map per matrix that the model has. Colours are logarithmic; a minus marks what is negative, an
        open circle what is less than 2 sigma from zero.
    """
    del curves
    means = [(kind, mean_matrix(fit, kind.name, amplifier=amplifier)) for kind in (_A, _B, _NOISE)]
    drawn = [(kind, mean) for kind, mean in means if mean is not None]
    figure = ResultFigure(5.4 * max(len(drawn), 1), 6.0)
    axes_row = figure.subplots(1, max(len(drawn), 1), squeeze=False)[0]
    for axes, (kind, (mean, error, _)) in zip(axes_row, drawn, strict=False):
        _draw_map(figure, axes, kind, mean * kind.scale, error * kind.scale)
    number = max((mean[2] for _, mean in drawn), default=0)
    who = amplifier or f"mean of {counted(number, 'amplifier')}"
    _title(figure, fit, f"Coefficients of the covariances, {who}")
    if not drawn:
        _draw_nothing(axes_row[0])
        return figure
    handles: list[Artist] = [
        Line2D([], [], linestyle="", marker="_", color=FIT, markersize=9, label="negative"),
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            color=FIT,
            markerfacecolor="none",
            markersize=7,
            label=f"less than {_SEEN:g} σ from zero",
        ),
    ]
    legend_below(figure, handles, columns=2)
    return figure


def _draw_map(figure: Figure, axes: Axes, kind: _Kind, values: FloatArray, errors: FloatArray) -> None:
    size = np.abs(values)
    positive = size[np.isfinite(size) & (size > 0)]
    # Below a hundredth of its error a value is an accident of rounding, and must not stretch the colours.
    floor = 0.01 * float(np.nanmedian(errors)) if np.isfinite(errors).any() else 0.0
    low = max(float(positive.min()), floor) if positive.size else 1.0
    high = max(float(positive.max()), 1.001 * low) if positive.size else 10.0
    colours = mpl.colormaps["viridis"].with_extremes(bad="#D9D9D9")
    image = axes.imshow(
        np.ma.masked_invalid(size.T), origin="lower", cmap=colours, norm=LogNorm(low, high, clip=True)
    )
    for i, j in np.ndindex(values.shape):
        # Black on the bright half of the colours, white on the dark one.
        bright = size[i, j] > math.sqrt(low * high)
        ink = "black" if bright else "white"
        if values[i, j] < 0:
            axes.plot(i, j, marker="_", color=ink, markersize=9, markeredgewidth=1.6)
        if abs(values[i, j]) < _SEEN * errors[i, j]:
            axes.plot(i, j, marker="o", color=ink, markerfacecolor="none", markersize=11, markeredgewidth=1.0)
    axes.set_xlabel("lag $i$ along x, serial [pixels]", fontsize=LABEL_SIZE - 1)
    axes.set_ylabel("lag $j$ along y, parallel [pixels]", fontsize=LABEL_SIZE - 1)
    axes.set_title(f"$|{kind.symbol}_{{ij}}|$ [{kind.unit}]", fontsize=LABEL_SIZE + 1)
    axes.set_xticks(range(values.shape[0]))
    axes.set_yticks(range(values.shape[1]))
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, aspect=30)
    # Of few decades only some numbers have room, of many only the powers of ten.
    bar.locator = LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,))
    bar.minorticks_off()
    if high < 100 * low:
        bar.formatter = FormatStrFormatter("%g")
    bar.update_ticks()


def bf_distance(fit: PtcFit, curves: Curves) -> Figure:
    """Draw a and b against the distance of the lag, both sides of the diagonal apart.

    Parameters
    ----------
    fit
        The fit of one detector.
    curves
        Not needed: every figure of a detector takes them.

    Returns
    -------
    Figure
        Mean of the amplifiers: ``|a|`` on a logarithmic axis, hollow where a is negative; b on a linear one.
    """
    del curves
    figure = ResultFigure(12.0, 5.6)
    left, right = figure.subplots(1, 2)
    a, b = mean_matrix(fit, "a_matrix"), mean_matrix(fit, "b_matrix")
    if a is None:
        _draw_nothing(left)
    else:
        _draw_sizes(left, a[0], a[1])
    if b is None:
        _draw_nothing(right, "no b in this model" if a is not None else _NOTE)
    else:
        _draw_signed(right, b[0] * _B.scale, b[1] * _B.scale)
    for axes, label in ((left, "$|a_{ij}|$ [1/e⁻]"), (right, f"$b_{{ij}}$ [{_B.unit}]")):
        axes.set_xlabel(r"Distance $\sqrt{i^2+j^2}$ [pixels]", fontsize=LABEL_SIZE - 1)
        axes.set_ylabel(label, fontsize=LABEL_SIZE - 1)
    number = counted(a[2] if a is not None else 0, "amplifier")
    _title(figure, fit, f"Coefficients against distance, mean of {number}")
    handles: list[Artist] = [
        Line2D([], [], linestyle="", marker=marker, color=color, markersize=6, label=label)
        for label, marker, color, _ in _sides(1)
    ]
    hollow = Line2D([], [], linestyle="", marker="o", color=MUTED, markerfacecolor="white", markersize=6)
    hollow.set_label("hollow: negative (left), beyond the axis (right)")
    legend_below(figure, [*handles, hollow], columns=3)
    return figure


def _sides(size: int) -> list[tuple[str, str, str, NDArray[np.bool_]]]:
    """Return label, marker, colour and lags of both sides of the diagonal; a field knows x from y."""
    i, j = np.indices((size, size))
    return [
        ("$i ≥ j$ (towards serial)", "o", USED, i >= j),
        ("$i < j$ (towards parallel)", "s", "#D55E00", i < j),
    ]


def _distance(size: int) -> FloatArray:
    i, j = np.indices((size, size))
    return np.hypot(i, j)


def _draw_sizes(axes: Axes, mean: FloatArray, error: FloatArray) -> None:
    distance = _distance(len(mean))
    drawable = np.isfinite(mean) & (mean != 0)
    axes.set_yscale("log")
    for _, marker, color, side in _sides(len(mean)):
        for negative in (False, True):
            chosen = side & drawable & ((mean < 0) == negative)
            size = np.abs(mean[chosen])
            # A logarithmic axis has no room below zero for an error larger than its value.
            below = np.minimum(error[chosen], 0.95 * size)
            axes.errorbar(
                distance[chosen],
                size,
                np.stack([below, error[chosen]]),
                fmt=marker,
                color=color,
                markerfacecolor="white" if negative else color,
                markersize=5,
                elinewidth=0.8,
            )
    draw_grid_lines(axes)


def _draw_signed(axes: Axes, mean: FloatArray, error: FloatArray) -> None:
    distance = _distance(len(mean))
    # What is known best chooses the axis: b = c / a of a far lag is anything.
    order = np.argsort(np.where(np.isfinite(error), error, np.inf).ravel())
    best = order[: max(4, order.size // 2)]
    values, errors = mean.ravel()[best], error.ravel()[best]
    limits = robust_range(np.concatenate([values - errors, values + errors, [0.0]]))
    shown = clamp(mean, limits)
    for _, marker, color, side in _sides(len(mean)):
        inside = side & np.isfinite(mean) & ~shown.beyond
        axes.errorbar(
            distance[inside],
            mean[inside],
            error[inside],
            fmt=marker,
            color=color,
            markersize=5,
            elinewidth=0.8,
        )
        beyond = side & shown.beyond
        axes.plot(
            distance[beyond],
            shown.values[beyond],
            linestyle="",
            marker=marker,
            color=color,
            markerfacecolor="white",
            markersize=5,
        )
    axes.axhline(0, color=FIT, linewidth=0.8, zorder=1)
    axes.set_ylim(limits)
    draw_grid_lines(axes)


def bf_cumulative(fit: PtcFit, curves: Curves) -> Figure:
    """Draw the sum of a over all lags within a distance, relative to a_00.

    Charge that one pixel loses its neighbours gain, so the sum over the whole plane is zero: where the curve
    does not fall towards zero, lags are missing or an offset lies under the covariances.

    Parameters
    ----------
    fit
        The fit of one detector.
    curves
        Not needed: every figure of a detector takes them.

    Returns
    -------
    Figure
        A line per amplifier, and their mean with its error, on a logarithmic axis; hollow where the sum has
        the other sign than a_00.
    """
    del curves
    figure = ResultFigure(8.5, 6.0)
    axes = figure.subplots()
    mean = mean_matrix(fit, "a_matrix")
    if mean is None:
        _draw_nothing(axes)
    else:
        axes.set_yscale("log")
        for result in fit.amplifiers:
            own = _matrices(result, "a_matrix")
            if own is not None and own[0][0, 0] != 0:
                radius, total = _cumulative(own[0])
                axes.plot(radius, np.abs(total), color=MUTED, linewidth=0.6, alpha=0.6, zorder=1)
        _draw_cumulative(axes, mean[0], mean[1])
        draw_grid_lines(axes)
    axes.set_xlabel(r"Distance $r$ [pixels]", fontsize=LABEL_SIZE - 1)
    axes.set_ylabel(r"$|\sum_{r' \leq r} a_{ij}\,/\,a_{00}|$", fontsize=LABEL_SIZE - 1)
    number = mean[2] if mean is not None else 0
    _title(figure, fit, f"Cumulative sum of a, {counted(number, 'amplifier')}")
    handles: list[Artist] = [
        Line2D([], [], color=MUTED, linewidth=1, label="one amplifier"),
        Line2D([], [], marker="o", color=USED, markersize=5, label="mean of amplifiers"),
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            color=USED,
            markerfacecolor="white",
            markersize=5,
            label="hollow: sign opposite to $a_{00}$",
        ),
        Line2D([], [], color=TRUTH, linewidth=6, alpha=0.45, label="± error of the mean"),
    ]
    legend_below(figure, handles, columns=4)
    return figure


def _multiplicity(size: int) -> FloatArray:
    """Return how many lags of the plane each lag of the quadrant stands for: 1, 2 on the axes, else 4."""
    i, j = np.indices((size, size))
    return np.where(i > 0, 2.0, 1.0) * np.where(j > 0, 2.0, 1.0)


def _steps(size: int) -> tuple[FloatArray, list[NDArray[np.intp]]]:
    """Return the distances of the lags, and for each the flat indices of the lags at it."""
    # Of squares, which are whole numbers: equal distances are equal.
    squares = np.rint(_distance(size) ** 2).astype(np.int64).ravel()
    unique = np.unique(squares)
    return np.sqrt(unique.astype(np.float64)), [np.flatnonzero(squares == value) for value in unique]


def _cumulative(a: FloatArray) -> tuple[FloatArray, FloatArray]:
    radius, members = _steps(len(a))
    weighted = (_multiplicity(len(a)) * a).ravel()
    sums = np.cumsum([float(np.nansum(weighted[own])) for own in members])
    return radius, sums / a[0, 0]


def _draw_cumulative(axes: Axes, mean: FloatArray, error: FloatArray) -> None:
    radius, total = _cumulative(mean)
    variance = ((_multiplicity(len(mean)) * error) ** 2).ravel()
    spread = np.sqrt(np.cumsum([float(np.nansum(variance[own])) for own in _steps(len(mean))[1]]))
    spread = spread / abs(mean[0, 0])
    size = np.abs(total)
    axes.fill_between(
        radius, np.maximum(size - spread, 0.05 * size), size + spread, color=TRUTH, alpha=0.45, linewidth=0
    )
    axes.plot(radius, size, color=USED, linewidth=1.0, zorder=3)
    for opposite in (False, True):
        chosen = (total < 0) == opposite
        face = "white" if opposite else USED
        axes.plot(
            radius[chosen],
            size[chosen],
            linestyle="",
            marker="o",
            color=USED,
            markerfacecolor=face,
            markersize=5,
            zorder=4,
        )


def _draw_nothing(axes: Axes, text: str = _NOTE) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    write_big(axes, text)


def _title(figure: Figure, fit: PtcFit, what: str) -> None:
    lines: Sequence[str] = (
        f"{what} · {fit.instrument} {fit.detector} · run {fit.run}",
        f"{fit.model}, {fit.pairs} pairs",
    )
    figure.suptitle("\n".join(lines), fontsize=LABEL_SIZE + 2, parse_math=False)
