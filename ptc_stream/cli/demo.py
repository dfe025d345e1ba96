"""``ptc-stream demo`` and ``ptc-stream simulate``: runs whose truth is known."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import pydantic
from rich.table import Table

from ptc_stream.cli.display import console, output, progress_bar
from ptc_stream.cli.options import (
    VariadicCommand,
    config_options,
    default_workers,
    json_option,
    looking_config_options,
    with_settings,
)
from ptc_stream.cli.processing import STORE_NAME, metrics_option, process_arrivals, write_results
from ptc_stream.config import Settings, load_settings, parse_value
from ptc_stream.errors import ConfigurationError
from ptc_stream.export.figures import save_all
from ptc_stream.export.notation import with_error
from ptc_stream.export.results import RunResult
from ptc_stream.ingest.directory import arriving_files
from ptc_stream.offload import ProcessOffload
from ptc_stream.records import AmplifierFitResult
from ptc_stream.services.measuring import MeasuringSettings
from ptc_stream.simulator import (
    TRUTH_FILE,
    AmplifierTruth,
    Scenario,
    Truth,
    in_writing_order,
    plan,
    truth_of,
    write_exposure,
)
from ptc_stream.store import Store

__all__ = ["DEMO", "demo_command", "simulate_command", "write_scenario"]

DEMO = Scenario(
    seed=20260101,
    run="demo",
    detectors=("R22_S11", "R22_S12"),
    amplifiers=16,
    shape=(512, 256),
    levels=25,
    shuffle_levels=True,
    biases_every=10,
    dead_amplifiers=("R22_S12/C03",),
    bad_columns=1,
    missing=1,
    late=1,
    doubled=1,
    truncated=1,
)
"""The demo's run: 2 detectors x 16 amplifiers of 512 x 256 pixels x 25 levels, and what goes wrong."""

_GAIN_TOLERANCE = 0.01
_JOB_S = 120.0


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("ptc-demo"),
    show_default=True,
    metavar="DIR",
    help="Directory for images, store, results and figures. Replaced if it is an earlier demo.",
)
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes (default: one per core).")
@metrics_option
@config_options
@json_option
@with_settings
def demo_command(
    *,
    settings: Settings,
    out: Path,
    workers: int | None,
    metrics: str | None,
    as_json: bool,
) -> None:
    """Simulate a camera run, feed it live, and compare the result with the truth.

    Two detectors of 16 amplifiers take 25 pairs of flats at shuffled levels, with biases in between; one
    amplifier is dead, one file is missing, one late, one doubled and one cut off. Files are processed while
    they are being written. Ends with status 1 if a live amplifier's gain is off by more than 1 %.
    """
    _clear_earlier_demo(out)
    workers = workers or default_workers()
    images = out / "images"
    store = out / STORE_NAME
    truth = truth_of(DEMO)
    a00 = float(DEMO.a_matrix[0][0])
    b00 = float(DEMO.b_matrix[0][0])
    console.print(
        f"simulating run {DEMO.run}: {len(DEMO.detectors)} detectors x {DEMO.amplifiers} amplifiers of "
        f"{DEMO.shape[0]} x {DEMO.shape[1]} pixels, {DEMO.levels} levels, a00 = {a00:.3g} 1/e-, "
        f"b00 = {b00:.3g} 1/e- (each amplifier scattered by {DEMO.kernel_scatter:.0%})"
    )
    interrupted = asyncio.run(
        _simulate_and_process(
            images,
            store,
            settings,
            measuring=MeasuringSettings.from_settings(settings),
            workers=workers,
            metrics=metrics,
            quiet=as_json,
        )
    )
    if interrupted:
        raise click.Abort
    with Store(store) as reader:
        result = reader.result(DEMO.run)
        history = [fit for newest in result.fits for fit in reader.history(newest.group, newest.model)]
    write_results(result, out)
    with console.status("drawing figures"):
        figures = save_all(result, out / "figures", truth=_truth_for_figures(truth), history=history)
    verdict, good = _verdict(result, truth)
    summary = result.to_json()
    if as_json:
        click.echo(json.dumps(summary | {"verdict": verdict, "good": good}, indent=1))
        raise click.exceptions.Exit(0 if good else 1)
    output.print(_comparison(result, truth))
    output.print(
        f"{summary['pairs']} pairs in the fits, {summary['unpaired']} flats without partner, "
        f"{summary['rejected']} rejected (see `ptc-stream rejected {store}`)"
    )
    output.print(
        f"results: {out}/results.ecsv, results.json, gains.yaml; {len(figures)} figures in {out}/figures"
    )
    output.print(verdict, style="green" if good else "red")
    if not good:
        raise click.exceptions.Exit(1)


