from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ptc_stream.export.run_plots import convergence, gain_noise_summary, run_overview
from ptc_stream.records import PtcFit
from tests.unit.export.made_up import DEAD, MadeUpRun


def _legend(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def _drawn(figure: Figure, row: int, label: str) -> tuple[list[float], list[float]]:
    lines = [line for line in figure.axes[row].lines if line.get_label() == label]
    x = [float(value) for line in lines for value in np.asarray(line.get_xdata())]
    return x, [float(value) for line in lines for value in np.asarray(line.get_ydata())]


def _mapped(axes: Axes) -> NDArray[np.float64]:
    """Values of a map of two detectors, NaN where it has none."""
    drawn = axes.collections[0].get_array()
    assert drawn is not None
    values: NDArray[np.float64] = np.ma.masked_invalid(drawn).filled(np.nan)
    return values.reshape(2, 16)


def _camera(run: MadeUpRun, detectors: int) -> list[PtcFit]:
    rng = np.random.default_rng(5)
    return [
        dataclasses.replace(
            run.fits[0],
            detector=f"R{i // 9:02d}_S{i % 9 // 3}{i % 3}",
            amplifiers=tuple(
                dataclasses.replace(amplifier, gain=amplifier.gain * (1 + 0.02 * float(rng.normal())))
                for amplifier in run.fits[0].amplifiers
            ),
        )
        for i in range(detectors)
    ]


def test_each_quantity_has_its_row_and_unit(run: MadeUpRun) -> None:
    figure = gain_noise_summary(run.fits)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "Gain [e⁻/ADU]",
        "Read noise [e⁻]",
        "$a_{00}$ [10⁻⁶/e⁻]",
        "Turnoff [10³ ADU]",
    ]
    good = [a for a in run.fits[0].amplifiers if a.status == "OK"]
    _, gains = _drawn(figure, 0, "fit")
    assert gains[: len(good)] == [a.gain for a in good]
    _, noises = _drawn(figure, 1, "overscan")
    assert noises[0] == run.fits[0].amplifiers[0].overscan_read_noise
    _, slopes = _drawn(figure, 2, "fit")
    assert slopes[0] == pytest.approx(1e6 * good[0].a00)
    _, turnoffs = _drawn(figure, 3, "fit")
    assert turnoffs[0] == pytest.approx(1e-3 * good[0].turnoff)


def test_dead_and_doubtful_amplifiers_are_marked_and_counted(run: MadeUpRun) -> None:
    figure = gain_noise_summary(run.fits)
    places, _ = _drawn(figure, 0, "no result")
    assert places == [DEAD, 17 + DEAD]
    assert len(_drawn(figure, 0, "other status")[0]) == 2
    assert "no result: 2 DEAD" in _legend(figure)
    assert "other status: 2 NO_ZERO_LEVEL" in _legend(figure)
    assert "lower limit" not in _legend(figure)


def test_against_truth_a_second_column_shows_the_difference(run: MadeUpRun) -> None:
    figure = gain_noise_summary(run.fits, truth=run.truth)
    assert len(figure.axes) == 8
    assert [axes.get_ylabel() for axes in figure.axes[1::2]] == [
        "fit − truth [%]",
        "fit − truth [e⁻]",
        "fit − truth [10⁻⁶/e⁻]",
        "fit − truth [10³ ADU]",
    ]
    first = run.fits[0].amplifiers[0]
    truth = run.truth["R22_S11"]["C10"]
    assert _drawn(figure, 1, "fit")[1][0] == pytest.approx(100 * (first.gain / truth["gain"] - 1))
    assert _drawn(figure, 3, "fit")[1][0] == pytest.approx(first.read_noise - truth["read_noise"])
    assert _drawn(figure, 0, "truth")[1][0] == truth["gain"]
    assert "truth" in _legend(figure)


def test_the_truth_is_in_sight_however_far_the_fits_are(run: MadeUpRun) -> None:
    truth = {
        "R22_S11": {a.name: {"turnoff": a.turnoff + 5e4, "a00": a.a00 - 1e-6} for a in run.fits[0].amplifiers}
    }
    figure = gain_noise_summary(run.fits[:1], truth=truth)
    for axes in (figure.axes[5], figure.axes[7]):
        low, high = axes.get_ylim()
        assert low < 0 < high


def test_truth_of_some_quantities_of_some_amplifiers(run: MadeUpRun) -> None:
    figure = gain_noise_summary(run.fits, truth={"R22_S11": {"C10": {"gain": 1.6}}})
    assert len(_drawn(figure, 1, "fit")[0]) == 1
    assert not _drawn(figure, 3, "fit")[0]


def test_a_lower_limit_is_an_arrow(run: MadeUpRun) -> None:
    limited = dataclasses.replace(
        run.fits[0],
        amplifiers=tuple(
            dataclasses.replace(a, turnoff_is_lower_limit=True, turnoff_error=math.nan)
            for a in run.fits[0].amplifiers
        ),
    )
    figure = gain_noise_summary([limited])
    assert len(_drawn(figure, 3, "lower limit")[0]) == 14
    assert not _drawn(figure, 0, "lower limit")[0]


