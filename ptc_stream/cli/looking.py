"""Commands that only look: ``list``, ``show``, ``plot``, ``export``, ``alerts``, ``rejected``, ``config``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ptc_stream.cli.display import console, output, progress_bar, results_table
from ptc_stream.cli.options import (
    config_options,
    fit_options,
    json_option,
    looking_config_options,
    pairing_options,
    reading_options,
    store_argument,
    with_settings,
)
from ptc_stream.cli.processing import check_flats, write_results
from ptc_stream.config import Settings, load_settings
from ptc_stream.core.pairing import pair_exposures
from ptc_stream.errors import ConfigurationError
from ptc_stream.export.figures import save_all
from ptc_stream.export.lsst_ptc import save_lsst_ptcs
from ptc_stream.export.report import RunReport
from ptc_stream.export.reporting import save_report
from ptc_stream.export.results import RunResult
from ptc_stream.export.tables import write_ecsv
from ptc_stream.images.camera import load_camera
from ptc_stream.ingest.files import find_files, read_catalogue
from ptc_stream.records import Alert, ExposureArrived, PtcFit
from ptc_stream.store import Store

__all__ = [
    "alerts_command",
    "config_command",
    "export_command",
    "list_command",
    "plot_command",
    "rejected_command",
    "show_command",
]

_run_option = click.option("--run", "run_name", metavar="NAME", help="Which run, if the store holds several.")


@click.command("list")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@pairing_options
@reading_options
@config_options
@json_option
@with_settings
def list_command(
    paths: tuple[Path, ...],
    *,
    settings: Settings,
    camera: str | None,
    run_name: str | None,
    as_json: bool,
) -> None:
    """List exposures (id, type, exposure time, filter) and what pairs with what. Reads headers only.

    \b
    ptc-stream list /data/run123
    ptc-stream list /data/run123 --every-nth-pair 10 --json
    """
    description = load_camera(camera) if camera else None
    with progress_bar("reading headers", quiet=as_json) as progress:
        catalogue = read_catalogue(
            find_files(paths),
            header_map=settings.headers,
            camera=description,
            run=run_name,
            progress=progress,
        )
    paired = pair_exposures(catalogue.exposures, settings.pairing, measuring_digest="")
    partner: dict[tuple[str, ...], str] = {}
    for pair in paired.pairs:
        partner[(*pair.group, pair.first.exposure)] = pair.second.exposure
        partner[(*pair.group, pair.second.exposure)] = pair.first.exposure
    reasons = {exposure.uri: reject.reason for exposure, reject in paired.rejected}
    rows = [
        {
            "exposure": exposure.exposure,
            "run": exposure.run,
            "detector": exposure.detector,
            "image_type": exposure.image_type,
            "exposure_time": exposure.exposure_time,
            "filter": exposure.filter,
            "partner": partner.get((*exposure.group, exposure.exposure)),
            "rejected": reasons.get(exposure.uri),
            "uri": exposure.uri,
        }
        for exposure in catalogue.exposures
    ]
    if as_json:
        unread = [dataclasses.asdict(file) for file in catalogue.unread]
        shape = {
            "exposures": rows,
            "pairs": len(paired.pairs),
            "unpaired": len(paired.waiting),
            "unread": unread,
        }
        click.echo(json.dumps(shape, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("exposure", "detector", "type", "time [s]", "filter", "pairs with"):
        table.add_column(column, justify="right" if column == "time [s]" else "left")
    for row in rows:
        time = "" if row["exposure_time"] is None else f"{row['exposure_time']:.4g}"
        pairs_with = row["partner"] or row["rejected"] or ("-" if row["image_type"] == "flat" else "")
        table.add_row(
            str(row["exposure"]),
            str(row["detector"]),
            str(row["image_type"]),
            time,
            str(row["filter"]),
            str(pairs_with),
        )
    output.print(table)
    for file in catalogue.unread:
        console.print(f"unreadable: {file.message}", style="yellow")
    runs = ", ".join(dict.fromkeys(exposure.run for exposure in catalogue.exposures))
    output.print(
        f"run {runs}: {len(rows)} exposures, {len(paired.pairs)} pairs, "
        f"{len(paired.waiting)} flats without partner"
    )
    check_flats(catalogue)


@click.command("show")
@store_argument
@_run_option
@fit_options
@click.option("--all", "every_amplifier", is_flag=True, help="One row per amplifier, however many there are.")
@looking_config_options
@json_option
def show_command(
    store: Path,
    *,
    run_name: str | None,
    model: str | None,
    every_amplifier: bool,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Show the results in STORE, also while a run is being processed."""
    with Store(store) as reader:
        result = _result(reader, run_name, _model(model, config_file))
        run = reader.one_run(run_name)
        waiting = reader.waiting(run)
        if as_json:
            click.echo(
                json.dumps(
                    result.to_json() | {"waiting": [exposure.exposure for exposure in waiting]}, indent=1
                )
            )
            return
        output.print(results_table(result.fits, every_amplifier=every_amplifier))
        output.print(f"{result.pairs} pairs in the fits; {len(reader.pairs(run))} pairs formed")
        _print_waiting(waiting)
        rejected = reader.rejected()
        if rejected:
            output.print(f"{len(rejected)} rejected: see `ptc-stream rejected {store}`")
        active = _active(reader.alerts(run))
        for alert in active:
            output.print(f"ALERT {alert.detector}: {alert.message}", style="red")


