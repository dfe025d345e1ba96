from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from ptc_stream.errors import GeometryError
from ptc_stream.images.camera import load_camera
from ptc_stream.images.corrections import oriented
from ptc_stream.images.geometry import AmplifierGeometry, FrameGeometry, check_equal, frame_geometry
from ptc_stream.images.reading import FitsFile
from ptc_stream.images.sections import Box
from tests.unit.images.layouts import (
    LSST_SHAPE,
    SEGMENTS,
    lsst_raw,
    quadrant_camera,
    quadrant_frame,
    ramp,
    write_image,
)

FRAMES = [ramp(LSST_SHAPE, 1000 * number).astype(np.int32) for number in range(16)]


def geometry_of(path: Path, camera: Path | None = None) -> FrameGeometry:
    with FitsFile(path) as file:
        return frame_geometry(file, load_camera(camera) if camera else None)


def single(
    directory: Path, cards: Mapping[str, Any], shape: tuple[int, int] = (20, 100)
) -> AmplifierGeometry:
    path = write_image(directory / "a.fits", ramp(shape).astype(np.int16), cards)
    (amplifier,) = geometry_of(path).amplifiers
    return amplifier


@pytest.mark.parametrize("compressed", [False, True])
def test_lsst_raws_need_no_flip_and_have_what_datasec_leaves(
    compressed: bool,  # noqa: FBT001 - a case
    tmp_path: Path,
) -> None:
    frame = geometry_of(lsst_raw(tmp_path / "a.fits", FRAMES, compressed=compressed))
    assert [a.name for a in frame.amplifiers] == [f"C{name[-2:]}" for name in SEGMENTS]
    assert [a.hdu for a in frame.amplifiers] == [1, *range(3, 18)]  # a table stands behind the first
    for amplifier in frame.amplifiers:
        assert amplifier.data == Box(4, 68, 0, 44)
        assert amplifier.serial_overscan == Box(68, 96, 0, 60)
        assert amplifier.parallel_overscan == Box(4, 68, 44, 60)
        assert not amplifier.flip_x
        assert not amplifier.flip_y
    first, last = frame.amplifiers[0].detector_section, frame.amplifiers[-1].detector_section
    assert first is not None
    assert last is not None
    assert (first.descending_x, first.descending_y) == (True, False)
    assert (last.descending_x, last.descending_y) == (False, True)
    assert frame.detector_box == Box(0, 1024, 0, 44)


def test_amplifiers_of_one_orientation_whatever_corner_they_are_read_at(tmp_path: Path) -> None:
    """Four taps with the same ramp from their node: in the order of read-out they are equal again."""
    tap = ramp((20, 30)).astype(np.int16)
    path = write_image(tmp_path / "a.fits", quadrant_frame(dict.fromkeys(("LL", "LR", "UL", "UR"), tap)))
    camera = quadrant_camera(tmp_path / "c.toml", (20, 30))
    with FitsFile(path) as file:
        for amplifier in frame_geometry(file, load_camera(camera)).amplifiers:
            np.testing.assert_array_equal(oriented(file.pixels(0), amplifier), tap, err_msg=amplifier.name)


def test_each_corner_gets_its_own_quadrant(tmp_path: Path) -> None:
    taps = {
        name: ramp((20, 30), 1000 * k).astype(np.int16) for k, name in enumerate(("LL", "LR", "UL", "UR"))
    }
    path = write_image(tmp_path / "a.fits", quadrant_frame(taps))
    camera = quadrant_camera(tmp_path / "c.toml", (20, 30))
    with FitsFile(path) as file:
        for amplifier in frame_geometry(file, load_camera(camera)).amplifiers:
            found = oriented(file.pixels(0), amplifier)
            np.testing.assert_array_equal(found, taps[amplifier.name], err_msg=amplifier.name)


