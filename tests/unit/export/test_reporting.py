from __future__ import annotations

from pathlib import Path

import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.report import RunReport
from ptc_stream.export.reporting import save_report
from ptc_stream.export.results import RunResult


@pytest.mark.parametrize(("name", "begin"), [("r.html", b"<!DOCTYPE html>"), ("r.PDF", b"%PDF-")])
def test_the_name_of_the_file_says_what_it_is(tmp_path: Path, name: str, begin: bytes) -> None:
    path = save_report(RunReport(result=RunResult("13144", [])), tmp_path / name)
    assert path == tmp_path / name
    assert path.read_bytes().startswith(begin)


@pytest.mark.parametrize("name", ["r.docx", "r"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"a report is called \*.html or \*.pdf"):
        save_report(RunReport(result=RunResult("13144", [])), tmp_path / name)
    assert not list(tmp_path.iterdir())
