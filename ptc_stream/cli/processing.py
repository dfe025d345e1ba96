"""``ptc-stream run`` and ``ptc-stream watch``: exposure files to fitted gains."""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import click

from ptc_stream.bus.api import Topics
from ptc_stream.cli.display import LiveView, console, output, progress_bar, results_table
from ptc_stream.cli.lifetime import draining_on_signals
from ptc_stream.cli.options import (
    VariadicCommand,
    config_options,
    default_workers,
    fit_options,
    json_option,
    measuring_options,
    pairing_options,
    reading_options,
    with_settings,
)
from ptc_stream.config import Settings
from ptc_stream.errors import ConfigurationError, StorageUnavailable
from ptc_stream.export.figures import save_all
from ptc_stream.export.results import RunResult
from ptc_stream.export.tables import gains_yaml, write_ecsv
from ptc_stream.images.camera import CameraDescription, load_camera
from ptc_stream.ingest.announcing import Announcer
from ptc_stream.ingest.directory import arriving_files
from ptc_stream.ingest.files import Catalogue, find_files, read_catalogue
from ptc_stream.services.measuring import MeasuringSettings
from ptc_stream.services.runner import Observer
from ptc_stream.services.session import Observers, open_store, run_pipeline
from ptc_stream.store import Store
from ptc_stream.telemetry import Telemetry, serve_metrics

__all__ = [
    "check_flats",
    "make_observer",
    "metrics_option",
    "process_arrivals",
    "process_catalogue",
    "report",
    "run_command",
    "watch_command",
    "write_results",
]

_log = logging.getLogger(__name__)

_PATH = click.Path(path_type=Path)
STORE_NAME = "ptc.sqlite"

_store_option = click.option(
    "--store", type=_PATH, metavar="FILE", help="Store of this run (default OUT/ptc.sqlite)."
)
_out_option = click.option(
    "--out", type=_PATH, metavar="DIR", help="Directory for results (default ptc-RUN)."
)
_workers_option = click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Measuring processes (default: one per core)."
)
metrics_option = click.option(
    "--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics here while running, e.g. 127.0.0.1:9464."
)


@click.command("run", cls=VariadicCommand)
@click.argument("paths", nargs=-1, required=True, type=_PATH)
@_store_option
@_out_option
@fit_options
@pairing_options
@measuring_options
@reading_options
@_workers_option
@metrics_option
@click.option("--plots", is_flag=True, help="Draw every figure too (see `ptc-stream plot`).")
@config_options
@json_option
@with_settings
def run_command(
    paths: tuple[Path, ...],
    *,
    settings: Settings,
    store: Path | None,
    out: Path | None,
    camera: str | None,
    run_name: str | None,
    workers: int | None,
    metrics: str | None,
    plots: bool,
    as_json: bool,
) -> None:
    """Process exposure files (FITS files or directories of them) to fitted gains.

    \b
    ptc-stream run /data/run123
    ptc-stream run /data/run123 --every-nth-pair 10 --model POLYNOMIAL
    ptc-stream run a.fits b.fits --bias c.fits d.fits --camera mycamera.toml --tiles

    Put PATHS before --bias and --dark, which take several files. Everything is kept in the store: run
    again and nothing is measured twice, add files and only they are, choose another --model and only the
    fits are made again.
    """
    description = load_camera(camera) if camera else None
    catalogue = _read(paths, settings, description, run_name, quiet=as_json)
    runs = list(dict.fromkeys(exposure.run for exposure in catalogue.exposures))
    console.print(f"run {', '.join(runs)}: {_describe(catalogue)}")
    out = out or Path("ptc-" + "+".join(runs).replace("/", "_"))
    store = store or out / STORE_NAME
    interrupted = asyncio.run(
        process_catalogue(
            catalogue,
            store,
            settings,
            MeasuringSettings.from_settings(settings, camera=camera),
            workers=workers or default_workers(),
            metrics=metrics,
            quiet=as_json,
        )
    )
    report(store, out, models=[settings.fitting.model.value], runs=runs, as_json=as_json, plots=plots)
    if interrupted:
        raise click.Abort


