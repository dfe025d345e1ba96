"""What people see: tables of results, a live table while a run goes on, progress of long reads."""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ptc_stream.export.notation import with_error
from ptc_stream.records import (
    Alert,
    AmplifierFitResult,
    ExposureArrived,
    FlatPair,
    GroupKey,
    PairCovariances,
    PtcFit,
    Rejected,
)

__all__ = ["LiveView", "console", "output", "progress_bar", "results_table"]

_MANY_AMPLIFIERS = 48  # more rows than this scroll off a large terminal: show one row per detector instead
_PLAIN_EVERY_S = 5.0

# No markup: the unit in "gain [e-/ADU]" and a path with brackets are text, not styles.
console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
"""For people: progress, notices, errors."""

_PIPED_WIDTH = 160  # a file or a pipe has no width; tables must not be folded into it

output = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
"""For results, so that they can be piped."""


def results_table(fits: Sequence[PtcFit], *, every_amplifier: bool = False) -> Table:
    """Make the table of `fits`: one row per amplifier, or per detector when they are very many."""
    amplifiers = sum(len(fit.amplifiers) for fit in fits)
    if amplifiers > _MANY_AMPLIFIERS and not every_amplifier:
        return _detector_table(fits)
    table = Table(title=_title(fits), title_justify="left", box=None, pad_edge=False)
    for column in ("detector", "amplifier", "status"):
        table.add_column(column)
    for column in ("gain [e-/ADU]", "read noise [e-]", "a00 [1e-6/e-]", "turnoff [ADU]", "chi2/dof", "pairs"):
        table.add_column(column, justify="right")
    for fit in fits:
        for amplifier in fit.amplifiers:
            table.add_row(
                fit.detector,
                amplifier.name,
                _status(amplifier),
                *_numbers(amplifier),
                str(amplifier.pairs_used),
            )
    return table


def _title(fits: Sequence[PtcFit]) -> str:
    if not fits:
        return "no fits yet"
    return f"run {fits[0].run}, {fits[0].model}"


def _numbers(amplifier: AmplifierFitResult) -> tuple[str, str, str, str, str]:
    turnoff = (
        f"> {amplifier.turnoff:.0f}"
        if amplifier.turnoff_is_lower_limit and math.isfinite(amplifier.turnoff)
        else with_error(amplifier.turnoff, amplifier.turnoff_error)
    )
    return (
        with_error(amplifier.gain, amplifier.gain_error),
        with_error(amplifier.read_noise, amplifier.read_noise_error),
        with_error(amplifier.a00, amplifier.a00_error, scale=1e6),
        turnoff,
        f"{amplifier.chi2_per_dof:.2f}" if math.isfinite(amplifier.chi2_per_dof) else "-",
    )


def _status(amplifier: AmplifierFitResult) -> Text:
    style = "green" if amplifier.status == "OK" else "red" if amplifier.status == "DEAD" else "yellow"
    notes = f" ({', '.join(amplifier.notes)})" if amplifier.notes else ""
    return Text(amplifier.status + notes, style=style)


def _detector_table(fits: Sequence[PtcFit]) -> Table:
    table = Table(
        title=_title(fits) + ", medians per detector", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("detector")
    for column in (
        "gain [e-/ADU]",
        "read noise [e-]",
        "a00 [1/e-]",
        "turnoff [ADU]",
        "ok",
        "not ok",
        "pairs",
    ):
        table.add_column(column, justify="right")
    for fit in fits:
        good = [amplifier for amplifier in fit.amplifiers if amplifier.status == "OK"]
        medians = [
            _median([getattr(amplifier, name) for amplifier in good])
            for name in ("gain", "read_noise", "a00", "turnoff")
        ]
        bad = len(fit.amplifiers) - len(good)
        table.add_row(
            fit.detector,
            *(f"{value:.4g}" if math.isfinite(value) else "-" for value in medians),
            str(len(good)),
            Text(str(bad), style="yellow" if bad else ""),
            str(fit.pairs),
        )
    return table


def _median(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan


@contextlib.contextmanager
def progress_bar(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on the terminal; yields the function to call with (done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class LiveView:
    """The table that fills in while a run goes on: an `Observer` of the runners.

    On a terminal it is redrawn in place; into a file or a pipe it writes a line every few seconds.

    Parameters
    ----------
    quiet
        Show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._fits: dict[tuple[GroupKey, str], PtcFit] = {}
        self._exposures = 0
        self._pairs = 0
        self._measured = 0
        self._rejected = 0
        self._waiting: dict[GroupKey, int] = {}
        self._alerts: dict[str, Alert] = {}
        self._storage: str | None = None
        self._storage_waits = 0
        self._last_line = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if not self._quiet and console.is_terminal:
            self._live = Live(
                console=console, refresh_per_second=4, get_renderable=self.render, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def render(self) -> RenderableType:
        """Draw the view as it stands now."""
        table = results_table([self._fits[key] for key in sorted(self._fits)])
        parts: list[RenderableType] = [table, Text(self._summary())]
        parts.extend(
            Text(f"ALERT {alert.message}", style="red") for alert in list(self._alerts.values())[-5:]
        )
        if self._storage:
            parts.append(Text(f"waiting for storage: {self._storage}", style="yellow"))
        return Group(*parts)

    def on_committed(self, stage: str, partition: int, next_offset: int, records: Sequence[Any]) -> None:  # noqa: ARG002 - Observer
        """Count what was written; redraw happens by itself."""
        for record in records:
            if isinstance(record, ExposureArrived):
                self._exposures += 1
            elif isinstance(record, FlatPair):
                self._pairs += 1
            elif isinstance(record, PairCovariances):
                self._measured += 1
            elif isinstance(record, PtcFit):
                self._fits[record.group, record.model] = record
            elif isinstance(record, Rejected):
                self._rejected += 1
            elif record.action == "raise":
                self._alerts[record.key] = record
            else:
                self._alerts.pop(record.key, None)
        if self._live is None and not self._quiet and records:
            now = time.monotonic()
            if now - self._last_line >= _PLAIN_EVERY_S:
                self._last_line = now
                console.print(self._summary())

    def on_job(self, stage: str, seconds: float, *, ok: bool) -> None:
        """Take no notice: the table shows results, the metrics show times."""

    def on_waiting(self, group: GroupKey, count: int) -> None:
        """Remember how many flats wait."""
        self._waiting[group] = count

    def on_storage_wait(self, stage: str, message: str | None) -> None:  # noqa: ARG002 - Observer
        """Show what is waited for."""
        self._storage_waits += 1 if message is not None else -1
        self._storage = (message or self._storage) if self._storage_waits else None

    def on_restart(self, stage: str, partition: int, error: BaseException) -> None:
        """Take no notice: the log says it."""

    def _summary(self) -> str:
        return (
            f"{self._exposures} exposures announced, {self._pairs} pairs, {self._measured} measured, "
            f"{sum(self._waiting.values())} flats waiting, {self._rejected} rejected, "
            f"{len(self._alerts)} alerts"
        )
