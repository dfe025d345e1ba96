"""A recorded run through the same code again: the same values, byte for byte, at any speed."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from ptc_stream.bus.reader import SqliteReader
from ptc_stream.errors import PtcStreamError
from ptc_stream.records import Alert, PairCovariances, PtcFit, Rejected
from tests.integration.commands import (
    SMALL_SETTINGS,
    log_of,
    one_line,
    ptc_stream,
    records,
    result,
    same_log,
    start,
    until,
)

# Not the defaults, so that a replay that forgets them is found out.
SETTINGS = (*SMALL_SETTINGS, "pairing.unpaired_after=2", "watching.gain_high=1.5", "fitting.max_mean=50000")


@pytest.fixture(scope="module")
def images(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run with a file that is none, and one that is cut short."""
    directory = Path(shutil.copytree(small_run, tmp_path_factory.mktemp("recorded") / "small"))
    (directory / "broken.fits").write_bytes(b"SIMPLE  = no FITS file at all")
    cut = sorted(directory.glob("*_R22_S11.fits"))[4]
    os.truncate(cut, cut.stat().st_size * 6 // 10)
    return directory


@pytest.fixture(scope="module")
def recording(images: Path) -> Path:
    store = images.parent / "recording.sqlite"
    ptc_stream("run", images, "--store", store, "--out", images.parent / "out", *SETTINGS)
    assert len(records(store, Rejected)) == 2
    assert {alert.rule for alert in records(store, Alert)} >= {"dead_amplifier", "unpaired_flat", "gain"}
    return store


@pytest.mark.parametrize("speed", ["max", "20"])
def test_a_replay_gives_the_recorded_values(speed: str, recording: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.sqlite"
    before = recording.read_bytes()
    replayed = result("replay", recording, "--into", again, "--speed", speed)
    same_log(log_of(again), log_of(recording))
    assert recording.read_bytes() == before
    shown = result("show", recording)
    assert replayed == {key: shown[key] for key in replayed}


def test_a_replay_of_a_replay_gives_them_too(recording: Path, tmp_path: Path) -> None:
    ptc_stream("replay", recording, "--into", tmp_path / "second.sqlite")
    ptc_stream("replay", tmp_path / "second.sqlite", "--into", tmp_path / "third.sqlite")
    same_log(log_of(tmp_path / "third.sqlite"), log_of(recording))


def test_with_another_model_only_fits_and_alerts_differ(recording: Path, tmp_path: Path) -> None:
    again = tmp_path / "polynomial.sqlite"
    ptc_stream("replay", recording, "--into", again, "--model", "POLYNOMIAL")
    same_log(log_of(again), log_of(recording), leave_out=("fits", "alerts"))
    fits = records(again, PtcFit)
    assert Counter(fit.model for fit in fits) == {"POLYNOMIAL": len(records(recording, PtcFit))}
    recorded = {alert.alert_id for alert in records(recording, Alert) if alert.rule == "unpaired_flat"}
    assert {alert.alert_id for alert in records(again, Alert) if alert.rule == "unpaired_flat"} == recorded


def test_the_settings_are_those_of_the_recording_unless_an_option_says_otherwise(
    recording: Path, tmp_path: Path
) -> None:
    again = tmp_path / "limits.sqlite"
    ptc_stream("replay", recording, "--into", again, "--set", "watching.gain_high=19")
    same_log(log_of(again), log_of(recording), leave_out=("alerts",))
    assert "gain" not in {alert.rule for alert in records(again, Alert)}
    assert "unpaired_flat" in {alert.rule for alert in records(again, Alert)}


def test_pixels_measured_again_give_the_same_bytes(recording: Path, tmp_path: Path) -> None:
    again = tmp_path / "pixels.sqlite"
    ptc_stream("replay", recording, "--into", again, "--from", "exposures")
    same_log(log_of(again), log_of(recording))


def test_calibration_files_are_to_be_named_again(images: Path, tmp_path: Path) -> None:
    """The recording knows their hashes, not where they are."""
    store, again = tmp_path / "recording.sqlite", tmp_path / "again.sqlite"
    bias = ("--bias", images / "MC_S_20250301_000001_R22_S11.fits")
    flats = [images / f"MC_S_20250301_{number:06d}_R22_S11.fits" for number in (2, 3, 6, 7)]
    ptc_stream("run", *flats, *bias, "--store", store, "--out", tmp_path / "out", *SETTINGS)
    done = ptc_stream("replay", store, "--into", again, "--from", "exposures", exit_code=2)
    assert "--bias" in one_line(done)
    ptc_stream("replay", store, "--into", again, "--from", "exposures", *bias)
    same_log(log_of(again), log_of(store))


def test_pixels_that_have_moved_are_found(recording: Path, images: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(images, tmp_path / "archive"))
    again = tmp_path / "moved.sqlite"
    options = ("--from", "exposures", "--move", f"{images}={moved}", *SETTINGS, "measuring.max_lag=2")
    away = images.rename(images.parent / "away")
    try:
        ptc_stream("replay", recording, "--into", again, *options)
    finally:
        away.rename(images)
    found, recorded = records(again, PairCovariances), records(recording, PairCovariances)
    assert len(found) == len(recorded)
    for new, old in zip(found, recorded, strict=True):
        assert new.measuring_digest != old.measuring_digest
        assert len(new.amplifiers[0].points[0].covariances) == 2
        assert new.amplifiers[0].points[0].mean == old.amplifiers[0].points[0].mean
    kept = ("pairs", "covariances", "fits", "alerts", "rejected")
    same_log(log_of(again), log_of(recording), leave_out=kept)


def test_a_replay_that_was_interrupted_goes_on(recording: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.sqlite"
    process = start("replay", recording, "--into", again, "--speed", "0.05", output=tmp_path / "output.txt")
    try:
        until(lambda: process.poll() is not None or _exposures(again) > 0, what="first exposure")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130, (tmp_path / "output.txt").read_text()
    finally:
        process.kill()
        process.wait()
    assert 0 < _exposures(again) <= _exposures(recording)
    ptc_stream("replay", recording, "--into", again)
    same_log(log_of(again), log_of(recording))


def test_a_replay_that_was_killed_goes_on(recording: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.sqlite"
    for number in range(1, 4):
        process = start("replay", recording, "--into", again, output=tmp_path / "output.txt")
        until(
            lambda: process.poll() is not None or _records(again) > 20 * number,  # noqa: B023 - used at once
            what="records",
        )
        process.kill()
        process.wait()
    ptc_stream("replay", recording, "--into", again)
    same_log(log_of(again), log_of(recording))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--speed", "fast"), "--speed fast"),
        (("--speed", "0"), "--speed 0"),
        (("--set", "measuring.max_lag=3"), "--from exposures"),
        (("--camera", "msfc_ccd"), "--from exposures"),
        (("--from", "exposures", "--move", "nonsense"), "OLD=NEW"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: tuple[str, ...], named: str, recording: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.sqlite"
    done = ptc_stream("replay", recording, "--into", again, *options, exit_code=2)
    assert named in one_line(done)
    assert not again.exists()


def test_a_recording_is_not_replayed_into_itself(recording: Path) -> None:
    done = ptc_stream("replay", recording, "--into", recording, exit_code=2)
    assert "--into" in one_line(done)


def _exposures(store: Path) -> int:
    return _count(store, "ptc.exposures")


def _records(store: Path) -> int:
    return sum(_count(store, f"ptc.{topic}") for topic in ("exposures", "pairs", "covariances", "fits"))


def _count(store: Path, topic: str) -> int:
    try:
        with SqliteReader(store) as reader:
            return reader.count(topic)
    except PtcStreamError:
        return 0  # not made yet
