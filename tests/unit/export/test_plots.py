from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ptc_stream.export.curve import AmplifierCurve, join_curves, model_covariances
from ptc_stream.export.plots import covariance_over_mean, ptc_grid, variance_over_mean
from ptc_stream.export.results import RunResult
from ptc_stream.physics.models import evaluate_expapproximation
from ptc_stream.records import PtcFit
from tests.unit.export.made_up import DEAD, NOISY, MadeUpRun, full_fit, make_run

Curves = Mapping[str, AmplifierCurve]


@pytest.fixture(scope="module")
def fit(run: MadeUpRun) -> PtcFit:
    return run.fits[0]


@pytest.fixture(scope="module")
def curves(run: MadeUpRun) -> Curves:
    return join_curves(run.fits[0], run.covariances)


@pytest.fixture(scope="module")
def linear(fit: PtcFit, curves: Curves) -> Figure:
    return ptc_grid(fit, curves)


@pytest.fixture(scope="module")
def logarithmic(fit: PtcFit, curves: Curves) -> Figure:
    return ptc_grid(fit, curves, scale="log")


@pytest.fixture(scope="module")
def over_mean(fit: PtcFit, curves: Curves) -> Figure:
    return variance_over_mean(fit, curves)


def _lines(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in axes.lines}


def _texts(axes: Axes) -> str:
    return "\n".join(text.get_text() for text in axes.texts)


