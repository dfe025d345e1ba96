"""``ptc-stream bench``: how fast it is here, and how fast it could be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import click
from rich.table import Table

from ptc_stream.bench.figures import Figure, machine
from ptc_stream.bench.fitting import fitting_figures
from ptc_stream.bench.measuring import measuring_figures
from ptc_stream.bench.running import running_figures
from ptc_stream.cli.display import console, output
from ptc_stream.cli.options import json_option

__all__ = ["bench_command"]


@click.command("bench")
@click.argument("part", type=click.Choice(["measure", "fit", "run", "all"]), default="all")
@click.option(
    "--pairs",
    type=click.IntRange(2, 337),
    default=8,
    show_default=True,
    metavar="N",
    help="run: pairs that are written (150 MB each) and processed; the time of 337 is extrapolated.",
)
@click.option(
    "--small",
    is_flag=True,
    help="Small amplifiers and few repeats: to see that it works. The figures mean nothing.",
)
@json_option
def bench_command(part: str, *, pairs: int, small: bool, as_json: bool) -> None:
    """Measure the speed of PART: measure, fit, run, or all of them.

    Every figure stands beside the same work done in another way and beside what the hardware allows, both
    taken in the same run; on another machine the figures differ, the ratios hardly.

    \b
    ptc-stream bench measure
    ptc-stream bench all --json > figures.json
    ptc-stream bench run --pairs 337
    """
    shape, repeats = ((256, 128), 1) if small else ((2000, 512), 7)
    parts: dict[str, Callable[[], Iterator[Figure]]] = {
        "measure": lambda: measuring_figures(shape=shape, repeats=repeats),
        "fit": lambda: fitting_figures(pairs=(40, 80) if small else (337, 10_000), repeats=min(repeats, 3)),
        "run": lambda: running_figures(pairs=pairs, shape=shape),
    }
    about = machine()
    figures = []
    for name in parts if part == "all" else [part]:
        for figure in parts[name]():
            figures.append(figure)
            if not as_json:
                console.print(f"{figure.name}: {_number(figure.value)} {figure.unit}")
    if as_json:
        content = {"machine": about, "figures": [figure.to_json() for figure in figures]}
        click.echo(json.dumps(content, indent=1))
        return
    output.print(_table(figures))
    output.print(", ".join(f"{key} {value}" for key, value in about.items()))


def _table(figures: list[Figure]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("figure", "value", "reference", "limit", "target", "met"):
        table.add_column(column, justify="right" if column == "value" else "left", overflow="fold")
    for figure in figures:
        reference = "" if figure.reference is None else f"{_number(figure.reference)}: {figure.reference_is}"
        limit = "" if figure.limit is None else f"{_number(figure.limit)}: {figure.limit_is}"
        table.add_row(
            figure.name + (f" ({figure.note})" if figure.note else ""),
            f"{_number(figure.value)} {figure.unit}",
            reference,
            limit,
            figure.target,
            {True: "yes", False: "no", None: ""}[figure.met],
        )
    return table


def _number(value: float) -> str:
    return f"{value:.3g}"
