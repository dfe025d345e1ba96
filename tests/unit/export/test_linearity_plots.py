from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from ptc_stream.export.curve import AmplifierCurve
from ptc_stream.export.linearity_plots import linearity_residuals
from ptc_stream.export.results import RunResult
from ptc_stream.physics.linearity import LinearityConfig
from ptc_stream.records import CovariancePoint, PairCovariances
from tests.unit.export.made_up import DEAD, MadeUpRun, make_run, with_linearity


@pytest.fixture(scope="module")
def made() -> MadeUpRun:
    return with_linearity(make_run(("R22_S11",), amplifiers=6, pairs=30))


@pytest.fixture(scope="module")
def result(made: MadeUpRun) -> RunResult:
    return RunResult("13144", made.fits, made.covariances)


def texts(figure: Figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    legend = [text.get_text() for part in figure.legends for text in part.get_texts()]
    return "\n".join([figure.get_suptitle(), *found, *legend])


def drawn(figure: Figure, panel: int) -> dict[str, np.ndarray]:
    return {
        str(line.get_label()): np.asarray(line.get_xydata())
        for line in figure.axes[panel].lines
        if line.get_marker() not in {"None", "", None}
    }


def bent(curve: AmplifierCurve, place: int, factor: float) -> AmplifierCurve:
    points = list(curve.points)
    points[place] = dataclasses.replace(points[place], mean=points[place].mean * factor)
    return dataclasses.replace(curve, points=tuple(points))


def test_a_panel_per_amplifier_with_limits_and_results(result: RunResult) -> None:
    figure = linearity_residuals(result.fits[0], result.curves())
    assert len(figure.axes) == 6
    assert "Linearity against exposure time" in figure.get_suptitle()
    everything = texts(figure)
    assert everything.count("largest deviation") == 5
    assert "no line" in everything  # the dead amplifier
    assert "± 2 %" in everything
    levels = [np.asarray(line.get_ydata())[0] for line in figure.axes[0].lines]
    assert {-2.0, 2.0} <= set(levels)


def test_deviations_are_those_from_the_line_in_percent(result: RunResult) -> None:
    fit = result.fits[0]
    curve = result.curves()["C10"]
    used = np.flatnonzero(curve.used)
    place = int(used[-3])
    figure = linearity_residuals(fit, {"C10": bent(curve, place, 1.01)})
    line = drawn(figure, 0)["used"]
    assert np.max(np.abs(line[:, 1])) == pytest.approx(1.0, abs=0.05)
    assert line[np.argmax(np.abs(line[:, 1])), 0] == pytest.approx(1.01 * curve.mean[place])


def test_what_lies_beyond_is_drawn_hollow_at_the_edge(result: RunResult) -> None:
    curve = result.curves()["C10"]
    place = int(np.flatnonzero(curve.used)[-3])
    figure = linearity_residuals(result.fits[0], {"C10": bent(curve, place, 1.6)})
    assert "hollow: beyond the axis" in texts(figure)
    low, high = figure.axes[0].get_ylim()
    assert low < drawn(figure, 0)["used (beyond)"][0, 1] < high


def test_reasons_why_points_are_not_used_are_told(result: RunResult) -> None:
    figure = linearity_residuals(result.fits[0], result.curves())
    everything = texts(figure)
    for reason in {reason for curve in result.curves().values() for reason in curve.reasons if reason}:
        assert f"not used: {reason}" in everything


def test_limit_and_least_signal_are_those_of_the_settings(result: RunResult) -> None:
    config = LinearityConfig(linearity_limit=0.005, linearity_min_mean=5000.0)
    figure = linearity_residuals(result.fits[0], result.curves(), config=config)
    assert "± 0.5 %" in texts(figure)
    assert drawn(figure, 0)["used"][:, 0].min() >= 5000.0


def _with_doses(record: PairCovariances) -> PairCovariances:
    point: CovariancePoint = record.amplifiers[0].points[0]
    dose = point.mean / 7000
    first, second = (
        dataclasses.replace(e, exposure_time=None, lamp_dose=dose) for e in (record.first, record.second)
    )
    return dataclasses.replace(record, first=first, second=second)


def test_lamp_doses_take_the_place_of_times(made: MadeUpRun) -> None:
    fit = made.fits[0]
    first = fit.amplifiers[0]
    assert first.linearity is not None
    against = dataclasses.replace(first, linearity=dataclasses.replace(first.linearity, against="lamp_dose"))
    fit = dataclasses.replace(fit, amplifiers=(against,))
    result = RunResult("13144", [fit], [_with_doses(record) for record in made.covariances])
    figure = linearity_residuals(fit, result.curves())
    assert "Linearity against lamp dose" in figure.get_suptitle()
    assert np.max(np.abs(drawn(figure, 0)["used"][:, 1])) < 1e-9


def test_a_turnoff_is_a_line_dashed_where_it_is_a_limit(made: MadeUpRun) -> None:
    first = made.fits[0].amplifiers[0]
    assert first.linearity is not None
    for limit, sign in ((True, ">"), (False, "=")):
        linearity = dataclasses.replace(first.linearity, turnoff=80_000.0, turnoff_is_lower_limit=limit)
        fit = dataclasses.replace(made.fits[0], amplifiers=(dataclasses.replace(first, linearity=linearity),))
        figure = linearity_residuals(fit, {})
        assert f"turnoff {sign} 80·10³ ADU" in texts(figure)
        (line,) = [line for line in figure.axes[0].lines if list(np.ravel(line.get_xdata())) == [8e4, 8e4]]
        assert (line.get_linestyle() == "--") == limit


def test_nothing_known_is_still_a_figure(made: MadeUpRun) -> None:
    fit = dataclasses.replace(
        made.fits[0], amplifiers=(dataclasses.replace(made.fits[0].amplifiers[DEAD], linearity=None),)
    )
    figure = linearity_residuals(fit, {})
    figure.canvas.draw()
    assert "no line" in texts(figure)
    assert math.isfinite(figure.axes[0].get_xlim()[1])
