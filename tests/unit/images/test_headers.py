from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptc_stream.errors import ConfigurationError, GeometryError, ImageMissing, ImageUnreadable
from ptc_stream.images.camera import CameraDescription
from ptc_stream.images.headers import (
    ExposureHeader,
    HeaderMap,
    content_tag,
    normalise_image_type,
    read_exposure_header,
)
from tests.unit.images.layouts import gzipped, lsst_frame, lsst_raw, ramp, write_image

PIXELS = ramp((4, 4)).astype(np.int16)


def read(
    directory: Path, cards: Mapping[str, Any], header_map: HeaderMap | None = None, **camera: Any
) -> ExposureHeader:
    path = write_image(directory / "frame_0007.fits", PIXELS, cards)
    description = CameraDescription(name="test", **camera) if camera else None
    return read_exposure_header(path, header_map=header_map, camera=description)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_lsst_header_gives_everything(compressed: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a case
    frames = [lsst_frame(np.random.default_rng(1))]
    header = read_exposure_header(lsst_raw(tmp_path / "a.fits", frames, compressed=compressed))
    assert header.instrument == "TestCam"
    assert header.run == "13600"
    assert header.detector == "R22_S11"
    assert header.exposure == "MC_C_20261122_000123"
    assert header.image_type == "flat"
    assert header.exposure_time == 12.5
    assert header.filter == "SDSSi~ND_OD0.5"
    assert header.lamp == ""
    assert header.sequence_number == 123
    assert header.observation_mjd == pytest.approx(61_366 + (3 * 3600 + 4 * 60 + 5.25) / 86_400, abs=1e-9)
    assert header.decided["detector"] == "RAFTBAY+CCDSLOT"
    assert header.decided["exposure_time"] == "EXPTIME"


def test_a_header_with_nothing_gives_the_file_name_and_unknowns(tmp_path: Path) -> None:
    header = read(tmp_path, {})
    assert (header.instrument, header.detector, header.exposure) == ("unknown", "unknown", "frame_0007")
    assert (header.run, header.image_type, header.exposure_time) == (None, "unknown", None)
    assert (header.filter, header.lamp, header.lamp_dose) == ("", "", None)
    assert (header.sequence_number, header.observation_mjd) == (None, None)
    assert header.decided["image_type"] == "no keyword"
    assert header.decided["exposure"] == "file name"


@pytest.mark.parametrize("suffix", [".fits", ".fit", ".FITS", ".fits.gz", ".fits.fz", ".fz"])
def test_the_name_of_a_file_loses_its_suffixes_only(suffix: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.fits", PIXELS).rename(tmp_path / f"2026.11.22_flat{suffix}")
    assert read_exposure_header(path).exposure == "2026.11.22_flat"


def test_keywords_go_in_their_order(tmp_path: Path) -> None:
    header = read(
        tmp_path,
        {
            "IMAGETYP": "Light Frame",
            "OBSTYPE": "dome flat",
            "EXPOSURE": 3.0,
            "CCD_SERN": 42,
            "LSST_NUM": "E2V-1",
        },
    )
    assert header.image_type == "object"
    assert header.exposure_time == 3.0
    assert header.detector == "E2V-1"


def test_a_frame_number_is_no_image_type(tmp_path: Path) -> None:
    assert read(tmp_path, {"FRAME": 12}).image_type == "unknown"


def test_exposure_times_written_as_text_or_nonsense(tmp_path: Path) -> None:
    for value, expected in [
        ("2.5", 2.5),
        ("", None),
        ("long", None),
        (-1.0, None),
        (0.0, 0.0),
        ("nan", None),
    ]:
        path = write_image(tmp_path / f"{value}.fits", PIXELS, {"EXPTIME": value})
        assert read_exposure_header(path).exposure_time == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("FLAT", "flat"),
        ("Flat Field", "flat"),
        ("flat frame", "flat"),
        ("dflat", "flat"),
        ("zero", "bias"),
        ("Bias Frame", "bias"),
        ("DARK", "dark"),
        ("Light Frame", "object"),
        ("FE55", "fe55"),
        ("sky  flat", "skyflat"),
        ("frame", "frame"),
    ],
)
def test_image_types_have_one_name_each(word: str, expected: str) -> None:
    assert normalise_image_type(word) == expected


def test_words_of_the_user_go_before_the_usual_meaning() -> None:
    assert normalise_image_type("LIGHT  frame", {"Light Frame": "Flat"}) == "flat"


def test_the_map_gives_what_usual_keywords_do_not(tmp_path: Path) -> None:
    header = read(
        tmp_path,
        {"IMG_EXP": 1999, "EXPTIME": 7.0, "CAM": "A", "TAP": 3, "LED": 4.5, "WHEEL": "r", "PD": 2.0},
        HeaderMap(
            exposure_time="IMG_EXP*0.001",
            image_type="=flat",
            detector="CAM+TAP",
            lamp="LED",
            filter="WHEEL+MISSING",
            lamp_dose="PD*EXPTIME",
            run="=lab 3",
        ),
    )
    assert header.exposure_time == pytest.approx(1.999)
    assert header.image_type == "flat"
    assert header.detector == "A_3"
    assert header.lamp == "4.5"
    assert header.filter == "r"
    assert header.lamp_dose == 14.0
    assert header.run == "lab 3"
    assert header.decided["exposure_time"] == "IMG_EXP*0.001, by the header map"


