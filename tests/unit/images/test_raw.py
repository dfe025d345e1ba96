from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from numpy.typing import NDArray

from ptc_stream.images.camera import CameraDescription, load_camera
from ptc_stream.images.geometry import frame_geometry
from ptc_stream.images.raw import RawAmplifier, ReductionConfig, read_raw_amplifier
from ptc_stream.images.reading import FitsFile
from tests.unit.images.layouts import (
    LSST_DATA,
    LSST_SHAPE,
    lsst_frame,
    lsst_raw,
    quadrant_camera,
    write_image,
)


def read(
    directory: Path,
    frame: NDArray[Any],
    *,
    camera: CameraDescription | None = None,
    exposure: str = "E1",
    header: dict[str, Any] | None = None,
    compressed: bool = False,
    **settings: Any,
) -> RawAmplifier:
    path = directory / "a.fits"
    path.unlink(missing_ok=True)
    lsst_raw(path, [frame, frame], amplifier=header, compressed=compressed)
    with FitsFile(path) as file:
        amplifier = frame_geometry(file).amplifiers[0]
        config = ReductionConfig(**settings)
        return read_raw_amplifier(file, amplifier, config=config, camera=camera, exposure=exposure)


@pytest.mark.parametrize(
    ("dtype", "compressed"),
    [("uint16", False), ("int32", False), ("float32", False), ("uint16", True), ("int32", True)],
)
def test_the_imaging_area_stands_above_zero(
    dtype: str,
    compressed: bool,  # noqa: FBT001 - a case
    tmp_path: Path,
) -> None:
    frame = lsst_frame(np.random.default_rng(4), dtype=dtype)
    raw = read(tmp_path, frame, compressed=compressed)
    assert raw.pixels.dtype == np.float32
    assert raw.pixels.shape == (44, 64)
    assert raw.pixels.flags.c_contiguous
    assert raw.pixels.mean() == pytest.approx(10_000.0, abs=12.0)
    assert raw.zero.level == pytest.approx(1_000.0, abs=3.0)
    assert raw.zero.read_noise == pytest.approx(5.0, rel=0.07)
    row_means = raw.pixels.mean(axis=1)
    assert row_means.std() == pytest.approx(np.sqrt(10_000 / 64 + 2.5), rel=0.4)  # rows wander no more


def test_18_bits_survive_the_way_to_float32(tmp_path: Path) -> None:
    frame = np.full(LSST_SHAPE, 20_000, np.int32)
    frame[LSST_DATA] = 262_143
    assert (read(tmp_path, frame).pixels == 242_143.0).all()


def test_the_parallel_overscan_may_be_left_alone(tmp_path: Path) -> None:
    frame = lsst_frame(np.random.default_rng(4)).astype(np.int32)
    frame[:, 20] += 60
    with_it = read(tmp_path, frame).pixels[:, 16].mean()
    without = read(tmp_path, frame, overscan_parallel=False).pixels[:, 16].mean()
    assert without - with_it == pytest.approx(60.0, abs=8.0)


def test_methods_come_from_the_settings_then_the_camera_then_rows(tmp_path: Path) -> None:
    frame = lsst_frame(np.random.default_rng(4))
    camera = CameraDescription(name="x", overscan_method="level")
    assert read(tmp_path, frame).zero.method == "row"
    assert read(tmp_path, frame, camera=camera).zero.method == "level"
    assert read(tmp_path, frame, camera=camera, overscan_method="row").zero.method == "row"
    raw = read(tmp_path, frame, overscan_method="none")
    assert raw.zero.method == "none"
    np.testing.assert_array_equal(raw.pixels, frame[LSST_DATA].astype(np.float32))


def test_saturation_is_of_the_settings_the_camera_the_header_or_the_converter(tmp_path: Path) -> None:
    frame = lsst_frame(np.random.default_rng(4), dtype="int32")
    for column, level in enumerate((30_000, 40_000, 50_000, 65_535)):
        frame[0, 4 + column] = level
    unsigned = frame.astype(np.uint16)
    camera = CameraDescription(name="x", saturation=40_000.0)
    header = {"SATURATE": 50_000.0}
    assert np.count_nonzero(read(tmp_path, unsigned).saturated) == 1
    assert np.count_nonzero(read(tmp_path, frame).saturated) == 0  # 32 bits have no such end
    assert np.count_nonzero(read(tmp_path, unsigned, header=header).saturated) == 2
    assert np.count_nonzero(read(tmp_path, unsigned, header=header, camera=camera).saturated) == 3
    raw = read(tmp_path, unsigned, header=header, camera=camera, saturation=30_000.0)
    np.testing.assert_array_equal(np.argwhere(raw.saturated), [[0, 0], [0, 1], [0, 2], [0, 3]])


@pytest.mark.parametrize("value", [0, -5.0, "full", True])
def test_a_saturate_keyword_without_sense_is_passed_over(value: object, tmp_path: Path) -> None:
    frame = lsst_frame(np.random.default_rng(4))
    assert not read(tmp_path, frame, header={"SATURATE": value}).saturated.any()


def test_an_amplifier_of_the_description_may_have_its_own_saturation(tmp_path: Path) -> None:
    path = quadrant_camera(tmp_path / "c.toml", (20, 30), extra="saturation = 500")
    path.write_text(path.read_text().replace('name = "LR"', 'name = "LR"\nsaturation = 800'))
    camera = load_camera(path)
    image = write_image(tmp_path / "a.fits", np.full((40, 60), 600, np.uint16))
    with FitsFile(image) as file:
        full = {
            amplifier.name: bool(
                read_raw_amplifier(
                    file, amplifier, config=ReductionConfig(), camera=camera, exposure="E"
                ).saturated.all()
            )
            for amplifier in frame_geometry(file, camera).amplifiers
        }
    assert full == {"LL": True, "LR": False, "UL": True, "UR": True}


def test_dither_is_uniform_and_a_function_of_exposure_and_amplifier(tmp_path: Path) -> None:
    frame = lsst_frame(np.random.default_rng(4), noise=0.0, row_structure=0.0)
    plain = read(tmp_path, frame, overscan_method="none").pixels
    once = read(tmp_path, frame, overscan_method="none", dither=True).pixels - plain
    again = read(tmp_path, frame, overscan_method="none", dither=True).pixels - plain
    other = read(tmp_path, frame, overscan_method="none", dither=True, exposure="E2").pixels - plain
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    assert once.min() >= -0.5
    assert once.max() <= 0.5
    assert once.var() == pytest.approx(1 / 12, rel=0.1)


def test_floats_are_not_dithered_and_it_says_so(tmp_path: Path) -> None:
    frame = lsst_frame(np.random.default_rng(4), dtype="float32")
    raw = read(tmp_path, frame, overscan_method="none", dither=True)
    np.testing.assert_array_equal(raw.pixels, frame[LSST_DATA])
    assert raw.zero.notes == ("not dithered: its pixels are not integers",)


def test_settings_are_checked_and_all_explained() -> None:
    adapter = pydantic.TypeAdapter(ReductionConfig)
    assert adapter.validate_python({}) == ReductionConfig()
    for wrong in (
        {"overscan_skip": -1},
        {"saturation": 0.0},
        {"overscan_method": "mean"},
        {"overscan_n_sigma": 1},
    ):
        with pytest.raises(pydantic.ValidationError):
            adapter.validate_python(wrong)
    for field in dataclasses.fields(ReductionConfig):
        assert set(field.metadata) == {"unit", "meaning"}