def _legend(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def _panels(figure: Figure) -> list[tuple[Axes, Axes]]:
    return list(zip(figure.axes[::2], figure.axes[1::2], strict=True))


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_each_amplifier_has_its_curve_and_residuals(
    fit: PtcFit, linear: Figure, logarithmic: Figure, scale: str
) -> None:
    panels = _panels(linear if scale == "linear" else logarithmic)
    assert len(panels) == 16
    for (axes, below), result in zip(panels, fit.amplifiers, strict=True):
        assert axes.texts[0].get_text() == result.name
        assert axes.get_xscale() == axes.get_yscale() == below.get_xscale() == scale
        assert below.get_yscale() == "linear"
        assert axes.get_xlim() == below.get_xlim()


def test_the_line_is_the_model_evaluated(fit: PtcFit, curves: Curves, linear: Figure) -> None:
    axes, _ = _panels(linear)[0]
    line = _lines(axes)["model"]
    mean = np.asarray(line.get_xdata(), dtype=np.float64)
    assert mean[0] == 0.0
    assert mean[-1] > np.nanmax(curves["C10"].mean)
    expected = evaluate_expapproximation(mean, *fit.amplifiers[0].parameters)[0]
    np.testing.assert_array_equal(np.asarray(line.get_ydata()), expected)


def test_used_points_and_unused_ones_with_their_reason(
    fit: PtcFit, curves: Curves, logarithmic: Figure
) -> None:
    for (axes, _), result in zip(_panels(logarithmic), fit.amplifiers, strict=True):
        curve, lines = curves[result.name], _lines(axes)
        if result.status != "DEAD":
            np.testing.assert_array_equal(lines["used"].get_xdata(), curve.mean[curve.used])
            np.testing.assert_array_equal(lines["used"].get_ydata(), curve.variance[curve.used])
        for unused in result.unused:
            if unused.reason == "NOT_FINITE":
                continue
            drawn = [line for label, line in lines.items() if label.startswith(unused.reason)]
            assert sum(len(np.asarray(line.get_xdata())) for line in drawn) == unused.count


def test_every_reason_stands_in_the_legend(linear: Figure, over_mean: Figure) -> None:
    for figure in (linear, over_mean):
        labels = _legend(figure)
        assert labels[:2] == ["used", "model"]
        for reason in ("ABOVE_TURNOFF", "FLUX_MISMATCH", "NOT_FINITE", "NO_SIGNAL", "OUTLIER"):
            assert f"not used: {reason}" in labels
        assert "hollow: beyond the axis" in labels
        assert "turnoff interval (dashed: lower limit)" in labels


def test_a_dead_amplifier_says_so(linear: Figure, over_mean: Figure) -> None:
    for figure, step in ((linear, 2), (over_mean, 1)):
        axes = figure.axes[DEAD * step]
        assert "DEAD" in _texts(axes)
        assert "model" not in _lines(axes)
        assert "DEAD" not in _texts(figure.axes[0])


def test_values_status_and_hidden_points_stand_in_the_panel(linear: Figure) -> None:
    panels = _panels(linear)
    text = _texts(panels[0][0])
    assert "1.59453 ± 0.00064 e⁻/ADU" in text
    assert "turnoff = (" in text
    assert "χ²/dof = 1.5" in text
    noisy = _texts(panels[NOISY][0])
    assert "NO_ZERO_LEVEL" in noisy
    assert "1 of 50 points cannot be shown" in noisy


def test_units_and_titles(fit: PtcFit, linear: Figure, logarithmic: Figure) -> None:
    assert linear.get_suptitle() == (
        "Photon transfer curve · LSSTCam R22_S11 · run 13144\nEXPAPPROXIMATION, 50 pairs"
    )
    assert linear.axes[0].get_ylabel() == "Variance $C_{00}$ [10³ ADU²]"
    assert linear.axes[1].get_ylabel() == "resid. [%]"
    assert linear.axes[-1].get_xlabel() == "Mean signal µ [10³ ADU]"
    assert logarithmic.axes[0].get_ylabel() == "Variance $C_{00}$ [ADU²]"
    cut = dataclasses.replace(fit, history_incomplete=True, amplifiers=fit.amplifiers[:1])
    assert "history incomplete" in ptc_grid(cut, {}).get_suptitle()


def test_residuals_are_relative_to_the_model(fit: PtcFit, curves: Curves, linear: Figure) -> None:
    _, below = _panels(linear)[0]
    curve = curves["C10"]
    model = evaluate_expapproximation(curve.mean, *fit.amplifiers[0].parameters)[0]
    drawn = np.asarray(_lines(below)["used"].get_ydata(), dtype=np.float64)
    expected = 100 * (curve.variance / model - 1)[curve.used]
    np.testing.assert_allclose(drawn, expected, rtol=1e-12, atol=1e-12)


def test_the_turnoff_interval_is_shaded_and_a_limit_dashed(
    fit: PtcFit, curves: Curves, linear: Figure
) -> None:
    result = fit.amplifiers[0]
    axes, below = _panels(linear)[0]
    half = math.sqrt(3) * result.turnoff_error
    for part in (axes, below):
        spans = [patch.get_extents().transformed(part.transData.inverted()) for patch in part.patches]
        assert any(
            span.x0 == pytest.approx(result.turnoff - half, abs=1)
            and span.x1 == pytest.approx(result.turnoff + half, abs=1)
            for span in spans
        )
    limit = dataclasses.replace(
        fit,
        amplifiers=(dataclasses.replace(result, turnoff_is_lower_limit=True, turnoff_error=math.nan),),
    )
    axes, _ = _panels(ptc_grid(limit, curves))[0]
    assert not axes.patches
    assert [np.asarray(line.get_xdata())[0] for line in axes.lines if line.get_linestyle() == "--"] == [
        result.turnoff
    ]
    assert "turnoff > 112.8 10³ ADU" in _texts(axes)


def test_one_absurd_fit_does_not_flatten_the_others(fit: PtcFit, curves: Curves, linear: Figure) -> None:
    wild = dataclasses.replace(fit.amplifiers[1], parameters=(-2.9e-6, 0.01, 40.0), gain=0.01)
    spoilt = dataclasses.replace(fit, amplifiers=(fit.amplifiers[0], wild, *fit.amplifiers[2:4]))
    top = ptc_grid(spoilt, curves).axes[0].get_ylim()[1]
    assert top < 3 * linear.axes[0].get_ylim()[1]


def test_one_absurd_mean_does_not_either(fit: PtcFit, curves: Curves, linear: Figure) -> None:
    curve = curves["C10"]
    far = dataclasses.replace(
        curve, points=(*curve.points[:-1], dataclasses.replace(curve.points[-1], mean=1e9))
    )
    one = dataclasses.replace(fit, amplifiers=fit.amplifiers[:1])
    figure = ptc_grid(one, {"C10": far})
    assert figure.axes[0].get_xlim()[1] < linear.axes[0].get_xlim()[1]
    assert "ABOVE_TURNOFF (beyond)" in _lines(figure.axes[0])


def test_a_model_that_explodes_or_turns_negative_is_still_a_figure(fit: PtcFit, curves: Curves) -> None:
    for model, parameters in (
        ("EXPAPPROXIMATION", (1.0, 1.0, 1.0)),
        ("EXPAPPROXIMATION", (0.0, 0.0, 1.0)),
        ("POLYNOMIAL", (-1.0, -1.0, -1.0)),
    ):
        result = dataclasses.replace(fit.amplifiers[0], parameters=parameters)
        odd = dataclasses.replace(fit, model=model, amplifiers=(result,))
        for draw in (ptc_grid, variance_over_mean):
            assert draw(odd, curves)._repr_png_()  # type: ignore[attr-defined] # ResultFigure


def test_names_are_not_taken_for_formulas(fit: PtcFit, curves: Curves) -> None:
    result = dataclasses.replace(fit.amplifiers[0], name="$\\nonsense{$")
    odd = dataclasses.replace(fit, run="$\\frac$", detector="$_$", amplifiers=(result,))
    for figure in (ptc_grid(odd, {}), variance_over_mean(odd, {}), covariance_over_mean(odd, curves)):
        assert figure._repr_png_()  # type: ignore[attr-defined] # ResultFigure


def test_variance_over_mean(fit: PtcFit, curves: Curves, over_mean: Figure) -> None:
    assert len(over_mean.axes) == 16
    axes = over_mean.axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_yscale() == "linear"
    line = _lines(axes)["model"]
    mean = np.asarray(line.get_xdata(), dtype=np.float64)
    expected = evaluate_expapproximation(mean, *fit.amplifiers[0].parameters)[0] / mean
    np.testing.assert_array_equal(np.asarray(line.get_ydata()), expected)
    curve = curves["C10"]
    used = _lines(axes)["used"]
    np.testing.assert_array_equal(np.asarray(used.get_ydata()), (curve.variance / curve.mean)[curve.used])


def test_covariances_over_mean_take_lags_in_order(fit: PtcFit, curves: Curves) -> None:
    figure = covariance_over_mean(fit, curves)
    assert [axes.get_title() for axes in figure.axes] == [
        "$C_{01}$: parallel neighbour",
        "$C_{10}$: serial neighbour",
        "$C_{11}$: diagonal neighbour",
    ]
    # Made up with C_01 / mu^2 of 3.4e-7 and half that along x: an exchange of the lags would show.
    for axes, slope in zip(figure.axes, (3.4e-7, 1.6e-7, 1.1e-7), strict=True):
        average = _lines(axes)["_nolegend_"] if "_nolegend_" in _lines(axes) else axes.lines[-1]
        mean = np.asarray(average.get_xdata(), dtype=np.float64)
        ratio = np.asarray(average.get_ydata(), dtype=np.float64)
        assert mean.size > 10
        assert np.sum(mean * ratio) / np.sum(mean**2) == pytest.approx(slope, rel=0.03)
    assert "used points of 15 amplifiers" in _legend(figure)


def test_a_lag_of_ones_choice(fit: PtcFit, curves: Curves) -> None:
    (axes,) = covariance_over_mean(fit, curves, lags=((2, 0),)).axes
    assert axes.get_title() == "$C_{20}$"
    (axes,) = covariance_over_mean(fit, curves, lags=((7, 0),)).axes
    assert "no points" in _texts(axes)


def test_one_amplifier_of_few_pairs() -> None:
    made = make_run(("det",), 1, 5)
    curves = join_curves(made.fits[0], made.covariances)
    assert len(ptc_grid(made.fits[0], curves).axes) == 2
    assert len(variance_over_mean(made.fits[0], curves).axes) == 1
    figure = covariance_over_mean(made.fits[0], curves)
    assert "used points of 1 amplifier" in _legend(figure)


@pytest.mark.parametrize("draw", [ptc_grid, variance_over_mean, covariance_over_mean])
def test_without_points_or_amplifiers_it_says_so(fit: PtcFit, draw: object) -> None:
    assert callable(draw)
    one = dataclasses.replace(fit, amplifiers=fit.amplifiers[:1])
    assert "no points" in _texts(draw(one, {}).axes[0])
    bare = dataclasses.replace(fit, amplifiers=())
    figure = draw(bare, {})
    assert any(note in _texts(figure.axes[0]) for note in ("no amplifiers", "no points"))
    assert figure._repr_png_()


def test_all_dead_is_still_a_figure(fit: PtcFit, curves: Curves) -> None:
    dead = dataclasses.replace(fit, amplifiers=(fit.amplifiers[DEAD],))
    for figure in (
        ptc_grid(dead, curves),
        ptc_grid(dead, curves, scale="log"),
        variance_over_mean(dead, curves),
    ):
        assert "DEAD" in _texts(figure.axes[0])
        assert figure._repr_png_()  # type: ignore[attr-defined] # ResultFigure


def test_a_model_without_closed_form_shows_its_points(fit: PtcFit, curves: Curves) -> None:
    full = dataclasses.replace(fit, model="FULLCOVARIANCE", amplifiers=fit.amplifiers[:1])
    axes, below = _panels(ptc_grid(full, curves))[0]
    assert "model" not in _lines(axes)
    assert "used" in _lines(axes)
    assert "used" not in _lines(below)


def test_nobody_needs_pyplot() -> None:
    code = "import ptc_stream.export.figures, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=100).returncode == 0


def test_covariances_of_a_full_model_are_drawn_beside_their_points(result: RunResult) -> None:
    full = full_fit(result.fits[0], lags=2)
    figure = covariance_over_mean(full, result.curves(full.detector), lags=((0, 1), (1, 1), (2, 0)))
    lines = [[line for line in axes.lines if line.get_label() == "model"] for axes in figure.axes]
    assert [len(own) for own in lines] == [1, 1, 0]  # lag 2 was not fitted
    x, y = (np.asarray(values) for values in lines[0][0].get_data())
    models = [model[:, 0, 1] / x for a in full.amplifiers if (model := model_covariances(a, x)) is not None]
    last = [a.turnoff_last_used for a in full.amplifiers if a.a_matrix is not None]
    reaching = [model for model, end in zip(models, last, strict=True) if end >= x[-1]]
    np.testing.assert_allclose(y, np.mean(reaching, axis=0), rtol=1e-3)
    thin = [line for line in figure.axes[0].lines if line.get_linewidth() == 0.6]
    assert len(thin) == len(last)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert "fitted models (thin), their mean" in texts
    plain = covariance_over_mean(result.fits[0], result.curves(full.detector))
    assert not [line for axes in plain.axes for line in axes.lines if line.get_label() == "model"]


def test_a_full_model_is_drawn_through_the_curve(result: RunResult) -> None:
    full = full_fit(result.fits[0], lags=2)
    figure = ptc_grid(full, result.curves(full.detector))
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "model"]
    expected = model_covariances(full.amplifiers[0], np.asarray(line.get_xdata(), dtype=np.float64))
    assert expected is not None
    np.testing.assert_array_equal(line.get_ydata(), expected[:, 0, 0])
