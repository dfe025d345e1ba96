from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ptc_stream.export.matrix_plots import bf_cumulative, bf_distance, bf_matrices, has_matrices, mean_matrix
from ptc_stream.records import PtcFit
from tests.unit.export.made_up import MadeUpRun, full_fit


@pytest.fixture(scope="module")
def fit(run: MadeUpRun) -> PtcFit:
    return full_fit(run.fits[0], lags=5)


def texts(figure: Figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    legend = [text.get_text() for part in figure.legends for text in part.get_texts()]
    return "\n".join([figure.get_suptitle(), *found, *legend])


def marks(axes: Axes, marker: str) -> list[tuple[float, float]]:
    return [
        (float(np.asarray(line.get_xdata())[0]), float(np.asarray(line.get_ydata())[0]))
        for line in axes.lines
        if line.get_marker() == marker
    ]


def test_the_mean_is_weighted_and_its_error_covers_disagreement(fit: PtcFit) -> None:
    mean = mean_matrix(fit, "a_matrix")
    assert mean is not None
    values, errors, number = mean
    assert number == 15  # the dead one has none
    alone = mean_matrix(fit, "a_matrix", amplifier="C10")
    assert alone is not None
    first = fit.amplifiers[0]
    for got, given in zip(alone[:2], (first.a_matrix, first.a_matrix_error), strict=True):
        np.testing.assert_allclose(got, np.array(given), rtol=1e-14)
    # All errors are equal here: the weighted mean is the plain one.
    plain = np.mean([a.a_matrix for a in fit.amplifiers if a.a_matrix is not None], axis=0)
    np.testing.assert_allclose(values, plain, rtol=1e-12)
    assert np.all(errors >= 4e-9 / math.sqrt(15) * (1 - 1e-12))
    assert first.a_matrix is not None
    wild = dataclasses.replace(first, a_matrix=((-9e-6, *first.a_matrix[0][1:]), *first.a_matrix[1:]))
    torn = mean_matrix(dataclasses.replace(fit, amplifiers=(wild, *fit.amplifiers[1:])), "a_matrix")
    assert torn is not None
    assert torn[1][0, 0] > 10 * errors[0, 0]
    np.testing.assert_array_equal(torn[1][1:], errors[1:])


def test_what_is_not_finite_does_not_enter_the_mean(fit: PtcFit) -> None:
    first = fit.amplifiers[0]
    assert first.a_matrix is not None
    holed = dataclasses.replace(first, a_matrix=((math.nan, *first.a_matrix[0][1:]), *first.a_matrix[1:]))
    one = dataclasses.replace(fit, amplifiers=(holed,))
    mean = mean_matrix(one, "a_matrix")
    assert mean is not None
    assert math.isnan(mean[0][0, 0])
    assert math.isnan(mean[1][0, 0])
    assert np.isfinite(mean[0].ravel()[1:]).all()
    assert "mean of 1 amplifier ·" in texts(bf_matrices(one, {}))


def test_maps_mark_signs_and_what_is_not_seen_at_x_lag_and_y_lag(fit: PtcFit) -> None:
    figure = bf_matrices(fit, {})
    maps = figure.axes[:3]
    assert [axes.get_title() for axes in maps] == [
        "$|a_{ij}|$ [1/e⁻]",
        "$|b_{ij}|$ [10⁻⁶/e⁻]",
        "$|n_{ij}|$ [(e⁻)²]",
    ]
    mean = mean_matrix(fit, "noise_matrix")
    assert mean is not None
    assert set(marks(maps[2], "_")) == {tuple(map(float, at)) for at in np.argwhere(mean[0] < 0)}
    assert set(marks(maps[2], "o")) == {
        tuple(map(float, at)) for at in np.argwhere(np.abs(mean[0]) < 2 * mean[1])
    }
    assert marks(maps[0], "_") == [(0.0, 0.0)]
    shown = np.asarray(maps[2].images[0].get_array())
    assert shown[3, 1] == pytest.approx(abs(mean[0][1, 3]))  # image rows are y lags
    assert all("pixels" in axes.get_xlabel() and "serial" in axes.get_xlabel() for axes in maps)


def test_one_amplifier_can_be_chosen(fit: PtcFit) -> None:
    assert "covariances, C11 ·" in texts(bf_matrices(fit, {}, amplifier="C11"))


def test_without_b_there_is_no_map_of_it(run: MadeUpRun) -> None:
    fit = full_fit(run.fits[0], lags=3, with_b=False)
    assert len(bf_matrices(fit, {}).axes) == 4  # two maps, two bars
    assert "no b in this model" in texts(bf_distance(fit, {}))


def test_distance_parts_the_sides_of_the_diagonal(fit: PtcFit) -> None:
    left, right = bf_distance(fit, {}).axes
    points = {
        (line.get_marker(), line.get_markerfacecolor()): np.asarray(line.get_xdata()).size
        for line in left.lines
        if line.get_marker() in {"o", "s"}
    }
    assert points[("o", "white")] == 1  # a00 alone is negative
    assert points[("o", "#0072B2")] == 14
    assert points[("s", "#D55E00")] == 10
    assert left.get_yscale() == "log"
    assert right.get_yscale() == "linear"
    drawn = sum(np.asarray(line.get_xdata()).size for line in right.lines if line.get_marker() in {"o", "s"})
    assert drawn == 25


def test_cumulative_sum_counts_every_lag_of_the_plane(fit: PtcFit) -> None:
    mean = mean_matrix(fit, "a_matrix")
    assert mean is not None
    a = mean[0]
    (axes,) = bf_cumulative(fit, {}).axes
    line = next(line for line in axes.lines if line.get_color() == "#0072B2" and line.get_linestyle() == "-")
    radius, total = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert radius[:4].tolist() == [0.0, 1.0, math.sqrt(2), 2.0]
    assert total[0] == 1.0
    near = a[0, 0] + 2 * a[0, 1] + 2 * a[1, 0]
    assert total[1] == pytest.approx(abs(near / a[0, 0]))
    assert total[2] == pytest.approx(abs((near + 4 * a[1, 1]) / a[0, 0]))
    full = a[0, 0] + 2 * a[0, 1:].sum() + 2 * a[1:, 0].sum() + 4 * a[1:, 1:].sum()
    assert total[-1] == pytest.approx(abs(full / a[0, 0]))
    assert sum(line.get_color() == "#8A8A8A" for line in axes.lines) == 15


@pytest.mark.parametrize("draw", [bf_matrices, bf_distance, bf_cumulative])
def test_a_fit_without_matrices_says_so(run: MadeUpRun, draw: type) -> None:
    assert not has_matrices(run.fits[0])
    assert "no matrices: fit FULLCOVARIANCE" in texts(draw(run.fits[0], {}))


@pytest.mark.parametrize("draw", [bf_matrices, bf_distance, bf_cumulative])
def test_one_lag_is_enough_to_draw(run: MadeUpRun, draw: type) -> None:
    fit = full_fit(run.fits[0], lags=1)
    assert has_matrices(fit)
    figure = draw(fit, {})
    figure.canvas.draw()
    assert "no matrices" not in texts(figure)


def test_the_mean_of_b_is_a_ratio_of_means(run: MadeUpRun) -> None:
    """Ratios to a badly known number are biased: c = 0 with a of 1 +- 1/3 must not give a b below zero."""
    fit = full_fit(run.fits[0], lags=1)
    rng = np.random.default_rng(4)
    amplifiers = []
    for result in [fit.amplifiers[0]] * 400:
        a, c = 3e-8 * (1 + 0.3 * rng.normal()), 1e-14 + 3e-15 * rng.normal()
        # An honest error of b = c / a: that of c over a, and what a adds.
        error = abs(math.hypot(3e-15 / a, c / a * 9e-9 / a))
        amplifiers.append(
            dataclasses.replace(
                result,
                a_matrix=((a,),),
                a_matrix_error=((9e-9,),),
                b_matrix=((c / a,),),
                b_matrix_error=((error,),),
            )
        )
    mean = mean_matrix(dataclasses.replace(fit, amplifiers=tuple(amplifiers)), "b_matrix")
    assert mean is not None
    assert mean[2] == 400
    assert mean[1][0, 0] < 2e-8
    assert abs(mean[0][0, 0] - 1e-14 / 3e-8) < 4 * mean[1][0, 0]
