from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.images import calibration as module
from ptc_stream.images.calibration import Calibration, calibration_tags
from ptc_stream.images.headers import HeaderMap
from ptc_stream.images.raw import ReductionConfig
from tests.unit.images.layouts import LSST_DATA, LSST_SHAPE, lsst_frame, lsst_raw, write_image

BIAS = {"IMGTYPE": "BIAS", "EXPTIME": 0.0, "RAFTBAY": "R22", "CCDSLOT": "S11"}
OTHER = {**BIAS, "CCDSLOT": "S12"}


def bias_files(
    directory: Path, count: int, primary: dict[str, Any] | None = None, noise: float = 5.0, name: str = "bias"
) -> tuple[str, ...]:
    generator = np.random.default_rng(sum(map(ord, name)))
    pattern = np.zeros(LSST_SHAPE)
    pattern[LSST_DATA] = 40.0 * np.sin(np.arange(64) / 3.0)
    paths = []
    for number in range(count):
        frames = [
            np.round(lsst_frame(generator, signal=0.0, noise=noise) + pattern).astype(np.uint16)
            for _ in range(2)
        ]
        paths.append(str(lsst_raw(directory / f"{name}{number}.fits", frames, primary=primary or BIAS)))
    return tuple(paths)


def test_the_mean_of_the_bias_frames_is_what_stays_above_the_overscan(tmp_path: Path) -> None:
    made = Calibration(
        ReductionConfig(bias=bias_files(tmp_path, 8), overscan_parallel=False), header_map=None
    ).detector("R22_S11")
    assert list(made.bias) == ["C10", "C11"]
    pattern = 40.0 * np.sin(np.arange(64) / 3.0)
    np.testing.assert_allclose(made.bias["C10"].mean(axis=0), pattern, atol=1.5)
    assert made.bias["C10"].dtype == np.float32
    assert made.dark_rate == {}


def test_without_overscan_the_bias_is_the_zero_itself(tmp_path: Path) -> None:
    config = ReductionConfig(bias=bias_files(tmp_path, 2), overscan_method="none")
    made = Calibration(config).detector("R22_S11")
    assert made.bias["C10"].mean() == pytest.approx(1_000.0, abs=5.0)


def test_the_noise_of_bias_pairs_and_its_error(tmp_path: Path) -> None:
    """Row medians of 22 columns add their own variance, pi/2/22, to every pixel of a row."""
    config = ReductionConfig(bias=bias_files(tmp_path, 6), overscan_parallel=False)
    made = Calibration(config).detector("R22_S11")
    expected = np.sqrt((25.0 + 1 / 12) * (1 + np.pi / 2 / 22))
    for name in ("C10", "C11"):
        sigma, error = made.read_noise[name]
        assert sigma == pytest.approx(expected, abs=4 * error)
        assert error == pytest.approx(sigma / np.sqrt(2 * 3 * 44 * 64), rel=1e-3)


def test_one_bias_frame_has_no_noise(tmp_path: Path) -> None:
    made = Calibration(ReductionConfig(bias=bias_files(tmp_path, 1))).detector("R22_S11")
    assert made.read_noise == {}
    assert set(made.bias) == {"C10", "C11"}


def test_every_detector_has_its_own_frames(tmp_path: Path) -> None:
    files = (*bias_files(tmp_path, 2), *bias_files(tmp_path, 2, OTHER, noise=9.0, name="other"))
    calibration = Calibration(ReductionConfig(bias=files))
    assert calibration.detector("R22_S11").read_noise["C10"][0] == pytest.approx(5.0, rel=0.1)
    assert calibration.detector("R22_S12").read_noise["C10"][0] == pytest.approx(9.0, rel=0.1)
    with pytest.raises(ConfigurationError, match="no bias of detector R01_S00 among those configured"):
        calibration.detector("R01_S00")


def test_masters_are_made_once_and_forgotten_when_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (*bias_files(tmp_path, 1), *bias_files(tmp_path, 1, OTHER, name="other"))
    calibration = Calibration(ReductionConfig(bias=files))
    first = calibration.detector("R22_S11")
    calibration.detector("R22_S12")
    assert calibration.detector("R22_S11") is first
    monkeypatch.setattr(module, "_MAX_KEPT", 1)
    small = Calibration(ReductionConfig(bias=files))
    first = small.detector("R22_S11")
    assert small.detector("R22_S11") is first
    small.detector("R22_S12")
    again = small.detector("R22_S11")
    assert again is not first
    np.testing.assert_array_equal(again.bias["C10"], first.bias["C10"])


