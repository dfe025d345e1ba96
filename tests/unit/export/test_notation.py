from __future__ import annotations

import math

import pytest

from ptc_stream.export.notation import NOT_KNOWN, counted, file_name, with_error


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.502134, 0.003211, "1.5021 ± 0.0032"),
        (123456.0, 1234.0, "123500 ± 1200"),
        (-2.87654, 0.0996, "−2.877 ± 0.100"),
        (6.5, 12.0, "6 ± 12"),
        (1.502134, math.nan, "1.502"),
        (1.502134, 0.0, "1.502"),
        (1.502134, math.inf, "1.502"),
        (math.nan, 0.1, NOT_KNOWN),
        (math.inf, 0.1, NOT_KNOWN),
    ],
)
def test_the_error_decides_the_digits(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text


def test_scale_and_unit() -> None:
    assert with_error(-2.9e-6, 3e-8, scale=1e6, unit="10⁻⁶/e⁻") == "−2.900 ± 0.030 10⁻⁶/e⁻"


def test_one_is_not_many() -> None:
    assert [counted(n, "pair") for n in (0, 1, 2)] == ["0 pairs", "1 pair", "2 pairs"]


@pytest.mark.parametrize(
    ("detector", "name"),
    [("R22_S11", "R22_S11"), ("R22/S11 b", "R22_S11_b"), ("é", "_"), ("", "detector")],
)
def test_names_of_files_are_safe(detector: str, name: str) -> None:
    assert file_name(detector) == name
