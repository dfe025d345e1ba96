from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.plot_style import (
    FORMATS,
    USED,
    Range,
    ResultFigure,
    clamp,
    grid_shape,
    in_thousands,
    legend_below,
    reason_styles,
    robust_range,
    save_figure,
)
from ptc_stream.physics.selection import UnusedReason

ALL_REASONS = tuple(str(reason) for reason in UnusedReason)


def test_every_reason_looks_different_and_none_like_a_used_point() -> None:
    styles = reason_styles([*ALL_REASONS, "NEW_REASON"])
    assert list(styles) == sorted([*ALL_REASONS, "NEW_REASON"])
    for one, other in itertools.combinations(styles.values(), 2):
        assert one.marker != other.marker
    assert all(style.marker != "o" and style.color != USED for style in styles.values())


def test_a_reason_looks_the_same_in_every_figure() -> None:
    assert reason_styles(["OUTLIER"])["OUTLIER"] == reason_styles(ALL_REASONS)["OUTLIER"]
    assert reason_styles([]) == {}


@pytest.mark.parametrize(
    ("panels", "shape"),
    [
        (0, (1, 1)),
        (1, (1, 1)),
        (2, (1, 2)),
        (4, (2, 2)),
        (8, (2, 4)),
        (16, (4, 4)),
        (17, (4, 5)),
        (64, (8, 8)),
    ],
)
def test_grids_hold_their_panels(panels: int, shape: tuple[int, int]) -> None:
    assert grid_shape(panels) == shape
    assert shape[0] * shape[1] >= panels


def test_one_absurd_value_does_not_spoil_a_range() -> None:
    values = np.concatenate([np.linspace(1.4, 1.6, 100), [1e6, np.nan, np.inf, -3.0]])
    low, high = robust_range(values)
    assert 1.3 < low < 1.4
    assert 1.6 < high < 1.7


@pytest.mark.parametrize("values", [[], [np.nan], [0.0], [5.0, 5.0], [-2.0, -2.0, 7e9], [0.0, 0.0, 1.0]])
def test_every_range_has_a_width(values: list[float]) -> None:
    low, high = robust_range(values)
    assert low < high


def test_without_padding_a_range_is_that_of_the_values() -> None:
    assert robust_range([1.0, 2.0, 3.0], pad=0.0) == (1.0, 3.0)


def test_points_beyond_an_axis_move_to_its_edge() -> None:
    values, beyond = clamp([-1.0, 0.0, 5.0, 10.0, 11.0, np.nan], Range(0.0, 10.0))
    np.testing.assert_allclose(values, [0.2, 0.0, 5.0, 10.0, 9.8, np.nan])
    assert beyond.tolist() == [True, False, False, False, True, False]


def test_edges_of_a_logarithmic_axis() -> None:
    values, beyond = clamp([-1.0, 10.0, 1e9], Range(1.0, 100.0), log=True, margin=0.5)
    np.testing.assert_allclose(values, [10.0, 10.0, 10.0])
    assert beyond.tolist() == [True, False, True]


def test_thousands_are_in_the_numbers_only() -> None:
    axes = ResultFigure(3, 2).add_subplot()
    axes.plot([0, 120_000], [0, 1])
    in_thousands(axes.xaxis)
    assert axes.xaxis.get_major_formatter()(60_000, 0) == "60"
    assert axes.xaxis.get_major_formatter()(500, 0) == "0.5"


def _figure() -> ResultFigure:
    figure = ResultFigure(3, 2)
    figure.add_subplot().plot([1, 2, 3], label="µ")
    return figure


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_figure_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    first = save_figure(_figure(), tmp_path / f"a.{kind}").read_bytes()
    second = save_figure(_figure(), tmp_path / f"b.{kind}").read_bytes()
    assert first == second
    for word in (b"Software", b"CreationDate", b"dc:date"):
        assert word not in first


def test_a_figure_shows_itself() -> None:
    assert _figure()._repr_png_().startswith(b"\x89PNG")


def test_figures_that_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="png, pdf, svg, not as gif"):
        save_figure(_figure(), tmp_path / "a.gif")
    with pytest.raises(ConfigurationError, match="not as nothing"):
        save_figure(_figure(), tmp_path / "a")
    with pytest.raises(ConfigurationError, match="cannot write"):
        save_figure(_figure(), tmp_path / "none" / "a.png")


def test_nothing_to_explain_is_no_legend() -> None:
    figure = _figure()
    legend_below(figure, [], columns=3)
    assert figure.legends == []


def test_figures_may_be_drawn_in_several_threads() -> None:
    alone = _figure()._repr_png_()
    drawn: list[bytes] = []
    threads = [threading.Thread(target=lambda: drawn.append(_figure()._repr_png_())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [alone] * 4
