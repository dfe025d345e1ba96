from __future__ import annotations

from ptc_stream.bench import hardware


def test_rates_are_those_of_a_computer() -> None:
    assert 1e8 < hardware.multiply_add_rate() < 1e12
    assert 1e8 < hardware.memory_rate() < 1e12