@click.command("watch", cls=VariadicCommand)
@click.argument("directory", type=_PATH)
@_store_option
@_out_option
@fit_options
@pairing_options
@measuring_options
@reading_options
@_workers_option
@metrics_option
@click.option(
    "--poll",
    "poll_s",
    type=click.FloatRange(0.05),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between looks at the directory.",
)
@click.option(
    "--settle",
    "settle_s",
    type=click.FloatRange(0.0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="An incomplete file that does not grow is taken after this time.",
)
@click.option(
    "--until-idle",
    "until_idle_s",
    type=click.FloatRange(0.0),
    metavar="SECONDS",
    help="End when nothing has arrived for so long (default: watch until interrupted).",
)
@config_options
@json_option
@with_settings
def watch_command(
    directory: Path,
    *,
    settings: Settings,
    store: Path | None,
    out: Path | None,
    camera: str | None,
    run_name: str | None,
    workers: int | None,
    metrics: str | None,
    poll_s: float,
    settle_s: float,
    until_idle_s: float | None,
    as_json: bool,
) -> None:
    """Process exposures live, as their files appear in DIRECTORY (and below).

    \b
    ptc-stream watch /data/incoming --metrics 127.0.0.1:9464
    ptc-stream watch /data/incoming --out results --until-idle 600

    Files that are still being written are waited for; a file sent again is a new revision. Ctrl-C finishes
    what is under way and prints the result; the same command goes on where it was.
    """
    out = out or Path(f"ptc-{run_name or directory.absolute().name}".replace("/", "_"))
    store = store or out / STORE_NAME
    interrupted = asyncio.run(
        process_arrivals(
            arriving_files(
                directory,
                poll_s=poll_s,
                settle_s=settle_s,
                idle=None if until_idle_s is None else lambda seconds: seconds >= until_idle_s,
            ),
            store,
            settings,
            MeasuringSettings.from_settings(settings, camera=camera),
            run_name=run_name,
            workers=workers or default_workers(),
            metrics=metrics,
            quiet=as_json,
            purpose=f"ptc-stream watch {directory}",
        )
    )
    report(store, out, models=[settings.fitting.model.value], runs=None, as_json=as_json)
    if interrupted:
        raise click.Abort


async def process_catalogue(
    catalogue: Catalogue,
    store: Path,
    settings: Settings,
    measuring: MeasuringSettings,
    *,
    workers: int,
    metrics: str | None = None,
    quiet: bool = False,
) -> bool:
    """Announce the exposures of `catalogue` and process until every stage has reached the end of its log.

    Returns
    -------
    bool
        Whether a signal ended it before.
    """
    with LiveView(quiet=quiet) as view:
        observer = make_observer(view, metrics)
        async with (
            open_store(store, purpose=f"ptc-stream run --store {store}") as bus,
            run_pipeline(bus, settings, measuring, workers=workers, observer=observer) as pipeline,
        ):
            if bus.notice:
                console.print(bus.notice)
            with draining_on_signals(pipeline) as interrupted:
                announcer = Announcer(bus, Topics(), on_committed=observer.on_committed)

                async def announce() -> None:
                    await announcer.open()
                    await announcer.announce(catalogue.exposures, catalogue.unread)

                await pipeline.alongside(announce())
                if not interrupted:
                    await pipeline.drained()
                await announcer.close()
                return bool(interrupted)


async def process_arrivals(
    arrivals: AsyncIterator[list[Path]],
    store: Path,
    settings: Settings,
    measuring: MeasuringSettings,
    *,
    run_name: str | None = None,
    workers: int,
    metrics: str | None = None,
    quiet: bool = False,
    purpose: str,
) -> bool:
    """Announce files as they arrive and process them, until there are no more or a signal comes.

    Returns
    -------
    bool
        Whether a signal ended it.
    """
    calibration = _calibration_files(settings)
    with LiveView(quiet=quiet) as view:
        observer = make_observer(view, metrics)
        async with (
            open_store(store, purpose=f"{purpose} --store {store}") as bus,
            run_pipeline(bus, settings, measuring, workers=workers, observer=observer) as pipeline,
        ):
            with draining_on_signals(pipeline) as interrupted:
                announcer = Announcer(bus, Topics(), on_committed=observer.on_committed)

                async def announce_arrivals() -> None:
                    await announcer.open()
                    backlog: list[Path] = []
                    async for files in arrivals:
                        backlog += [file for file in files if file.absolute() not in calibration]
                        if not backlog:
                            continue
                        try:
                            found = await asyncio.to_thread(
                                read_catalogue,
                                backlog,
                                header_map=settings.headers,
                                camera=measuring.camera,
                                run=run_name,
                            )
                        except StorageUnavailable as error:
                            _log.warning("%s; trying again", error)
                            continue  # the backlog is read again at the next look
                        backlog = []
                        await announcer.announce(found.exposures, found.unread)

                await pipeline.alongside(announce_arrivals())
                if not interrupted:
                    await pipeline.drained()
                await announcer.close()
                return bool(interrupted)


def report(
    store: Path,
    out: Path,
    *,
    models: Sequence[str],
    runs: Sequence[str] | None,
    as_json: bool,
    plots: bool = False,
) -> None:
    """Print the results of each run in `store` (default: all) with each model and write them into `out`.

    Several runs go into one directory each, and so do several models.
    """
    results = []
    with Store(store) as reader:
        chosen = [run for _, run in reader.runs() if runs is None or run in runs]
        for run, model in itertools.product(chosen, models):
            result = reader.result(run, model)
            results.append(result)
            target = out / (run if len(chosen) > 1 else "") / (model if len(models) > 1 else "")
            write_results(result, target)
            if plots:
                history = [fit for newest in result.fits for fit in reader.history(newest.group, model)]
                save_all(result, target / "figures", history=history)
    if as_json:
        shapes = [result.to_json() for result in results]
        click.echo(json.dumps(shapes[0] if len(shapes) == 1 else shapes, indent=1))
        return
    for result in results:
        output.print(results_table(result.fits))
        summary = result.to_json()
        output.print(
            f"{summary['pairs']} pairs, {summary['unpaired']} flats without partner, "
            f"{summary['rejected']} rejected"
        )
    console.print(f"results in {out}, store {store}: `ptc-stream plot {store}` draws the curves")


def write_results(result: RunResult, directory: Path) -> list[Path]:
    """Write table, gains and JSON of one run; return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    as_json, gains = directory / "results.json", directory / "gains.yaml"
    as_json.write_text(json.dumps(result.to_json(), indent=1) + "\n")
    gains.write_text(gains_yaml(result.fits, run=result.run))
    return [as_json, gains, write_ecsv(result.table(), directory / "results.ecsv")]


def make_observer(view: LiveView, metrics: str | None) -> Observer:
    """Return `view`, or `view` and the metrics that are then served at `metrics`."""
    if metrics is None:
        return view
    telemetry = Telemetry()
    host, port = serve_metrics(telemetry, metrics)
    console.print(f"metrics on http://{host}:{port}/metrics")
    return Observers(view, telemetry)


def _read(
    paths: Sequence[Path],
    settings: Settings,
    camera: CameraDescription | None,
    run_name: str | None,
    *,
    quiet: bool,
) -> Catalogue:
    calibration = _calibration_files(settings)
    files = [file for file in find_files(paths) if file.absolute() not in calibration]
    with progress_bar("reading headers", quiet=quiet) as progress:
        catalogue = read_catalogue(
            files, header_map=settings.headers, camera=camera, run=run_name, progress=progress
        )
    check_flats(catalogue)
    return catalogue


def _calibration_files(settings: Settings) -> set[Path]:
    """Frames that serve as bias or dark are no exposures of the run, wherever they lie."""
    return {Path(name).absolute() for name in (*settings.reduction.bias, *settings.reduction.dark)}


def check_flats(catalogue: Catalogue) -> None:
    """Raise ConfigurationError, with the remedy, if there is no flat among the exposures."""
    if any(exposure.image_type == "flat" for exposure in catalogue.exposures):
        return
    if catalogue.unread and not catalogue.exposures:
        first = catalogue.unread[0]
        raise ConfigurationError(
            f"none of {len(catalogue.unread)} files could be read; the first: {first.message}"
        )
    seen = collections.Counter(
        f"{exposure.image_type} ({catalogue.decided[exposure.uri].get('image_type', 'no key')})"
        for exposure in catalogue.exposures
    )
    listed = ", ".join(f"{count} {name}" for name, count in seen.most_common())
    raise ConfigurationError(
        f"no flats among {len(catalogue.exposures)} exposures; image types: {listed}. If another "
        "keyword tells, add --map image_type=KEYWORD; if a value means flat, --map image_type:VALUE=flat; "
        "if all are flats, --map image_type==flat"
    )


def _describe(catalogue: Catalogue) -> str:
    kinds = collections.Counter(exposure.image_type for exposure in catalogue.exposures)
    detectors = len({exposure.detector for exposure in catalogue.exposures})
    text = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    unread = f", {len(catalogue.unread)} unreadable" if catalogue.unread else ""
    return f"{text}{unread}; {detectors} detector{'s' if detectors != 1 else ''}"