@click.command("plot")
@store_argument
@_run_option
@fit_options
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to (default: figures beside STORE)."
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["png", "pdf", "svg"]),
    default=("png",),
    show_default=True,
    help="File format. Repeatable.",
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a report, FILE.html (all in one file) or FILE.pdf; single figures then only with --out. "
    "Repeatable.",
)
@looking_config_options
@json_option
def plot_command(
    store: Path,
    *,
    run_name: str | None,
    model: str | None,
    out: Path | None,
    formats: tuple[str, ...],
    reports: tuple[Path, ...],
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Draw every figure of a run: curves, covariances, linearity, convergence, summary; or a report.

    \b
    ptc-stream plot ptc-run1/ptc.sqlite --out figures --format pdf
    ptc-stream plot ptc-run1/ptc.sqlite --report run1.html --report run1.pdf
    """
    target = out or store.absolute().parent / "figures"
    with Store(store) as reader, console.status("drawing"):
        result = _result(reader, run_name, _model(model, config_file))
        history: list[PtcFit] = []
        for fit in result.fits:
            history += reader.history(fit.group, fit.model)
        saved = [save_report(_report(reader, result, history), path) for path in reports]
        if out is not None or not reports:
            saved += save_all(result, target, formats=formats, history=history)
    _print_files(saved, as_json=as_json)


@click.command("export")
@store_argument
@_run_option
@fit_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to (default: the directory of STORE).",
)
@click.option("--lsst", is_flag=True, help="Also a PhotonTransferCurveDataset (FITS) of each detector.")
@looking_config_options
@json_option
def export_command(
    store: Path,
    *,
    run_name: str | None,
    model: str | None,
    out: Path | None,
    lsst: bool,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Write results.ecsv, gains.yaml, results.json and points.ecsv (every point, used or not, and why)."""
    target = out or store.absolute().parent
    with Store(store) as reader:
        result = _result(reader, run_name, _model(model, config_file))
        written = write_results(result, target)
        points = [
            result.points(fit.detector, amplifier.name, matrices=True)
            for fit in result.fits
            for amplifier in fit.amplifiers
        ]
        written.append(write_ecsv(points, target / "points.ecsv"))
        if lsst:
            written += save_lsst_ptcs(result, target)
    _print_files(written, as_json=as_json)


@click.command("alerts")
@store_argument
@click.option("--active", is_flag=True, help="Only those that are not cleared.")
@looking_config_options
@json_option
def alerts_command(store: Path, *, active: bool, config_file: Path | None, as_json: bool) -> None:
    """List the alerts in STORE: raised and cleared once each."""
    load_settings(file=config_file)
    with Store(store) as reader:
        alerts = reader.alerts()
        chosen = _active(alerts) if active else alerts
        if as_json:
            click.echo(json.dumps([dataclasses.asdict(alert) for alert in chosen], indent=1))
            return
        table = Table(box=None, pad_edge=False)
        for column in ("run", "detector", "amplifier", "rule", "action", "message"):
            table.add_column(column)
        for alert in chosen:
            table.add_row(alert.run, alert.detector, alert.amplifier, alert.rule, alert.action, alert.message)
        output.print(table if chosen else "no alerts")


@click.command("rejected")
@store_argument
@looking_config_options
@json_option
def rejected_command(store: Path, *, config_file: Path | None, as_json: bool) -> None:
    """List everything in STORE that could not be used, and why."""
    load_settings(file=config_file)
    with Store(store) as reader:
        rejected = reader.rejected()
    if as_json:
        shapes = [
            {
                "stage": record.stage,
                "reason": record.reason,
                "message": record.message,
                "key": record.source_key,
                "origin": origin,
                "bytes": len(record.original),
            }
            for record, origin in rejected
        ]
        click.echo(json.dumps(shapes, indent=1))
        return
    if not rejected:
        output.print("nothing was rejected")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "reason", "origin", "message"):
        table.add_column(column)
    for record, origin in rejected:
        table.add_row(record.stage, record.reason, origin or record.source_key, record.message)
    output.print(table)


