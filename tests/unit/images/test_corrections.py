from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from ptc_stream.errors import ConfigurationError
from ptc_stream.images.camera import load_camera
from ptc_stream.images.corrections import MaskFile, correct_linearity, load_crosstalk, load_linearity
from ptc_stream.images.geometry import FrameGeometry, frame_geometry
from ptc_stream.images.reading import FitsFile
from tests.unit.images.layouts import LSST_SHAPE, lsst_raw, quadrant_camera, quadrant_frame, write_image


@pytest.fixture
def lsst(tmp_path: Path) -> FrameGeometry:
    frames = [np.zeros(LSST_SHAPE, np.uint16)] * 16
    with FitsFile(lsst_raw(tmp_path / "raw.fits", frames)) as file:
        return frame_geometry(file)


def spots(shape: tuple[int, int], *places: tuple[int, int]) -> NDArray[np.uint8]:
    mask = np.zeros(shape, np.uint8)
    for place in places:
        mask[place] = 1
    return mask


def bad(
    mask: MaskFile, frame: FrameGeometry, name: str, shape: tuple[int, int] = LSST_SHAPE
) -> list[tuple[int, ...]]:
    amplifier = next(a for a in frame.amplifiers if a.name == name)
    pixels = mask.bad_pixels(amplifier, frame, shape)
    assert pixels.shape == amplifier.data.shape
    return [tuple(map(int, place)) for place in np.argwhere(pixels)]


@pytest.mark.parametrize(("shape", "column"), [(LSST_SHAPE, 4), ((44, 64), 0)])
@pytest.mark.parametrize("extension", ["C11", "Segment11"])
def test_a_mask_per_amplifier_is_raw_or_trimmed(
    shape: tuple[int, int], column: int, extension: str, lsst: FrameGeometry, tmp_path: Path
) -> None:
    path = tmp_path / "mask.fits"
    images = [
        fits.ImageHDU(spots(shape, (3, column + 5)), name=extension),
        fits.ImageHDU(spots(shape), name="C10"),
    ]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path)
    mask = MaskFile(path)
    assert bad(mask, lsst, "C11") == [(3, 5)]
    assert bad(mask, lsst, "C10") == []
    with pytest.raises(ConfigurationError, match="no image named C12"):
        bad(mask, lsst, "C12")


def test_a_mask_of_the_detector_is_turned_into_the_order_of_read_out(
    lsst: FrameGeometry, tmp_path: Path
) -> None:
    # C10 lies at detector columns 0..63, read out from the right; C00, the last, at 960..1023 from above.
    path = write_image(tmp_path / "mask.fits", spots((44, 1024), (3, 0), (1, 960)))
    mask = MaskFile(path)
    assert bad(mask, lsst, "C10") == [(3, 63)]
    assert bad(mask, lsst, "C00") == [(42, 0)]
    assert bad(mask, lsst, "C11") == []


def test_a_mask_of_the_whole_frame_follows_the_corners(tmp_path: Path) -> None:
    taps = {name: spots((20, 30), (1, k)) for k, name in enumerate(("LL", "LR", "UL", "UR"))}
    frame_mask = quadrant_frame(taps)
    raw = write_image(tmp_path / "raw.fits", np.zeros((40, 60), np.uint16))
    camera = load_camera(quadrant_camera(tmp_path / "c.toml", (20, 30)))
    with FitsFile(raw) as file:
        frame = frame_geometry(file, camera)
    mask = MaskFile(write_image(tmp_path / "mask.fits", frame_mask))
    for k, name in enumerate(taps):
        assert bad(mask, frame, name, (40, 60)) == [(1, k)]


def test_one_mask_of_the_size_of_an_amplifier_is_not_taken_for_all_sixteen(
    lsst: FrameGeometry, tmp_path: Path
) -> None:
    mask = MaskFile(write_image(tmp_path / "mask.fits", spots(LSST_SHAPE)))
    with pytest.raises(ConfigurationError, match="nor one image of the whole frame"):
        bad(mask, lsst, "C10")


def test_a_mask_of_another_size_is_refused(lsst: FrameGeometry, tmp_path: Path) -> None:
    image = fits.ImageHDU(spots((44, 63)), name="C10")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "mask.fits")
    with pytest.raises(ConfigurationError, match=r"\(44, 63\).*expected"):
        bad(MaskFile(tmp_path / "mask.fits"), lsst, "C10")


def test_masks_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        MaskFile(tmp_path / "none.fits")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "empty.fits")
    with pytest.raises(ConfigurationError, match="no image"):
        MaskFile(tmp_path / "empty.fits")


def test_linearity_is_a_polynomial_without_constant() -> None:
    pixels = np.array([[0.0, 100.0], [-10.0, 1000.0]], np.float32)
    expected = pixels + 1e-5 * pixels**2 - 2e-9 * pixels**3
    np.testing.assert_allclose(correct_linearity(pixels, (1e-5, -2e-9)), expected, rtol=1e-6)


def test_tables_are_read(tmp_path: Path) -> None:
    linearity = tmp_path / "lin.csv"
    linearity.write_text("amplifier,c2,c3\n# a remark\nC10,1e-6,0\nC11, 2e-6 ,1e-12\n")
    assert load_linearity(linearity) == {"C10": (1e-6, 0.0), "C11": (2e-6, 1e-12)}
    crosstalk = tmp_path / "x.csv"
    crosstalk.write_text("victim,C10,C11\nC10,0,1.5e-4\nC11,0,0\n")
    assert load_crosstalk(crosstalk) == {"C10": {"C11": 1.5e-4}, "C11": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line"),
        ("name,c2\nC10,1\n", "must begin with amplifier"),
        ("amplifier\nC10\n", "must begin with amplifier"),
        ("amplifier,c2\n", "no rows"),
        ("amplifier,c2\nC10,x\n", "row 2"),
        ("amplifier,c2\nC10,1,2\n", "row 2"),
        ("amplifier,c2\nC10,nan\n", "not finite"),
        ("amplifier,c2\nC10,1\nC10,1\n", "twice"),
        ("amplifier,c2\nC10,\xe9\n", "CSV"),
    ],
)
def test_malformed_tables_are_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "lin.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=message):
        load_linearity(path)


def test_no_amplifier_leaks_into_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("victim,C10\nC10,0.1\n")
    with pytest.raises(ConfigurationError, match="on itself"):
        load_crosstalk(path)


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_linearity(tmp_path / "none.csv")