def test_a_mapped_keyword_that_is_absent_falls_back_and_says_so(tmp_path: Path) -> None:
    header = read(tmp_path, {"EXPTIME": 7.0}, HeaderMap(exposure_time="ITIME"))
    assert header.exposure_time == 7.0
    assert header.decided["exposure_time"] == "EXPTIME (ITIME gives no number)"


def test_the_camera_stands_behind_the_user_and_before_the_usual_keywords(tmp_path: Path) -> None:
    header = read(
        tmp_path,
        {"EXPTIME": 7.0, "IT": 2.0, "RUNNUM": "x"},
        HeaderMap(run="=mine"),
        instrument="lab",
        detector="E2V",
        headers=HeaderMap(exposure_time="IT", run="=camera"),
    )
    assert (header.run, header.exposure_time) == ("mine", 2.0)
    assert (header.instrument, header.detector) == ("lab", "E2V")


def test_the_dose_is_current_times_time_and_no_reading_is_none(tmp_path: Path) -> None:
    dose = read(tmp_path, {"MONDIODE": 0.5, "EXPTIME": 4.0}).lamp_dose
    assert dose == 2.0
    path = write_image(tmp_path / "off.fits", PIXELS, {"MONDIODE": 0.0, "EXPTIME": 4.0})
    assert read_exposure_header(path).lamp_dose is None


@pytest.mark.parametrize(
    ("cards", "expected", "decided"),
    [
        ({"DATE-OBS": "2000-01-01T12:00:00"}, 51_544.5, "DATE-OBS"),
        ({"DATE-OBS": "2000-01-01T12:00:00.000Z"}, 51_544.5, "DATE-OBS"),
        ({"DATE-OBS": "2016-12-31T23:59:60"}, 57_754.0, "DATE-OBS"),
        ({"DATE-OBS": "2000-01-01", "MJD-OBS": 51_544.25}, 51_544.25, "MJD-OBS"),
        ({"DATE-OBS": "2000-01-01", "TIME-OBS": "18:00:00.0"}, 51_544.75, "DATE-OBS+TIME-OBS"),
        ({"DATE-OBS": "2000-01-01"}, 51_544.0, "DATE-OBS, a date only"),
        ({"DATE-OBS": "31/12/99"}, 51_543.0, "DATE-OBS, a date only"),
        ({"DATE-OBS": "2000-13-01T12:00:00", "MJD": 51_000.0}, 51_000.0, "MJD"),
        ({"DATE-OBS": "yesterday"}, None, "no keyword"),
    ],
)
def test_times_of_observation(
    cards: dict[str, Any], expected: float | None, decided: str, tmp_path: Path
) -> None:
    header = read(tmp_path, cards)
    assert header.observation_mjd == expected
    assert header.decided["observation_time"] == decided


def test_a_mapped_time_may_be_a_julian_date(tmp_path: Path) -> None:
    header = read(tmp_path, {"JD": 2_451_545.0}, HeaderMap(observation_time="JD"))
    assert header.observation_mjd == 51_544.5


def test_a_scaled_time_loses_no_digits(tmp_path: Path) -> None:
    header = read(
        tmp_path, {"HOURS": 24 * 60_123.456789}, HeaderMap(observation_time="HOURS*0.041666666666666664")
    )
    assert header.observation_mjd == pytest.approx(60_123.456789, abs=1e-7)


def test_colour_filters_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=r"BAYERPAT=RGGB.*colour plane"):
        read(tmp_path, {"BAYERPAT": "RGGB"})


def test_a_monochrome_camera_may_have_the_colour_keyword(tmp_path: Path) -> None:
    assert read(tmp_path, {"BAYERPAT": "NONE"}).exposure == "frame_0007"


def test_headers_are_read_from_files_whose_pixels_are_cut_off(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.fits", PIXELS, {"EXPTIME": 2.0})
    path.write_bytes(path.read_bytes()[:2900])
    assert read_exposure_header(path).exposure_time == 2.0
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageUnreadable, match="truncated inside its first header"):
        read_exposure_header(path)
    with pytest.raises(ImageMissing):
        read_exposure_header(tmp_path / "none.fits")


def test_tags_tell_uploads_apart_and_not_copies(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.fits", PIXELS, {"EXPTIME": 2.0})
    tag = content_tag(path)
    copy = tmp_path / "b.fits"
    copy.write_bytes(path.read_bytes())
    assert content_tag(copy) == tag == read_exposure_header(path).content_tag
    assert re.fullmatch(r"fits:[0-9a-f]{32}", tag)
    copy.write_bytes(path.read_bytes()[:-1])
    assert content_tag(copy) != tag
    other = write_image(tmp_path / "c.fits", PIXELS, {"EXPTIME": 3.0})
    assert content_tag(other) != tag
    assert content_tag(gzipped(path)) != tag


@pytest.mark.parametrize("size", [0, 1, 50, 200])
def test_truncated_and_foreign_files_have_tags_too(size: int, tmp_path: Path) -> None:
    path = gzipped(write_image(tmp_path / "a.fits", PIXELS))
    path.write_bytes(path.read_bytes()[:size])
    first = content_tag(path)
    path.write_bytes(path.read_bytes() + b"x")
    assert content_tag(path) != first


def test_malformed_sources_are_refused_when_made() -> None:
    with pytest.raises(ConfigurationError):
        HeaderMap(exposure_time="A*B+C")
