from __future__ import annotations

import pytest

from ptc_stream.errors import GeometryError
from ptc_stream.images.sections import Box, parse_section


def test_sections_count_from_one_x_first_and_include_both_ends() -> None:
    section = parse_section("[11:522,1:2002]")
    assert section.box == Box(10, 522, 0, 2002)
    assert section.box.shape == (2002, 512)
    assert not section.descending_x
    assert not section.descending_y


def test_descending_ranges_name_the_same_pixels_and_are_told() -> None:
    section = parse_section(" [512:1,4004:2003] ")
    assert section.box == Box(0, 512, 2002, 4004)
    assert section.descending_x
    assert section.descending_y


@pytest.mark.parametrize(
    "text", ["[0:0,0:0]", "[1:512", "", "[1:5:2,1:9]", "1:5,1:9", "[-1:5,1:9]", "[*,*]", None, 5, True]
)
def test_what_is_no_section_is_a_geometry_error(text: object) -> None:
    with pytest.raises(GeometryError):
        parse_section(text)


def test_text_of_a_box_is_its_section() -> None:
    assert str(Box(10, 522, 0, 2002)) == "[11:522,1:2002]"


def test_mirroring_moves_a_box_with_its_image() -> None:
    box = Box(1, 3, 0, 2)
    assert box.mirrored((5, 10), flip_x=True, flip_y=False) == Box(7, 9, 0, 2)
    assert box.mirrored((5, 10), flip_x=False, flip_y=True) == Box(1, 3, 3, 5)
    assert box.mirrored((5, 10), flip_x=True, flip_y=True).mirrored((5, 10), flip_x=True, flip_y=True) == box


def test_intersection_is_none_where_boxes_only_touch() -> None:
    assert Box(0, 2, 0, 2).intersection(Box(2, 4, 0, 2)) is None
    assert Box(0, 3, 0, 3).intersection(Box(2, 5, 1, 2)) == Box(2, 3, 1, 2)
