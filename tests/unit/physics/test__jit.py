from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from ptc_stream.physics._jit import njit

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def _ratio(a: float, b: float) -> float:
    return a / b


def _total(values: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


def test_division_by_zero_follows_numpy() -> None:
    assert njit(_ratio)(1.0, 0.0) == np.inf
    assert np.isnan(njit(_ratio)(0.0, 0.0))


def test_reassociated_sum_repeats_and_keeps_nan() -> None:
    kernel = njit(reassociate=True)(_total)
    values = np.random.default_rng(1).normal(size=10_001).astype(np.float32)
    first = kernel(values)
    assert first == kernel(values)
    assert np.isclose(first, values.sum(dtype=np.float64), rtol=0, atol=1e-9)
    values[17] = np.nan
    assert np.isnan(kernel(values))


def test_compiles_without_a_place_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    original = numba.njit

    def sealed(*, cache: bool, **options: Any) -> Callable[..., Any]:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return original(cache=False, **options)  # type: ignore[no-any-return]  # numba has no stubs

    monkeypatch.setattr(numba, "njit", sealed)
    assert njit(_ratio)(6.0, 3.0) == 2.0
    assert asked == [True, False]
