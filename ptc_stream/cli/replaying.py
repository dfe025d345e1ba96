"""``ptc-stream replay``: a recorded store through the same code into a new one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ptc_stream.bus.api import Topics
from ptc_stream.bus.reader import SqliteReader
from ptc_stream.cli.display import LiveView
from ptc_stream.cli.lifetime import draining_on_signals
from ptc_stream.cli.options import (
    VariadicCommand,
    config_options,
    default_workers,
    fit_options,
    json_option,
    measuring_options,
    store_argument,
    with_settings,
)
from ptc_stream.cli.processing import make_observer, metrics_option, report
from ptc_stream.config import Settings, make_section
from ptc_stream.errors import ConfigurationError
from ptc_stream.offload import InlineOffload, ProcessOffload
from ptc_stream.replay import RecordedMeasurements, feed_recording, measuring_digest_of, recorded_configs
from ptc_stream.services.fitting import FittingSettings
from ptc_stream.services.measuring import MeasuringSettings, measuring_stage, stage_measuring_by
from ptc_stream.services.session import measuring_processes, open_store, run_stages

__all__ = ["replay_command"]

_MEASURING = "measuring"
_FITTING = "fitting."
_FILE_OPTIONS = ("bias", "camera", "dark", "mask")


@click.command("replay", cls=VariadicCommand)
@store_argument
@click.option(
    "--into",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    metavar="STORE2",
    help="New store. A replay that was interrupted goes on where it was.",
)
@click.option(
    "--speed",
    default="max",
    show_default=True,
    metavar="X|max",
    help="Recorded time over replay time: 1 as it was, 20 twenty times as fast, max without waiting.",
)
@click.option(
    "--from",
    "start",
    type=click.Choice(["recorded", "exposures"]),
    default="recorded",
    show_default=True,
    help="recorded: take the measurements from STORE; exposures: measure the pixels again.",
)
@click.option(
    "--move",
    "moves",
    multiple=True,
    metavar="OLD=NEW",
    help="With --from exposures: images whose path began with OLD are now below NEW. Repeatable.",
)
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Measuring processes (--from exposures)."
)
@click.option("--camera", metavar="FILE", help="Camera description (--from exposures).")
@fit_options
@measuring_options
@metrics_option
@config_options
@json_option
@with_settings
def replay_command(
    store: Path,
    *,
    settings: Settings,
    target: Path,
    speed: str,
    start: str,
    moves: tuple[str, ...],
    workers: int | None,
    camera: str | None,
    metrics: str | None,
    as_json: bool,
) -> None:
    """Feed the exposures recorded in STORE through the same code into a new store.

    \b
    ptc-stream replay run1.sqlite --into again.sqlite              the same values, byte for byte
    ptc-stream replay run1.sqlite --into poly.sqlite --model POLYNOMIAL
    ptc-stream replay run1.sqlite --into live.sqlite --speed 20    for dashboards and rehearsals
    ptc-stream replay run1.sqlite --into remeasured.sqlite --from exposures --set measuring.max_lag=6

    Settings are those of the recording unless an option, --config or --set says otherwise.
    """
    if store.absolute() == target.absolute():
        raise ConfigurationError("--into must name another store than the recording")
    factor = _speed(speed)
    remeasure = None
    if start == "exposures":
        settings = _as_recorded(store, settings, camera=camera)
        remeasure = MeasuringSettings.from_settings(
            settings, camera=camera, uri_map=[_move(m) for m in moves]
        )
    else:
        _refuse_measuring_options(settings, camera=camera, moves=moves)
    interrupted, models = asyncio.run(
        _replay(
            store,
            target,
            settings,
            speed=factor,
            remeasure=remeasure,
            workers=workers or default_workers(),
            metrics=metrics,
            quiet=as_json,
        )
    )
    results = target.absolute().parent / f"{target.stem}-results"
    report(target, results, models=models, runs=None, as_json=as_json)
    if interrupted:
        raise click.Abort


async def _replay(
    store: Path,
    target: Path,
    settings: Settings,
    *,
    speed: float | None,
    remeasure: MeasuringSettings | None,
    workers: int,
    metrics: str | None,
    quiet: bool,
) -> tuple[bool, list[str]]:
    topics = Topics()
    with (
        SqliteReader(store) as reader,
        contextlib.closing(RecordedMeasurements(store, topics)) as recording,
        LiveView(quiet=quiet) as view,
    ):
        configs = recorded_configs(reader)
        fits = _fit_settings(configs, settings)
        if remeasure is None:
            offload: InlineOffload | ProcessOffload = InlineOffload()  # a reader stays in its thread
            measuring = stage_measuring_by(recording, config=configs.get(_MEASURING, "{}"), offload=offload)
            digest = measuring_digest_of(configs["pairing"])
        else:
            offload = measuring_processes(workers, settings.runner)
            measuring = measuring_stage(remeasure, offload=offload)
            digest = remeasure.digest
        async with open_store(
            target, purpose=f"ptc-stream replay --into {target}", partitions=reader.partitions
        ) as bus:
            try:
                async with run_stages(
                    bus,
                    pairing=_merged("pairing", json.loads(configs["pairing"])["pairing"], settings),
                    measuring_digest=digest,
                    measuring=measuring,
                    fitting=fits,
                    watching=_merged(
                        "watching", json.loads(configs.get("watching", "{}")).get("watching", {}), settings
                    ),
                    runner=settings.runner,
                    observer=make_observer(view, metrics),
                ) as pipeline:
                    with draining_on_signals(pipeline) as interrupted:

                        async def feed() -> None:
                            await feed_recording(reader, bus, topics, speed=speed, stop=interrupted.event)

                        await pipeline.alongside(feed())
                        if not interrupted:
                            await pipeline.drained()
                        return bool(interrupted), [fit.fitting.model.value for fit in fits]
            finally:
                await offload.close()


def _fit_settings(configs: dict[str, str], settings: Settings) -> list[FittingSettings]:
    """Return the settings of the recorded fits, or of the one model that the options name."""
    recorded: dict[str, dict[str, Any]] = {
        stage.removeprefix(_FITTING): json.loads(config)
        for stage, config in configs.items()
        if stage.startswith(_FITTING)
    }
    if "fitting.model" in settings.origins:
        wanted = settings.fitting.model.value
        base: dict[str, Any] = recorded.get(wanted) or next(iter(recorded.values()), {})
        recorded = {wanted: base}
    return [
        FittingSettings(
            _merged("fitting", config.get("fitting", {}), settings),
            _merged("linearity", config.get("linearity", {}), settings),
        )
        for config in recorded.values() or [{}]
    ]


def _as_recorded(store: Path, settings: Settings, *, camera: str | None) -> Settings:
    """Return `settings` with what the pixels were measured under, where no option says otherwise.

    Raises
    ------
    ConfigurationError
        A calibration file or a camera description was used, and is not named again: the recording has its
        content hash only.
    """
    with SqliteReader(store) as reader:
        recorded = json.loads(recorded_configs(reader).get(_MEASURING, "{}"))
    used = dict.fromkeys(role for role, _ in recorded.get("calibration", ()))
    missing = [role for role in used if f"reduction.{role}" not in settings.origins]
    if recorded.get("camera") and camera is None:
        missing.append("camera")
    if missing:
        raise ConfigurationError(
            f"{store} was measured with {' and '.join(missing)}: name the files again, with "
            + " and ".join(
                f"--{role}" if role in _FILE_OPTIONS else f"--set reduction.{role}=FILE" for role in missing
            )
        )
    return dataclasses.replace(
        settings,
        measuring=_merged("measuring", recorded.get("measuring", {}), settings),
        reduction=_merged("reduction", recorded.get("reduction", {}), settings),
    )


def _merged(section: str, recorded: dict[str, Any], settings: Settings) -> Any:
    """Put what a file, the environment or an option has set over the recorded values of a section."""
    values = dict(recorded)
    for line in settings.lines():
        if line.name.startswith(f"{section}.") and line.origin != "default":
            values[line.name.removeprefix(f"{section}.")] = line.value
    return make_section(section, values, settings.origins)


def _refuse_measuring_options(settings: Settings, *, camera: str | None, moves: Sequence[str]) -> None:
    """Raise for a measuring option without ``--from exposures``: it would have no effect."""
    named = [
        origin
        for name, origin in settings.origins.items()
        if name.startswith(("measuring.", "reduction.", "headers."))
    ]
    named += ["--camera"] if camera else []
    named += ["--move"] if moves else []
    if named:
        raise ConfigurationError(
            f"{named[0]} has no effect on recorded measurements: add --from exposures to measure again"
        )


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not speed > 0 or speed == float("inf"):
        raise ConfigurationError(f"--speed {text}: expected a number above 0, or max")
    return speed


def _move(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old:
        raise ConfigurationError(f"--move {text}: expected OLD=NEW, the beginnings of the paths")
    return old, new
