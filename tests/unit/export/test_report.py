from __future__ import annotations

import dataclasses
import math

import pytest

from ptc_stream.export.figures import plan_figures
from ptc_stream.export.report import CAPTIONS, RunReport
from ptc_stream.export.results import DETECTOR_FIGURES, RUN_FIGURES, RunResult
from ptc_stream.records import Alert, ExposureArrived, Rejected
from tests.unit.export.made_up import MadeUpRun, make_run


def full_report(result: RunResult, name: str = "E7") -> RunReport:
    waiting = ExposureArrived(
        instrument="LSSTCam",
        run="13144",
        detector="R22_S11",
        exposure=name,
        image_type="flat",
        exposure_time=1.25,
        filter="r",
        uri="file:x",
        content_tag="t",
    )
    rejected = Rejected(
        stage="measuring",
        reason="IMAGE_UNREADABLE",
        message=f"{name} ends early",
        source_topic="pairs",
        source_key=f"key of {name}",
        original=b"",
    )
    alert = Alert(
        instrument="LSSTCam",
        run="13144",
        detector="R22_S11",
        amplifier="C15",
        rule="dead_amplifier",
        model="EXPAPPROXIMATION",
        action="raise",
        evidence="fit",
        message=f"no signal in {name}",
        alert_id="a",
    )
    return RunReport(
        result=result,
        pairs_formed=120,
        waiting=[waiting, dataclasses.replace(waiting, exposure_time=None)],
        rejected=[(rejected, "ptc.pairs/3@17"), (rejected, "")],
        alerts=[alert],
        settings={"measuring": {"measuring": {"max_lag": 8}, "camera": None}, "fitting": {"model": name}},
    )


def test_the_summary_counts_what_there_is(result: RunResult) -> None:
    summary = dict(full_report(result).summary())
    assert summary["detectors"] == "2"
    assert summary["amplifiers OK"] == "28 of 32"
    assert summary["pairs in the fits"] == "100"
    assert summary["pairs formed"] == "120"
    assert summary["flats without partner"] == "2"
    assert summary["rejected"] == "2"
    assert summary["active alerts"] == "1"
    assert summary["median gain"].startswith("1.5")
    assert summary["median a00"].startswith("−2.")
    assert summary["median a00"].endswith(" 10⁻⁶/e⁻")
    assert "history incomplete" not in summary


def test_results_hold_text_and_what_it_is_sorted_by(run: MadeUpRun, result: RunResult) -> None:
    report = RunReport(result=result)
    rows = list(report.results())
    columns = report.result_columns()
    assert len(rows) == 32
    assert all(len(row.cells) == len(row.values) == len(columns) for row in rows)
    first = run.fits[0].amplifiers[0]
    assert rows[0].values[columns.index("gain [e-/ADU]")] == first.gain
    assert rows[0].values[columns.index("pairs")] == first.pairs_used
    assert "OUTLIER 1" in rows[0].cells[-1]
    dead = rows[5]
    assert not dead.ok
    assert math.isnan(float(dead.values[columns.index("gain [e-/ADU]")]))
    assert [row.ok for row in rows].count(False) == 4


def test_tables_say_where_and_why(result: RunResult) -> None:
    report = full_report(result)
    assert report.statuses().rows == (("DEAD", "2"), ("NO_ZERO_LEVEL", "2"), ("OK", "28"))
    assert report.waiting_table().rows == (
        ("R22_S11", "E7", "1.25", "r"),
        ("R22_S11", "E7", "–", "r"),
    )
    assert [row[2] for row in report.rejected_table().rows] == ["ptc.pairs/3@17", "key of E7"]
    assert report.alert_table().rows == (("R22_S11", "C15", "dead_amplifier", "no signal in E7"),)
    assert report.settings_table().rows == (
        ("measuring", "measuring.max_lag", "8"),
        ("measuring", "camera", "–"),
        ("fitting", "model", "E7"),
    )


def test_figures_of_the_detectors_that_need_a_look_come_first() -> None:
    made = make_run(("A", "B", "C"), amplifiers=2, pairs=8)
    worse = dataclasses.replace(
        made.fits[2],
        amplifiers=tuple(dataclasses.replace(a, status="UNPHYSICAL") for a in made.fits[2].amplifiers),
    )
    result = RunResult("13144", [*made.fits[:2], worse], made.covariances)
    report = RunReport(result=result, most_detectors=2)
    assert report.shown_detectors() == ["A", "C"]
    assert report.left_out().startswith("Figures of 1 detector are not")
    assert {planned.detector for planned in report.figures()} == {None, "A", "C"}
    everything = RunReport(result=result)
    assert everything.left_out() == ""
    assert [p.name for p in everything.figures()] == [p.name for p in plan_figures(result)]


def test_every_kind_of_figure_has_a_caption() -> None:
    assert set(CAPTIONS) == {*DETECTOR_FIGURES, *RUN_FIGURES, "convergence"}


def test_a_history_that_is_cut_is_told(run: MadeUpRun) -> None:
    cut = dataclasses.replace(run.fits[0], history_incomplete=True)
    summary = dict(RunReport(result=RunResult("13144", [cut])).summary())
    assert summary["history incomplete"] == "R22_S11"


@pytest.mark.parametrize("fits", [0, 1])
def test_a_run_without_results_has_no_medians(run: MadeUpRun, fits: int) -> None:
    dead = [dataclasses.replace(run.fits[0], amplifiers=(run.fits[0].amplifiers[5],))][:fits]
    report = RunReport(result=RunResult("13144", dead))
    assert dict(report.summary())["median gain"] == "–"
    assert len(list(report.results())) == fits