def test_noao_sections_with_the_order_of_read_out_from_ampsec(tmp_path: Path) -> None:
    stored = ramp((20, 100)).astype(np.int16)
    path = write_image(
        tmp_path / "a.fits",
        stored,
        {
            "DATASEC": "[31:100,1:20]",
            "TRIMSEC": "[33:98,2:19]",
            "BIASSEC": "[1:28,1:20]",
            "CCDSEC": "[71:140,1:20]",
            "DETSEC": "[2119:2188,1:20]",
            "AMPSEC": "[70:1,1:20]",
        },
    )
    with FitsFile(path) as file:
        (amplifier,) = frame_geometry(file).amplifiers
        found = oriented(file.pixels(0), amplifier)
    assert (amplifier.flip_x, amplifier.flip_y) == (True, False)
    assert amplifier.data == Box(2, 68, 1, 19)
    assert amplifier.serial_overscan == Box(72, 100, 0, 20)
    np.testing.assert_array_equal(found[amplifier.data.slices], stored[1:19, 32:98][:, ::-1])
    np.testing.assert_array_equal(found[:, 72:100], stored[:, :28][:, ::-1])


@pytest.mark.parametrize(
    "biassec", ["[0:0,0:0]", "[90:200,1:20]", "[60:90,1:20]", "junk", "", "[1:5,1:2", "[2049:2080,1:4096]"]
)
def test_a_biassec_that_cannot_be_is_passed_over(biassec: str, tmp_path: Path) -> None:
    amplifier = single(tmp_path, {"DATASEC": "[5:80,1:20]", "BIASSEC": biassec})
    assert amplifier.data == Box(4, 80, 0, 20)
    assert amplifier.serial_overscan == Box(80, 100, 0, 20)


def test_a_biassec_of_fewer_rows_serves_all_rows(tmp_path: Path) -> None:
    amplifier = single(tmp_path, {"DATASEC": "[1:80,1:20]", "BIASSEC": "[85:98,3:18]"})
    assert amplifier.serial_overscan == Box(84, 98, 0, 20)


def test_a_biassec_above_the_image_is_parallel_overscan(tmp_path: Path) -> None:
    amplifier = single(tmp_path, {"DATASEC": "[1:80,1:10]", "BIASSEC": "[1:80,12:19]"})
    assert amplifier.parallel_overscan == Box(0, 80, 11, 19)
    assert amplifier.serial_overscan == Box(80, 100, 0, 20)


@pytest.mark.parametrize(
    ("biassec", "data"),
    [
        ("[1:12,1:20]", Box(12, 100, 0, 20)),
        ("[91:100,1:20]", Box(0, 90, 0, 20)),
        ("[40:50,1:20]", Box(0, 100, 0, 20)),
    ],
)
def test_a_biassec_alone_leaves_the_rest_as_data(biassec: str, data: Box, tmp_path: Path) -> None:
    assert single(tmp_path, {"BIASSEC": biassec}).data == data


def test_a_wide_prescan_is_better_than_a_narrow_overscan(tmp_path: Path) -> None:
    assert single(tmp_path, {"DATASEC": "[21:98,1:20]"}).serial_overscan == Box(0, 20, 0, 20)
    assert single(tmp_path, {"DATASEC": "[3:98,1:20]"}).serial_overscan == Box(98, 100, 0, 20)
    assert single(tmp_path, {"DATASEC": "[3:100,1:20]"}).serial_overscan == Box(0, 2, 0, 20)


def test_an_image_without_sections_is_all_data_without_overscan(tmp_path: Path) -> None:
    amplifier = single(tmp_path, {})
    assert amplifier.name == "amp1"
    assert amplifier.data == Box(0, 100, 0, 20)
    assert amplifier.serial_overscan is None
    assert amplifier.parallel_overscan is None


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"DATASEC": "[1:101,1:20]"}, "DATASEC .* leaves the image"),
        ({"DATASEC": "[1:100"}, "DATASEC: .* is not a FITS section"),
        ({"DATASEC": "[0:0,0:0]"}, "below pixel 1"),
        ({"DATASEC": "[1:10,1:20]", "TRIMSEC": "[20:30,1:20]"}, "has no pixel"),
        ({"DETSEC": "here"}, "DETSEC"),
        ({"BAYERPAT": "GRBG"}, "colour filter"),
        ({"DATASECA": "[1:50,1:20]", "DATASECB": "[51:100,1:20]"}, r"several amplifiers \(DATASECA\)"),
    ],
)
def test_impossible_sections_are_geometry_errors(cards: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=message):
        single(tmp_path, cards)


def test_a_file_without_images_and_a_cube_are_geometry_errors(tmp_path: Path) -> None:
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "empty.fits")
    with pytest.raises(GeometryError, match="no image in 1 HDUs"):
        geometry_of(tmp_path / "empty.fits")
    write_image(tmp_path / "cube.fits", np.zeros((3, 4, 5), np.int16))
    with pytest.raises(GeometryError, match="5x4x3, not an image"):
        geometry_of(tmp_path / "cube.fits")


