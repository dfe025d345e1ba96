"""A report of a run as a PDF of many pages: summary, tables, and every figure on a page of its own."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from ptc_stream import __version__
from ptc_stream.errors import ConfigurationError
from ptc_stream.export.plot_style import METADATA, ResultFigure
from ptc_stream.export.report import ReportTable, RunReport

__all__ = ["write_pdf_report"]

# A4 across, in inches; figures keep their own size.
_WIDTH, _HEIGHT = 11.7, 8.3
_MARGIN = 0.05
_LINES = 52
# Characters of 7.5 points that fit beside each other: 10.5 inches of 0.6 x 7.5 points.
_CHARACTERS = 168
# A cell wider than this is broken into lines.
_MOST_IN_CELL = 60


def write_pdf_report(report: RunReport, path: str | Path) -> Path:
    """Write a report as a PDF.

    Parameters
    ----------
    report
        The run.
    path
        The file; missing directories are made, an older file is replaced.

    Returns
    -------
    Path
        The file. The same run gives the same bytes.

    Raises
    ------
    ConfigurationError
        It cannot be written there.
    InvalidRecord
        The covariances of the run are not those that its fits were made of.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with PdfPages(target, metadata=dict(METADATA["pdf"])) as pages:
            for page in _pages(report):
                pages.savefig(page)
    except OSError as error:
        raise ConfigurationError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _pages(report: RunReport) -> Iterator[Figure]:
    yield _cover(report)
    if report.alerts:
        yield from _text_pages("Active alerts", _lines(report.alert_table()))
    results = ReportTable(report.result_columns()[:-1], tuple(row.cells[:-1] for row in report.results()))
    yield from _text_pages("Results", _lines(results))
    if report.waiting:
        yield from _text_pages("Flats without partner", _lines(report.waiting_table()))
    if report.rejected:
        yield from _text_pages("Rejected", _lines(report.rejected_table()))
    if report.settings:
        yield from _text_pages("Settings used", _lines(report.settings_table()))
    for planned in report.figures():
        yield planned.draw()


def _page(title: str) -> Figure:
    figure = ResultFigure(_WIDTH, _HEIGHT)
    figure.set_layout_engine("none")
    figure.text(_MARGIN, 0.94, title, fontsize=15, weight="bold", parse_math=False)
    return figure


def _cover(report: RunReport) -> Figure:
    figure = _page(report.title)
    figure.text(_MARGIN, 0.9, report.lead, fontsize=11, color="#57606a", parse_math=False)
    width = max(len(name) for name, _ in report.summary())
    lines = [f"{name:<{width + 3}}{value}" for name, value in report.summary()]
    lines += ["", *_lines(report.statuses())]
    lines += ["", *textwrap.wrap(report.left_out(), 110)]
    figure.text(
        _MARGIN,
        0.85,
        "\n".join(lines),
        fontsize=10,
        family="monospace",
        va="top",
        linespacing=1.5,
        parse_math=False,
    )
    figure.text(_MARGIN, 0.03, f"ptc-stream {__version__}", fontsize=8, color="#57606a", parse_math=False)
    return figure


def _text_pages(title: str, lines: Sequence[str]) -> Iterator[Figure]:
    """Break lines into pages; the first two, names and rule, head every page."""
    head, body = lines[:2], lines[2:]
    room = _LINES - len(head)
    number = max(1, -(-len(body) // room))
    for page in range(number):
        figure = _page(title if number == 1 else f"{title} ({page + 1} of {number})")
        shown = [*head, *body[page * room : (page + 1) * room]]
        figure.text(
            _MARGIN,
            0.9,
            "\n".join(shown),
            fontsize=7.5,
            family="monospace",
            va="top",
            linespacing=1.35,
            parse_math=False,
        )
        yield figure


def _lines(table: ReportTable) -> list[str]:
    """Set a table in columns of constant width."""
    rows = [[textwrap.wrap(cell, _MOST_IN_CELL) or [""] for cell in row] for row in table.rows]
    widths = [
        max([len(name), *(len(line) for row in rows for line in row[column])])
        for column, name in enumerate(table.columns)
    ]
    lines = [_line(table.columns, widths), "─" * min(sum(widths) + 2 * len(widths), _CHARACTERS)]
    for row in rows:
        lines += [_line(parts, widths) for parts in zip_longest(*row, fillvalue="")]
    return lines


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    text = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"
