from __future__ import annotations

import pytest

from ptc_stream.errors import InvalidRecord
from ptc_stream.ranges import pack, unpack


def test_what_lies_above_turnoff_is_one_range_whatever_its_length() -> None:
    assert pack(range(200, 300)) == (200, 300)
    assert pack([*range(200, 300), 3]) == (3, 4, 200, 300)


def test_nothing_is_no_range() -> None:
    assert pack([]) == ()
    assert unpack(()) == []


def test_a_negative_index_is_no_point() -> None:
    with pytest.raises(InvalidRecord, match="-1"):
        pack([2, -1])


@pytest.mark.parametrize("ranges", [(0,), (3, 3), (5, 2), (0, 4, 2, 6), (-1, 3), (0, 2, 5)])
def test_what_is_no_list_of_ranges_is_refused(ranges: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRecord, match="ranges"):
        unpack(ranges)
