"""Values of FITS header cards, read straight from the bytes.

astropy checks and repairs cards with warnings that only a process-wide filter can settle, which is neither
safe where several threads read headers nor quick (a run has 100,000 of them). Looking values up needs far
less: forbidden bytes count as blanks, a card that makes no sense has no value, and nothing is ever raised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

__all__ = ["Header", "HeaderValue", "header_value", "parse_header", "printable"]

HeaderValue: TypeAlias = str | int | float | bool
Header: TypeAlias = Mapping[str, HeaderValue]
"""Values by keyword in upper case; of a keyword that occurs twice the first, as in astropy."""

_CARD = 80
_HIERARCH = re.compile(r"HIERARCH\s+([^=]*?)\s*=(.*)")
_TEXT = re.compile(r"'((?:[^']|'')*)'")
_INTEGER = re.compile(r"[+-]?\d+")
_FLOAT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d+)?")


def printable(header: bytes) -> bytes:
    """Put blanks for bytes that FITS forbids in headers; some cameras pad with null bytes."""
    array = np.frombuffer(header, np.uint8)
    return np.where((array < 0x20) | (array > 0x7E), np.uint8(0x20), array).tobytes()


def parse_header(header: bytes) -> Header:
    """Read the cards of a header.

    Parameters
    ----------
    header
        Whole cards of 80 bytes; anything after END is not looked at.

    Returns
    -------
    Header
        Without empty and undefined values. Text is stripped; text that lacks its quotes counts as text.
    """
    text = printable(header).decode("ascii")
    values: dict[str, HeaderValue] = {}
    continued: str | None = None
    for start in range(0, len(text), _CARD):
        card = text[start : start + _CARD]
        key = card[:8].rstrip().upper()
        if key == "END":
            break
        if key == "CONTINUE":
            if continued is not None:
                before, part = str(values[continued]), _value(card[8:])
                values[continued] = before.removesuffix("&") + str(part or "")
                continued = continued if str(part).endswith("&") else None
            continue
        continued = None
        rest = card[9:]
        if match := _HIERARCH.match(card):
            key, rest = match.group(1).upper(), match.group(2)
        elif card[8:9] != "=":
            continue
        value = _value(rest)
        if value is not None and key not in values:
            values[key] = value
            continued = key if isinstance(value, str) and value.endswith("&") else None
    return values


def _value(field: str) -> HeaderValue | None:
    field = field.strip()
    if field.startswith("'"):
        match = _TEXT.match(field)
        return match.group(1).replace("''", "'").strip() or None if match else None
    word = field.partition("/")[0].strip()
    if word in {"T", "F"}:
        return word == "T"
    if _INTEGER.fullmatch(word):
        return int(word)
    if _FLOAT.fullmatch(word):
        return float(word.upper().replace("D", "E"))
    return word or None


def header_value(header: Header, key: str) -> HeaderValue | None:
    """Return the value of a keyword, None where it has none.

    Parameters
    ----------
    header
        From `parse_header`.
    key
        In any case, with or without ``HIERARCH``.
    """
    return header.get(key.strip().upper().removeprefix("HIERARCH "))
