"""The reference tables of the README, made from the code. ``python tests/readme_tables.py`` writes them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from ptc_stream import errors
from ptc_stream.cli import ptc_stream as command_line
from ptc_stream.codec import schema_versions
from ptc_stream.config import load_settings
from ptc_stream.errors import PtcStreamError
from ptc_stream.physics.fitting import FitNote, FitStatus
from ptc_stream.physics.points import PointFlag
from ptc_stream.physics.selection import UnusedReason
from ptc_stream.telemetry import CATALOGUE

README = Path(__file__).parent.parent / "README.md"
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *escaped]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def commands() -> str:
    context = click.Context(command_line)
    rows = []
    for name in command_line.list_commands(context):
        command = command_line.get_command(context, name)
        assert command is not None
        usage = " ".join(command.collect_usage_pieces(click.Context(command, info_name=name))[1:])
        rows.append([f"`{name} {usage}`".replace(" `", "`"), command.get_short_help_str(200)])
    return markdown(["command", "what it does"], rows)


def settings() -> str:
    rows = []
    for line in load_settings(environment={}).lines():
        default = "none" if line.default is None else str(line.default)
        rows.append([f"`{line.name}`", f"`{default}`" if default else "", line.unit, line.meaning])
    return markdown(["parameter", "default", "unit", "meaning"], rows)


def metrics() -> str:
    rows = [
        [f"`{metric.name}`", metric.kind.__name__.lower(), ", ".join(metric.labels), metric.meaning]
        for metric in CATALOGUE
    ]
    return markdown(["metric", "kind", "labels", "meaning"], rows)


def records() -> str:
    rows = [
        [
            f"`{version.name}.{version.major}.{version.minor}`",
            str(version.schema_id),
            str(version.schema["doc"]),
        ]
        for version in schema_versions()
    ]
    return markdown(["schema", "id", "what it says"], rows)


def codes() -> str:
    rows = []
    for what, codes_ in (
        ("point flag", PointFlag),
        ("reason why a point is not used", UnusedReason),
        ("fit status", FitStatus),
        ("fit note", FitNote),
    ):
        rows.append([what, ", ".join(f"`{code.value}`" for code in codes_)])
    rejected = [
        f"`{error('').reason}`"
        for name in errors.__all__
        if isinstance(error := getattr(errors, name), type)
        and issubclass(error, PtcStreamError)
        and (error.disposition is errors.Disposition.REJECT or name == "ImageMissing")
        and not error.__subclasses__()
    ]
    rows.append(["rejected record", ", ".join(rejected)])
    return markdown(["code of a", "values"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "metrics": metrics,
    "records": records,
    "codes": codes,
}


def filled(text: str) -> str:
    """Return `text` with every marked table made anew."""
    return _BLOCK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
    sys.exit(0)
