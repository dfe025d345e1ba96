"""Figures of a whole run: what was found for every amplifier, where, and from how many pairs."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ptc_stream.export.notation import counted
from ptc_stream.export.plot_style import (
    BAD,
    FIT,
    LABEL_SIZE,
    MUTED,
    TRUTH,
    USED,
    Range,
    ResultFigure,
    clamp,
    draw_grid_lines,
    legend_below,
    robust_range,
    write_big,
)
from ptc_stream.export.quantities import A00, GAIN, QUANTITIES, Quantity
from ptc_stream.physics.fitting import FitStatus
from ptc_stream.records import AmplifierFitResult, PtcFit

__all__ = ["Truth", "convergence", "gain_noise_summary", "run_overview"]

FloatArray = NDArray[np.float64]

Truth: TypeAlias = Mapping[str, Mapping[str, Mapping[str, float]]]
"""True values by detector, amplifier and quantity.

The quantities are gain [e-/ADU], read_noise [e-], a00 [1/e-] and turnoff [ADU]; any of them may be absent.
"""


# With more amplifiers their names would overlap: then the axis names detectors, and at most this many.
_MOST_NAMES = 80
_MOST_DETECTOR_NAMES = 52


@dataclasses.dataclass(frozen=True, slots=True)
class _Slot:
    """The place of one amplifier on the axis of a summary."""

    x: float
    detector: str
    result: AmplifierFitResult
    truth: Mapping[str, float]


def gain_noise_summary(fits: Sequence[PtcFit], *, truth: Truth | None = None) -> Figure:
    """Draw gain, read noise, a00 and turnoff of every amplifier, with errors.

    Parameters
    ----------
    fits
        One fit per detector.
    truth
        True values if they are known (a simulation): drawn as bars, and a second column shows what the fit
        gives minus the truth.

    Returns
    -------
    Figure
        One row per quantity. Amplifiers without a result are marked by a cross, those with a status other
        than OK by hollow points, lower limits of the turnoff by arrows, values off the scale at its edge.
    """
    slots = _slots(fits, truth or {})
    columns = 2 if truth else 1
    figure = ResultFigure(9.0 + 6.0 * columns if len(slots) > 20 else 5.0 + 4.0 * columns, 12.0)
    axes = figure.subplots(len(QUANTITIES), columns, squeeze=False, sharex=True)
    for row, quantity in zip(axes, QUANTITIES, strict=True):
        _draw_quantity(row[0], slots, quantity)
        row[0].set_ylabel(f"{quantity.label} [{quantity.unit}]", fontsize=LABEL_SIZE - 1)
        if columns > 1:
            _draw_difference(row[1], slots, quantity)
            unit = "%" if quantity.relative else quantity.unit
            row[1].set_ylabel(f"fit − truth [{unit}]", fontsize=LABEL_SIZE - 1)
    for panel in axes.flat:
        _mark_detectors(panel, slots)
        if not slots:
            write_big(panel, "no amplifiers")
    for panel in axes[-1]:
        _name_slots(panel, slots)
    models = "".join(f" · {model}" for model in sorted({fit.model for fit in fits}))
    figure.suptitle(
        f"Gain, read noise, a00, turnoff{_run(fits)}{models}", fontsize=LABEL_SIZE + 2, parse_math=False
    )
    _add_summary_legend(figure, slots)
    return figure


def _run(fits: Sequence[PtcFit]) -> str:
    """Name the run in a title; nothing if there is none."""
    return "".join(f" · run {run}" for run in dict.fromkeys(fit.run for fit in fits))


def _slots(fits: Sequence[PtcFit], truth: Truth) -> list[_Slot]:
    slots: list[_Slot] = []
    x = 0.0
    for fit in fits:
        for result in fit.amplifiers:
            slots.append(_Slot(x, fit.detector, result, truth.get(fit.detector, {}).get(result.name, {})))
            x += 1
        x += 1  # a gap between detectors
    return slots


def _marker_size(slots: Sequence[_Slot]) -> float:
    return 4.5 if len(slots) <= _MOST_NAMES else 2.0


def _numbers(slots: Sequence[_Slot], quantity: Quantity) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return values, errors and true values of all slots in the quantity's unit; NaN where there is none."""
    values = np.array([quantity.value(slot.result) for slot in slots], dtype=np.float64)
    errors = np.array([quantity.error(slot.result) for slot in slots], dtype=np.float64)
    truths = [slot.truth.get(quantity.name, math.nan) * quantity.scale for slot in slots]
    return values, np.where(np.isfinite(errors), errors, np.nan), np.array(truths, dtype=np.float64)


