from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time

from ptc_stream.simulator import Scenario, plan, truth_of, write_exposure
from ptc_stream.simulator.frames import raw_frame

SMALL: dict[str, Any] = {"shape": (48, 40), "levels": 2, "detectors": ("R22_S11",), "run": "13550"}


def _flat(scenario: Scenario, directory: Path) -> Path:
    planned = [exposure for exposure in plan(scenario) if exposure.image_type == "FLAT"]
    return write_exposure(scenario, planned[2], directory)


def test_primary_header_says_what_lsst_files_say(tmp_path: Path) -> None:
    scenario = Scenario(**SMALL)
    path = _flat(scenario, tmp_path)
    header = fits.getheader(path)
    assert header["INSTRUME"] == "PTCSim"
    assert header["RUNNUM"] == "13550"
    assert header["OBSID"] == "MC_S_20250301_000005"
    assert header["SEQNUM"] == 5
    assert (header["IMGTYPE"], header["TESTTYPE"]) == ("FLAT", "FLAT")
    assert header["EXPTIME"] == 38.0
    assert header["DARKTIME"] > header["EXPTIME"]
    assert (header["RAFTBAY"], header["CCDSLOT"], header["LSST_NUM"]) == ("R22", "S11", "SIM-CCD-2211")
    assert (header["FILTER"], header["FILTER2"]) == ("r", "empty")
    assert header["DAYOBS"] == "20250301"
    assert header["MONDIODE"] > 0
    assert Time(header["DATE-OBS"], scale="utc").mjd == pytest.approx(header["MJD-OBS"], abs=1e-9)
    # A bias, a dark and two flats of the first level went before: 0, 30, 0.1, 0.1 s and 3 s of read-out each.
    start = dt.datetime.fromisoformat(scenario.start)
    passed = dt.datetime.fromisoformat(header["DATE-OBS"]) - start
    assert passed.total_seconds() == pytest.approx(30.2 + 4 * 3.0)
    for absent in ("DATE", "GAIN", "RDNOISE", "BIASSEC"):
        assert absent not in header


def test_extensions_are_sixteen_amplifiers_and_two_tables(tmp_path: Path) -> None:
    with fits.open(_flat(Scenario(**SMALL), tmp_path)) as hdus:
        names = [hdu.name for hdu in hdus[1:]]
        assert names == [f"Segment1{n}" for n in range(8)] + [f"Segment0{n}" for n in range(7, -1, -1)] + [
            "REB_COND",
            "AMP0.MEAS_TIMES",
        ]
        assert isinstance(hdus[17], fits.BinTableHDU)
        assert hdus[1].header["EXTNAME"] == "Segment10"
        for hdu in hdus[1:17]:
            assert hdu.header["DATASEC"] == "[11:50,1:48]"
            assert hdu.header["DETSIZE"] == "[1:320,1:96]"
            assert not {"BIASSEC", "GAIN", "RDNOISE"} & set(hdu.header)
            assert hdu.data.shape == (48 + 46, 10 + 40 + 54)
            assert hdu.header["AVERAGE"] == pytest.approx(hdu.data.mean())
        assert hdus[1].header["DETSEC"] == "[40:1,1:48]"
        assert hdus[16].header["DETSEC"] == "[1:40,96:49]"


@pytest.mark.parametrize(
    ("settings", "bitpix"),
    [
        ({}, 32),
        ({"pixel_type": "uint16"}, 16),
        ({"pixel_type": "float32"}, -32),
        ({"nan_amplifiers": ("R22_S11/C17",)}, -32),
        ({"compressed": True}, 32),
        ({"compressed": True, "pixel_type": "uint16"}, 16),
        ({"compressed": True, "pixel_type": "float32"}, -32),
    ],
)
def test_pixels_come_back_from_every_kind_of_file(
    settings: dict[str, Any], bitpix: int, tmp_path: Path
) -> None:
    scenario = Scenario(**SMALL, **settings)
    planned = plan(scenario)[2]
    path = write_exposure(scenario, planned, tmp_path)
    with fits.open(path, disable_image_compression=True) as hdus:
        assert isinstance(hdus[8], fits.BinTableHDU if scenario.compressed else fits.ImageHDU)
        if scenario.compressed:
            assert hdus[8].header["ZCMPTYPE"] == ("GZIP_1" if bitpix < 0 else "RICE_1")
            assert hdus[8].header["ZBITPIX"] == bitpix
        else:
            assert hdus[8].header["BITPIX"] == bitpix
            assert hdus[8].header.get("BZERO", 0) == (32768 if bitpix == 16 else 0)
    expected = raw_frame(scenario, planned, truth_of(scenario).detectors["R22_S11"]["C17"])
    data = fits.getdata(path, "Segment17")
    np.testing.assert_array_equal(data, expected)
