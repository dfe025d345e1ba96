from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptc_stream.ranges import pack, unpack

INDEX_SETS = st.sets(st.integers(min_value=0, max_value=10_000), max_size=200)


@given(INDEX_SETS)
def test_unpack_undoes_pack(indices: set[int]) -> None:
    assert unpack(pack(indices)) == sorted(indices)


@given(INDEX_SETS)
def test_ranges_are_the_fewest_possible(indices: set[int]) -> None:
    assert len(pack(indices)) == 2 * sum(index - 1 not in indices for index in indices)


@given(st.lists(st.integers(min_value=0, max_value=50), max_size=60))
def test_order_and_repetition_do_not_matter(indices: list[int]) -> None:
    assert pack(indices) == pack(sorted(set(indices)))
