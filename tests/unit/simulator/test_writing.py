from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from ptc_stream.errors import StorageUnavailable
from ptc_stream.simulator import (
    TRUTH_FILE,
    Fault,
    Scenario,
    Truth,
    in_writing_order,
    plan,
    truth_of,
    write_exposure,
    write_run,
)

SMALL: dict[str, Any] = {"shape": (40, 36), "levels": 3, "overscan_rows": 4, "overscan_columns": 8}


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def test_a_run_is_its_planned_files_and_the_truth(tmp_path: Path) -> None:
    scenario = Scenario(**SMALL, detectors=("R22_S11", "R22_S12"), missing=1, late=1, doubled=1)
    calls: list[tuple[int, int]] = []
    truth = write_run(
        scenario, tmp_path / "new" / "run", progress=lambda done, total: calls.append((done, total))
    )
    planned = in_writing_order(plan(scenario))
    files = {path.name for path in (tmp_path / "new" / "run").iterdir()}
    assert files == {exposure.file_name for exposure in planned} | {TRUTH_FILE}
    assert calls == [(n, len(planned)) for n in range(1, len(planned) + 1)]
    assert Truth.read(tmp_path / "new" / "run" / TRUTH_FILE).to_json() == truth.to_json()
    assert truth.to_json() == truth_of(scenario).to_json()


def test_the_same_scenario_gives_the_same_bytes_in_any_order_and_process(tmp_path: Path) -> None:
    scenario = Scenario(**SMALL, truncated=1, revised=1, doubled=1, compressed=True)
    write_run(scenario, tmp_path / "first")
    program = (
        "import sys; from pathlib import Path\n"
        "from ptc_stream.simulator import *\n"
        f"scenario = Scenario(**{SMALL!r}, truncated=1, revised=1, doubled=1, compressed=True)\n"
        "last = {planned.file_name: planned for planned in in_writing_order(plan(scenario))}\n"
        "for planned in reversed(last.values()):\n"
        "    write_exposure(scenario, planned, Path(sys.argv[1]))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "second")], check=True)
    second = _digests(tmp_path / "second")
    first = _digests(tmp_path / "first")
    del first[TRUTH_FILE]
    assert first == second
    other = Scenario(**SMALL, seed=2)
    path = write_exposure(other, plan(other)[0], tmp_path / "other")
    assert _digests(path.parent)[path.name] != first[path.name]


def test_a_doubled_file_is_the_same_under_another_name(tmp_path: Path) -> None:
    scenario = Scenario(**SMALL, doubled=1)
    copy = next(exposure for exposure in plan(scenario) if exposure.fault is Fault.DOUBLED)
    original = next(exposure for exposure in plan(scenario) if exposure.exposure == copy.exposure)
    paths = [write_exposure(scenario, planned, tmp_path) for planned in (original, copy)]
    assert paths[0] != paths[1]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_truncated_file_is_the_beginning_of_the_whole_one(tmp_path: Path) -> None:
    scenario = Scenario(**SMALL, truncated=1)
    first = next(exposure for exposure in plan(scenario) if exposure.fault is Fault.TRUNCATED)
    whole = next(e for e in plan(scenario) if e.exposure == first.exposure and e.fault is Fault.NONE)
    cut = write_exposure(scenario, first, tmp_path).read_bytes()
    path = write_exposure(scenario, whole, tmp_path)
    assert path.name == first.file_name
    assert path.read_bytes().startswith(cut)
    assert 0.5 < len(cut) / path.stat().st_size < 0.7


def test_a_revised_file_differs_in_header_and_pixels(tmp_path: Path) -> None:
    scenario = Scenario(**SMALL, revised=1)
    first = next(exposure for exposure in plan(scenario) if exposure.fault is Fault.SUPERSEDED)
    second = next(e for e in plan(scenario) if e.exposure == first.exposure and e.revision == 2)
    paths = [
        write_exposure(scenario, planned, tmp_path / str(planned.revision)) for planned in (first, second)
    ]
    assert paths[0].name == paths[1].name
    assert [fits.getheader(path)["REVISION"] for path in paths] == [1, 2]
    assert (fits.getdata(paths[0], 1) != fits.getdata(paths[1], 1)).any()


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(**SMALL)
    planned = plan(scenario)[0]
    seen: list[set[str]] = []
    replace = Path.replace

    def spying(self: Path, target: Path) -> Path:
        seen.append({path.name for path in tmp_path.iterdir() if not path.name.startswith(".")})
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spying)
    write_exposure(scenario, planned, tmp_path)
    assert seen == [set()]
    assert {path.name for path in tmp_path.iterdir()} == {planned.file_name}


def test_a_disk_that_fails_is_a_typed_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario(**SMALL)

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageUnavailable, match="No space left"):
        write_exposure(scenario, plan(scenario)[0], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_directory_should_be_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageUnavailable, match="cannot write"):
        write_run(Scenario(**SMALL), tmp_path / "taken")
