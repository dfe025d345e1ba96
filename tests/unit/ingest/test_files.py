from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptc_stream.errors import ConfigurationError, StorageUnavailable
from ptc_stream.images.headers import HeaderMap
from ptc_stream.ingest import files
from ptc_stream.ingest.files import (
    UnreadFile,
    find_files,
    in_observation_order,
    is_exposure_file,
    read_catalogue,
    read_file,
)
from tests.builders import flat_exposure
from tests.unit.images.layouts import gzipped, write_image

FLAT = {"INSTRUME": "TestCam", "IMGTYPE": "FLAT", "EXPTIME": 2.5, "DETECTOR": "R22_S11"}


def image(path: Path, **cards: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {key.replace("_", "-"): value for key, value in cards.items()}
    merged = {key: value for key, value in {**FLAT, **named}.items() if value is not None}
    return write_image(path, np.zeros((4, 4), dtype=np.int16), merged)


def read(path: Path, run: str | None = None) -> Any:
    return read_file(path, header_map=HeaderMap(), camera=None, run=run)


# --- which files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("a.fits", True),
        ("a.FITS", True),
        ("a.fit", True),
        ("a.fts", True),
        ("a.fits.fz", True),
        ("a.fits.gz", True),
        ("a.fit.gz", True),
        ("a.fits.bz2", True),
        (".a.fits", False),
        ("a.fits.tmp", False),
        ("a.fits.part", False),
        ("a.gz", False),
        ("a.txt", False),
        ("fits", False),
    ],
)
def test_exposures_are_told_by_their_names(tmp_path: Path, name: str, *, taken: bool) -> None:
    (tmp_path / name).touch()
    assert is_exposure_file(tmp_path / name) == taken


def test_a_directory_with_the_name_of_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.fits").mkdir()
    assert not is_exposure_file(tmp_path / "a.fits")


def test_directories_are_searched_and_files_taken_as_they_are(tmp_path: Path) -> None:
    for name in ("run/b.fits", "run/a/c.fits", "run/a/.hidden.fits", "run/notes.txt", "odd.name"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([tmp_path / "odd.name", tmp_path / "run", str(tmp_path / "run" / "b.fits")])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "odd.name",
        "run/a/c.fits",
        "run/b.fits",
    ]


def test_paths_that_are_no_use_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere: no such file or directory"):
        find_files([tmp_path / "nowhere"])
    with pytest.raises(ConfigurationError, match=r"no FITS files in this directory \(\.fits, "):
        find_files([tmp_path])
    assert find_files([]) == []


# --- one file -------------------------------------------------------------------------------------


def test_the_header_becomes_an_exposure(tmp_path: Path) -> None:
    path = image(
        tmp_path / "x.fits",
        RUNNUM="E1071",
        OBSID="MC_1",
        FILTER="SDSSi",
        SEQNUM=7,
        DATE_OBS="2026-11-22T03:04:05",
    )
    exposure, header = read(path)
    assert exposure.group == ("TestCam", "E1071", "R22_S11")
    assert (exposure.exposure, exposure.image_type, exposure.exposure_time) == ("MC_1", "flat", 2.5)
    assert (exposure.filter, exposure.sequence_number) == ("SDSSi", 7)
    assert exposure.observation_mjd == pytest.approx(61366.1278, abs=1e-3)
    assert (exposure.uri, exposure.content_tag) == (str(path), header.content_tag)
    assert exposure.content_tag


def test_the_run_is_named_by_the_user_the_header_or_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image(tmp_path / "night 7" / "x.fits", RUNNUM="E1071")
    assert read(path, run="mine")[0].run == "mine"
    assert read(path)[0].run == "E1071"
    nameless = image(tmp_path / "night 7" / "y.fits")
    assert read(nameless)[0].run == "night 7"
    monkeypatch.chdir(nameless.parent)
    assert read(Path("y.fits"))[0].run == "night 7"
    assert read(Path("y.fits"))[0].uri == str(nameless)