def _draw_quantity(axes: Axes, slots: Sequence[_Slot], quantity: Quantity) -> None:
    values, errors, truths = _numbers(slots, quantity)
    overscan = np.full(values.shape, np.nan)
    if quantity.name == "read_noise":
        overscan = np.array([slot.result.overscan_read_noise for slot in slots], dtype=np.float64)
    limits = robust_range(np.concatenate([values, values - errors, values + errors, truths, overscan]))
    x = np.array([slot.x for slot in slots], dtype=np.float64)
    size = _marker_size(slots)
    if np.isfinite(truths).any():
        (bars,) = axes.plot(x, truths, "_", color=TRUTH, markersize=3.2 * size, zorder=2, label="truth")
        bars.set_markeredgewidth(1.6)
    if np.isfinite(overscan).any():
        shown = clamp(overscan, limits).values
        axes.plot(x, shown, "D", color=MUTED, markersize=0.7 * size, zorder=2, label="overscan")
    _draw_values(axes, slots, values, errors, limits, lower_limits=quantity.name == "turnoff")


def _draw_difference(axes: Axes, slots: Sequence[_Slot], quantity: Quantity) -> None:
    values, errors, truths = _numbers(slots, quantity)
    if quantity.relative:
        values, errors = 100 * (values / truths - 1), 100 * errors / truths
    else:
        values = values - truths
    axes.axhline(0, color=TRUTH, linewidth=1.6, zorder=1)
    low, high = robust_range(np.concatenate([values, values - errors, values + errors]))
    limits = Range(min(low, -0.1 * high), max(high, -0.1 * low))  # zero, the truth, is always in sight
    _draw_values(axes, slots, values, errors, limits, lower_limits=quantity.name == "turnoff")


def _draw_values(
    axes: Axes,
    slots: Sequence[_Slot],
    values: FloatArray,
    errors: FloatArray,
    limits: Range,
    *,
    lower_limits: bool,
) -> None:
    """Draw values with errors; mark what has none, what is not OK and what lies off the scale."""
    size = _marker_size(slots)
    x = np.array([slot.x for slot in slots], dtype=np.float64)
    good = np.array([slot.result.status == FitStatus.OK for slot in slots], dtype=np.bool_)
    limit = np.array([lower_limits and slot.result.turnoff_is_lower_limit for slot in slots], dtype=np.bool_)
    known = np.isfinite(values)
    shown = clamp(values, limits)
    axes.set_ylim(limits)
    draw_grid_lines(axes, "y")
    inside = known & ~shown.beyond
    bars = inside & np.isfinite(errors)
    axes.errorbar(
        x[bars],
        values[bars],
        errors[bars],
        fmt="none",
        ecolor=USED,
        elinewidth=0.8,
        alpha=1.0 if len(slots) <= _MOST_NAMES else 0.3,
        zorder=2,
    )
    for chosen, marker, filled, color, label in (
        (inside & good & ~limit, "o", True, USED, "fit"),
        (inside & good & limit, "^", True, USED, "lower limit"),
        (inside & ~good, "o", False, BAD, "other status"),
        (known & shown.beyond, "d", True, BAD, "off the scale"),
    ):
        if chosen.any():
            axes.plot(
                x[chosen],
                shown.values[chosen],
                linestyle="",
                marker=marker,
                color=color,
                markerfacecolor=color if filled else "white",
                markersize=size,
                zorder=3,
                label=label,
            )
    failed = ~known & ~good
    if failed.any():
        low = limits.low + 0.04 * (limits.high - limits.low)
        axes.plot(
            x[failed],
            np.full(int(failed.sum()), low),
            "x",
            color=BAD,
            markersize=1.4 * size,
            label="no result",
        )


def _detector_spans(slots: Sequence[_Slot]) -> list[tuple[str, float, float]]:
    spans: dict[str, tuple[float, float]] = {}
    for slot in slots:
        first, _ = spans.get(slot.detector, (slot.x, slot.x))
        spans[slot.detector] = (first, slot.x)
    return [(name, first, last) for name, (first, last) in spans.items()]


