from __future__ import annotations

import builtins
import errno
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from ptc_stream.errors import ImageMissing, ImageUnreadable, StorageUnavailable
from ptc_stream.images.cards import header_value, parse_header
from ptc_stream.images.reading import FitsFile, check_whole, leading_headers
from tests.unit.images.layouts import gzipped, lsst_frame, lsst_raw, ramp, write_image

KINDS = ["plain", "compressed", "gzip"]


def make(kind: str, directory: Path) -> Path:
    generator = np.random.default_rng(5)
    frames = [lsst_frame(generator) for _ in range(4)]
    path = lsst_raw(directory / f"{kind}.fits", frames, compressed=kind == "compressed")
    return gzipped(path) if kind == "gzip" else path


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_the_same_however_the_file_is_packed(kind: str, tmp_path: Path) -> None:
    expected = lsst_frame(np.random.default_rng(5))
    with FitsFile(make(kind, tmp_path)) as file:
        assert len(file) == 7
        assert file.shape(0) == ()
        assert file.shape(2) == ()  # the table between
        assert file.name(2) == "REB_COND"
        np.testing.assert_array_equal(file.pixels(1), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.01, 0.2, 0.5, 0.8, 0.9, 0.999])
def test_a_truncated_file_is_unreadable_and_its_name_is_in_the_message(
    kind: str, fraction: float, tmp_path: Path
) -> None:
    path = make(kind, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ImageUnreadable, match=path.name):
        check_whole(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [1, 8, 2000, 2879])
def test_a_file_short_of_its_last_bytes_is_unreadable(kind: str, missing: int, tmp_path: Path) -> None:
    path = make(kind, tmp_path)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(ImageUnreadable, match=path.name):
        check_whole(path)


@pytest.mark.parametrize("cut", [3, 80, 1000, 2879])
def test_a_cut_inside_the_header_of_a_later_hdu_is_noticed(cut: int, tmp_path: Path) -> None:
    path = make("plain", tmp_path)
    with FitsFile(path) as file:
        start = file._hdus[3].fileinfo()["hdrLoc"]
    path.write_bytes(path.read_bytes()[: start + cut])
    with pytest.raises(ImageUnreadable, match="header of HDU 3"):
        check_whole(path)


def test_a_cut_between_hdus_is_noticed_where_nextend_counts_them(tmp_path: Path) -> None:
    path = lsst_raw(
        tmp_path / "a.fits", [lsst_frame(np.random.default_rng(1))] * 3, primary={"NEXTEND": 3}, tables=False
    )
    check_whole(path)
    with FitsFile(path) as file:
        end = file._hdus[3].fileinfo()["hdrLoc"]
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ImageUnreadable, match="2 extensions, NEXTEND says 3"):
        check_whole(path)


def test_a_sole_image_without_its_last_padding_is_whole(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.fits", ramp((10, 20)).astype(np.int16))
    path.write_bytes(path.read_bytes()[: 2880 + 400])
    with FitsFile(path) as file:
        np.testing.assert_array_equal(file.pixels(0), ramp((10, 20)))
    path.write_bytes(path.read_bytes()[: 2880 + 399])
    with pytest.raises(ImageUnreadable, match="truncated in HDU 0"):
        check_whole(path)


def test_padding_after_the_last_hdu_does_no_harm(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.fits", ramp((10, 20)).astype(np.int16))
    path.write_bytes(path.read_bytes() + b"\0" * 2880)
    check_whole(path)


def test_no_hdu_vanishes_behind_a_damaged_header(tmp_path: Path) -> None:
    path = make("plain", tmp_path)
    content = path.read_bytes()
    at = content.rindex(b"XTENSION")
    path.write_bytes(content[:at] + b"XTENTION" + content[at + 8 :])
    with pytest.raises(ImageUnreadable, match="no HDU"):
        check_whole(path)


def test_a_compressed_hdu_with_a_damaged_header_does_not_vanish(tmp_path: Path) -> None:
    path = make("compressed", tmp_path)
    path.write_bytes(path.read_bytes().replace(b"TFIELDS =", b"TFIXXXX =", 1))
    with pytest.raises(ImageUnreadable):
        check_whole(path)


def test_a_wrong_checksum_of_gzip_is_unreadable(tmp_path: Path) -> None:
    path = make("gzip", tmp_path)
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ImageUnreadable, match="gzip"):
        check_whole(path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"SIMPLE", b"\x1f\x8b", b"\x1f\x8b" + b"\0" * 99])
