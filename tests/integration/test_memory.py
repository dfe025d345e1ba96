"""How much memory a run takes: of the parent, which holds 40 pairs, and of the workers, which read frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ptc_stream.records import PairCovariances, PtcFit
from ptc_stream.simulator import Scenario, plan
from ptc_stream.simulator.rawfile import raw_file
from tests.integration.commands import SMALL_SETTINGS, descendants, records, start, until

LIMIT_BYTES = 1_000_000_000
GAIN = 1.5

MANY_PAIRS = Scenario(
    run="memory",
    detectors=("R22_S11",),
    shape=(160, 96),
    prescan_columns=4,
    overscan_columns=24,
    overscan_rows=20,
    levels=40,
    highest_level=80_000.0,
    biases_every=0,
    darks_every=0,
)
FULL_SIZE = dataclasses.replace(
    MANY_PAIRS, detectors=("R22_S12",), shape=(2000, 512), overscan_columns=54, overscan_rows=46, levels=1
)
"""One pair as LSST's E2V detectors give it: 16 amplifiers, 76 MB a file."""


def write_noise(scenario: Scenario, directory: Path) -> None:
    """Files whose pixels are bias, shot noise and read noise: memory does not ask for the rest."""
    generator = np.random.default_rng(1)
    rows, columns = scenario.shape
    imaging = slice(0, rows), slice(scenario.prescan_columns, scenario.prescan_columns + columns)
    full = (rows + scenario.overscan_rows, scenario.prescan_columns + columns + scenario.overscan_columns)
    for exposure in plan(scenario):
        frames = {}
        signal = exposure.signal / GAIN
        for name in scenario.amplifier_names:
            frame = generator.standard_normal(full, dtype=np.float32) * np.float32(5.0) + np.float32(1000.0)
            shot = generator.standard_normal(scenario.shape, dtype=np.float32)
            frame[imaging] += np.float32(signal) + shot * np.float32((signal / GAIN) ** 0.5)
            frames[name] = np.rint(frame).astype(np.int32)
        raw_file(scenario, exposure, frames).writeto(directory / exposure.file_name)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    directory = tmp_path / "memory"
    directory.mkdir()
    write_noise(MANY_PAIRS, directory)
    write_noise(FULL_SIZE, directory)
    return directory


def peak_bytes(pid: int) -> int:
    """Most memory that a process has had resident so far."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0  # it has ended
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def test_no_process_of_a_run_of_forty_pairs_takes_a_gigabyte(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(
        "run", images, "--out", out, "--workers", "2", *SMALL_SETTINGS, output=tmp_path / "output.txt"
    )
    peaks: dict[int, int] = {}

    def ended() -> bool:
        for pid in {process.pid} | descendants(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
        return process.poll() is not None

    try:
        until(ended, timeout=110.0, what="end of the run")
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, (tmp_path / "output.txt").read_text()
    store = out / "ptc.sqlite"
    measured = records(store, PairCovariances)
    assert len(measured) == 41
    assert all(len(record.amplifiers) == 16 for record in measured)
    assert max(fit.pairs for fit in records(store, PtcFit)) == 40
    assert len(peaks) >= 3
    assert max(peaks.values()) < LIMIT_BYTES, peaks
    # A figure, not a guess: interpreter and libraries alone take 100 MB.
    assert max(peaks.values()) > 100_000_000
