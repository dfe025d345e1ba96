"""Another type of CPU: the same measurement to 1e-12, the sums over lags to the last bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest

# Run in interpreters of their own, since numba chooses the CPU when it is imported.
PROGRAM = """
import json
import numpy as np
from ptc_stream.physics.covariance import lag_sums
from ptc_stream.physics.measuring import measure_points
from ptc_stream.physics.points import MeasuringConfig

rng = np.random.default_rng(5)
shape = (150, 230)
light = np.linspace(15_000, 30_000, shape[0])[:, np.newaxis]
first, second = (rng.normal(light, np.sqrt(light / 1.4), shape).astype(np.float32) for _ in range(2))
first[20:25, 30:60] += 9_000
usable_first, usable_second = rng.random((2, *shape)) > 0.01

def points(**changes):
    return [
        {
            "numbers": [p.mean, p.mean_first, p.mean_second, p.variance, p.row_mean_variance, p.gaussianity],
            "covariances": p.covariances.tolist(),
            "counts": p.pixel_count.tolist(),
            "flags": list(p.flags),
        }
        for p in measure_points(
            first, second, usable_first=usable_first, usable_second=usable_second, read_noise=None,
            config=MeasuringConfig(edge=5, **changes),
        )
    ]

residual = rng.normal(0, 100, shape).astype(np.float32)
everywhere = np.ones(shape, np.bool_)
print(json.dumps({
    "sums": [lag_sums(residual, everywhere, lags).products.tolist() for lags in (1, 3, 10)],
    "whole": points(),
    "tiles": points(tiles=True, tile_size=32, max_lag=4),
}))
"""


@cache
def measured(cpu: str) -> dict[str, Any]:
    chosen = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""} if cpu else {}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment | chosen,
        check=True,
        capture_output=True,
        text=True,
        timeout=110,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_sums_over_lags_are_the_same_to_the_last_bit() -> None:
    assert measured("generic")["sums"] == measured("")["sums"]


@pytest.mark.parametrize("mode", ["whole", "tiles"])
def test_measurements_agree_to_1e_12(mode: str) -> None:
    here, there = measured("")[mode], measured("generic")[mode]
    assert len(here) == len(there)
    for one, other in zip(here, there, strict=True):
        assert one["flags"] == other["flags"]
        assert one["counts"] == other["counts"]
        np.testing.assert_allclose(one["numbers"], other["numbers"], rtol=1e-12)
        np.testing.assert_allclose(
            one["covariances"], other["covariances"], rtol=0, atol=1e-12 * one["covariances"][0][0]
        )
