"""Whatever the covariances hold, the full models give a fit or an honest status: no warning, no crash."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from ptc_stream.physics.fitting import FitConfig, FitStatus, fit_amplifier
from ptc_stream.physics.models import FitModel
from tests.curves import Sensor, full_points

NASTY = [np.nan, np.inf, -np.inf, 0.0, 1e-300, -1e14, 1e14, 1e30, -1.0, 1e5]


@given(
    count=st.integers(0, 40),
    lags=st.integers(1, 6),
    model=st.sampled_from([FitModel.FULLCOVARIANCE, FitModel.FULLCOVARIANCE_NO_B]),
    share=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=st.integers(0, 2**32),
    equal=st.booleans(),
    weights=st.sampled_from(["model", "measured"]),
    floor=st.booleans(),
    long_range=st.booleans(),
)
@settings(max_examples=300)
def test_any_covariances(
    *,
    count: int,
    lags: int,
    model: FitModel,
    share: float,
    seed: int,
    equal: bool,
    weights: str,
    floor: bool,
    long_range: bool,
) -> None:
    rng = np.random.default_rng(seed)
    mean = np.sort(rng.uniform(100.0, 1e5, count))
    if equal:  # few different signals
        mean = mean[np.arange(count) // 4 * 4]
    points = full_points(mean, Sensor.of(lags), rng, lamp=0.003)
    assert points.covariances is not None
    assert points.lag_pixel_count is not None
    spoiled = rng.random(points.covariances.shape) < share
    points.covariances[spoiled] = rng.choice(NASTY, np.count_nonzero(spoiled))
    points.lag_pixel_count[rng.random(spoiled.shape) < share / 4] = rng.choice([0, -5, 1, 2**62])
    config = FitConfig(
        model=model,
        weights="measured" if weights == "measured" else "model",
        floor=floor,
        subtract_long_range=long_range,
        long_range_start=2,
    )
    result = fit_amplifier(points, config)
    if result.status in {FitStatus.OK, FitStatus.NEGATIVE_NOISE, FitStatus.NOISE_FIXED}:
        assert np.isfinite(result.gain)
        assert result.gain_error > 0.0
        assert np.all(np.isfinite(result.parameter_covariance))
        assert result.dof > 0
    # The same points in another order, the same bytes.
    order = rng.permutation(count)
    again = fit_amplifier(
        dataclasses.replace(
            points,
            mean=points.mean[order],
            variance=points.variance[order],
            pixel_count=points.pixel_count[order],
            covariances=points.covariances[order],
            lag_pixel_count=points.lag_pixel_count[order],
        ),
        config,
    )
    assert again.status is result.status
    assert again.parameters.tobytes() == result.parameters.tobytes()
    assert again.parameter_covariance.tobytes() == result.parameter_covariance.tobytes()