def _mark_detectors(axes: Axes, slots: Sequence[_Slot]) -> None:
    for index, (_, first, last) in enumerate(_detector_spans(slots)):
        if index % 2:
            axes.axvspan(first - 1, last + 1, color="#F2F2F2", linewidth=0, zorder=0)
    axes.set_xlim(-1, (slots[-1].x if slots else 0) + 1)
    axes.tick_params(labelsize=LABEL_SIZE - 3)


def _name_slots(axes: Axes, slots: Sequence[_Slot]) -> None:
    spans = _detector_spans(slots)
    if len(slots) <= _MOST_NAMES:
        axes.set_xticks(
            [slot.x for slot in slots], [slot.result.name for slot in slots], rotation=90, parse_math=False
        )
        axes.tick_params(axis="x", labelsize=LABEL_SIZE - 4)
        axes.set_xlabel(
            "amplifiers of " + (", ".join(name for name, _, _ in spans) or "no detector"),
            fontsize=LABEL_SIZE - 1,
            parse_math=False,
        )
        return
    step = -(-len(spans) // _MOST_DETECTOR_NAMES)
    named = spans[::step]
    axes.set_xticks(
        [(first + last) / 2 for _, first, last in named],
        [name for name, _, _ in named],
        rotation=90,
        parse_math=False,
    )
    every = "" if step == 1 else f", every {step}th named"
    axes.set_xlabel(f"amplifiers of {len(spans)} detectors{every}", fontsize=LABEL_SIZE - 1)


def _add_summary_legend(figure: Figure, slots: Sequence[_Slot]) -> None:
    not_ok = [slot.result for slot in slots if slot.result.status != FitStatus.OK]
    other = Counter(result.status for result in not_ok if math.isfinite(result.gain))
    failed = Counter(result.status for result in not_ok if not math.isfinite(result.gain))
    explained = {"other status": _counts(other), "no result": _counts(failed)}
    drawn: dict[str, Artist] = {}
    for axes in figure.axes:
        for artist, label in zip(*axes.get_legend_handles_labels(), strict=True):
            drawn.setdefault(f"{label}: {explained[label]}" if explained.get(label) else label, artist)
    scale = 4.5 / _marker_size(slots)
    legend_below(figure, list(drawn.values()), columns=6, labels=list(drawn), marker_scale=scale)


def _counts(statuses: Counter[str]) -> str:
    return ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))


def convergence(history: Sequence[PtcFit]) -> Figure:
    """Draw gain and a00 against the number of pairs, relative to their last values.

    Parameters
    ----------
    history
        Fits in the order of the log, of any detectors.

    Returns
    -------
    Figure
        Two axes, a line per amplifier in each, and the median error of the amplifiers as a band around zero:
        lines that stay inside the band say that more pairs would change nothing.
    """
    figure = ResultFigure(9.0, 7.0)
    axes_column = figure.subplots(2, 1, sharex=True)
    paths: dict[tuple[str, str], list[tuple[int, AmplifierFitResult]]] = {}
    for fit in history:
        for result in fit.amplifiers:
            paths.setdefault((fit.detector, result.name), []).append((fit.pairs, result))
    shown = [path for path in paths.values() if any(math.isfinite(result.gain) for _, result in path)]
    for axes, quantity in zip(axes_column, (GAIN, A00), strict=True):
        _draw_convergence(axes, shown, quantity)
    axes_column[1].set_xlabel("Number of pairs", fontsize=LABEL_SIZE - 1)
    detectors = list(dict.fromkeys(fit.detector for fit in history))
    name = detectors[0] if len(detectors) == 1 else counted(len(detectors), "detector")
    figure.suptitle(f"Convergence · {name}{_run(history)}", fontsize=LABEL_SIZE + 2, parse_math=False)
    handles: list[Artist] = [
        Line2D([], [], color=USED, linewidth=1, label=counted(len(shown), "amplifier")),
        Line2D([], [], color=TRUTH, linewidth=6, alpha=0.45, label="± median error of one amplifier"),
    ]
    legend_below(figure, handles, columns=2)
    return figure


