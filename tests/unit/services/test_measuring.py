from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptc_stream.codec import decode, encode
from ptc_stream.config import Settings, load_settings
from ptc_stream.core.measuring import MeasurePair
from ptc_stream.errors import (
    ConfigurationError,
    GeometryError,
    ImageChanged,
    ImageMissing,
    ImageUnreadable,
    PtcStreamError,
)
from ptc_stream.images.headers import content_tag
from ptc_stream.offload import InlineOffload
from ptc_stream.records import FlatPair, PairCovariances
from ptc_stream.services.measuring import MeasuringSettings, measure, measuring_stage, warm_up
from ptc_stream.services.runner import OnChange
from tests.builders import exposure_reference, flat_pair
from tests.unit.images.layouts import LSST_DATA, LSST_PRIMARY, lsst_frame, lsst_raw


def settings(**changes: Any) -> Settings:
    values = {"measuring.max_lag": 2, "measuring.edge": 2, "measuring.min_pixels": 500} | changes
    return load_settings(overrides={name: (value, "test") for name, value in values.items()}, environment={})


def measuring(**changes: Any) -> MeasuringSettings:
    return MeasuringSettings.from_settings(settings(**changes))


def flats(
    directory: Path, *, second_signal: float = 10_000.0, amplifiers: int = 2, spoil: Any = None
) -> FlatPair:
    """Two flats on disk, and the pair of them."""
    generator = np.random.default_rng(5)
    references = []
    for name, signal in (("one.fits", 10_000.0), ("other.fits", second_signal)):
        frames = [lsst_frame(generator, signal=signal) for _ in range(amplifiers)]
        if spoil is not None:
            spoil(frames[-1])
        path = lsst_raw(directory / name, frames, tables=False)
        references.append(exposure_reference(exposure=name, uri=str(path)))
    return flat_pair(first=references[0], second=references[1])


def bias(directory: Path, level: float = 0.0) -> Path:
    generator = np.random.default_rng(6)
    frames = [lsst_frame(generator, signal=0.0, level=1_000.0 + level) for _ in range(2)]
    primary = {**LSST_PRIMARY, "IMGTYPE": "BIAS", "EXPTIME": 0.0}
    return lsst_raw(directory / f"bias{level:.0f}.fits", frames, tables=False, primary=primary)


# --- the job --------------------------------------------------------------------------------------


def test_a_pair_of_files_is_measured(tmp_path: Path) -> None:
    pair = flats(tmp_path)
    record = measure(measuring(), MeasurePair(pair))
    assert (record.key, record.first, record.second) == (pair.key, pair.first, pair.second)
    assert record.measuring_digest == measuring().digest
    assert [amplifier.name for amplifier in record.amplifiers] == ["C10", "C11"]
    for amplifier in record.amplifiers:
        (point,) = amplifier.points
        assert point.mean == pytest.approx(10_000.0, rel=0.01)
        assert point.variance == pytest.approx(10_000.0, rel=0.15)
        assert np.shape(point.covariances) == np.shape(point.pixel_count) == (2, 2)
        assert amplifier.read_noise == pytest.approx(5.0, rel=0.2)
        assert amplifier.zero_level
        assert amplifier.flags == ()
    assert decode(encode(record), PairCovariances) == record


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    pair = flats(tmp_path)
    assert encode(measure(measuring(), MeasurePair(pair))) == encode(measure(measuring(), MeasurePair(pair)))


def test_a_file_that_was_replaced_since_it_was_announced_is_not_measured(tmp_path: Path) -> None:
    pair = flats(tmp_path)
    path = Path(pair.second.uri)
    announced = dataclasses.replace(
        pair, second=dataclasses.replace(pair.second, content_tag=content_tag(path))
    )
    measure(measuring(), MeasurePair(announced))
    primary = {**LSST_PRIMARY, "REVISION": 2}
    frames = [lsst_frame(np.random.default_rng(7), signal=9_000.0) for _ in range(2)]
    path.unlink()
    lsst_raw(path, frames, tables=False, primary=primary)
    with pytest.raises(ImageChanged, match="replaced since exposure other"):
        measure(measuring(), MeasurePair(announced))


def test_tags_of_other_origin_are_not_compared(tmp_path: Path) -> None:
    pair = flats(tmp_path)
    tagged = dataclasses.replace(
        pair, second=dataclasses.replace(pair.second, content_tag="d41d8cd98f00b204e9800998ecf8427e")
    )
    assert measure(measuring(), MeasurePair(tagged)).second.content_tag == tagged.second.content_tag


def test_unequal_flats_are_flagged(tmp_path: Path) -> None:
    record = measure(measuring(), MeasurePair(flats(tmp_path, second_signal=11_000.0)))
    assert all("FLUX_MISMATCH" in amplifier.points[0].flags for amplifier in record.amplifiers)


@pytest.mark.parametrize(("columns", "flagged"), [(1, False), (4, True)])
def test_an_amplifier_with_many_saturated_pixels_is_flagged(
    tmp_path: Path, columns: int, *, flagged: bool
) -> None:
    """64 columns: one of them is 1.6 %, four are 6 %."""

    def saturate(frame: Any) -> None:
        frame[LSST_DATA[0], 20 : 20 + columns] = 65_535

    record = measure(
        measuring(**{"reduction.saturation": 60_000.0}), MeasurePair(flats(tmp_path, spoil=saturate))
    )
    good, bad = (amplifier.points[0].flags for amplifier in record.amplifiers)
    assert "SATURATED" not in good
    assert ("SATURATED" in bad) == flagged


