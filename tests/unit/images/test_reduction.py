from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from ptc_stream.errors import (
    ConfigurationError,
    GeometryError,
    ImageMissing,
    ImageUnreadable,
)
from ptc_stream.images.camera import CameraDescription, load_camera
from ptc_stream.images.reduction import (
    AmplifierFrame,
    Calibration,
    ReductionConfig,
    amplifier_names,
    read_amplifier_pair,
    read_amplifiers,
)
from tests.unit.images.layouts import (
    LSST_DATA,
    SEGMENTS,
    gzipped,
    lsst_frame,
    lsst_raw,
    quadrant_camera,
    quadrant_frame,
    ramp,
    write_image,
)

BIAS = {"IMGTYPE": "BIAS", "EXPTIME": 0.0, "RAFTBAY": "R22", "CCDSLOT": "S11"}


def frames(count: int = 16, seed: int = 6, **kwargs: Any) -> list[NDArray[Any]]:
    generator = np.random.default_rng(seed)
    return [lsst_frame(generator, **kwargs) for _ in range(count)]


def by_name(path: Path, config: ReductionConfig | None = None, **kwargs: Any) -> dict[str, AmplifierFrame]:
    calibration = Calibration(config, **kwargs)
    return {frame.name: frame for frame in read_amplifiers(path, calibration=calibration)}


def test_an_lsst_raw_gives_sixteen_amplifiers_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = lsst_raw(tmp_path / "a.fits", frames())
    expected = [f"C{name[-2:]}" for name in SEGMENTS]
    assert amplifier_names(path) == expected
    read = list(read_amplifiers(path))
    assert [frame.name for frame in read] == expected
    for frame in read:
        assert frame.pixels.mean() == pytest.approx(10_000.0, abs=12.0)
        assert frame.usable.all()
        assert frame.zero_level
        assert frame.read_noise_source == "overscan"
        assert frame.saturated_fraction == 0.0
        assert frame.problem == ""
        assert frame.notes == ()


@pytest.mark.parametrize("packing", ["plain", "compressed", "gzip"])
def test_packing_changes_no_bit(packing: str, tmp_path: Path) -> None:
    reference = by_name(lsst_raw(tmp_path / "reference.fits", frames(3)))
    path = lsst_raw(tmp_path / "a.fits", frames(3), compressed=packing == "compressed")
    found = by_name(gzipped(path) if packing == "gzip" else path)
    assert list(found) == list(reference)
    for name, frame in found.items():
        assert frame.pixels.tobytes() == reference[name].pixels.tobytes()
        assert frame.read_noise == reference[name].read_noise


def test_taps_at_four_corners_come_out_alike(tmp_path: Path) -> None:
    tap = ramp((20, 40), 300).astype(np.uint16)
    tap[:, 25:] = 250  # overscan
    path = write_image(tmp_path / "a.fits", quadrant_frame(dict.fromkeys(("LL", "LR", "UL", "UR"), tap)))
    camera = load_camera(
        quadrant_camera(
            tmp_path / "c.toml", (20, 40), readout='data = "[3:25,2:20]"\noverscan = "[26:40,2:20]"'
        )
    )
    for frame in by_name(path, camera=camera).values():
        np.testing.assert_array_equal(frame.pixels, tap[1:, 2:25].astype(np.float32) - 250.0)


def test_an_amplifier_of_nans_costs_no_other(tmp_path: Path) -> None:
    raw = frames(4, dtype="float32")
    raw[2][:] = np.nan
    read = by_name(lsst_raw(tmp_path / "a.fits", raw))
    assert read["C12"].problem == "no finite pixel"
    assert not read["C12"].usable.any()
    assert read["C12"].read_noise is None
    assert not read["C12"].zero_level
    for name in ("C10", "C11", "C13"):
        assert read[name].problem == ""
        assert read[name].usable.all()


def test_a_single_nan_is_one_unusable_pixel(tmp_path: Path) -> None:
    raw = frames(1, dtype="float32")
    raw[0][5, 4 + 6] = np.nan
    (frame,) = by_name(lsst_raw(tmp_path / "a.fits", raw)).values()
    np.testing.assert_array_equal(np.argwhere(~frame.usable), [[5, 6]])


def test_one_damaged_hdu_in_a_whole_file_costs_no_other(tmp_path: Path) -> None:
    path = lsst_raw(tmp_path / "a.fits", frames(4), compressed=True)
    with fits.open(path) as hdus:
        start = hdus[3].fileinfo()["datLoc"]
    content = bytearray(path.read_bytes())
    content[start : start + 480] = b"\x7f" * 480  # lengths and places of the tiles
    path.write_bytes(content)
    read = by_name(path)
    assert "a.fits" in read["C11"].problem
    assert "HDU 3 (Segment11)" in read["C11"].problem
    assert read["C11"].pixels.shape == read["C11"].usable.shape == (44, 64)
    assert not read["C11"].usable.any()
    assert all(read[name].usable.all() for name in ("C10", "C12", "C13"))


