from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ptc_stream.physics.weights import error_scale, point_weights, solve_floor, tail_quantile


def test_weights_are_inverse_variances() -> None:
    weights = point_weights(np.array([100.0]), np.array([2e-4]), 0.01)
    np.testing.assert_allclose(weights, 1.0 / (100.0**2 * (2e-4 + 1e-4)))


@pytest.mark.parametrize("pixels", [np.full(30, 1e6), np.geomspace(1e3, 1e6, 30)])
def test_the_floor_brings_chi2_to_its_degrees_of_freedom(pixels: np.ndarray) -> None:
    residual = np.random.default_rng(3).standard_normal(30) * np.sqrt(2.0 / pixels + 0.01**2)
    floor = solve_floor(residual, 2.0 / pixels, 27)
    assert np.sum(residual**2 / (2.0 / pixels + floor**2)) == pytest.approx(27.0, rel=1e-12)


def test_no_floor_where_sampling_errors_explain_the_residuals() -> None:
    assert solve_floor(np.full(10, 1e-3), np.full(10, 1e-5), 7) == 0.0
    assert solve_floor(np.full(3, 1.0), np.full(3, 1e-6), 0) == 0.0


def test_two_errors_hold_what_two_sigma_hold_when_the_scale_is_estimated() -> None:
    for dof in (1, 2, 5, 17):
        held = 2.0 * stats.t(dof).cdf(2.0 * error_scale(dof, 1.0)) - 1.0
        assert held == pytest.approx(0.9545, abs=1e-4)


def test_known_errors_from_many_points_are_left_alone() -> None:
    assert error_scale(200, 0.0) == pytest.approx(1.0, abs=1e-3)
    assert error_scale(17, 0.0) == pytest.approx(1.0, abs=1e-2)
    assert error_scale(1, 0.0) > 5.0  # no floor from one degree of freedom means little


@pytest.mark.parametrize("ratio", [1.0, 1.5, 3.0, 40.0])
@pytest.mark.parametrize("dof", [1, 2, 4, 17])
def test_two_errors_hold_95_percent_whatever_the_true_scatter(dof: int, ratio: float) -> None:
    """`ratio`: true variance over sampling variance. A pull is Gaussian over the larger of both errors."""
    rng = np.random.default_rng(5)
    number = 40_000
    estimated = np.maximum(ratio * rng.chisquare(dof, number) / dof, 1.0)
    scale = np.array([error_scale(dof, share) for share in np.linspace(0.0, 1.0, 201)])
    factor = np.interp(1.0 - 1.0 / estimated, np.linspace(0.0, 1.0, 201), scale)
    pulls = rng.standard_normal(number) * np.sqrt(ratio / estimated) / factor
    assert np.mean(np.abs(pulls) < 2.0) > 0.94


def test_outlier_limits_widen_when_the_scatter_comes_from_few_points() -> None:
    assert tail_quantile(5.0, 10_000, 1.0) == pytest.approx(5.0, rel=5e-3)
    assert 7.0 < tail_quantile(5.0, 17, 1.0) < 9.0
    assert tail_quantile(5.0, 1, 1.0) > 1e5
    assert tail_quantile(5.0, 60, 0.0) == pytest.approx(5.0, rel=1e-2)