async def _simulate_and_process(
    images: Path,
    store: Path,
    settings: Settings,
    *,
    measuring: MeasuringSettings,
    workers: int,
    metrics: str | None,
    quiet: bool,
) -> bool:
    writing = asyncio.create_task(write_scenario(DEMO, images, workers=workers))
    try:
        interrupted = await process_arrivals(
            arriving_files(
                images, poll_s=0.3, settle_s=2.0, idle=lambda seconds: writing.done() and seconds > 1.0
            ),
            store,
            settings,
            measuring,
            workers=workers,
            metrics=metrics,
            quiet=quiet,
            purpose="ptc-stream demo",
        )
        if not interrupted:
            await writing
        return interrupted
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def write_scenario(
    scenario: Scenario,
    directory: Path,
    *,
    workers: int,
    pause_s: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write all files of `scenario`, several at a time, and the truth beside them.

    Parameters
    ----------
    scenario
        The run.
    directory
        Made if need be.
    workers
        Processes that write.
    pause_s
        Time between two files [s], to play a camera.
    progress
        Called with (files written, files in all).
    """
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    await asyncio.to_thread((directory / TRUTH_FILE).write_text, truth_of(scenario).to_json())
    planned = in_writing_order(plan(scenario))
    offload = ProcessOffload(workers, deadline_s=_JOB_S)
    done = 0

    async def write(exposure: Any) -> None:
        nonlocal done
        await offload.run(partial(_write, scenario, directory), exposure)
        done += 1
        if progress is not None:
            progress(done, len(planned))

    try:
        async with asyncio.TaskGroup() as group:
            for exposure in planned:
                group.create_task(write(exposure))
                if pause_s:
                    await asyncio.sleep(pause_s)
    finally:
        await offload.close()


def _write(scenario: Scenario, directory: Path, exposure: Any) -> str:
    return str(write_exposure(scenario, exposure, directory))


def _clear_earlier_demo(out: Path) -> None:
    """Remove an earlier demo, and nothing else: a directory without its mark is not ours."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / "images" / TRUTH_FILE).exists():
        raise ConfigurationError(f"{out} is not empty and holds no earlier demo: choose another --out")
    shutil.rmtree(out)


def _truth_for_figures(truth: Truth) -> dict[str, dict[str, dict[str, float]]]:
    return {
        detector: {
            name: {
                "gain": amplifier.gain,
                "read_noise": amplifier.read_noise,
                "a00": float(amplifier.a_matrix[0, 0]),
                "turnoff": amplifier.turnoff,
            }
            for name, amplifier in amplifiers.items()
            if not amplifier.dead
        }
        for detector, amplifiers in truth.detectors.items()
    }


def _comparison(result: RunResult, truth: Truth) -> Table:
    table = Table(title=f"run {result.run} against the truth", title_justify="left", box=None, pad_edge=False)
    for column in ("detector", "amplifier", "status"):
        table.add_column(column)
    for column in (
        "gain [e-/ADU]",
        "truth",
        "off by",
        "read noise [e-]",
        "truth",
        "a00 [1e-6/e-]",
        "truth",
        "turnoff [ADU]",
        "truth",
    ):
        table.add_column(column, justify="right")
    for fit in result.fits:
        for amplifier in fit.amplifiers:
            true = truth.detectors[fit.detector][amplifier.name]
            if true.dead:
                table.add_row(fit.detector, amplifier.name, amplifier.status, "", "dead", style="red")
            else:
                table.add_row(fit.detector, amplifier.name, amplifier.status, *_columns(amplifier, true))
    return table


def _columns(fitted: AmplifierFitResult, true: AmplifierTruth) -> tuple[str, ...]:
    turnoff = with_error(fitted.turnoff, fitted.turnoff_error)
    return (
        with_error(fitted.gain, fitted.gain_error),
        f"{true.gain:.4f}",
        f"{fitted.gain / true.gain - 1:+.2%}",
        with_error(fitted.read_noise, fitted.read_noise_error),
        f"{true.read_noise:.2f}",
        with_error(fitted.a00, fitted.a00_error, scale=1e6),
        f"{true.a_matrix[0, 0] * 1e6:.3f}",
        f"> {fitted.turnoff:.0f}" if fitted.turnoff_is_lower_limit else turnoff,
        f"{true.turnoff:.0f}",
    )


def _verdict(result: RunResult, truth: Truth) -> tuple[str, bool]:
    fitted = {(f.detector, a.name): a for f in result.fits for a in f.amplifiers}
    live = {
        (detector, name): amplifier.gain
        for detector, amplifiers in truth.detectors.items()
        for name, amplifier in amplifiers.items()
        if not amplifier.dead
    }
    dead = [
        (detector, name)
        for detector, amplifiers in truth.detectors.items()
        for name, amplifier in amplifiers.items()
        if amplifier.dead
    ]
    off = [abs(fitted[key].gain / gain - 1) if key in fitted else math.inf for key, gain in live.items()]
    within = sum(value < _GAIN_TOLERANCE for value in off)
    flagged = sum(key in fitted and fitted[key].status == "DEAD" for key in dead)
    worst = max((value if math.isfinite(value) else math.inf for value in off), default=0.0)
    text = (
        f"{within} of {len(live)} live amplifiers have their gain within {_GAIN_TOLERANCE:.0%} of truth "
        f"(worst {worst:.2%}); {flagged} of {len(dead)} dead amplifiers flagged"
    )
    return text, within == len(live) and flagged == len(dead)


@click.command("simulate", cls=VariadicCommand)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", type=int, help="Root of all random streams.")
@click.option("--run", "run_name", metavar="NAME", help="Name of the run.")
@click.option("--detectors", multiple=True, metavar="NAMES", help="Such as R22_S11 R22_S12.")
@click.option("--amplifiers", type=click.IntRange(1, 16), metavar="N", help="Amplifiers per detector.")
@click.option("--rows", type=int, metavar="N", help="Rows of an amplifier.")
@click.option("--columns", type=int, metavar="N", help="Columns of an amplifier.")
@click.option("--levels", type=int, metavar="N", help="Flux levels.")
@click.option("--compressed", is_flag=True, help="Tile-compress the images (RICE).")
@click.option(
    "--every",
    "pause_s",
    type=click.FloatRange(0),
    default=0.0,
    metavar="SECONDS",
    help="Time between two files, to play a camera for `ptc-stream watch`.",
)
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes (default: one per core).")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any field of the scenario (see --fields), for example lamp_scatter=0.004. Repeatable.",
)
@click.option(
    "--fields",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, given: _list_fields(ctx) if given else None,
    help="List the fields of a scenario with their defaults.",
)
@looking_config_options
@json_option
def simulate_command(
    out: Path,
    *,
    seed: int | None,
    run_name: str | None,
    detectors: tuple[str, ...],
    amplifiers: int | None,
    rows: int | None,
    columns: int | None,
    levels: int | None,
    compressed: bool,
    pause_s: float,
    workers: int | None,
    assignments: tuple[str, ...],
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Write a simulated run into OUT as LSST-like raw FITS, with truth.json beside it.

    \b
    ptc-stream simulate sim --levels 40 --set 'dead_amplifiers=["R22_S11/C03"]' missing=2 late=1
    ptc-stream simulate incoming --every 2        a camera that takes two seconds a file
    """
    load_settings(file=config_file)
    values: dict[str, Any] = {
        "seed": seed,
        "run": run_name,
        "detectors": detectors or None,
        "amplifiers": amplifiers,
        "levels": levels,
        "compressed": compressed or None,
    }
    default = Scenario()
    if rows or columns:
        values["shape"] = (rows or default.shape[0], columns or default.shape[1])
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in {field.name for field in dataclasses.fields(Scenario)}:
            raise ConfigurationError(
                f"--set {assignment}: expected FIELD=VALUE with a field of `simulate OUT --fields`"
            )
        values[name] = parse_value(text)
    given = {name: value for name, value in values.items() if value is not None}
    try:
        scenario = pydantic.TypeAdapter(Scenario).validate_python(given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(
            f"{'.'.join(map(str, first['loc'])) or 'scenario'}: {first['msg']}"
        ) from error
    with progress_bar("writing exposures", quiet=as_json) as progress:
        asyncio.run(
            write_scenario(
                scenario, out, workers=workers or default_workers(), pause_s=pause_s, progress=progress
            )
        )
    files = [exposure.file_name for exposure in in_writing_order(plan(scenario))]
    if as_json:
        click.echo(json.dumps({"run": scenario.run, "directory": str(out), "files": files}, indent=1))
        return
    output.print(f"run {scenario.run}: {len(files)} files and {TRUTH_FILE} in {out}")


def _list_fields(context: click.Context) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("field", "default", "unit", "meaning"):
        table.add_column(column, overflow="fold")
    for field in dataclasses.fields(Scenario):
        default = str(field.default)
        table.add_row(
            field.name,
            default if len(default) < 60 else default[:57] + "...",
            str(field.metadata.get("unit", "")),
            str(field.metadata.get("meaning", "")),
        )
    output.print(table)
    context.exit()
