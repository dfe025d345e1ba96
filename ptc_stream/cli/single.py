"""Single steps: ``ptc-stream measure`` and ``ptc-stream fit``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
from rich.table import Table

from ptc_stream.cli.display import console, output, results_table
from ptc_stream.cli.options import (
    VariadicCommand,
    config_options,
    fit_options,
    json_option,
    measuring_options,
    reading_options,
    with_settings,
)
from ptc_stream.config import Settings
from ptc_stream.export.figures import save_all
from ptc_stream.export.lsst_reading import is_fits
from ptc_stream.notebook import fit_store, fit_table_file, measure_files
from ptc_stream.records import AmplifierCovariances, PairCovariances
from ptc_stream.services.fitting import FittingSettings

__all__ = ["fit_command", "measure_command"]

_PATH = click.Path(path_type=Path)


@click.command("measure", cls=VariadicCommand)
@click.argument("first", type=_PATH)
@click.argument("second", type=_PATH)
@measuring_options
@reading_options
@config_options
@json_option
@with_settings
def measure_command(
    first: Path,
    second: Path,
    *,
    settings: Settings,
    camera: str | None,
    run_name: str | None,
    as_json: bool,
) -> None:
    """Measure one flat pair: mean, variance and covariances of every amplifier.

    \b
    ptc-stream measure flat1.fits flat2.fits
    ptc-stream measure flat1.fits flat2.fits --mask bad.fits --json > pair.json
    """
    measured = measure_files(first, second, settings=settings, camera=camera, run=run_name)
    if as_json:
        click.echo(json.dumps(_pair_json(measured), indent=1))
        return
    table = Table(title=f"detector {measured.detector}", title_justify="left", box=None, pad_edge=False)
    table.add_column("amplifier")
    for column in (
        "mean [ADU]",
        "variance [ADU²]",
        "C01/C00",
        "C10/C00",
        "read noise [ADU]",
        "gain [e-/ADU]",
    ):
        table.add_column(column, justify="right")
    table.add_column("flags")
    for amplifier in measured.amplifiers:
        for point in amplifier.points:
            table.add_row(
                amplifier.name,
                _text(point.mean, 1),
                _text(point.variance, 1),
                _text(point.covariances[0][1] / point.variance if point.variance else math.nan, 5),
                _text(point.covariances[1][0] / point.variance if point.variance else math.nan, 5),
                _text(math.nan if amplifier.read_noise is None else amplifier.read_noise, 2),
                _text(point.gain_estimate, 4),
                ", ".join((*amplifier.flags, *point.flags)),
            )
    output.print(table)


@click.command("fit")
@click.argument("table", type=_PATH)
@click.option("--run", "run_name", metavar="NAME", help="Which run, if TABLE is a store that holds several.")
@click.option("--plots", type=_PATH, metavar="DIR", help="Draw every figure into this directory.")
@fit_options
@config_options
@json_option
@with_settings
def fit_command(
    table: Path,
    *,
    settings: Settings,
    run_name: str | None,
    plots: Path | None,
    as_json: bool,
) -> None:
    """Fit a table of points, or the measured points of a store, without touching either.

    TABLE is an ECSV or CSV file with columns amplifier, mean, variance (and detector, pixel_count,
    covariances if you have them), a PhotonTransferCurveDataset of the LSST stack (FITS), or a store.

    \b
    ptc-stream fit points.csv --model POLYNOMIAL
    ptc-stream fit ptc_R22_S11.fits --plots figures
    ptc-stream fit ptc-run1/ptc.sqlite --set fitting.max_mean=60000 --json
    """
    config = FittingSettings(settings.fitting, settings.linearity)
    if is_fits(table) or table.suffix.lower() in {".ecsv", ".csv", ".txt", ".dat"}:
        result = fit_table_file(table, config)
    else:
        result = fit_store(table, config, run=run_name)
    if plots is not None:
        save_all(result, plots)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1))
        return
    output.print(results_table(result.fits, every_amplifier=True))
    console.print(f"{result.pairs} pairs of points")


def _pair_json(measured: PairCovariances) -> dict[str, object]:
    return {
        "detector": measured.detector,
        "amplifiers": [entry for amplifier in measured.amplifiers for entry in _amplifier_entries(amplifier)],
    }


def _amplifier_entries(amplifier: AmplifierCovariances) -> list[dict[str, object]]:
    return [
        {
            "name": amplifier.name,
            "mean": _number(point.mean),
            "variance": _number(point.variance),
            "covariances": [[_number(value) for value in row] for row in point.covariances],
            "pixel_count": [list(row) for row in point.pixel_count],
            "read_noise_adu": None if amplifier.read_noise is None else _number(amplifier.read_noise),
            "gain_estimate": _number(point.gain_estimate),
            "flags": [*amplifier.flags, *point.flags],
        }
        for point in amplifier.points
    ]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