def test_a_nan_in_one_bias_frame_is_a_nan_in_the_mean(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    frames = [lsst_frame(generator, signal=0.0, dtype="float32") for _ in range(2)]
    frames[1][3, 4 + 7] = np.nan
    paths = [str(lsst_raw(tmp_path / f"{k}.fits", [frame], primary=BIAS)) for k, frame in enumerate(frames)]
    made = Calibration(ReductionConfig(bias=tuple(paths))).detector("R22_S11")
    np.testing.assert_array_equal(np.argwhere(np.isnan(made.bias["C10"])), [[3, 7]])
    assert np.isfinite(made.read_noise["C10"][0])


def test_darks_are_per_second_and_above_the_bias(tmp_path: Path) -> None:
    generator = np.random.default_rng(9)
    bias = bias_files(tmp_path, 2)
    paths = []
    for seconds in (10.0, 30.0):
        frame = lsst_frame(generator, signal=4.0 * seconds)
        header = {**BIAS, "IMGTYPE": "DARK", "EXPTIME": seconds}
        paths.append(str(lsst_raw(tmp_path / f"dark{seconds}.fits", [frame, frame], primary=header)))
    config = ReductionConfig(bias=bias, dark=tuple(paths), overscan_parallel=False)
    made = Calibration(config).detector("R22_S11")
    pattern = 40.0 * np.sin(np.arange(64) / 3.0)  # of the bias frames alone: taken off once per dark
    expected = 4.0 - 2 * pattern / 40.0
    np.testing.assert_allclose(made.dark_rate["C10"].mean(axis=0), expected, atol=0.5)


def test_a_dark_without_exposure_time_is_refused(tmp_path: Path) -> None:
    path = lsst_raw(tmp_path / "d.fits", [lsst_frame(np.random.default_rng(1))], primary={"CCD_SERN": "1"})
    calibration = Calibration(ReductionConfig(dark=(str(path),)))
    with pytest.raises(ConfigurationError, match="no exposure time"):
        calibration.detector("1")


def test_a_flat_among_the_bias_frames_is_refused_unless_the_map_calls_all_frames_flats(
    tmp_path: Path,
) -> None:
    path = lsst_raw(tmp_path / "f.fits", [lsst_frame(np.random.default_rng(1))])
    config = ReductionConfig(bias=(str(path),))
    with pytest.raises(ConfigurationError, match="its header says flat"):
        Calibration(config)
    Calibration(config, header_map=HeaderMap(image_type="=flat"))


def test_bias_frames_of_unlike_geometry_are_refused(tmp_path: Path) -> None:
    frame = lsst_frame(np.random.default_rng(1))
    one = lsst_raw(tmp_path / "1.fits", [frame, frame], primary=BIAS)
    two = lsst_raw(tmp_path / "2.fits", [frame], primary=BIAS)
    calibration = Calibration(ReductionConfig(bias=(str(one), str(two))))
    with pytest.raises(ConfigurationError, match="different geometry"):
        calibration.detector("R22_S11")


def test_files_that_are_not_there_are_refused_at_once(tmp_path: Path) -> None:
    for settings in ({"bias": ("no.fits",)}, {"mask": ("no.fits",)}, {"linearity": "no.csv"}):
        with pytest.raises(ConfigurationError, match=r"no\."):
            Calibration(ReductionConfig(**settings))


def test_tags_are_of_whole_files_in_the_order_of_the_settings(tmp_path: Path) -> None:
    mask = write_image(tmp_path / "m.fits", np.zeros((4, 4), np.uint8))
    config = ReductionConfig(bias=bias_files(tmp_path, 2), mask=(str(mask),))
    tags = calibration_tags(config)
    assert [role for role, _ in tags] == ["mask", "bias", "bias"]
    assert tags == Calibration(config).content_tags
    edited = bytearray(mask.read_bytes())
    edited[2880] = 1  # one pixel: neither size nor header
    mask.write_bytes(edited)
    assert calibration_tags(config)[0] != tags[0]
    assert calibration_tags(config)[1:] == tags[1:]


def test_one_mask_serves_all_detectors_several_one_each(tmp_path: Path) -> None:
    paths = []
    for slot in ("S11", "S12"):
        header = {"RAFTBAY": "R22", "CCDSLOT": slot}
        paths.append(str(write_image(tmp_path / f"{slot}.fits", np.zeros((4, 4), np.uint8), header)))
    assert Calibration().detector("R22_S11").mask is None
    one = Calibration(ReductionConfig(mask=(paths[0],)))
    assert one.detector("R01_S00").mask is one.detector("R22_S12").mask is not None
    several = Calibration(ReductionConfig(mask=tuple(paths)))
    found = several.detector("R22_S12").mask
    assert found is not None
    assert found.path == paths[1]
    with pytest.raises(ConfigurationError, match="no mask of detector R01_S00"):
        several.detector("R01_S00")
    with pytest.raises(ConfigurationError, match="two masks of detector R22_S11"):
        Calibration(ReductionConfig(mask=(paths[0], paths[0]))).detector("R22_S11")
