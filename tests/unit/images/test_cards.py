from __future__ import annotations

import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from ptc_stream.images.cards import header_value, parse_header, printable


def cards(*lines: str) -> bytes:
    return b"".join(line.encode("latin-1").ljust(80) for line in (*lines, "END"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("KEY     = 'text    '           / comment", "text"),
        ("KEY     = 'it''s / here'       / comment", "it's / here"),
        ("KEY     =                   12 / comment", 12),
        ("KEY     = -12.5", -12.5),
        ("KEY     = 1.5D-3", 1.5e-3),
        ("KEY     = .5E2", 50.0),
        ("KEY     =                    T", True),
        ("KEY     =                    F / no", False),
        ("KEY=5", None),  # the value indicator stands in column 9
        ("KEY     =5", 5),
        ("key     = 5", 5),
        ("KEY     = red / without quotes", "red"),
        ("KEY     = 'never closed", None),
        ("KEY     = ''", None),
        ("KEY     = '   '", None),
        ("KEY     =", None),
        ("KEY     =    / undefined", None),
        ("COMMENT = 5", 5),
        ("KEY", None),
        ("KEY     = 'a\0\0b \xe9'", "a  b"),
        ("KEY     = 1_000", "1_000"),
        ("KEY     = nan", "nan"),
    ],
)
def test_values_of_single_cards(line: str, expected: object) -> None:
    key = "COMMENT" if line.startswith("COMMENT") else "KEY"
    value = header_value(parse_header(cards("BEFORE  = 1", line, "AFTER   = 2")), key)
    assert value == expected
    assert type(value) is type(expected)


def test_the_first_of_two_cards_counts_and_none_after_end() -> None:
    header = parse_header(cards("KEY     = 1", "KEY     = 2") + cards("LATE    = 3"))
    assert header == {"KEY": 1}


def test_long_strings_are_continued() -> None:
    header = parse_header(
        cards(
            "KEY     = 'one &'",
            "CONTINUE  'two&'",
            "CONTINUE  'three' / c",
            "CONTINUE  'stray'",
            "NEXT    = 1",
        )
    )
    assert header == {"KEY": "one &twothree".replace("&", ""), "NEXT": 1}


def test_hierarch_keywords_are_found_with_and_without_the_word() -> None:
    header = parse_header(cards("HIERARCH ESO DET DIT = 2.5 / s"))
    assert header_value(header, "ESO DET DIT") == 2.5
    assert header_value(header, "hierarch eso det dit") == 2.5


def test_astropy_writes_what_is_read() -> None:
    written = fits.Header()
    written["TEXT"] = "O'Neill / x"
    written["LONG"] = "abc & def " * 20
    written["NUMBER"] = -1.25e-300
    written["COUNT"] = 2**40
    written["FLAG"] = True
    written["EMPTY"] = ""
    written["UNDEF"] = None
    written["HIERARCH with lower case"] = 7
    written.add_comment("a remark = 5")
    header = parse_header(written.tostring().encode("ascii"))
    assert header == {
        "TEXT": "O'Neill / x",
        "LONG": ("abc & def " * 20).strip(),
        "NUMBER": -1.25e-300,
        "COUNT": 2**40,
        "FLAG": True,
        "WITH LOWER CASE": 7,
    }


@given(st.binary(max_size=400))
def test_no_bytes_are_an_error(content: bytes) -> None:
    for value in parse_header(content).values():
        assert isinstance(value, str | int | float | bool)
    assert len(printable(content)) == len(content)
