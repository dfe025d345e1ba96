from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ptc_stream.cli.options import VariadicCommand, settings_from
from ptc_stream.errors import ConfigurationError
from ptc_stream.physics.models import FitModel


@click.command(cls=VariadicCommand)
@click.argument("paths", nargs=-1)
@click.option("--bias", "-b", multiple=True)
@click.option("--set", "sets", multiple=True)
@click.option("--mask")
@click.option("--tiles", is_flag=True)
@click.pass_obj
def command(obj: dict[str, Any], /, **values: Any) -> None:
    obj.update(values)


def parsed(*arguments: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    done = CliRunner().invoke(command, arguments, obj=values)
    assert done.exit_code == 0, done.output
    return values


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["p", "--bias", "a"], {"paths": ("p",), "bias": ("a",)}),
        (["p", "q", "--bias", "a", "b", "c"], {"paths": ("p", "q"), "bias": ("a", "b", "c")}),
        (["--bias", "a", "b", "--tiles"], {"bias": ("a", "b"), "tiles": True, "paths": ()}),
        (["--bias", "a", "--set", "x=1", "y=2", "--bias", "b"], {"bias": ("a", "b"), "sets": ("x=1", "y=2")}),
        (["--bias", "a", "b", "--mask", "m", "p"], {"bias": ("a", "b"), "mask": "m", "paths": ("p",)}),
        (["-b", "a", "b"], {"bias": ("a", "b")}),
        (["--bias=a", "b", "c"], {"bias": ("a", "b", "c"), "paths": ()}),
        (["--bias", "a", "-", "--", "p", "q"], {"bias": ("a", "-"), "paths": ("p", "q")}),
        (["--", "--bias", "p"], {"bias": (), "paths": ("--bias", "p")}),
        (["--", "-b", "p", "q"], {"bias": (), "paths": ("-b", "p", "q")}),
        ([], {"paths": (), "bias": (), "sets": (), "mask": None, "tiles": False}),
    ],
)
def test_values_reach_to_the_next_option(arguments: list[str], expected: dict[str, Any]) -> None:
    found = parsed(*arguments)
    assert {name: found[name] for name in expected} == expected


def test_an_option_without_a_value_is_an_error() -> None:
    done = CliRunner().invoke(command, ["p", "--bias"], obj={})
    assert done.exit_code == 2
    assert "--bias" in done.output


# --- options become settings ----------------------------------------------------------------------


def test_options_go_before_the_file_and_are_named_as_the_origin(tmp_path: Path) -> None:
    file = tmp_path / "ptc.toml"
    file.write_text(
        '[pairing]\nevery_nth_pair = 5\n[measuring]\nmax_lag = 5\nedge = 5\n[headers]\nlamp = "LED"\n'
    )
    settings = settings_from(
        config_file=file,
        assignments=["measuring.max_lag = 6", "headers.run=RUN_ID"],
        maps=["exposure_time=ITIME*0.001", "image_type==flat"],
        every_nth_pair=7,
        bias=[Path("a.fits"), Path("b.fits")],
        dark=[Path("d.fits")],
        mask=Path("m.fits"),
        tiles=True,
        model="polynomial".upper(),
    )
    assert settings.measuring.max_lag == 6
    assert settings.measuring.edge == 5
    assert settings.measuring.tiles
    assert (settings.headers.exposure_time, settings.headers.image_type) == ("ITIME*0.001", "=flat")
    assert (settings.headers.run, settings.headers.lamp) == ("RUN_ID", "LED")
    assert settings.pairing.every_nth_pair == 7
    assert settings.fitting.model is FitModel.POLYNOMIAL
    here = Path.cwd()
    assert settings.reduction.bias == (str(here / "a.fits"), str(here / "b.fits"))
    assert settings.reduction.dark == (str(here / "d.fits"),)
    assert settings.reduction.mask == (str(here / "m.fits"),)
    origins = {line.name: line.origin for line in settings.lines()}
    assert origins["measuring.max_lag"] == "--set measuring.max_lag = 6"
    assert origins["measuring.edge"] == str(file)
    assert origins["headers.exposure_time"] == "--map"
    assert origins["reduction.bias"] == "--bias"


def test_without_options_nothing_is_set() -> None:
    assert {line.origin for line in settings_from().lines()} == {"default"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"assignments": ["measuring.max_lag"]}, "--set measuring.max_lag: expected NAME=VALUE"),
        ({"assignments": ["measuring.max_lags=3"]}, "did you mean measuring.max_lag?"),
        ({"maps": ["exposuretime=X"]}, "--map exposuretime=X"),
        ({"every_nth_pair": 0}, "--every-nth-pair: pairing.every_nth_pair"),
    ],
)
def test_what_is_wrong_is_said_with_the_option(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        settings_from(**options)
    assert said in str(refused.value)
