"""The README's notebook tour, run as it is written, on a simulated run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ptc_stream
from ptc_stream.simulator import Scenario, write_run

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tour")
    scenario = Scenario(
        seed=11,
        run="run123",
        detectors=("R22_S11",),
        amplifiers=4,
        shape=(256, 256),
        levels=12,
        bad_columns=0,
    )
    write_run(scenario, directory / "run123")
    return directory


@pytest.mark.timeout(180)
def test_the_notebook_tour_runs_as_written(tour: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tour)
    subprocess.run(
        [sys.executable, "-m", "ptc_stream", "run", "run123", "--workers", "1"],
        check=True,
        timeout=120,
        capture_output=True,
    )
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - the README is ours, and this is its test
    result = names["result"]
    truth = ptc_stream.open_store("ptc-run123/ptc.sqlite").result()
    assert getattr(result, "gain", None) == truth.gain, "notebook and stream must agree to the last bit"
    assert len(truth.table()) == 4
    assert all(1.0 < gain < 2.0 for gain in truth.gain["R22_S11"].values())
