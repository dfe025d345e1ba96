from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner

from ptc_stream.bench import fitting, measuring, running
from ptc_stream.bench.figures import Figure
from ptc_stream.cli import ptc_stream
from ptc_stream.physics.models import FitModel


@pytest.mark.parametrize("part", ["measure", "run"])
def test_every_figure_stands_beside_what_it_can_be_judged_by(part: str) -> None:
    result = CliRunner().invoke(ptc_stream, ["bench", part, "--small", "--pairs", "3", "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["machine"]["cores"] >= 1
    for figure in content["figures"]:
        assert math.isfinite(figure["value"])
        assert figure["value"] > 0.0
        assert bool(figure["target"]) == (figure["met"] is not None)
        assert bool(figure["reference"]) == bool(figure["reference_is"])
        assert bool(figure["limit"]) == bool(figure["limit_is"])
    assert any(figure["of_reference"] and figure["of_limit"] for figure in content["figures"])


def test_a_scaled_down_run_says_that_it_is_extrapolated() -> None:
    result = CliRunner().invoke(ptc_stream, ["bench", "run", "--small", "--pairs", "2"])
    assert result.exit_code == 0, result.output
    assert "extrapolated from 2 pairs" in " ".join(result.stdout.split())


def test_every_model_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "cpu_seconds", lambda _work, **_options: 1.0)
    names = [figure.name for figure in fitting.fitting_figures(pairs=(40, 80))]
    assert all(sum(name.startswith(f"{model} ") for name in names) == 2 for model in FitModel)


def test_all_runs_every_part_and_prints_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [
        Figure(
            name="one", value=1.0, unit="s", reference=2.0, reference_is="slow", limit=0.5, limit_is="light"
        ),
        Figure(name="two", value=3.0, unit="s", target="<= 2 s", met=False),
        Figure(name="three", value=3.0, unit="s", target="<= 4 s", met=True, note="lucky"),
    ]
    for module, name, figure in zip(
        (measuring, fitting, running),
        ("measuring_figures", "fitting_figures", "running_figures"),
        figures,
        strict=True,
    ):
        monkeypatch.setattr(module, name, lambda figure=figure, **_: iter([figure]))
        monkeypatch.setattr(f"ptc_stream.cli.bench.{name}", getattr(module, name))
    result = CliRunner().invoke(ptc_stream, ["bench"])
    assert result.exit_code == 0, result.output
    for text in ("2: slow", "0.5: light", "no", "yes", "three (lucky)", "cores"):
        assert text in result.stdout
