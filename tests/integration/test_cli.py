"""Every command as its users meet it: what it prints, what it writes, how it says what is wrong."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from prometheus_client.parser import text_string_to_metric_families

from ptc_stream.cli import _COMMANDS, main
from ptc_stream.simulator import truth_of
from ptc_stream.telemetry import CATALOGUE
from tests.conftest import SMALL
from tests.integration.commands import SMALL_SETTINGS, one_line, ptc_stream, result, start, until

Command = Callable[..., subprocess.CompletedProcess[str]]

RUN_KEYS = {"run", "pairs", "unpaired", "rejected", "detectors"}
AMPLIFIER_KEYS = {
    "name",
    "model",
    "status",
    "gain",
    "gain_error",
    "read_noise",
    "read_noise_error",
    "a00",
    "a00_error",
    "turnoff",
    "turnoff_error",
    "turnoff_is_lower_limit",
    "chi2_per_dof",
    "pairs_used",
    "pairs_not_used",
}
MEASURED_KEYS = {
    "name",
    "mean",
    "variance",
    "covariances",
    "pixel_count",
    "read_noise_adu",
    "gain_estimate",
    "flags",
}


@pytest.fixture(scope="module")
def out(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "out"
    ptc_stream("run", small_run, "--out", out, *SMALL_SETTINGS)
    return out


@pytest.fixture(scope="module")
def store(out: Path) -> Path:
    return out / "ptc.sqlite"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """`ptc_stream` of `commands`, inside this process: spares the second that an interpreter takes to start.

    Every command is started as a process of its own at least once in this module.
    """
    root, own = logging.getLogger(), logging.getLogger("ptc_stream")
    before = root.handlers[:], root.level, own.level
    monkeypatch.setenv("COLUMNS", "240")

    def run(*arguments: str | os.PathLike[str], exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        words = [os.fspath(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["ptc-stream", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        said = capfd.readouterr()
        assert ended.value.code == exit_code, said
        return subprocess.CompletedProcess(words, exit_code, said.out, said.err)

    yield run
    root.handlers[:], root.level = before[0], before[1]
    own.setLevel(before[2])


def flat_pair(directory: Path) -> tuple[Path, Path]:
    first, second = sorted(directory.glob("*_R22_S11.fits"))[1:3]
    return first, second


def hold_to_shape(shape: dict[str, Any]) -> None:
    assert shape.keys() >= RUN_KEYS
    for detector in shape["detectors"]:
        assert {"detector", "amplifiers"} <= detector.keys()
        for amplifier in detector["amplifiers"]:
            assert amplifier.keys() >= AMPLIFIER_KEYS
            assert all(isinstance(count, int) for count in amplifier["pairs_not_used"].values())
            used = amplifier["pairs_used"] + sum(amplifier["pairs_not_used"].values())
            assert used == 8 - (detector["detector"] == "R22_S12")


def test_run_prints_a_table_and_writes_results(small_run: Path, tmp_path: Path) -> None:
    done = ptc_stream("run", small_run, *SMALL_SETTINGS, "--plots", cwd=tmp_path)
    out = tmp_path / "ptc-small"
    assert "R22_S11" in done.stdout
    assert "15 pairs, 1 flats without partner, 0 rejected" in done.stdout
    assert {path.name for path in out.iterdir()} >= {
        "ptc.sqlite",
        "results.ecsv",
        "results.json",
        "gains.yaml",
        "figures",
    }
    assert list((out / "figures").glob("*.png"))
    shape = json.loads((out / "results.json").read_text())
    hold_to_shape(shape)
    truth = truth_of(SMALL)
    for detector in shape["detectors"]:
        for amplifier in detector["amplifiers"]:
            true = truth.detectors[detector["detector"]][amplifier["name"]]
            if true.dead:
                assert amplifier["status"] == "DEAD"
                assert amplifier["gain"] is None
            else:
                assert abs(amplifier["gain"] - true.gain) < 5.0 * amplifier["gain_error"]


def test_run_json_is_all_that_stands_on_standard_output(small_run: Path, tmp_path: Path) -> None:
    done = ptc_stream("run", small_run, "--out", tmp_path / "out", *SMALL_SETTINGS, "--json")
    hold_to_shape(json.loads(done.stdout))


def test_run_takes_files_options_and_every_nth_pair(small_run: Path, tmp_path: Path) -> None:
    files = sorted(small_run.glob("*_R22_S11.fits"))
    biases = ("--bias", files[0])
    shape = result(
        "run",
        *files[1:],
        *biases,
        "--store",
        tmp_path / "own.sqlite",
        "--out",
        tmp_path / "out",
        "--every-nth-pair",
        "2",
        "--run",
        "renamed",
        "--workers",
        "1",
        *SMALL_SETTINGS,
    )
    assert shape["run"] == "renamed"
    assert shape["pairs"] == 4
    assert [detector["detector"] for detector in shape["detectors"]] == ["R22_S11"]
    assert (tmp_path / "own.sqlite").exists()


def test_list_says_what_pairs_with_what(small_run: Path, inside: Command) -> None:
    shape = result("list", small_run)
    assert (shape["pairs"], shape["unpaired"], shape["unread"]) == (15, 1, [])
    rows = shape["exposures"]
    assert len(rows) == 35
    assert {row["image_type"] for row in rows} == {"flat", "bias"}
    partners = {(row["detector"], row["exposure"]): row["partner"] for row in rows}
    paired = {key: partner for key, partner in partners.items() if partner is not None}
    assert len(paired) == 30
    assert all(partners[detector, partner] == exposure for (detector, exposure), partner in paired.items())
    text = inside("list", small_run).stdout
    assert "35 exposures, 15 pairs, 1 flats without partner" in text


def test_list_names_files_that_cannot_be_read(small_run: Path, tmp_path: Path, inside: Command) -> None:
    (tmp_path / "broken.fits").write_bytes(b"nothing")
    for path in flat_pair(small_run):
        shutil.copy(path, tmp_path)
    shape = json.loads(inside("list", tmp_path, "--json").stdout)
    assert [file["reason"] for file in shape["unread"]] == ["IMAGE_UNREADABLE"]
    assert shape["pairs"] == 1
    assert "broken.fits" in inside("list", tmp_path).stderr


def test_show(store: Path, inside: Command) -> None:
    shape = result("show", store)
    hold_to_shape(shape)
    assert (shape["run"], shape["pairs"], shape["unpaired"], shape["rejected"]) == ("small", 15, 1, 0)
    text = inside("show", store, "--all").stdout
    assert text.count("R22_S1") >= 4
    assert "1 flats without partner: R22_S12 MC_S_20250301_0000" in text
    assert "ALERT R22_S12: amplifier C11" in text


def test_show_follows_a_run_without_results(tmp_path: Path) -> None:
    """Somebody looks before there is anything to see."""
    process = start("watch", tmp_path / "coming", "--out", tmp_path, output=tmp_path / "output.txt")
    try:
        until((tmp_path / "ptc.sqlite").exists, what="store")
        until(lambda: (tmp_path / "ptc.sqlite.lock").stat().st_size, what="lock")
        line = one_line(ptc_stream("show", tmp_path / "ptc.sqlite", exit_code=2))
        assert "no run" in line
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130


def test_plot_and_export(store: Path, tmp_path: Path) -> None:
    printed = ptc_stream("plot", store, "--out", tmp_path / "figures", "--format", "svg").stdout.split()
    assert printed
    assert all(Path(path).suffix == ".svg" and Path(path).stat().st_size > 1000 for path in printed)
    report = tmp_path / "run.html"
    assert ptc_stream("plot", store, "--report", report).stdout.split() == [str(report)]
    assert "R22_S11" in report.read_text(encoding="utf-8")
    ptc_stream("export", store, "--lsst", "--out", tmp_path / "export")
    refitted = json.loads(ptc_stream("fit", tmp_path / "export" / "ptc_R22_S11.fits", "--json").stdout)
    (own,) = [
        detector
        for detector in json.loads((tmp_path / "export" / "results.json").read_text())["detectors"]
        if detector["detector"] == "R22_S11"
    ]
    # The error of the read noise is not in the layout.
    gains = [[a["gain"] for a in detector["amplifiers"]] for detector in (refitted["detectors"][0], own)]
    assert gains[0] == pytest.approx(gains[1], rel=1e-5)
    table = Table.read(tmp_path / "export" / "results.ecsv")
    assert len(table) == 4
    points = Table.read(tmp_path / "export" / "points.ecsv")
    assert len(points) == 2 * 8 + 2 * 7
    assert {"mean", "variance", "covariances", "used", "reason"} <= set(points.colnames)
    assert "R22_S11" in (tmp_path / "export" / "gains.yaml").read_text()
    hold_to_shape(json.loads((tmp_path / "export" / "results.json").read_text()))


def test_rejected_and_alerts(store: Path, inside: Command) -> None:
    assert result("rejected", store) == []
    assert "nothing was rejected" in inside("rejected", store).stdout
    alerts = result("alerts", store)
    assert [(alert["rule"], alert["action"]) for alert in alerts] == [("dead_amplifier", "raise")]
    assert alerts[0]["amplifier"] == "C11"
    assert json.loads(inside("alerts", store, "--active", "--json").stdout) == alerts
    assert "dead_amplifier" in inside("alerts", store).stdout


def test_config_says_where_each_value_came_from(tmp_path: Path, inside: Command) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[measuring]\nmax_lag = 7\nedge = 3\n[watching]\ngain_high = 2.5\n")
    lines = result("config", "--config", file, "--set", "measuring.edge=5")
    by_name = {line["name"]: line for line in lines}
    assert by_name["measuring.max_lag"]["value"] == 7
    assert by_name["measuring.max_lag"]["origin"] == str(file)
    assert by_name["measuring.edge"]["value"] == 5
    assert by_name["measuring.edge"]["origin"].startswith("--set")
    assert by_name["watching.gain_high"]["value"] == 2.5
    assert by_name["measuring.n_sigma"]["origin"] == "default"
    assert all(line["meaning"] for line in lines)
    assert {"measuring.max_lag", "pairing.match", "fitting.model"} <= by_name.keys()
    assert "measuring.max_lag" in inside("config").stdout


def test_measure_one_pair(small_run: Path, tmp_path: Path, inside: Command) -> None:
    first, second = flat_pair(small_run)
    shape = result("measure", first, second, *SMALL_SETTINGS)
    assert shape.keys() == {"detector", "amplifiers"}
    assert [amplifier["name"] for amplifier in shape["amplifiers"]] == ["C10", "C11"]
    for amplifier in shape["amplifiers"]:
        assert amplifier.keys() == MEASURED_KEYS
        covariances, counts = np.array(amplifier["covariances"]), np.array(amplifier["pixel_count"])
        assert covariances.shape == counts.shape == (4, 4)
        assert covariances[0, 0] == pytest.approx(amplifier["variance"], rel=1e-2)
        assert amplifier["gain_estimate"] == pytest.approx(1.4, abs=0.4)
        assert 13_000 < counts[0, 0] <= (160 - 2 * 4) * (96 - 2 * 4)
        assert amplifier["flags"] == []
    assert "C10" in inside("measure", first, second, *SMALL_SETTINGS).stdout

    mask = np.zeros((SMALL.shape[0], 8 * SMALL.shape[1]), dtype=np.uint8)
    mask[:] = 1
    fits.PrimaryHDU(mask).writeto(tmp_path / "mask.fits")
    masked = inside("measure", first, second, *SMALL_SETTINGS, "--mask", tmp_path / "mask.fits", exit_code=2)
    assert "mask.fits" in one_line(masked)


def test_fit_a_table_and_a_store(store: Path, tmp_path: Path, inside: Command) -> None:
    gain, noise, a00 = 1.6, 7.0, -2.5e-6
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["amplifier", "mean", "variance"])
    for mean in np.geomspace(200.0, 50_000.0, 20).tolist():
        variance = (math.exp(2 * a00 * mean * gain) - 1) / (2 * gain**2 * a00) + (noise / gain) ** 2
        writer.writerow(["C00", mean, variance])
    (tmp_path / "points.csv").write_text(text.getvalue())
    shape = result("fit", tmp_path / "points.csv")
    assert shape.keys() >= RUN_KEYS
    (amplifier,) = shape["detectors"][0]["amplifiers"]
    assert amplifier.keys() >= AMPLIFIER_KEYS
    assert amplifier["gain"] == pytest.approx(gain, rel=1e-6)
    assert amplifier["a00"] == pytest.approx(a00, rel=1e-4)
    assert amplifier["pairs_used"] == 20
    assert "C00" in inside("fit", tmp_path / "points.csv", "--model", "POLYNOMIAL").stdout

    before = store.read_bytes()
    again = json.loads(inside("fit", store, "--json").stdout)
    shown = json.loads(inside("show", store, "--json").stdout)
    assert [d["amplifiers"] for d in again["detectors"]] == [d["amplifiers"] for d in shown["detectors"]]
    other = json.loads(inside("fit", store, "--model", "polynomial", "--json").stdout)
    assert other["detectors"][0]["amplifiers"][0]["model"] == "POLYNOMIAL"
    assert store.read_bytes() == before


def test_simulate(tmp_path: Path, inside: Command) -> None:
    size = ("--rows", "64", "--columns", "64", "--amplifiers", "1", "--levels", "2")
    options = ("--seed", "3", "--run", "tiny", "--detectors", "R01_S00", *size)
    done = ptc_stream("simulate", tmp_path / "sim", *options, "--set", "biases_every=0", "darks_every=0")
    assert "run tiny: 4 files" in done.stdout
    assert len(list((tmp_path / "sim").glob("*.fits"))) == 4
    assert (tmp_path / "sim" / "truth.json").exists()
    assert "lamp_scatter" in inside("simulate", tmp_path / "no", "--fields").stdout


@pytest.mark.parametrize("name", [None, *_COMMANDS])
def test_help(name: str | None, inside: Command) -> None:
    text = inside(*((name,) if name else ()), "--help").stdout
    assert text.startswith("Usage: ptc-stream")
    if name is None:
        assert all(command in text for command in _COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("run", "nowhere"), ["nowhere", "no such file"]),
        (("list", "nowhere"), ["nowhere"]),
        (("measure", "nowhere.fits", "also.fits"), ["nowhere.fits"]),
        (("fit", "nowhere.csv"), ["nowhere.csv"]),
        (("show", "nowhere.sqlite"), ["nowhere.sqlite", "no such store"]),
        (("plot", "nowhere.sqlite"), ["nowhere.sqlite"]),
        (("export", "nowhere.sqlite"), ["nowhere.sqlite"]),
        (("alerts", "nowhere.sqlite"), ["nowhere.sqlite"]),
        (("rejected", "nowhere.sqlite"), ["nowhere.sqlite"]),
        (("replay", "nowhere.sqlite", "--into", "new.sqlite"), ["nowhere.sqlite"]),
        (("config", "--config", "nowhere.toml"), ["nowhere.toml"]),
        (("config", "--set", "measuring.max_lagg=3"), ["measuring.max_lagg", "measuring.max_lag?"]),
        (("config", "--set", "measuring.max_lag=0"), ["measuring.max_lag", "0"]),
        (("config", "--set", "measuring.max_lag=many"), ["measuring.max_lag", "many"]),
        (("config", "--set", "measuring.max_lag"), ["NAME=VALUE"]),
        (("run", ".", "--camera", "nowhere.toml"), ["nowhere.toml"]),
        (("run", ".", "--bias", "nowhere.fits"), ["no FITS files"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: tuple[str, ...],
    named: list[str],
    tmp_path: Path,
    inside: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = one_line(inside(*arguments, exit_code=2))
    assert all(part in line for part in named), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("run", ".", "--model", "CUBIC"), "expapproximation"),
        (("run", ".", "--workers", "0"), "--workers"),
        (("run",), "PATHS"),
        (("rum", "."), "rum"),
        (("show", "x", "--nonsense"), "--nonsense"),
    ],
)
def test_wrong_usage_names_the_option(
    arguments: tuple[str, ...],
    named: str,
    tmp_path: Path,
    inside: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = inside(*arguments, exit_code=2)
    assert named in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_store_is_said_to_be_none(small_run: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("this is no store\n" * 100)
    for arguments in (("show", text), ("run", small_run, "--store", text, "--out", tmp_path / "out")):
        assert "text.sqlite" in one_line(ptc_stream(*arguments, exit_code=2))
    assert text.read_text() == "this is no store\n" * 100


def test_no_flats_names_the_types_seen_and_the_option_that_helps(small_run: Path, tmp_path: Path) -> None:
    for path in sorted(small_run.glob("*_R22_S11.fits"))[:3]:
        shutil.copy(path, tmp_path)
        with fits.open(tmp_path / path.name, mode="update") as hdus:
            hdus[0].header["IMGTYPE"] = "LAMP-ON"
    line = one_line(ptc_stream("run", tmp_path, "--out", tmp_path / "out", exit_code=2))
    assert "3 lamp-on (IMGTYPE=LAMP-ON)" in line
    assert "--map image_type:" in line
    assert not (tmp_path / "out").exists()
    done = ptc_stream("run", tmp_path, "--out", tmp_path / "out", "--map", "image_type:LAMP-ON=flat")
    assert "pairs" in done.stdout


def scraped(url: str) -> dict[str, float]:
    """Name and value of every sample; of those with labels the last number (a dead amplifier has none)."""
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - our own server
        text = response.read().decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not math.isnan(sample.value)
    }


def test_metrics_are_served_while_a_command_runs(small_run: Path, tmp_path: Path) -> None:
    """Until the watched directory has been processed; then every metric has its value."""
    output = tmp_path / "output.txt"
    arguments = ("--out", tmp_path / "out", "--metrics", "127.0.0.1:0", "--poll", "0.1", *SMALL_SETTINGS)
    process = start("watch", small_run, *arguments, output=output)
    try:
        line = until(
            lambda: next((row for row in output.read_text().splitlines() if "/metrics" in row), None),
            what="address of the metrics",
        )
        url = str(line)[str(line).index("http://") :].strip()

        until(lambda: scraped(url).get("ptc_fits_total") == 15.0, what="all fits")
        found = scraped(url)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    assert found["ptc_pairs_total"] == 15.0
    assert found["ptc_measured_total"] == 15.0
    assert 1.0 < found["ptc_gain_electrons_per_adu"] < 2.0
    names = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in found}
    assert {metric.name for metric in CATALOGUE} - names <= {
        # nothing was rejected, nothing waited for storage, nothing was started again
        "ptc_rejected_total",
        "ptc_storage_waiting",
        "ptc_restarts_total",
        "ptc_jobs_failed_total",
    }
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=2)  # noqa: S310 - our own server, gone by now


def test_metrics_address_that_is_none_is_refused(small_run: Path, tmp_path: Path) -> None:
    done = ptc_stream(
        "run", small_run, "--out", tmp_path / "out", "--metrics", "nonsense", *SMALL_SETTINGS, exit_code=2
    )
    assert "HOST:PORT" in one_line(done)
