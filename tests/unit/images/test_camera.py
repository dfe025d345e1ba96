from __future__ import annotations

from pathlib import Path

import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.images.camera import load_camera, shipped_cameras
from ptc_stream.images.sections import Box
from tests.unit.images.layouts import quadrant_camera

VALID = """
name = "one tap"
shape = [100, 50]
[headers]
exposure_time = "IT*0.001"
[headers.image_types]
"LED" = "flat"
[[amplifier]]
name = "A"
section = "[1:100,1:50]"
data = "[11:90,1:50]"
overscan = "[91:100,1:50]"
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "camera.toml"
    path.write_text(text)
    return path


def test_the_shipped_description_is_found_by_name() -> None:
    assert "msfc_ccd" in shipped_cameras()
    camera = load_camera("msfc_ccd")
    assert [a.name for a in camera.amplifiers] == ["LL", "LR", "UL", "UR"]
    assert camera.shape == (1040, 2152)
    assert {a.section.shape for a in camera.amplifiers} == {(520, 1076)}
    assert [(a.flip_x, a.flip_y) for a in camera.amplifiers] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]
    assert camera.headers.exposure_time == "IMG_EXP*0.001"


def test_boxes_that_all_amplifiers_share_stand_once(tmp_path: Path) -> None:
    path = quadrant_camera(
        tmp_path / "c.toml", (20, 30), readout='data = "[5:28,3:20]"\noverscan = "[29:30,3:20]"'
    )
    camera = load_camera(path)
    assert {a.data for a in camera.amplifiers} == {Box(4, 28, 2, 20)}
    assert {a.serial_overscan for a in camera.amplifiers} == {Box(28, 30, 2, 20)}


def test_a_description_of_headers_alone_needs_no_amplifiers(tmp_path: Path) -> None:
    camera = load_camera(written(tmp_path, 'name = "x"\n[headers]\nrun = "SERIE"\n'))
    assert camera.amplifiers == ()
    assert camera.headers.run == "SERIE"


def test_the_valid_example_is_valid(tmp_path: Path) -> None:
    camera = load_camera(written(tmp_path, VALID))
    assert camera.headers.image_types == {"LED": "flat"}
    assert camera.amplifiers[0].serial_overscan == Box(90, 100, 0, 50)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "one tap"', "", "name is missing"),
        ("shape =", "shpae =", "did you mean shape"),
        ("shape = [100, 50]", "shape = [100]", "columns, rows"),
        ("shape = [100, 50]", "shape = [100, 40]", "leaves the frame"),
        ("shape = [100, 50]", "saturation = -3", "positive level"),
        ("shape = [100, 50]", "saturation = true", "positive level"),
        ("shape = [100, 50]", "offset_removed = 1", "true or false"),
        ("shape = [100, 50]", "detector = 3", "text expected"),
        ("shape = [100, 50]", "overscan = 'row'", r"write \[overscan\]"),
        ("[headers]", "[overscan]\nmethod = 'mean'\n[headers]", "one of row, level, none"),
        ("[headers]", "[overscan]\nskip = 3\n[headers]", "unknown key skip"),
        ("[headers]", "[readout]\ndata = '[1:5'\n[headers]", "is not a FITS section"),
        ("exposure_time =", "exptime =", "unknown key exptime"),
        ('"IT*0.001"', '"IT*"', r"\[headers\] exposure_time"),
        ('"IT*0.001"', "0.001", "text expected"),
        ('"LED" = "flat"', '"LED" = 1', "image_types"),
        ("[[amplifier]]", "[amplifier]", "write \\[\\[amplifier\\]\\]"),
        ('name = "A"\n', "", "without a name"),
        ('section = "[1:100,1:50]"\n', "", "section is missing"),
        ('section = "[1:100,1:50]"', 'section = "[100:1,1:50]"', "from low to high"),
        ('section = "[1:100,1:50]"', 'section = "1:100"', "is not a FITS section"),
        ('section = "[1:100,1:50]"', 'section = "[1:80,1:50]"', "leaves its section"),
        ('overscan = "[91:100', 'overscan = "[90:100', "overlaps data"),
        ('overscan = "[91', 'readout = "left"\noverscan = "[91', "one of lower left"),
        ('overscan = "[91', 'hdu = 1.5\noverscan = "[91', "a number or an EXTNAME"),
        ('overscan = "[91', 'biassec = ""\noverscan = "[91', "unknown key biassec"),
    ],
)
def test_every_mistake_is_told_in_one_line_with_its_remedy(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in VALID
    path = written(tmp_path, VALID.replace(old, new))
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_camera(path)
    assert "\n" not in str(caught.value)
    assert "camera.toml" in str(caught.value)


def test_a_box_of_an_amplifier_goes_before_the_shared_one(tmp_path: Path) -> None:
    path = written(tmp_path, VALID.replace("[headers]", "[readout]\ndata = '[1:5,1:5]'\n[headers]"))
    assert load_camera(path).amplifiers[0].data == Box(10, 90, 0, 50)


def test_amplifiers_may_not_share_names_or_pixels(tmp_path: Path) -> None:
    again = '[[amplifier]]\nname = "{}"\nsection = "[100:100,1:1]"\n'
    with pytest.raises(ConfigurationError, match="two amplifiers are named A"):
        load_camera(written(tmp_path, VALID + again.format("A")))
    with pytest.raises(ConfigurationError, match="A and B overlap"):
        load_camera(written(tmp_path, VALID + again.format("B")))


def test_shared_boxes_without_amplifiers_have_no_effect_and_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no effect"):
        load_camera(written(tmp_path, 'name = "x"\n[readout]\ndata = "[1:2,1:2]"\n'))


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe"])
def test_what_is_not_toml_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "camera.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="TOML"):
        load_camera(path)


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigurationError, match="msfc_ccd"):
        load_camera("no_such_camera")