def test_saturated_pixels_are_counted_and_not_usable(tmp_path: Path) -> None:
    raw = frames(1)
    raw[0][:22, 4:68] = 65_535
    (frame,) = by_name(lsst_raw(tmp_path / "a.fits", raw)).values()
    assert frame.saturated_fraction == 0.5
    assert not frame.usable[:22].any()
    assert frame.usable[22:].all()
    raw[0][LSST_DATA] = 65_535
    (frame,) = by_name(lsst_raw(tmp_path / "b.fits", raw)).values()
    assert frame.problem == "every pixel is saturated"


def test_a_mask_makes_pixels_unusable(tmp_path: Path) -> None:
    bad = np.zeros((44, 64), np.uint8)
    bad[3, 7] = 1
    images = [fits.ImageHDU(bad, name="C10"), fits.ImageHDU(np.ones((44, 64), np.uint8), name="C11")]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(tmp_path / "mask.fits")
    config = ReductionConfig(mask=(str(tmp_path / "mask.fits"),))
    read = by_name(lsst_raw(tmp_path / "a.fits", frames(2)), config)
    np.testing.assert_array_equal(np.argwhere(~read["C10"].usable), [[3, 7]])
    assert read["C11"].problem == "every pixel is masked, saturated or not finite"


def test_without_overscan_and_bias_the_zero_is_unknown(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.fits", ramp((20, 30)).astype(np.uint16))
    (frame,) = by_name(path).values()
    assert not frame.zero_level
    assert frame.read_noise is None
    assert frame.overscan_level is None
    np.testing.assert_array_equal(frame.pixels, ramp((20, 30)))
    (reduced,) = by_name(path, camera=CameraDescription(name="x", offset_removed=True)).values()
    assert reduced.zero_level


def bias_pair(directory: Path, **kwargs: Any) -> tuple[str, str]:
    paths = [
        lsst_raw(directory / f"bias{seed}.fits", frames(2, seed, signal=0.0, **kwargs), primary=BIAS)
        for seed in (1, 2)
    ]
    return str(paths[0]), str(paths[1])


def test_bias_frames_stand_in_for_the_overscan(tmp_path: Path) -> None:
    config = ReductionConfig(bias=bias_pair(tmp_path, row_structure=0.0), overscan_method="none")
    read = by_name(lsst_raw(tmp_path / "a.fits", frames(2, row_structure=0.0)), config)
    for frame in read.values():
        assert frame.zero_level
        assert frame.overscan_level is None
        assert frame.pixels.mean() == pytest.approx(10_000.0, abs=12.0)
        assert frame.read_noise_source == "bias"
        assert frame.read_noise == pytest.approx(5.0, rel=0.06)


def test_the_noise_of_bias_pairs_goes_before_that_of_the_overscan(tmp_path: Path) -> None:
    config = ReductionConfig(bias=bias_pair(tmp_path, noise=8.0), overscan_parallel=False)
    read = by_name(lsst_raw(tmp_path / "a.fits", frames(2)), config)
    assert read["C10"].read_noise == pytest.approx(8.0, rel=0.1)
    assert read["C10"].overscan_level == pytest.approx(1_000.0, abs=3.0)


def test_frames_that_are_not_those_of_the_bias_are_a_geometry_error(tmp_path: Path) -> None:
    config = ReductionConfig(bias=bias_pair(tmp_path))
    more = lsst_raw(tmp_path / "more.fits", frames(3))
    with pytest.raises(GeometryError, match="C12 is not that of the bias frames"):
        by_name(more, config)
    other = lsst_raw(tmp_path / "other.fits", frames(2), amplifier={"DATASEC": "[6:68,1:44]"})
    with pytest.raises(GeometryError, match="C10 is not that of the bias frames"):
        by_name(other, config)


def test_dark_is_scaled_by_exposure_time(tmp_path: Path) -> None:
    dark = lsst_raw(
        tmp_path / "dark.fits",
        frames(2, 3, signal=1_000.0),
        primary={**BIAS, "IMGTYPE": "DARK", "EXPTIME": 25.0},
    )
    config = ReductionConfig(dark=(str(dark),))
    read = by_name(lsst_raw(tmp_path / "a.fits", frames(2)), config)  # 12.5 s
    assert read["C10"].pixels.mean() == pytest.approx(9_500.0, abs=12.0)
    timeless = lsst_raw(tmp_path / "b.fits", frames(2), primary={"RAFTBAY": "R22", "CCDSLOT": "S11"})
    with pytest.raises(ImageUnreadable, match="no exposure time"):
        by_name(timeless, config)


def test_linearity_is_applied_above_zero(tmp_path: Path) -> None:
    table = tmp_path / "lin.csv"
    table.write_text("amplifier,c2\nC10,1e-6\nC11,0\n")
    path = lsst_raw(tmp_path / "a.fits", frames(2))
    plain, read = by_name(path), by_name(path, ReductionConfig(linearity=str(table)))
    pixels = plain["C10"].pixels
    np.testing.assert_allclose(read["C10"].pixels, pixels + 1e-6 * pixels**2, rtol=1e-6)
    np.testing.assert_array_equal(read["C11"].pixels, plain["C11"].pixels)


def test_crosstalk_of_equal_pixels_is_taken_back(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    table.write_text("victim,C10,C11\nC10,0,0\nC11,0.01,0\n")
    raw = frames(2, dtype="float32")
    raw[0][7, 4 + 9] = np.nan
    path = lsst_raw(tmp_path / "a.fits", raw)
    plain, read = by_name(path), by_name(path, ReductionConfig(crosstalk=str(table)))
    np.testing.assert_array_equal(read["C10"].pixels, plain["C10"].pixels)
    source = np.nan_to_num(plain["C10"].pixels, nan=0.0)
    np.testing.assert_allclose(read["C11"].pixels, plain["C11"].pixels - 0.01 * source, rtol=1e-5)
    assert read["C11"].usable.all()  # the victim of a pixel that is not finite stays


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("linearity", "amplifier,c2\nC10,0\n", "rows for C10; .* has amplifiers C10, C11"),
        ("crosstalk", "victim,C10,C11\nC10,0,0\n", "rows for C10"),
        ("crosstalk", "victim,C10,C12\nC10,0,1e-4\nC11,0,0\n", "aggressors of C10 unknown: C12"),
    ],
)
def test_tables_of_other_amplifiers_are_refused(kind: str, text: str, message: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(text)
    path = lsst_raw(tmp_path / "a.fits", frames(2))
    config = (
        ReductionConfig(linearity=str(table))
        if kind == "linearity"
        else ReductionConfig(crosstalk=str(table))
    )
    with pytest.raises(ConfigurationError, match=message):
        by_name(path, config)


def test_a_pair_comes_side_by_side(tmp_path: Path) -> None:
    first = lsst_raw(tmp_path / "a.fits", frames(3, 1))
    second = lsst_raw(tmp_path / "b.fits", frames(3, 2), compressed=True)
    pairs = list(read_amplifier_pair(first, second))
    assert [(a.name, b.name) for a, b in pairs] == [(name, name) for name in ("C10", "C11", "C12")]
    for (one, other), alone, partner in zip(
        pairs, read_amplifiers(first), read_amplifiers(second), strict=True
    ):
        np.testing.assert_array_equal(one.pixels, alone.pixels)
        np.testing.assert_array_equal(other.pixels, partner.pixels)


def test_a_pair_of_unlike_geometry_is_refused(tmp_path: Path) -> None:
    first = lsst_raw(tmp_path / "a.fits", frames(3))
    second = lsst_raw(tmp_path / "b.fits", frames(3), amplifier={"DATASEC": "[5:67,1:44]"})
    with pytest.raises(GeometryError, match=r"a\.fits and .*b\.fits have different geometry: amplifier C10"):
        next(read_amplifier_pair(first, second))
    fewer = lsst_raw(tmp_path / "c.fits", frames(2))
    with pytest.raises(GeometryError, match="amplifiers C10, C11, C12 and C10, C11"):
        next(read_amplifier_pair(first, fewer))


def test_missing_and_truncated_files_are_typed_errors(tmp_path: Path) -> None:
    whole = lsst_raw(tmp_path / "a.fits", frames(2))
    cut = tmp_path / "cut.fits"
    cut.write_bytes(whole.read_bytes()[:20_000])
    with pytest.raises(ImageMissing):
        next(read_amplifiers(tmp_path / "none.fits"))
    with pytest.raises(ImageUnreadable, match=r"cut\.fits"):
        next(read_amplifier_pair(whole, cut))
    with pytest.raises(ImageUnreadable, match=r"cut\.fits"):
        amplifier_names(cut)


def test_a_reader_that_stops_early_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    real = Path.open

    def remembering(path: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(real(path, *args, **kwargs))
        return opened[-1]

    first = lsst_raw(tmp_path / "a.fits", frames(3))
    monkeypatch.setattr(Path, "open", remembering)
    with contextlib.closing(read_amplifier_pair(first, first)) as pairs:
        next(pairs)
        assert any(not file.closed for file in opened)
    assert all(file.closed for file in opened)
