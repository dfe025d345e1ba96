"""The README's reference tables are those of the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tests.readme_tables import README, TABLES, filled


def test_tables_are_those_of_the_code() -> None:
    text = README.read_text()
    assert filled(text) == text, "make them again: python tests/readme_tables.py"


def test_every_table_is_in_the_readme() -> None:
    assert set(re.findall(r"<!-- table: (\w+) -->", README.read_text())) == set(TABLES)


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in project["dependencies"]}
    section = README.read_text().split("### Dependencies")[1].split("###")[0]
    explained = set(
        re.findall(r"[a-z][a-z-]+", " ".join(re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)))
    )
    assert names <= explained, f"no reason given for {sorted(names - explained)}"


def test_every_file_named_exists() -> None:
    for name in re.findall(r"\b(?:tests|deploy|ptc_stream|schemas)/[\w./]+\.\w+\b", README.read_text()):
        assert (README.parent / name).is_file(), f"the README names {name}"


def test_the_gate_runs_the_readmes_test_command() -> None:
    gate = Path(README.parent / ".ci" / "run").read_text()
    assert gate.rstrip().splitlines()[-1] == "make test"
    assert re.search(r"^make test ", README.read_text(), re.MULTILINE)
