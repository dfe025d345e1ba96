from __future__ import annotations

import numpy as np
import pytest

from ptc_stream.physics.reference import fft_lag_sums


@pytest.mark.parametrize(("shape", "max_lag"), [((7, 9), 3), ((4, 11), 6), ((1, 1), 1)])
def test_sums_are_those_of_the_definition(shape: tuple[int, int], max_lag: int) -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(2.0, 1.0, shape)
    w = rng.random(shape) < 0.8
    d[~w] = np.nan
    sums = fft_lag_sums(d, w, max_lag)
    rows, columns = shape
    for dy in range(max_lag):
        for dx in range(-max_lag + 1, max_lag):
            pairs = [
                (d[y, x], d[y + dy, x + dx])
                for y in range(rows - dy)
                for x in range(max(0, -dx), columns - max(0, dx))
                if w[y, x] and w[y + dy, x + dx]
            ]
            at = (dy, dx + max_lag - 1)
            assert sums.counts[at] == len(pairs)
            assert sums.products[at] == pytest.approx(sum(p * q for p, q in pairs), abs=1e-10)
            assert sums.first[at] == pytest.approx(sum(p for p, _ in pairs), abs=1e-10)
            assert sums.second[at] == pytest.approx(sum(q for _, q in pairs), abs=1e-10)