def test_another_content_is_another_tag(tmp_path: Path) -> None:
    first = read(image(tmp_path / "x.fits"))[0].content_tag
    (tmp_path / "x.fits").unlink()
    assert read(image(tmp_path / "x.fits", EXPTIME=2.6))[0].content_tag != first
    (tmp_path / "x.fits").unlink()
    assert read(image(tmp_path / "x.fits"))[0].content_tag == first


def test_a_file_that_is_no_exposure_is_told_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.fits"
    path.write_bytes(b"nothing of the kind")
    unread = read(path)
    assert isinstance(unread, UnreadFile)
    assert (unread.uri, unread.reason) == (str(path), "IMAGE_UNREADABLE")
    assert "x.fits" in unread.message
    status = path.stat()
    assert unread.stamp == f"{status.st_size}/{status.st_mtime_ns}"
    os.utime(path, ns=(1, 1))
    assert read(path).stamp != unread.stamp
    path.unlink()
    gone = read(path)
    assert (gone.reason, gone.stamp) == ("IMAGE_MISSING", "errno 2")


def test_a_name_that_is_no_text_is_no_reason_to_fall_over(tmp_path: Path) -> None:
    """Such names come from old cameras; nothing that is not UTF-8 can be written into a record."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/flat_\xe9.fits"))
    path.write_bytes(image(tmp_path / "x.fits").read_bytes())
    unread = read(path)
    assert isinstance(unread, UnreadFile)
    for text in (unread.uri, unread.message):
        assert "flat_" in text
        assert text.encode()
    assert (unread.reason, unread.stamp) == ("INVALID_RECORD", f"5760/{path.stat().st_mtime_ns}")


def test_a_fault_of_the_storage_is_not_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*_: Any, **__: Any) -> Any:
        raise StorageUnavailable("stale mount")

    monkeypatch.setattr(files, "read_exposure_header", stale)
    with pytest.raises(StorageUnavailable):
        read(image(tmp_path / "x.fits"))
    with pytest.raises(StorageUnavailable):
        read_catalogue([tmp_path / "x.fits"], header_map=HeaderMap())


# --- many files -----------------------------------------------------------------------------------


def test_a_catalogue_is_in_observation_order_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    paths = [
        image(tmp_path / "c.fits", OBSID="first", DATE_OBS="2026-11-22T03:00:00", SEQNUM=9),
        image(tmp_path / "a.fits", OBSID="second", DATE_OBS="2026-11-22T03:01:00", SEQNUM=1),
        gzipped(image(tmp_path / "b.fits", OBSID="third", DATE_OBS="2026-11-22T03:02:00")),
        image(tmp_path / "d.fits", OBSID="without time", SEQNUM=0),
    ]
    (tmp_path / "torn.fits").write_bytes(b"torn")
    progress: list[tuple[int, int]] = []
    shuffled = [*paths, tmp_path / "torn.fits"]
    random.Random(3).shuffle(shuffled)
    catalogue = read_catalogue(
        shuffled, header_map=HeaderMap(), progress=lambda done, total: progress.append((done, total))
    )
    assert [it.exposure for it in catalogue.exposures] == ["first", "second", "third", "without time"]
    assert [it.uri for it in catalogue.unread] == [str(tmp_path / "torn.fits")]
    assert progress == [(n, 5) for n in range(1, 6)]
    assert catalogue.decided[str(paths[0])]["exposure_time"] == "EXPTIME"
    assert catalogue.decided.keys() == {it.uri for it in catalogue.exposures}


def test_ids_of_exposures_do_not_decide_unless_nothing_else_does() -> None:
    late_id = flat_exposure(1, exposure="Z", observation_mjd=60_000.0)
    early_id = flat_exposure(2, exposure="A", observation_mjd=60_001.0)
    assert in_observation_order([early_id, late_id]) == [late_id, early_id]
    same_time = [flat_exposure(5, exposure=name, detector=d) for name in "AB" for d in ("R0", "R1")]
    assert in_observation_order(reversed(same_time)) == same_time
