"""FITS sections, and the boxes of array indices that they mean."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ptc_stream.errors import GeometryError

__all__ = ["Box", "Section", "parse_section"]

_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of an image: columns x0 <= x < x1, rows y0 <= y < y1, counted from 0."""

    x0: int
    x1: int
    y0: int
    y1: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.y1 - self.y0

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), as numpy has it."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index for an image ``[y, x]``."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def contains(self, other: Box) -> bool:
        """Tell whether `other` lies inside this box."""
        return self.x0 <= other.x0 and other.x1 <= self.x1 and self.y0 <= other.y0 and other.y1 <= self.y1

    def intersection(self, other: Box) -> Box | None:
        """Return the pixels in both boxes, None where there are none."""
        box = Box(
            max(self.x0, other.x0), min(self.x1, other.x1), max(self.y0, other.y0), min(self.y1, other.y1)
        )
        return box if box.width > 0 and box.height > 0 else None

    def mirrored(self, frame: tuple[int, int], *, flip_x: bool, flip_y: bool) -> Box:
        """Return this box after its image, of shape `frame` (rows, columns), was flipped."""
        rows, columns = frame
        x0, x1 = (columns - self.x1, columns - self.x0) if flip_x else (self.x0, self.x1)
        y0, y1 = (rows - self.y1, rows - self.y0) if flip_y else (self.y0, self.y1)
        return Box(x0, x1, y0, y1)

    def __str__(self) -> str:
        return f"[{self.x0 + 1}:{self.x1},{self.y0 + 1}:{self.y1}]"


@dataclass(frozen=True, slots=True)
class Section:
    """A FITS section: its pixels, and along which axes it was written from high to low."""

    box: Box
    descending_x: bool
    descending_y: bool


def parse_section(text: object) -> Section:
    """Read a FITS section.

    Parameters
    ----------
    text
        For example ``'[11:522,1:2002]'`` or, flipped in x, ``'[512:1,1:2002]'``.

    Returns
    -------
    Section

    Raises
    ------
    GeometryError
        If this is no section, or one that begins below pixel 1 as the ``'[0:0,0:0]'`` of some headers.
    """
    match = _SECTION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise GeometryError(f"{text!r} is not a FITS section such as '[1:2048,1:512]'")
    x_from, x_to, y_from, y_to = map(int, match.groups())
    if min(x_from, x_to, y_from, y_to) < 1:
        raise GeometryError(f"section {text!r} begins below pixel 1, where FITS begins to count")
    box = Box(min(x_from, x_to) - 1, max(x_from, x_to), min(y_from, y_to) - 1, max(y_from, y_to))
    return Section(box, descending_x=x_from > x_to, descending_y=y_from > y_to)
