from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ptc_stream.export.distribution_plots import run_distributions
from ptc_stream.records import PtcFit
from tests.unit.export.made_up import MadeUpRun


def texts(figure: Figure) -> list[str]:
    return ["\n".join(text.get_text() for text in axes.texts) for axes in figure.axes]


def counted(figure: Figure, panel: int) -> float:
    """Every value is in one bar."""
    bars = [bar for container in figure.axes[panel].containers for bar in container.get_children()]
    return sum(bar.get_height() for bar in bars if isinstance(bar, Rectangle))


def changed(fits: list[PtcFit], **changes: object) -> list[PtcFit]:
    first, *others = fits[0].amplifiers
    result = dataclasses.replace(first, **changes)  # type: ignore[arg-type] # fields of any type
    return [dataclasses.replace(fits[0], amplifiers=(result, *others)), *fits[1:]]


def test_every_value_is_counted_and_those_without_are_numbered(run: MadeUpRun) -> None:
    figure = run_distributions(run.fits)
    assert "Distribution over 32 amplifiers of 2 detectors · run 13144" in figure.get_suptitle()
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "Gain [e⁻/ADU]",
        "Read noise [e⁻]",
        "$a_{00}$ [10⁻⁶/e⁻]",
        "Turnoff [10³ ADU]",
    ]
    gains = [a.gain for fit in run.fits for a in fit.amplifiers if np.isfinite(a.gain)]
    assert f"median {np.median(gains):.4g}" in texts(figure)[0]
    assert all("2 without a value" in text for text in texts(figure))
    assert [counted(figure, panel) for panel in range(4)] == [30.0] * 4


def test_an_absurd_value_is_counted_at_the_edge(run: MadeUpRun) -> None:
    figure = run_distributions(changed(run.fits, gain=400.0))
    assert "1 off the scale" in texts(figure)[0]
    assert figure.axes[0].get_xlim()[1] < 3
    assert counted(figure, 0) == 30


def test_lower_limits_have_a_look_of_their_own(run: MadeUpRun) -> None:
    figure = run_distributions(changed(run.fits, turnoff_is_lower_limit=True))
    assert "lower limit" in [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert "lower limit" not in [
        text.get_text() for legend in run_distributions(run.fits).legends for text in legend.get_texts()
    ]


@pytest.mark.parametrize("fits", [[], None])
def test_a_run_without_values_says_so(run: MadeUpRun, fits: list[PtcFit] | None) -> None:
    if fits is None:
        dead = dataclasses.replace(run.fits[0], amplifiers=(run.fits[0].amplifiers[5],))
        fits = [dead]
    figure = run_distributions(fits)
    figure.canvas.draw()
    assert texts(figure) == ["no values"] * 4


def test_one_amplifier_is_drawn(run: MadeUpRun) -> None:
    one = dataclasses.replace(run.fits[0], amplifiers=run.fits[0].amplifiers[:1])
    figure = run_distributions([one])
    figure.canvas.draw()
    assert "scatter 0" in texts(figure)[0]
