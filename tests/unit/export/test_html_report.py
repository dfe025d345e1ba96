from __future__ import annotations

import base64
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.html_report import write_html_report
from ptc_stream.export.report import RunReport
from ptc_stream.export.results import RunResult
from tests.unit.export.made_up import make_run
from tests.unit.export.test_report import full_report

VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has {names}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"td", "th", "dd", "h1", "p"}:
            self.cells.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def small() -> RunResult:
    made = make_run(("R22_S11", "R22_S12"), amplifiers=1, pairs=8)
    return RunResult("13144", made.fits, made.covariances)


@pytest.fixture(scope="module")
def path(small: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_html_report(full_report(small), tmp_path_factory.mktemp("html") / "new" / "report.html")


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_nothing_comes_from_anywhere_else(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "base", "form"}
        for name in ("src", "href", "srcset", "action"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:image/png;base64,")), f"{tag} {name}={target[:80]}"
    (script,) = page.all("script")
    assert not script


def test_style_and_script_ask_for_nothing(path: Path) -> None:
    text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", path.read_text(encoding="utf-8"))
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    assert "${" not in text


def test_images_are_whole_and_say_what_they_show(page: Page) -> None:
    images = page.all("img")
    assert len(images) == 3 + 2 * 4
    for image in images:
        assert base64.b64decode(image["src"].partition(",")[2], validate=True).startswith(b"\x89PNG")
        assert image["alt"]
    assert len({image["alt"] for image in images}) == len(images)


def test_the_page_can_be_found_through(page: Page) -> None:
    (root,) = page.all("html")
    assert root["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert len(page.all("main")) == 1
    identities = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(identities.values()) == {1}
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in identities
    for section in page.all("section"):
        assert section["aria-labelledby"] in identities
    assert all(head["scope"] == "col" for head in page.all("th"))
    for region in page.all("div"):
        if region.get("role") == "region":
            assert region["tabindex"] == "0"
            assert region["aria-label"]
    (viewport,) = [meta for meta in page.all("meta") if meta.get("name") == "viewport"]
    assert viewport["content"] == "width=device-width, initial-scale=1"


def test_every_amplifier_has_a_row_and_every_cell_its_key(small: RunResult, page: Page) -> None:
    rows = [row for row in page.all("tr") if "data-ok" in row]
    assert len(rows) == 2
    keys = [cell["data-value"] for cell in page.all("td") if "data-value" in cell]
    assert repr(small.fits[0].amplifiers[0].gain) in keys
    assert "nan" not in keys
    text = " ".join(page.cells)
    for said in (
        "E7 ends early",
        "no signal in E7",
        "ptc.pairs/3@17",
        "measuring.max_lag",
        "IMAGE_UNREADABLE",
    ):
        assert said in text


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>&${title}'
    made = make_run((evil,), amplifiers=1, pairs=8)
    result = RunResult("13144", made.fits, made.covariances)
    path = write_html_report(full_report(result, name=evil), tmp_path / "r.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.all("script")) == 1
    assert any(evil in cell for cell in page.cells)


def test_same_run_same_bytes(tmp_path: Path) -> None:
    report = full_report(RunResult("13144", []))
    first, second = (write_html_report(report, tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_an_empty_run_is_a_page_too(tmp_path: Path) -> None:
    path = write_html_report(RunReport(result=RunResult("13144", [])), tmp_path / "r.html")
    page = Page(path.read_text(encoding="utf-8"))
    text = " ".join(page.cells)
    assert "Nothing was rejected." in text
    assert "No flat waits." in text
    assert len(page.all("img")) == 3


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write"):
        write_html_report(RunReport(result=RunResult("13144", [])), tmp_path / "file" / "r.html")