def test_tiles_give_many_points(tmp_path: Path) -> None:
    def slope(frame: Any) -> None:
        frame[LSST_DATA] += np.linspace(0, 20_000, 64).astype(frame.dtype)

    tiled = measuring(
        **{"measuring.tiles": True, "measuring.tile_size": 16, "measuring.min_tile_pixels": 100}
    )
    record = measure(tiled, MeasurePair(flats(tmp_path, spoil=slope)))
    means = [point.mean for point in record.amplifiers[1].points]
    assert len(means) > 2
    assert max(means) - min(means) > 5_000.0


def test_images_that_have_moved_are_found_by_the_map(tmp_path: Path) -> None:
    pair = flats(tmp_path)
    announced = dataclasses.replace(
        pair,
        first=dataclasses.replace(pair.first, uri="/old/place/one.fits"),
        second=dataclasses.replace(pair.second, uri="file:///old/place/other.fits"),
    )
    with pytest.raises(ImageMissing):
        measure(measuring(), MeasurePair(announced))
    moved = MeasuringSettings.from_settings(
        settings(),
        uri_map=[
            ("file:///old/place", f"file://{tmp_path}"),
            ("/old/place", str(tmp_path)),
            ("/old", "/no"),
            (str(tmp_path), "/no"),  # the first that fits is the only one
        ],
    )
    record = measure(moved, MeasurePair(announced))
    assert record.amplifiers == measure(measuring(), MeasurePair(pair)).amplifiers
    assert record.first.uri == "/old/place/one.fits"  # the record says what was announced
    assert moved.digest == measuring().digest


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path: path.unlink(), ImageMissing),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), ImageUnreadable),
        (lambda path: path.write_bytes(b"no FITS at all"), ImageUnreadable),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, spoil: Any, error: type[PtcStreamError]) -> None:
    pair = flats(tmp_path)
    spoil(tmp_path / "other.fits")
    with pytest.raises(error, match=r"other\.fits"):
        measure(measuring(), MeasurePair(pair))


def test_flats_of_unlike_detectors_are_no_pair(tmp_path: Path) -> None:
    pair = flats(tmp_path)
    generator = np.random.default_rng(7)
    (tmp_path / "other.fits").unlink()
    lsst_raw(tmp_path / "other.fits", [lsst_frame(generator) for _ in range(3)], tables=False)
    with pytest.raises(GeometryError):
        measure(measuring(), MeasurePair(pair))


# --- what a measurement depends on ----------------------------------------------------------------


def test_the_identity_of_a_measurement_is_what_it_depends_on(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    frame = bias(tmp_path)
    moved = tmp_path / "elsewhere" / "renamed.fits"
    moved.write_bytes(frame.read_bytes())

    def with_bias(path: Path) -> MeasuringSettings:
        return measuring(**{"reduction.bias": (str(path),)})

    assert with_bias(frame).digest == with_bias(moved).digest
    assert str(tmp_path) not in with_bias(frame).config
    identities = {
        measuring().digest,
        with_bias(frame).digest,
        with_bias(bias(tmp_path, 5.0)).digest,
        measuring(**{"measuring.max_lag": 3}).digest,
        measuring(**{"reduction.saturation": 60_000.0}).digest,
        MeasuringSettings.from_settings(settings(), camera="msfc_ccd").digest,
    }
    assert len(identities) == 6
    # what is done afterwards, and how headers are read, is no part of it
    assert measuring(**{"fitting.max_mean": 5e4, "pairing.every_nth_pair": 2, "runner.window": 1}).digest == (
        measuring().digest
    )


def test_the_identity_is_readable(tmp_path: Path) -> None:
    config = json.loads(measuring(**{"reduction.bias": (str(bias(tmp_path)),)}).config)
    assert config["measuring"]["max_lag"] == 2
    assert [role for role, _ in config["calibration"]] == ["bias"]
    assert "bias" not in config["reduction"]


def test_a_calibration_file_that_changes_under_a_run_stops_it(tmp_path: Path) -> None:
    frame = bias(tmp_path)
    started = measuring(**{"reduction.bias": (str(frame),)})
    frame.write_bytes(bias(tmp_path, 7.0).read_bytes())
    with pytest.raises(ConfigurationError, match="calibration file has changed"):
        measure(started, MeasurePair(flats(tmp_path)))


def test_a_bias_frame_gives_zero_and_noise(tmp_path: Path) -> None:
    record = measure(measuring(**{"reduction.bias": (str(bias(tmp_path)),)}), MeasurePair(flats(tmp_path)))
    assert record.amplifiers[0].zero_level
    assert record.amplifiers[0].points[0].mean == pytest.approx(10_000.0, rel=0.01)


def test_calibration_files_that_are_not_there_are_named_before_the_start() -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.fits"):
        measuring(**{"reduction.bias": ("nowhere.fits",)})


def test_settings_travel_to_workers(tmp_path: Path) -> None:
    sent = measuring()
    received = pickle.loads(pickle.dumps(sent))  # noqa: S301 - our own bytes
    assert received.digest == sent.digest
    pair = flats(tmp_path)
    assert measure(received, MeasurePair(pair)) == measure(sent, MeasurePair(pair))


def test_the_stage_refuses_other_settings() -> None:
    stage = measuring_stage(measuring(), offload=InlineOffload())
    assert (stage.name, stage.input_type, stage.on_change) == ("measuring", FlatPair, OnChange.REFUSE)
    assert stage.config == measuring().config
    assert list(stage.functions) == [MeasurePair]
    first, second = stage.make_core(flat_pair().group), stage.make_core(flat_pair().group)
    assert first is not second


def test_warming_up_needs_no_settings() -> None:
    warm_up()
