"""What all figures have in common: colours, markers, number of panels, ranges, files.

Figures are made without pyplot, so they need no display, leave no global state behind and may be drawn in
any thread. Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any
common colour vision tell apart; a marker says the same as the colour.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from ptc_stream.errors import ConfigurationError
from ptc_stream.physics.selection import UnusedReason

__all__ = [
    "BAD",
    "FIT",
    "FORMATS",
    "LABEL_SIZE",
    "METADATA",
    "MUTED",
    "TRUTH",
    "USED",
    "Clamped",
    "PointStyle",
    "Range",
    "ResultFigure",
    "clamp",
    "draw_grid_lines",
    "figure_bytes",
    "grid_shape",
    "in_thousands",
    "legend_below",
    "reason_styles",
    "robust_range",
    "save_figure",
    "write_big",
]

FloatArray = NDArray[np.float64]

USED = "#0072B2"
FIT = "#000000"
BAD = "#D55E00"
TRUTH = "#E69F00"
MUTED = "#8A8A8A"

LABEL_SIZE = 12
"""Size of the labels in points; titles are a little larger, numbers a little smaller."""

FORMATS = ("png", "pdf", "svg")
"""File formats that figures can be saved in."""

# A grid of 16 panels is then 1920 pixels wide; with fewer, text of 8 points loses its shape on a screen.
_DOTS_PER_INCH = 120
METADATA: Mapping[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}
"""Nothing that changes between two runs of the same data may get into a file."""


class ResultFigure(Figure):
    """A figure that shows itself as the result of a notebook cell, whether or not pyplot was imported."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=_DOTS_PER_INCH, layout="constrained", facecolor="white")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        return figure_bytes(self, "png")


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """Return a figure as the content of a file; the same figure gives the same bytes.

    Parameters
    ----------
    figure
        The figure.
    kind
        One of `FORMATS`.
    """
    # Without a salt the internal names of an SVG are random. It can only be set for the whole process, so
    # it is set for nothing else.
    salt = mpl.rc_context({"svg.hashsalt": "ptc_stream"}) if kind == "svg" else contextlib.nullcontext()
    buffer = io.BytesIO()
    with salt:
        figure.savefig(buffer, format=kind, metadata=METADATA[kind])
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure; the same figure gives the same bytes.

    Parameters
    ----------
    figure
        The figure.
    path
        The file; its suffix is the format, one of `FORMATS`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigurationError
        The format is not known, or the file cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise ConfigurationError(
            f"{path}: figures are saved as {', '.join(FORMATS)}, not as {kind or 'nothing'}"
        )
    try:
        path.write_bytes(figure_bytes(figure, kind))
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from error
    return path


@dataclasses.dataclass(frozen=True, slots=True)
class PointStyle:
    """Colour and marker of one kind of points."""

    color: str
    marker: str


_REASON_STYLES: Mapping[str, PointStyle] = {
    UnusedReason.ABOVE_TURNOFF: PointStyle("#D55E00", "v"),
    UnusedReason.OUTLIER: PointStyle("#CC79A7", "X"),
    UnusedReason.FLUX_MISMATCH: PointStyle("#009E73", "D"),
    UnusedReason.SATURATED: PointStyle("#E69F00", "^"),
    UnusedReason.NOT_GAUSSIAN: PointStyle("#56B4E9", "P"),
    UnusedReason.BELOW_MIN: PointStyle("#8A8A8A", "<"),
    UnusedReason.ABOVE_MAX: PointStyle("#8A8A8A", ">"),
    UnusedReason.TOO_FEW_PIXELS: PointStyle("#7A5C00", "s"),
    UnusedReason.NO_SIGNAL: PointStyle("#5A5A5A", "1"),
    UnusedReason.NO_VARIANCE: PointStyle("#7A5C00", "2"),
    UnusedReason.NOT_FINITE: PointStyle("#5A5A5A", "x"),
}
_OTHER_STYLES = tuple(
    PointStyle(color, marker) for color in ("#882255", "#5A5A5A", "#7A5C00") for marker in "phd*"
)


