"""Sets of indices as half-open ranges, flattened: ``(start, stop, start, stop, ...)``.

The form of ``UnusedPoints.ranges``: the points above turnoff are one range whatever their number, which
keeps a fit record small. Written by the fitting core, read by tables and plots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ptc_stream.errors import InvalidRecord

__all__ = ["pack", "unpack"]


def pack(indices: Iterable[int]) -> tuple[int, ...]:
    """Write a set of indices as the fewest half-open ranges.

    Parameters
    ----------
    indices
        Indices >= 0, in any order; a repeated index counts once.

    Returns
    -------
    tuple of int
        ``(start, stop, start, stop, ...)``, rising, with a gap between any two ranges.

    Raises
    ------
    InvalidRecord
        An index is negative.

    Examples
    --------
    >>> pack([7, 0, 1, 2])
    (0, 3, 7, 8)
    """
    ranges: list[int] = []
    for index in sorted(set(indices)):
        if index < 0:
            raise InvalidRecord(f"{index} is not the index of a point")
        if ranges and ranges[-1] == index:
            ranges[-1] = index + 1
        else:
            ranges += (index, index + 1)
    return tuple(ranges)


def unpack(ranges: Sequence[int]) -> list[int]:
    """Undo `pack`.

    Parameters
    ----------
    ranges
        ``(start, stop, start, stop, ...)``: not negative, rising, none empty.

    Returns
    -------
    list of int
        The indices, rising.

    Raises
    ------
    InvalidRecord
        `ranges` is not of that form.

    Examples
    --------
    >>> unpack((0, 3, 7, 8))
    [0, 1, 2, 7]
    """
    starts, stops = ranges[::2], ranges[1::2]
    if len(starts) != len(stops):
        raise InvalidRecord(f"ranges {tuple(ranges)} have a start without a stop")
    indices: list[int] = []
    end = 0
    for start, stop in zip(starts, stops, strict=True):
        if not end <= start < stop:
            raise InvalidRecord(f"ranges {tuple(ranges)} do not rise from 0 at ({start}, {stop})")
        indices.extend(range(start, stop))
        end = stop
    return indices
