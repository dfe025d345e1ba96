"""What the benchmarks compare with must do the same work, or the comparison is none."""

from __future__ import annotations

import numpy as np
import pytest

from ptc_stream.bench.reference import least_squares, measure_in_numpy
from ptc_stream.physics.measuring import measure_amplifier_pair
from ptc_stream.physics.points import MeasuringConfig


def test_numpy_measures_what_we_measure() -> None:
    rng = np.random.default_rng(1)
    one, two = (np.rint(rng.normal(20_000, 120, (220, 180))).astype(np.float32) for _ in range(2))
    config = MeasuringConfig(max_lag=4)
    everywhere = np.ones(one.shape, np.bool_)
    point = measure_amplifier_pair(
        one, two, usable_first=everywhere, usable_second=everywhere, read_noise=5.0, config=config
    )
    mean, variance, covariances, row_mean_variance, distance = measure_in_numpy(one, two, config)
    assert mean == pytest.approx(point.mean, rel=1e-9)
    assert variance == pytest.approx(point.variance, rel=1e-5)  # not corrected for the clip
    np.testing.assert_allclose(covariances, point.covariances, rtol=0, atol=1e-5 * point.variance)
    assert row_mean_variance == pytest.approx(point.row_mean_variance, rel=1e-5)
    assert distance == pytest.approx(point.gaussianity, abs=0.005)  # which knows about integers


def test_least_squares_over_all_points() -> None:
    x = np.linspace(1.0, 2.0, 9)
    found = least_squares(
        lambda theta: theta[0] * np.exp(theta[1] * x),
        3e5 * np.exp(-2.0 * x),
        np.full(x.size, 1e2),
        np.array([2e5, -1.0]),
        np.array([1e5, 1.0]),
    )
    np.testing.assert_allclose(found, [3e5, -2.0], rtol=1e-5)