def reason_styles(reasons: Iterable[str]) -> dict[str, PointStyle]:
    """Choose colour and marker for each reason why points are not used.

    Parameters
    ----------
    reasons
        The reasons in one figure, in any order, repeated or not.

    Returns
    -------
    dict of str to PointStyle
        By reason, sorted. A common reason looks the same in every figure.
    """
    names = sorted(set(reasons))
    # Statuses of amplifiers without a fit, and reasons of newer versions.
    rare = [name for name in names if name not in _REASON_STYLES]
    return {
        name: _REASON_STYLES.get(name) or _OTHER_STYLES[rare.index(name) % len(_OTHER_STYLES)]
        for name in names
    }


def grid_shape(panels: int) -> tuple[int, int]:
    """Return rows and columns of a grid for `panels`, at least as wide as high: 16 is 4 x 4, 8 is 2 x 4."""
    rows = max(1, math.isqrt(panels))
    return rows, max(1, -(-panels // rows))


class Range(NamedTuple):
    """Ends of an axis."""

    low: float
    high: float


def robust_range(values: ArrayLike, *, pad: float = 0.08) -> Range:
    """Return the range of an axis that one absurd value does not spoil.

    Parameters
    ----------
    values
        Values, any shape; those that are not finite are passed over.
    pad
        Free space on both sides, as a fraction of the range.

    Returns
    -------
    Range
        All values, except those further from the median than 10 robust sigmas.
    """
    array = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    if not finite.size:
        return Range(0.0, 1.0)
    median = float(np.median(finite))
    # 1.4826 x the median absolute deviation is the sigma of a Gaussian. The 2 % keep a range for values
    # of which more than half are equal; 10 sigmas keep every honest value of 3,000 amplifiers inside.
    reach = 10 * max(1.4826 * float(np.median(np.abs(finite - median))), 0.02 * abs(median))
    near = finite[np.abs(finite - median) <= reach]
    low, high = float(near.min()), float(near.max())
    space = pad * (high - low) if high > low else 0.05 * abs(median) or 1.0
    return Range(low - space, high + space)


class Clamped(NamedTuple):
    """Values moved to the edge of an axis where they lie beyond it."""

    values: FloatArray
    beyond: NDArray[np.bool_]


def clamp(values: ArrayLike, limits: Range, *, log: bool = False, margin: float = 0.02) -> Clamped:
    """Move values beyond `limits` to just inside, so that a point off the scale is still seen.

    Parameters
    ----------
    values
        Values; NaN stays NaN.
    limits
        Ends of the axis; both above zero if `log`.
    log
        The axis is logarithmic.
    margin
        How far inside, as a fraction of the axis: so much that a marker stays whole.

    Returns
    -------
    Clamped
        The values, and True where one was moved.
    """
    array = np.asarray(values, dtype=np.float64)
    if log:
        step = (limits.high / limits.low) ** margin
        low, high = limits.low * step, limits.high / step
    else:
        step = margin * (limits.high - limits.low)
        low, high = limits.low + step, limits.high - step
    beyond = (array < limits.low) | (array > limits.high)
    return Clamped(np.where(beyond, np.clip(array, low, high), array), beyond)


def in_thousands(axis: Axis) -> None:
    """Write the numbers of an axis in thousands; the data stay as they are."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}"))


def draw_grid_lines(axes: Axes, which: Literal["both", "x", "y"] = "both") -> None:
    """Draw faint lines at the ticks, behind the data."""
    axes.grid(visible=True, axis=which, color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)


def legend_below(
    figure: Figure,
    handles: Sequence[Artist],
    *,
    columns: int,
    labels: Sequence[str] | None = None,
    marker_scale: float = 1.0,
) -> None:
    """Explain the artists below everything else, if there are any; `labels` replace their own."""
    if not handles:
        return
    figure.legend(
        handles=handles,
        labels=labels or [str(handle.get_label()) for handle in handles],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=LABEL_SIZE - 2,
        markerscale=marker_scale,
        # The layout does not count this padding, and would let the labels above run into the legend.
        borderaxespad=0.0,
    )


def write_big(axes: Axes, text: str) -> None:
    """Write why there is nothing to see where it would be seen."""
    axes.text(
        0.5,
        0.5,
        text.replace("_", " "),
        transform=axes.transAxes,
        fontsize=18 if len(text) < 8 else 13,
        weight="bold",
        color=BAD,
        ha="center",
        va="center",
        zorder=6,
    )