def test_the_axis_names_amplifiers_of_a_few_detectors(run: MadeUpRun) -> None:
    labels = [label.get_text() for label in gain_noise_summary(run.fits).axes[-1].get_xticklabels()]
    assert labels == [a.name for fit in run.fits for a in fit.amplifiers]


def test_a_whole_camera_stays_readable(run: MadeUpRun) -> None:
    fits = _camera(run, 205)
    wild = dataclasses.replace(fits[7].amplifiers[0], gain=1e5, gain_error=1e9)
    fits[7] = dataclasses.replace(fits[7], amplifiers=(wild, *fits[7].amplifiers[1:]))
    figure = gain_noise_summary(fits)
    assert figure.axes[0].get_ylim()[1] < 2
    assert len(_drawn(figure, 0, "off the scale")[0]) == 1
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert len(labels) == 52
    assert labels[1] == fits[4].detector
    assert figure.axes[-1].get_xlabel() == "amplifiers of 205 detectors, every 4th named"
    assert figure.get_figwidth() < 25
    overview = run_overview(fits)
    assert overview.get_figheight() < 31
    assert len(overview.axes[0].get_yticklabels()) == 205


def test_the_overview_maps_detectors_against_amplifiers(run: MadeUpRun) -> None:
    figure = run_overview(run.fits)
    maps = figure.axes[:4]
    assert [axes.get_title() for axes in maps] == [
        "Gain [e⁻/ADU]",
        "Read noise [e⁻]",
        "$a_{00}$ [10⁻⁶/e⁻]",
        "Turnoff [10³ ADU]",
    ]
    values = _mapped(maps[0])
    np.testing.assert_array_equal(values[1], [a.gain for a in run.fits[1].amplifiers])
    assert np.isnan(values[0, DEAD])
    crosses = maps[0].lines[0]
    places = np.column_stack([crosses.get_xdata(), crosses.get_ydata()]).tolist()
    assert sorted(places) == [[5.0, 0.0], [5.0, 1.0], [11.0, 0.0], [11.0, 1.0]]
    assert [label.get_text() for label in maps[0].get_yticklabels()] == ["R22_S11", "R22_S12"]


def test_detectors_with_other_amplifiers_leave_gaps(run: MadeUpRun) -> None:
    short = dataclasses.replace(run.fits[1], amplifiers=run.fits[1].amplifiers[:8])
    figure = run_overview([run.fits[0], short])
    values = _mapped(figure.axes[0])
    assert np.isnan(values[1, 8:]).all()


def test_convergence_is_relative_to_the_last_fit(run: MadeUpRun) -> None:
    history = run.history("R22_S11")
    figure = convergence(history)
    gain, a00 = figure.axes
    assert gain.get_ylabel() == "Gain − last [%]"
    assert a00.get_ylabel() == "$a_{00}$ − last [10⁻⁶/e⁻]"
    line = gain.lines[0]
    assert np.asarray(line.get_xdata()).tolist() == list(range(4, 51))
    values = [fit.amplifiers[0].gain for fit in history]
    expected = [100 * (value - values[-1]) / values[-1] for value in values]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=np.float64), expected, atol=1e-12)
    assert "15 amplifiers" in _legend(figure)
    assert "R22_S11" in figure.get_suptitle()


def test_convergence_with_failed_fits_at_the_start(run: MadeUpRun) -> None:
    history = run.history("R22_S11")
    early = dataclasses.replace(
        history[0],
        pairs=1,
        amplifiers=tuple(
            dataclasses.replace(a, gain=math.nan, gain_error=math.nan, a00=math.nan, a00_error=math.nan)
            for a in history[0].amplifiers
        ),
    )
    low, high = convergence([early, *history]).axes[0].get_ylim()
    assert -5 < low < high < 5


def test_names_are_not_taken_for_formulas(run: MadeUpRun) -> None:
    amplifiers = tuple(dataclasses.replace(a, name=f"$\\x{a.name}$") for a in run.fits[0].amplifiers[:2])
    odd = dataclasses.replace(run.fits[0], run="$\\frac$", detector="$_$", amplifiers=amplifiers)
    for figure in (gain_noise_summary([odd]), run_overview([odd]), convergence([odd])):
        assert figure._repr_png_()  # type: ignore[attr-defined] # ResultFigure


def test_nothing_to_draw_is_said() -> None:
    for figure in (gain_noise_summary([]), run_overview([])):
        assert [text.get_text() for text in figure.axes[0].texts] == ["no amplifiers"]
    for figure in (gain_noise_summary([]), run_overview([]), convergence([])):
        assert figure._repr_png_()  # type: ignore[attr-defined] # ResultFigure
