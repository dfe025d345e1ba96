"""The demo, whole: simulated, fed live, compared with the truth by its own words and by ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ptc_stream.simulator import TRUTH_FILE, Truth


@pytest.mark.timeout(400)
def test_the_demo_finds_its_truth(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "ptc_stream", "demo", "--out", str(out)],
        check=False,
        timeout=360,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((out / "results.json").read_text())
    truth = Truth.read(out / "images" / TRUTH_FILE)
    live = 0
    for detector in results["detectors"]:
        for amplifier in detector["amplifiers"]:
            true = truth.detectors[detector["detector"]][amplifier["name"]]
            if true.dead:
                assert amplifier["status"] == "DEAD"
                assert amplifier["gain"] is None
                continue
            live += 1
            assert amplifier["gain"] == pytest.approx(true.gain, rel=0.01)
            assert amplifier["read_noise"] == pytest.approx(true.read_noise, abs=1.0)
            assert amplifier["a00"] == pytest.approx(float(true.a_matrix[0, 0]), rel=0.2)
            assert amplifier["turnoff"] == pytest.approx(true.turnoff, rel=0.2)
    assert live == 31
    assert len(list((out / "figures").glob("*.png"))) >= 10
