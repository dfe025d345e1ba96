"""A report of a run as one HTML file that needs nothing else: figures, style and sorting are inside."""

from __future__ import annotations

import base64
import math
import string
from collections.abc import Iterator
from html import escape
from importlib import resources
from pathlib import Path

from ptc_stream import __version__
from ptc_stream.errors import ConfigurationError
from ptc_stream.export.figures import PlannedFigure
from ptc_stream.export.plot_style import figure_bytes
from ptc_stream.export.report import CAPTIONS, ReportTable, ResultRow, RunReport

__all__ = ["write_html_report"]

# Columns of the results whose text is a number.
_NUMBERS = frozenset({"gain", "read noise", "a00", "turnoff", "chi2/dof", "pairs"})


def write_html_report(report: RunReport, path: str | Path) -> Path:
    """Write a report as one HTML file.

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
    template = string.Template(
        resources.files("ptc_stream.export").joinpath("report.html").read_text(encoding="utf-8")
    )
    sections = list(_sections(report))
    text = template.substitute(
        title=escape(report.title),
        lead=escape(report.lead),
        links="".join(f'<li><a href="#{name}">{escape(head)}</a></li>' for name, head, _ in sections),
        sections="\n".join(
            f'<section id="{name}" aria-labelledby="{name}-head">\n<h2 id="{name}-head">{escape(head)}</h2>\n'
            f"{body}\n</section>"
            for name, head, body in sections
        ),
        version=escape(__version__),
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigurationError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _sections(report: RunReport) -> Iterator[tuple[str, str, str]]:
    """Yield identity, heading and content of each section that has something to say."""
    yield "run", "Run", _tiles(report) + _table(report.statuses(), "Amplifiers by status")
    if report.alerts:
        yield "alerts", "Active alerts", _table(report.alert_table(), "Active alerts")
    yield "results-section", "Results", _results(report)
    of_run: list[str] = []
    of_detector: dict[str, list[str]] = {}
    for planned in report.figures():
        own = of_run if planned.detector is None else of_detector.setdefault(planned.detector, [])
        own.append(_figure(planned))
    yield "figures", "Figures of the run", "\n".join(of_run)
    if of_detector:
        note = f"<p>{escape(report.left_out())}</p>\n" if report.left_out() else ""
        yield (
            "detectors",
            "Detectors",
            note
            + "\n".join(
                # The first one is open, so that it is seen what the others hold.
                f"<details{' open' if index == 0 else ''}><summary>Detector {escape(name)}</summary>\n"
                + "\n".join(figures)
                + "\n</details>"
                for index, (name, figures) in enumerate(of_detector.items())
            ),
        )
    waiting = (
        _table(report.waiting_table(), "Flats without partner") if report.waiting else _none("No flat waits.")
    )
    yield "waiting", "Flats without partner", waiting
    rejected = (
        _table(report.rejected_table(), "Rejected") if report.rejected else _none("Nothing was rejected.")
    )
    yield "rejected", "Rejected", rejected
    if report.settings:
        yield "settings", "Settings used", _table(report.settings_table(), "Settings used")


def _none(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _tiles(report: RunReport) -> str:
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.summary()
    )
    return f'<dl class="tiles">{tiles}</dl>\n'


def _scroll(label: str, content: str) -> str:
    """Let what is wider than the screen be moved, by finger and by keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{content}</div>'


def _table(table: ReportTable, label: str) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "\n".join(
        "<tr>"
        + "".join(
            f"<td{' class=wrap' if name in {'message', 'value'} else ''}>{escape(cell)}</td>"
            for name, cell in zip(table.columns, row, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    return _scroll(
        label, f'<table class="sorts"><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>'
    )


def _results(report: RunReport) -> str:
    columns = report.result_columns()
    head = "".join(
        f'<th scope="col"{" class=number" if _is_number(name) else ""}>{escape(name)}</th>'
        for name in columns
    )
    rows = list(report.results())
    body = "\n".join(_result_row(columns, row) for row in rows)
    controls = (
        '<div class="controls"><label>Find <input id="search" type="search" autocomplete="off"></label>'
        '<label><input id="problems" type="checkbox"> only status other than OK</label>'
        f'<span id="shown" role="status">{len(rows)} shown</span></div>\n'
    )
    table = (
        f'<table id="results" class="sorts"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
    )
    return controls + _scroll("Results of every amplifier", table)


def _is_number(column: str) -> bool:
    return column.split(" [", maxsplit=1)[0] in _NUMBERS


def _result_row(columns: tuple[str, ...], row: ResultRow) -> str:
    cells = []
    for name, text, value in zip(columns, row.cells, row.values, strict=True):
        kind = "number" if _is_number(name) else "wrap" if name == "notes" else ""
        if name == "status":
            kind = "ok" if row.ok else "not-ok"
        key = ("" if math.isnan(value) else repr(float(value))) if not isinstance(value, str) else value
        cells.append(f'<td{f" class={kind}" if kind else ""} data-value="{escape(key)}">{escape(text)}</td>')
    return f'<tr data-ok="{"yes" if row.ok else "no"}">{"".join(cells)}</tr>'


def _figure(planned: PlannedFigure) -> str:
    caption = CAPTIONS.get(planned.kind, planned.kind)
    where = f", detector {planned.detector}" if planned.detector is not None else ""
    image = base64.b64encode(figure_bytes(planned.draw(), "png")).decode()
    label = escape(caption + where)
    return (
        f"<figure><figcaption>{label}</figcaption>"
        + _scroll(label, f'<img alt="{label}" src="data:image/png;base64,{image}">')
        + "</figure>"
    )
