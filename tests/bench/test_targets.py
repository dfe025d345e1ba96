"""The targets of speed, each a ratio or a time that `ptc-stream bench` measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ptc_stream.bench.figures import Figure
from ptc_stream.bench.fitting import fitting_figures
from ptc_stream.bench.measuring import measuring_figures
from ptc_stream.bench.running import running_figures

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]


@pytest.mark.parametrize("figures", [measuring_figures, fitting_figures, running_figures])
def test_targets_are_met(figures: Callable[[], Iterator[Figure]]) -> None:
    missed = [figure for figure in figures() if figure.met is False]
    assert not missed, "\n".join(f"{it.name}: {it.value:.3g} {it.unit}, target {it.target}" for it in missed)