def _draw_convergence(
    axes: Axes, paths: Sequence[Sequence[tuple[int, AmplifierFitResult]]], quantity: Quantity
) -> None:
    errors: dict[int, list[float]] = {}
    settled: list[float] = []
    for path in paths:
        pairs = np.array([number for number, _ in path], dtype=np.float64)
        values = np.array([quantity.value(result) for _, result in path], dtype=np.float64)
        error = np.array([quantity.error(result) for _, result in path], dtype=np.float64)
        finite = values[np.isfinite(values)]
        if not finite.size:
            continue
        difference = values - finite[-1]
        if quantity.relative:
            difference, error = 100 * difference / finite[-1], 100 * error / finite[-1]
        axes.plot(pairs, difference, color=USED, linewidth=0.8, alpha=0.6, zorder=3)
        for number, size in zip(pairs.astype(np.int64).tolist(), error.tolist(), strict=True):
            if math.isfinite(size):
                errors.setdefault(number, []).append(size)
        # The first fits swing by orders of magnitude; the scale is that of the later three quarters.
        late = np.abs(difference[pairs > 0.25 * pairs.max()])
        settled += late[np.isfinite(late)].tolist()
    numbers = sorted(errors)
    band = np.array([float(np.median(errors[number])) for number in numbers], dtype=np.float64)
    axes.fill_between(numbers, -band, band, color=TRUTH, alpha=0.45, linewidth=0, zorder=1)
    axes.axhline(0, color=FIT, linewidth=0.8, zorder=2)
    late_band = band[len(band) // 4 :]
    reach = 1.2 * max([*settled, *late_band.tolist()], default=1.0) or 1.0
    axes.set_ylim(-reach, reach)
    unit = "%" if quantity.relative else quantity.unit
    axes.set_ylabel(f"{quantity.label} − last [{unit}]", fontsize=LABEL_SIZE - 1)
    draw_grid_lines(axes)


def run_overview(fits: Sequence[PtcFit]) -> Figure:
    """Draw maps of gain, read noise, a00 and turnoff, detectors against amplifiers.

    Parameters
    ----------
    fits
        One fit per detector.

    Returns
    -------
    Figure
        One map per quantity. Grey: no value; a cross: the status is not OK. The few percent of values that
        lie off the colour scale have the colour of its end.
    """
    names = list(dict.fromkeys(result.name for fit in fits for result in fit.amplifiers))
    shape = (len(fits), len(names))
    height = min(30.0, max(4.2, 2.6 + 0.115 * len(fits) + (0.25 * len(fits) if len(fits) <= 20 else 0.0)))
    figure = ResultFigure(17.0, height)
    axes_row = figure.subplots(1, len(QUANTITIES), sharex=True, sharey=True)
    bad = np.array(
        [
            (column, row)
            for row, fit in enumerate(fits)
            for result in fit.amplifiers
            for column in [names.index(result.name)]
            if result.status != FitStatus.OK
        ],
        dtype=np.float64,
    ).reshape(-1, 2)
    colours = mpl.colormaps["viridis"].with_extremes(bad="#D9D9D9")
    for axes, quantity in zip(axes_row, QUANTITIES, strict=True):
        values = np.full(shape, np.nan)
        for row, fit in enumerate(fits):
            for result in fit.amplifiers:
                values[row, names.index(result.name)] = quantity.value(result)
        limits = robust_range(values, pad=0.0)
        image = axes.pcolormesh(
            np.arange(shape[1] + 1) - 0.5,
            np.arange(shape[0] + 1) - 0.5,
            np.ma.masked_invalid(values),
            cmap=colours,
            vmin=limits.low,
            vmax=limits.high,
        )
        axes.plot(bad[:, 0], bad[:, 1], "x", color=BAD, markersize=7 if shape[0] <= 40 else 3)
        axes.set_title(f"{quantity.label} [{quantity.unit}]", fontsize=LABEL_SIZE)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=LABEL_SIZE - 4, parse_math=False)
        axes.set_facecolor("#D9D9D9")
        # Of constant size, however high the maps are.
        figure.colorbar(
            image,
            ax=axes,
            location="bottom",
            extend="both",
            shrink=0.9,
            aspect=30,
            fraction=min(0.15, 0.6 / height),
            pad=min(0.05, 0.2 / height),
        )
        if not names:
            write_big(axes, "no amplifiers")
    if fits:
        axes_row[0].set_ylim(len(fits) - 0.5, -0.5)
    axes_row[0].set_yticks(
        range(len(fits)),
        [fit.detector for fit in fits],
        fontsize=LABEL_SIZE - 3 if len(fits) <= 40 else 5.5,
        parse_math=False,
    )
    figure.suptitle(
        f"Maps{_run(fits)} · grey: no value · cross: status not OK", fontsize=LABEL_SIZE + 2, parse_math=False
    )
    return figure