def test_two_amplifiers_of_one_name_are_a_geometry_error(tmp_path: Path) -> None:
    path = lsst_raw(tmp_path / "a.fits", FRAMES[:2], amplifier={"EXTNAME": "Segment10"})
    with pytest.raises(GeometryError, match="2 amplifiers are named C10"):
        geometry_of(path)


def test_planes_of_reduced_exposures_are_no_amplifiers(tmp_path: Path) -> None:
    planes = [
        fits.ImageHDU(np.zeros((4, 4), np.float32), name=name) for name in ("IMAGE", "MASK", "VARIANCE")
    ]
    fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(tmp_path / "a.fits")
    with pytest.raises(GeometryError, match="MASK is a plane"):
        geometry_of(tmp_path / "a.fits")


def test_images_without_sections_beside_amplifiers_are_left_out(tmp_path: Path) -> None:
    path = lsst_raw(tmp_path / "a.fits", FRAMES[:3])
    with fits.open(path, mode="append") as hdus:
        hdus.append(fits.ImageHDU(np.zeros((5, 5), np.int16), name="GUIDER"))
    assert [a.name for a in geometry_of(path).amplifiers] == ["C10", "C11", "C12"]


def test_frames_that_are_not_those_of_the_description(tmp_path: Path) -> None:
    camera = quadrant_camera(tmp_path / "c.toml", (20, 30))
    wrong = write_image(tmp_path / "wrong.fits", np.zeros((40, 61), np.int16))
    with pytest.raises(GeometryError, match="61x40, camera four taps has 60x40"):
        geometry_of(wrong, camera)
    shapeless = camera.read_text().replace("shape = [60, 40]", "")
    camera.write_text(shapeless)
    small = write_image(tmp_path / "small.fits", np.zeros((40, 59), np.int16))
    with pytest.raises(GeometryError, match="only 59x40"):
        geometry_of(small, camera)
    for hdu, message in (('"CCD"', "no HDU named CCD"), ("5", "no HDU 5"), ("0", None)):
        camera.write_text(shapeless.replace('name = "LL"', f'name = "LL"\nhdu = {hdu}'))
        whole = write_image(tmp_path / "whole.fits", np.zeros((40, 60), np.int16))
        if message is None:
            assert len(geometry_of(whole, camera).amplifiers) == 4
        else:
            with pytest.raises(GeometryError, match=message):
                geometry_of(whole, camera)


def test_a_shape_without_amplifiers_is_checked_too(tmp_path: Path) -> None:
    camera = tmp_path / "c.toml"
    camera.write_text('name = "x"\nshape = [100, 21]\n')
    path = write_image(tmp_path / "a.fits", np.zeros((20, 100), np.int16))
    with pytest.raises(GeometryError, match="100x20, camera x has 100x21"):
        geometry_of(path, camera)


def test_a_compressed_copy_has_the_same_geometry(tmp_path: Path) -> None:
    plain = write_image(tmp_path / "a.fits", ramp((40, 60)).astype(np.int16), {"DATASEC": "[1:50,1:40]"})
    with fits.open(plain) as hdus:
        packed = fits.CompImageHDU(hdus[0].data, hdus[0].header)
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(tmp_path / "a.fits.fz")
    check_equal(geometry_of(plain), geometry_of(tmp_path / "a.fits.fz"), "a", "b")


@pytest.mark.parametrize(
    ("frames", "amplifier", "message"),
    [
        (FRAMES[:2], {}, "amplifiers C10, C11, C12 and C10, C11"),
        (FRAMES[:3], {"DATASEC": "[6:68,1:44]"}, "amplifier C10, data: .*5:68.* and .*6:68"),
        (FRAMES[:3], {"DETSIZE": "[1:5,1:5]"}, "detector sizes"),
    ],
)
def test_the_first_difference_is_named(
    frames: list[Any], amplifier: dict[str, str], message: str, tmp_path: Path
) -> None:
    one = geometry_of(lsst_raw(tmp_path / "a.fits", FRAMES[:3], tables=False))
    other = geometry_of(lsst_raw(tmp_path / "b.fits", frames, amplifier=amplifier))
    with pytest.raises(GeometryError, match=message):
        check_equal(one, other, "a.fits", "b.fits")
