from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.pdf_report import write_pdf_report
from ptc_stream.export.report import RunReport
from ptc_stream.export.results import RunResult
from tests.unit.export.made_up import make_run
from tests.unit.export.test_report import full_report


@pytest.fixture(scope="module")
def small() -> RunResult:
    made = make_run(("R22_S11",), amplifiers=1, pairs=8)
    return RunResult("13144", made.fits, made.covariances)


def pages(path: Path) -> int:
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    return len(re.findall(rb"/Type /Page\b", content))


def drawn(path: Path) -> int:
    """Characters that the pages show: the streams say so glyph by glyph."""
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", path.read_bytes(), re.DOTALL)
    text = b"".join(zlib.decompressobj().decompress(stream) for stream in streams if stream.startswith(b"x"))
    return sum(len(found) for found in re.findall(rb"\((.*?)\)", text))


def test_a_cover_tables_and_every_figure_have_their_pages(small: RunResult, tmp_path: Path) -> None:
    path = write_pdf_report(full_report(small), tmp_path / "new" / "report.pdf")
    # Cover, alerts, results, waiting, rejected, settings; 3 figures of the run, 4 of the detector.
    assert pages(path) == 6 + 3 + 4
    bare = write_pdf_report(RunReport(result=RunResult("13144", [])), tmp_path / "bare.pdf")
    assert pages(bare) == 2 + 3


def test_no_date_gets_in_and_the_bytes_repeat(tmp_path: Path) -> None:
    report = full_report(RunResult("13144", []))
    first = write_pdf_report(report, tmp_path / "a.pdf").read_bytes()
    assert first == write_pdf_report(report, tmp_path / "b.pdf").read_bytes()
    assert b"CreationDate" not in first


def test_long_tables_go_on_on_further_pages_and_lose_no_line(tmp_path: Path) -> None:
    made = make_run(tuple(f"D{i:02d}" for i in range(8)), amplifiers=16, pairs=6)
    report = RunReport(result=RunResult("13144", made.fits), most_detectors=0)
    path = write_pdf_report(report, tmp_path / "long.pdf")
    assert pages(path) == 1 + 3 + 3  # 128 lines, 50 a page
    short = RunReport(result=RunResult("13144", made.fits[:1]), most_detectors=0)
    assert drawn(path) > drawn(write_pdf_report(short, tmp_path / "short.pdf")) + 112 * 50


def test_odd_names_are_text(tmp_path: Path) -> None:
    path = write_pdf_report(full_report(RunResult("13144", []), name="$x_{$ " * 40), tmp_path / "odd.pdf")
    assert pages(path) == 6 + 3


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write"):
        write_pdf_report(RunReport(result=RunResult("13144", [])), tmp_path / "file" / "r.pdf")