@click.command("config")
@config_options
@json_option
@with_settings
def config_command(
    *,
    settings: Settings,
    as_json: bool,
) -> None:
    """Show every parameter: value, unit, meaning, and where the value came from.

    Later sources win: default, --config FILE (TOML, one table per section), environment
    (PTC_STREAM_MEASURING__MAX_LAG=8), --set measuring.max_lag=8 and options of their own.
    """
    lines = list(settings.lines())
    if as_json:
        click.echo(json.dumps([line._asdict() for line in lines], indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("parameter", "value", "unit", "from", "meaning"):
        table.add_column(column, overflow="fold")
    for line in lines:
        style = "bold" if line.origin != "default" else ""
        table.add_row(line.name, _text(line.value), line.unit, line.origin, line.meaning, style=style)
    output.print(table)


def _result(reader: Store, run_name: str | None, model: str | None) -> RunResult:
    run = reader.one_run(run_name)
    models = reader.models(run)
    if model is not None and model not in models:
        raise ConfigurationError(
            f"{reader.path} holds no {model} fit of run {run[1]} (there are: {', '.join(models) or 'none'}): "
            f"make it with `ptc-stream run PATHS --store {reader.path} --model {model}`"
        )
    return reader.result(run[1], model)


def _report(reader: Store, result: RunResult, history: list[PtcFit]) -> RunReport:
    run = reader.one_run(result.run)
    fitting = [f"fitting.{model}" for model in dict.fromkeys(fit.model for fit in result.fits)]
    stages = ["pairing", "measuring", *fitting, "watching"]
    return RunReport(
        result=result,
        history=history,
        pairs_formed=len(reader.pairs(run)),
        waiting=reader.waiting(run),
        rejected=[(found.record, found.origin) for found in reader.rejected()],
        alerts=_active(reader.alerts(run)),
        settings={stage: config for stage in stages if (config := reader.stage_config(stage)) is not None},
    )


def _model(model: str | None, config_file: Path | None) -> str | None:
    """Return the model that the option names, else the configuration, else None (the newest)."""
    settings = load_settings(file=config_file)
    if model is not None or "fitting.model" not in settings.origins:
        return model
    return settings.fitting.model.value


def _print_files(paths: Sequence[Path], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([str(path) for path in paths], indent=1))
        return
    for path in paths:
        output.print(str(path), soft_wrap=True)


def _active(alerts: list[Alert]) -> list[Alert]:
    newest = {alert.key: alert for alert in alerts}
    return [alert for alert in newest.values() if alert.action == "raise"]


def _print_waiting(waiting: list[ExposureArrived]) -> None:
    if waiting:
        names = ", ".join(f"{exposure.detector} {exposure.exposure}" for exposure in waiting[:20])
        more = f" and {len(waiting) - 20} more" if len(waiting) > 20 else ""
        output.print(f"{len(waiting)} flats without partner: {names}{more}")


def _text(value: Any) -> str:
    return "none" if value is None else json.dumps(value) if isinstance(value, list | dict) else str(value)
