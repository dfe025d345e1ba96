from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from ptc_stream.images.cards import Header, parse_header
from ptc_stream.images.reading import FitsFile
from ptc_stream.images.rice import decode_rice

if TYPE_CHECKING:
    from numpy.typing import NDArray

TYPES = ("uint8", "int16", "uint16", "int32", "uint32")


def compressed(image: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    options = {"compression_type": "RICE_1", **options}
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image, **options)]).writeto(file)
    return file.getvalue()


def table_of(file: bytes) -> tuple[Header, bytes]:
    """Header and data of the first extension, as they stand in the file."""
    with fits.open(io.BytesIO(file), disable_image_compression=True) as hdus:
        info = hdus[1].fileinfo()
    data = file[info["datLoc"] : info["datLoc"] + info["datSpan"]]
    return parse_header(file[info["hdrLoc"] : info["datLoc"]]), data


def from_astropy(file: bytes) -> NDArray[Any]:
    with fits.open(io.BytesIO(file)) as hdus:
        image: NDArray[Any] = hdus[1].data
    return image


def image(kind: str, dtype: str, shape: tuple[int, int], seed: int) -> NDArray[Any]:
    """Pixels that lead to every way of writing a block."""
    rng = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    middle = (int(limits.min) + int(limits.max)) // 2
    scale = {"flat": 0.0, "noise": 5.0, "wide": (float(limits.max) - float(limits.min)) / 9}
    if kind in scale:
        values = np.round(rng.normal(middle, scale[kind], shape))
    elif kind == "any":
        return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    else:  # zeros with hits: long runs of zero bits, since the hit decides how few low bits are good
        values = np.full(shape, float(limits.min))
        values[rng.random(shape) < 0.02] = float(limits.max)
    return np.clip(values, limits.min, limits.max).astype(dtype)


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(["flat", "noise", "wide", "any", "hits"]),
    dtype=st.sampled_from(TYPES),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 150)),
    seed=st.integers(0, 2**32 - 1),
    tile_rows=st.integers(1, 10),
)
def test_every_pixel_is_that_of_astropy(
    kind: str, dtype: str, shape: tuple[int, int], seed: int, tile_rows: int
) -> None:
    written = image(kind, dtype, shape, seed)
    file = compressed(written, tile_shape=(min(tile_rows, shape[0]), shape[1]))
    expected = from_astropy(file)
    decoded = decode_rice(*table_of(file))
    assert decoded is not None
    assert decoded.dtype == expected.dtype.newbyteorder("=") == dtype
    np.testing.assert_array_equal(decoded, expected)


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["int16", "int32"]),
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=20),
    cut=st.integers(0, 3_000),
)
def test_damaged_bytes_are_no_crash(seed: int, dtype: str, damage: list[tuple[int, int]], cut: int) -> None:
    header, data = table_of(compressed(image("noise", dtype, (7, 90), seed)))
    spoiled = bytearray(data)
    for position, value in damage:
        spoiled[position % len(spoiled)] = value
    decoded = decode_rice(header, bytes(spoiled[: len(spoiled) - cut]))
    assert decoded is None or decoded.shape == (7, 90)


def test_what_reads_beyond_its_tile_is_damaged() -> None:
    header, data = table_of(compressed(image("noise", "int32", (3, 90), 1)))
    lengths = np.frombuffer(data, ">i4", count=6).copy()
    lengths[0] -= 4
    assert decode_rice(header, lengths.tobytes() + data[24:]) is None


@pytest.mark.parametrize(
    "tile",
    [(0, 0), (-1, 0), (90, -1), (10**6, 0), (90, 10**6), (2**62, 2**62), (2**63 - 1, 2**63 - 1)],
    ids=str,
)
def test_wild_descriptors_reach_nowhere(tile: tuple[int, int]) -> None:
    header, data = table_of(compressed(image("noise", "int32", (1, 90), 1)))
    heap = data[8:]
    header = {**header, "TFORM1": "1QB(90)", "NAXIS1": 16}
    good = np.array([np.frombuffer(data, ">i4", count=1)[0], 0], ">i8")
    assert decode_rice(header, good.tobytes() + heap) is not None
    assert decode_rice(header, np.array(tile, ">i8").tobytes() + heap) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ZCMPTYPE", "GZIP_1"),
        ("BLANK", -32768),
        ("ZBLANK", -32768),
        ("BSCALE", 2.0),
        ("BZERO", 7.5),
        ("BZERO", float("inf")),
        ("TFIELDS", 3),
        ("ZTILE1", 45),
        ("ZNAXIS", 3),
        ("ZVAL1", 0),
        ("ZVAL2", 4),
        ("ZBITPIX", -32),
        ("TFORM1", "1QB(9)"),
        ("NAXIS2", 10**9),
        ("THEAP", -1),
        ("THEAP", 10**9),
        ("ZTILE2", 0),
        ("ZTILE2", 10**30),
        ("ZVAL1", 10**30),
    ],
)
def test_other_kinds_are_left_to_astropy(key: str, value: float | str) -> None:
    header, data = table_of(compressed(image("noise", "int16", (7, 90), 1)))
    assert decode_rice(header, data) is not None
    assert decode_rice({**header, key: value}, data) is None


@pytest.mark.parametrize(
    "file",
    [
        compressed(np.random.default_rng(1).normal(0, 9, (8, 64)).astype(np.float32)),
        compressed(np.arange(800, dtype=np.int32).reshape(8, 100), tile_shape=(4, 30)),
        compressed(np.arange(800, dtype=np.int32).reshape(8, 100), compression_type="GZIP_2"),
        compressed(np.arange(800, dtype=np.int32).reshape(2, 4, 100)),
        compressed(np.arange(800, dtype=np.int16).reshape(8, 100) - 5),
    ],
    ids=["quantised floats", "tiles of part of a row", "gzip", "cube", "rice"],
)
def test_a_file_has_the_pixels_of_astropy_whatever_the_kind(file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image.fits"
    path.write_bytes(file)
    with FitsFile(path) as opened:
        np.testing.assert_array_equal(opened.pixels(1), from_astropy(file))
