from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from ptc_stream.cli import display
from ptc_stream.cli.display import LiveView, results_table
from tests.builders import (
    alert,
    amplifier_fit_result,
    exposure_arrived,
    flat_pair,
    pair_covariances,
    ptc_fit,
    rejected,
)

GROUP = exposure_arrived().group


def text(renderable: Any) -> str:
    """What goes into a pipe."""
    with display.output.capture() as capture:
        display.output.print(renderable)
    return capture.get()


def rows(renderable: Any) -> list[list[str]]:
    return [line.split() for line in text(renderable).splitlines()]


# --- the table ------------------------------------------------------------------------------------


def test_each_amplifier_has_its_row() -> None:
    fit = ptc_fit(amplifiers=(amplifier_fit_result(), amplifier_fit_result(name="C01", status="DEAD")))
    title, header, first, second = text(results_table([fit])).splitlines()
    assert title.strip() == "run 13600, EXPAPPROXIMATION"
    for named in ("gain [e-/ADU]", "read noise [e-]", "a00 [1e-6/e-]", "turnoff [ADU]", "chi2/dof", "pairs"):
        assert named in header
    assert first.split()[:3] == ["R22_S11", "C00", "OK"]
    assert first.split()[-2:] == ["1.02", "36"]
    assert "−3.000 ± 0.010" in first  # in units of 1e-6
    assert second.split()[:3] == ["R22_S11", "C01", "DEAD"]


def test_what_is_not_known_is_a_dash_and_a_lower_limit_says_so() -> None:
    nan = math.nan
    unknown = amplifier_fit_result(
        gain=nan, gain_error=nan, read_noise=nan, read_noise_error=nan, a00=nan, a00_error=nan,
        turnoff=123_456.0, turnoff_is_lower_limit=True, chi2_per_dof=nan, notes=("A00_UNKNOWN",),
    )  # fmt: skip
    line = text(results_table([ptc_fit(amplifiers=(unknown,))]))
    assert "nan" not in line
    assert "> 123456" in line
    assert "OK (A00_UNKNOWN)" in line


def test_a_focal_plane_is_shown_by_detector() -> None:
    names = [f"C{n:02d}" for n in range(16)]
    fits = [
        ptc_fit(
            detector=f"R{n}",
            amplifiers=tuple(
                amplifier_fit_result(name=name, gain=1.0 + n, status="DEAD" if name == "C00" else "OK")
                for name in names
            ),
        )
        for n in range(4)
    ]
    table = rows(results_table(fits))
    assert [row[0] for row in table[2:]] == ["R0", "R1", "R2", "R3"]
    assert table[4][1] == "3"  # the median of the gains of R2
    assert table[4][-3:] == ["15", "1", "40"]
    assert len(rows(results_table(fits, every_amplifier=True))) == 2 + 64
    assert len(rows(results_table(fits[:3]))) == 2 + 48


def test_brackets_are_text_for_both_consoles() -> None:
    for console in (display.output, display.console):
        with console.capture() as capture:
            console.print("results in /data/[e-/ADU]/[/x]")
        assert capture.get() == "results in /data/[e-/ADU]/[/x]\n"


def test_before_the_first_fit_there_is_a_table_all_the_same() -> None:
    assert "no fits yet" in text(results_table([]))


# --- the live view --------------------------------------------------------------------------------


def test_the_view_counts_and_keeps_the_newest_fit() -> None:
    view = LiveView(quiet=True)
    view.on_committed("any", 0, 1, [exposure_arrived(), flat_pair(), pair_covariances(), rejected()])
    view.on_committed("any", 0, 2, [ptc_fit(pairs=3), ptc_fit(amplifiers=(amplifier_fit_result(gain=1.75),))])
    view.on_waiting(GROUP, 2)
    view.on_waiting(GROUP._replace(run="other"), 1)
    shown = text(view.render())
    assert "1 exposures announced, 1 pairs, 1 measured, 3 flats waiting, 1 rejected, 0 alerts" in shown
    assert "1.75" in shown
    assert len([line for line in shown.splitlines() if "R22_S11" in line]) == 1


def test_alerts_are_shown_until_they_are_cleared() -> None:
    view = LiveView(quiet=True)
    view.on_committed("watching", 0, 1, [alert(), alert(amplifier="C01", message="another")])
    assert "ALERT gain of C00" in text(view.render())
    assert "2 alerts" in text(view.render())
    view.on_committed("watching", 0, 2, [alert(action="clear"), alert(rule="a00", action="clear")])
    assert "gain of C00" not in text(view.render())
    assert "ALERT another" in text(view.render())
    assert "1 alerts" in text(view.render())


def test_storage_is_waited_for_until_the_last_job_has_it() -> None:
    view = LiveView(quiet=True)
    view.on_storage_wait("measuring", "stale mount")
    view.on_storage_wait("measuring", "stale mount too")
    view.on_storage_wait("measuring", None)
    assert "waiting for storage: stale mount too" in text(view.render())
    view.on_storage_wait("measuring", None)
    assert "waiting for storage" not in text(view.render())


def test_what_the_log_tells_changes_nothing_in_the_view() -> None:
    view = LiveView(quiet=True)
    before = text(view.render())
    view.on_job("measuring", 1.0, ok=True)
    view.on_restart("measuring", 0, OSError())
    assert text(view.render()) == before


def test_a_pipe_gets_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    now = [100.0]
    stream = io.StringIO()
    monkeypatch.setattr(display, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(display, "console", Console(file=stream, width=200))
    with LiveView() as view:
        for later in (0.0, 4.0, 5.0, 6.0, 11.0):
            now[0] = 100.0 + later
            view.on_committed("pairing", 0, 1, [flat_pair()])
        view.on_committed("pairing", 0, 1, [])
    assert [line.split()[3] for line in stream.getvalue().splitlines()] == ["1", "3", "5"]
    with LiveView(quiet=True) as view:
        view.on_committed("pairing", 0, 1, [flat_pair()])
    assert len(stream.getvalue().splitlines()) == 3


def test_a_terminal_gets_the_table_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(display, "console", Console(file=stream, width=200, force_terminal=True))
    with LiveView() as view:
        view.on_committed("fitting", 0, 1, [ptc_fit()])
    assert "R22_S11" in stream.getvalue()


def test_progress_is_shown_and_can_be_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(display, "console", Console(file=stream, width=80, force_terminal=True))
    with display.progress_bar("reading headers") as progress:
        progress(3, 7)
    assert "3/7" in stream.getvalue()
    before = stream.getvalue()
    with display.progress_bar("reading headers", quiet=True) as progress:
        progress(3, 7)
    assert stream.getvalue() == before