def test_what_is_not_fits_is_unreadable(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(content)
    with pytest.raises(ImageUnreadable, match=r"a\.fits"):
        check_whole(path)


def test_a_header_without_end_is_given_up_after_a_megabyte(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(b"SIMPLE  =                    T".ljust(80) + b" " * (1 << 21))
    with pytest.raises(ImageUnreadable, match="without END"):
        check_whole(path)


def test_a_missing_file_and_a_missing_directory_are_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "a.fits", tmp_path / "none" / "a.fits", tmp_path / "file" / "a.fits"):
        with pytest.raises(ImageMissing, match=r"a\.fits"):
            check_whole(path)


def test_a_directory_and_a_name_that_cannot_be_are_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable, match="Is a directory"):
        check_whole(tmp_path)
    with pytest.raises(ImageUnreadable):
        check_whole("a\0b.fits")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EIO, StorageUnavailable),
        (errno.ESTALE, StorageUnavailable),
        (errno.ETIMEDOUT, StorageUnavailable),
        (errno.EMFILE, StorageUnavailable),
        (errno.EACCES, ImageUnreadable),
        (errno.ENOENT, ImageMissing),
    ],
)
def test_faults_of_the_storage_are_told_from_faults_of_the_file(
    number: int, expected: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("plain", tmp_path)

    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(expected):
        check_whole(path)


def test_storage_that_fails_in_the_middle_of_the_pixels_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FitsFile(make("plain", tmp_path)) as file:

        def fail(_self: Any) -> Any:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(fits.ImageHDU, "data", property(fail))
        with pytest.raises(StorageUnavailable):
            file.pixels(1)


def test_memory_errors_are_not_dressed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: Any) -> Any:
        raise MemoryError

    with FitsFile(make("plain", tmp_path)) as file:
        monkeypatch.setattr(fits.ImageHDU, "data", property(fail))
        with pytest.raises(builtins.MemoryError):
            file.pixels(1)


def test_an_absurd_size_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = make("compressed", tmp_path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"ZNAXIS1 =                   96", b"ZNAXIS1 =           4000000000"))
    with FitsFile(path) as file, pytest.raises(ImageUnreadable, match="claims"):
        file.pixels(1)


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_of_single_bytes_gives_anything_but_pixels_or_a_typed_error(
    kind: str, tmp_path: Path
) -> None:
    """A hundred changed bytes, most of them in headers; the parser may complain, but never crash."""
    path = make(kind, tmp_path)
    whole = path.read_bytes()
    generator = np.random.default_rng(11)
    outcomes = set()
    for _ in range(100):
        content = bytearray(whole)
        place = int(generator.integers(len(content)))
        if generator.random() < 0.7:
            place %= 8_640
        content[place] = int(generator.integers(256))
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which warnings a damaged file causes is not the point here
            try:
                with FitsFile(path) as file:
                    for index in range(len(file)):
                        if file.shape(index):
                            file.pixels(index)
                outcomes.add("read")
            except ImageUnreadable:
                outcomes.add("unreadable")
    assert outcomes >= ({"unreadable"} if kind == "gzip" else {"read", "unreadable"})


def test_null_bytes_in_a_header_are_blanks(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.fits", ramp((10, 20)).astype(np.int16), {"INSTRUME": "abc   ", "X": 1})
    content = path.read_bytes()
    content = content.replace(b"'abc     '", b"'abc\0\0\0\0\0'")
    end = content.index(b"END ")
    content = content[: end + 3] + b"\0" * (2880 - end - 3) + content[2880:]
    path.write_bytes(content)
    start = leading_headers(path)
    assert start.problem == ""
    assert header_value(parse_header(start.primary), "INSTRUME") == "abc"
    with FitsFile(path) as file:
        assert header_value(file.header(0), "INSTRUME") == "abc"
        np.testing.assert_array_equal(file.pixels(0), ramp((10, 20)))


def test_a_broken_card_does_not_keep_a_file_from_being_read(tmp_path: Path) -> None:
    path = write_image(
        tmp_path / "a.fits", ramp((4, 4)).astype(np.int16), {"BAD": "x", "WORSE": "y", "EXPTIME": 3.5}
    )
    content = path.read_bytes()
    for key, card in (("BAD", b"BAD     = 'no end of this string \xe9"), ("WORSE", b"WORSE   = 12 34 [")):
        at = content.index(key.encode().ljust(8) + b"=")
        content = content[:at] + card.ljust(80) + content[at + 80 :]
    path.write_bytes(content)
    with FitsFile(path) as file:
        assert header_value(file.header(0), "EXPTIME") == 3.5
        assert header_value(file.header(0), "BAD") is None
        np.testing.assert_array_equal(file.pixels(0), ramp((4, 4)))


def test_only_one_hdu_is_held_at_a_time(tmp_path: Path) -> None:
    with FitsFile(make("plain", tmp_path)) as file:
        first = file.pixels(1)
        assert file.pixels(1) is first
        file.pixels(3)
        assert "data" not in file._hdus[1].__dict__


def test_leading_headers_reach_the_first_extension_of_an_empty_primary(tmp_path: Path) -> None:
    start = leading_headers(make("compressed", tmp_path))
    assert header_value(parse_header(start.extension), "EXTNAME") == "Segment10"
    image = write_image(tmp_path / "image.fits", ramp((4, 4)).astype(np.int16))
    assert leading_headers(image).extension == b""
