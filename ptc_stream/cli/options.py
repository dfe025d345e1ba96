"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ptc_stream.config import Settings, load_settings, parse_value
from ptc_stream.errors import ConfigurationError
from ptc_stream.images.header_map import parse_map_options
from ptc_stream.physics.models import FitModel

__all__ = [
    "VariadicCommand",
    "config_options",
    "default_workers",
    "fit_options",
    "json_option",
    "looking_config_options",
    "measuring_options",
    "pairing_options",
    "reading_options",
    "settings_from",
    "store_argument",
    "with_settings",
]

_SETTING_OPTIONS = (
    "config_file",
    "assignments",
    "maps",
    "every_nth_pair",
    "bias",
    "dark",
    "mask",
    "tiles",
    "model",
)

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)


class VariadicCommand(click.Command):
    """A command whose repeatable options take several values at once: ``--bias FILE FILE ...``.

    Values reach to the next option, so positional arguments stand before such an option.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write every further value as an option of its own, which is what click understands."""
        repeatable = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.multiple
            for name in parameter.opts
        }
        expanded: list[str] = []
        option: str | None = None
        first = False
        for place, arg in enumerate(args):
            if arg == "--":
                expanded += args[place:]
                break
            if arg.startswith("-") and arg != "-":
                name, equals, _ = arg.partition("=")
                option = name if name in repeatable else None
                first = option is not None and not equals
                expanded.append(arg)
            elif option is not None and not first:
                expanded += [option, arg]
            else:
                expanded.append(arg)
                first = False
        return super().parse_args(ctx, expanded)


def _chain(*decorators: Callable[[Any], Any]) -> Callable[[FunctionT], FunctionT]:
    def decorate(function: FunctionT) -> FunctionT:
        decorated: Any = function
        for decorator in reversed(decorators):
            decorated = decorator(decorated)
        result: FunctionT = decorated
        return result

    return decorate


looking_config_options = click.option(
    "--config",
    "config_file",
    type=_PATH,
    metavar="FILE",
    help="Settings (TOML), as for `run`: checked, and fitting.model chooses the fits to look at.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."
)

store_argument = click.argument("store", type=_PATH)

config_options = _chain(
    click.option("--config", "config_file", type=_PATH, metavar="FILE", help="Settings (TOML)."),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any parameter of `ptc-stream config`, for example measuring.max_lag=8. Repeatable.",
    ),
)

reading_options = _chain(
    click.option(
        "--camera",
        metavar="FILE",
        help="Camera description (TOML file, or the name of one that is shipped, such as msfc_ccd).",
    ),
    click.option(
        "--map",
        "maps",
        multiple=True,
        metavar="KEY=HEADER",
        help="Take KEY (exposure_time, image_type, filter, run, ...) from this header keyword; "
        "KEY==VALUE sets it. Repeatable.",
    ),
    click.option("--run", "run_name", metavar="NAME", help="Name of the run, over what the headers say."),
)

pairing_options = click.option(
    "--every-nth-pair", type=int, metavar="N", help="Measure only every N-th pair (1: all)."
)

measuring_options = _chain(
    click.option(
        "--bias",
        multiple=True,
        type=_PATH,
        metavar="FILES",
        help="Bias frames, for zero level and read noise.",
    ),
    click.option(
        "--dark", multiple=True, type=_PATH, metavar="FILES", help="Dark frames, scaled and subtracted."
    ),
    click.option("--mask", type=_PATH, metavar="FILE", help="Bad pixels (FITS, above 0 is bad)."),
    click.option("--tiles", is_flag=True, help="Many points per pair: for frames with a strong gradient."),
)

fit_options = click.option(
    "--model",
    type=click.Choice([model.value for model in FitModel], case_sensitive=False),
    help="Model of the curve (default EXPAPPROXIMATION).",
)


def default_workers() -> int:
    """One measuring process per core that this process may use."""
    return len(os.sched_getaffinity(0))


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the merged ``settings`` instead of the options that they come from."""

    @functools.wraps(command)
    def with_merged(**options: Any) -> None:
        chosen = {name: options.pop(name) for name in _SETTING_OPTIONS if name in options}
        command(settings=settings_from(**chosen), **options)

    return with_merged


def settings_from(
    *,
    config_file: Path | None = None,
    assignments: Sequence[str] = (),
    maps: Sequence[str] = (),
    every_nth_pair: int | None = None,
    bias: Sequence[Path] = (),
    dark: Sequence[Path] = (),
    mask: Path | None = None,
    tiles: bool = False,
    model: str | None = None,
) -> Settings:
    """Merge the options of a command with file and environment.

    Raises
    ------
    ConfigurationError
        In one line: which option, what is wrong, what would be right.
    """
    overrides: dict[str, tuple[Any, str]] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError(
                f"--set {assignment}: expected NAME=VALUE, for example measuring.max_lag=8"
            )
        overrides[name.strip()] = (parse_value(value.strip()), f"--set {assignment}")
    for name, value in parse_map_options(maps).items():
        overrides[f"headers.{name}"] = (value, "--map")
    if every_nth_pair is not None:
        overrides["pairing.every_nth_pair"] = (every_nth_pair, "--every-nth-pair")
    if bias:
        overrides["reduction.bias"] = (tuple(str(path.absolute()) for path in bias), "--bias")
    if dark:
        overrides["reduction.dark"] = (tuple(str(path.absolute()) for path in dark), "--dark")
    if mask is not None:
        overrides["reduction.mask"] = ((str(mask.absolute()),), "--mask")
    if tiles:
        overrides["measuring.tiles"] = (True, "--tiles")
    if model is not None:
        overrides["fitting.model"] = (model, "--model")
    return load_settings(file=config_file, overrides=overrides)
