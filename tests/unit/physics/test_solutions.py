from __future__ import annotations

import numpy as np
import pytest

from ptc_stream.physics.curve import Candidates, Curve
from ptc_stream.physics.fitting import FitConfig
from ptc_stream.physics.models import FitModel
from ptc_stream.physics.solutions import solve_expapproximation, solve_polynomial
from ptc_stream.physics.turnoff import Turnoff
from tests.curves import A00, GAIN, eq16

MEAN = np.linspace(500.0, 9e4, 30)
NO_TURNOFF = Turnoff(value=9e4, error=np.nan, is_lower_limit=True, low=9e4, high=np.nan, first_bad=30)
COVARIANCE = np.diag([0.3, 4e-4, 1e-8]) ** 2


def points(noise: float = 22.0) -> Candidates:
    return Candidates(
        mean=MEAN,
        variance=eq16(MEAN),
        relative_variance=np.full(30, 2e-6),
        typical_variance=2e-6,
        eligible=np.ones(30, dtype=np.bool_),
        saturated=np.zeros(30, dtype=np.bool_),
        noise=noise,
        noise_weight=1e6,
    )


def curve(*, kappa: float = 2.0 * A00 * GAIN, anchored: bool = False, curved: bool = True) -> Curve:
    return Curve(
        parameters=np.array([49.0 / GAIN**2, 1.0 / GAIN, kappa]),
        covariance=COVARIANCE,
        floor=0.0,
        dof=27,
        used=np.ones(30, dtype=np.bool_),
        turnoff=NO_TURNOFF,
        anchored=anchored,
        curved=curved,
        converged=True,
        settled=True,
    )


def test_parameters_of_eq_16_and_their_covariance_by_simulation() -> None:
    solution = solve_expapproximation(points(), curve(), FitConfig(floor=False))
    np.testing.assert_allclose(solution.parameters, [A00, GAIN, 49.0], rtol=1e-12)
    p0, p1, kappa = np.random.default_rng(1).multivariate_normal(curve().parameters, COVARIANCE, 200_000).T
    drawn = np.cov(np.stack([0.5 * kappa * p1, 1.0 / p1, p0 / p1**2]))
    scale = np.sqrt(np.outer(np.diag(drawn), np.diag(drawn)))
    np.testing.assert_allclose(solution.covariance / scale, drawn / scale, atol=0.02)


def test_an_unknown_a00_makes_the_gain_of_a_straight_line_uncertain() -> None:
    straight = solve_expapproximation(points(), curve(kappa=0.0, curved=False), FitConfig(floor=False))
    # Weights 1 / C^2 make it the mean of -a00 g mu over the points, about: 3e-6 * 1.5 * 45 kADU = 20 %
    assert straight.gain_error / GAIN == pytest.approx(0.20, abs=0.03)
    assert straight.a00_error == pytest.approx(3e-6)


@pytest.mark.parametrize("degree", [2, 3])
def test_a_straight_polynomial_is_the_line_of_the_curve(degree: int) -> None:
    config = FitConfig(model=FitModel.POLYNOMIAL, polynomial_degree=degree, floor=False)
    held = curve(kappa=0.0, anchored=True, curved=False)
    line, approximation = (
        solve_polynomial(points(), held, config),
        solve_expapproximation(points(), held, config),
    )
    assert line is not None
    assert line.names == ("p0", "p1", "p2", "p3")[: degree + 1]
    np.testing.assert_array_equal(line.parameters[2:], 0.0)
    assert line.gain == approximation.gain
    assert line.gain_error == pytest.approx(approximation.gain_error)
    assert line.noise_variance_error == pytest.approx(approximation.noise_variance_error)


def test_an_anchor_holds_p0_of_a_polynomial() -> None:
    config = FitConfig(model=FitModel.POLYNOMIAL)
    free, held = (
        solve_polynomial(points(), curve(), config),
        solve_polynomial(points(), curve(anchored=True), config),
    )
    assert free is not None
    assert held is not None
    assert held.parameters[0] == pytest.approx(22.0, abs=1e-2)
    assert held.dof == free.dof + 1
    assert held.gain_error < free.gain_error
