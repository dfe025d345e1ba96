"""From the curve to the parameters of each model, with honest errors.

Every model is fitted to the same points and with the same weights, those of `ptc_stream.physics.curve`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.physics.solver import curve_values
from ptc_stream.physics.weights import error_scale, point_weights, solve_floor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ptc_stream.physics.curve import Candidates, Curve
    from ptc_stream.physics.fits import FitConfig, FitNote

__all__ = ["Matrices", "Solution", "floor_error_scale", "solve_expapproximation", "solve_polynomial"]

# What is known about the a00 of a sensor that was not measured [1/e-]: CCDs have -5e-6 to 0.
_A00_UNKNOWN = 3e-6
# A power of the signal is degenerate with the lower ones when less than this of it is left beside them.
_DEGENERATE = 1e-10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matrices:
    """What only the models of all covariances have: (R, R) each, b where it was fitted.

    Attributes
    ----------
    a, a_error, b, b_error
        [1/e-].
    noise, noise_error
        n_ij [e-^2].
    """

    a: NDArray[np.float64]
    a_error: NDArray[np.float64]
    b: NDArray[np.float64] | None
    b_error: NDArray[np.float64] | None
    noise: NDArray[np.float64]
    noise_error: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """A model at its minimum.

    Attributes
    ----------
    parameters, covariance, names
        (K,), (K, K), K: the parameters that the model has.
    gain, gain_error, noise_variance, noise_variance_error, a00, a00_error
        [e-/ADU], [e-^2], [1/e-]; a00 is NaN where the model has none.
    chi2, dof, floor
        Sum of squares in units of the sampling errors alone, degrees of freedom, phi.
    matrices, notes
        Of the models of all covariances.
    """

    parameters: NDArray[np.float64]
    covariance: NDArray[np.float64]
    names: tuple[str, ...]
    gain: float
    gain_error: float
    noise_variance: float
    noise_variance_error: float
    a00: float
    a00_error: float
    chi2: float
    dof: int
    floor: float
    matrices: Matrices | None = None
    notes: tuple[FitNote, ...] = ()


def solve_expapproximation(candidates: Candidates, curve: Curve, config: FitConfig) -> Solution:
    """Turn the curve into the parameters of Eq. 16: p1 = 1 / g, kappa = 2 a00 g, p0 = n / g^2.

    Parameters
    ----------
    candidates, curve
        The points and the curve through those that are used.
    config
        Settings of the fit.

    Returns
    -------
    Solution
        Parameters a00 [1/e-], gain [e-/ADU], noise_variance [e-^2].
    """
    p0, p1, kappa = (float(value) for value in curve.parameters)
    gain = 1.0 / p1
    covariance = _curve_covariance(candidates, curve, config)
    inner = np.array(
        [
            [0.0, 0.5 * kappa, 0.5 * p1],
            [0.0, -(gain**2), 0.0],
            [gain**2, -2.0 * p0 * gain**3, 0.0],
        ]
    )
    covariance = inner @ covariance @ inner.T
    errors = np.sqrt(np.diag(covariance))
    parameters = np.array([0.5 * kappa * p1, gain, p0 * gain**2])
    return Solution(
        parameters=parameters,
        covariance=covariance,
        names=("a00", "gain", "noise_variance"),
        gain=gain,
        gain_error=float(errors[1]),
        noise_variance=float(parameters[2]),
        noise_variance_error=float(errors[2]),
        a00=float(parameters[0]),
        a00_error=float(errors[0]),
        chi2=_chi2(candidates, curve),
        dof=curve.dof,
        floor=curve.floor,
    )


def solve_polynomial(candidates: Candidates, curve: Curve, config: FitConfig) -> Solution | None:
    """Fit a polynomial to the points, and with the weights, of the curve.

    Parameters
    ----------
    candidates, curve
        The points and the curve through those that are used.
    config
        Settings of the fit.

    Returns
    -------
    Solution or None
        Parameters p0 [ADU^2], p1 [ADU], ...; None where the points do not determine them.
    """
    degree = config.polynomial_degree
    mean = candidates.mean[curve.used]
    if curve.curved:
        dof = mean.size - (degree + 1) + (1 if curve.anchored else 0)
        minimum = _polynomial_minimum(candidates, curve, config, dof)
        if minimum is None:
            return None
        parameters, covariance, floor = minimum
        covariance = covariance * floor_error_scale(candidates, floor, dof, config) ** 2
        if not parameters[1] > 0.0:
            return None
    else:  # the straight line is the one of the curve, whose kappa p1 / 2 is p2 in the limit
        dof, floor = curve.dof, curve.floor
        parameters = np.zeros(degree + 1)
        parameters[:2] = curve.parameters[:2]
        inner = np.zeros((degree + 1, 3))
        inner[:3, :3] = np.diag([1.0, 1.0, 0.5 * curve.parameters[1]])
        covariance = inner @ _curve_covariance(candidates, curve, config) @ inner.T
    p0, p1 = float(parameters[0]), float(parameters[1])
    noise_gradient = np.array([1.0 / p1**2, -2.0 * p0 / p1**3])
    # Eq. 16 begins with n / g^2 + mu / g + a00 mu^2 + (2/3) a00^2 g mu^3. Degree 3 gives a00 to 1-3 % up to
    # 1.4e5 e-; in degree 2 the cubic term hides in p2 (a00 too weak by 8 % at 4.5e4 e-, 20 % at 1.4e5).
    sound = degree >= 3
    return Solution(
        parameters=parameters,
        covariance=covariance,
        names=tuple(f"p{k}" for k in range(degree + 1)),
        gain=1.0 / p1,
        gain_error=math.sqrt(covariance[1, 1]) / p1**2,
        noise_variance=p0 / p1**2,
        noise_variance_error=math.sqrt(noise_gradient @ covariance[:2, :2] @ noise_gradient),
        a00=float(parameters[2]) if sound else math.nan,
        a00_error=math.sqrt(covariance[2, 2]) if sound else math.nan,
        chi2=_chi2(candidates, curve, np.vander(mean, degree + 1, increasing=True) @ parameters),
        dof=dof,
        floor=floor,
    )


def _polynomial_minimum(
    candidates: Candidates, curve: Curve, config: FitConfig, dof: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float] | None:
    """Return parameters, covariance and floor of a polynomial; None where it is degenerate."""
    degree = config.polynomial_degree
    mean, variance = candidates.mean[curve.used], candidates.variance[curve.used]
    relative_variance = candidates.relative_variance[curve.used]
    reference = variance if config.weights == "measured" else curve_values(curve.parameters, mean)
    # In units of the largest signal, where the powers are comparable.
    scale = float(np.max(mean))
    units = scale ** np.arange(degree + 1.0)
    design = np.vander(mean / scale, degree + 1, increasing=True)
    floor = curve.floor
    for _ in range(2):  # the second time with the floor that the polynomial's own residuals ask for
        root_weight = np.sqrt(point_weights(reference, relative_variance, floor))
        rows = root_weight[:, np.newaxis] * design
        values = root_weight * variance
        if curve.anchored:  # one more measurement, of p0
            rows = np.vstack([rows, np.sqrt(candidates.noise_weight) * np.eye(1, degree + 1)])
            values = np.append(values, np.sqrt(candidates.noise_weight) * candidates.noise)
        orthogonal, triangle = np.linalg.qr(rows)
        pivots = np.abs(np.diag(triangle)) / np.linalg.norm(rows, axis=0)
        if not np.min(pivots) > _DEGENERATE:
            return None
        inverse = np.linalg.inv(triangle)
        scaled = inverse @ (orthogonal.T @ values)
        if config.floor:
            floor = solve_floor((variance - design @ scaled) / reference, relative_variance, dof)
    return scaled / units, inverse @ inverse.T / np.outer(units, units), floor


def _curve_covariance(candidates: Candidates, curve: Curve, config: FitConfig) -> NDArray[np.float64]:
    """Return the covariance of (p0, p1, kappa), with what few points and an unknown a00 add to it."""
    relative_variance = candidates.relative_variance[curve.used]
    covariance = curve.covariance * floor_error_scale(candidates, curve.floor, curve.dof, config) ** 2
    if curve.curved:
        return covariance
    # A straight line through a curve. How p1 answers to a kappa that is not 0: the curve changes by
    # p1 mu^2 kappa / 2 (Eq. 16), the slope takes it up, with p0 held.
    mean = candidates.mean[curve.used]
    weight = point_weights(curve_values(curve.parameters, mean), relative_variance, curve.floor)
    p1 = float(curve.parameters[1])
    slope = -0.5 * p1 * float(np.sum(weight * mean**3) / np.sum(weight * mean**2))
    answer = np.array([0.0, slope, 1.0])
    return covariance + np.outer(answer, answer) * (2.0 * _A00_UNKNOWN / p1) ** 2


def _chi2(candidates: Candidates, curve: Curve, model: NDArray[np.float64] | None = None) -> float:
    """Sum the squared residuals from `model`, or from the curve, in units of the sampling errors alone."""
    used = curve.used
    fitted = curve_values(curve.parameters, candidates.mean[used])
    residual = (candidates.variance[used] - (fitted if model is None else model)) / fitted
    return float(np.sum(residual * residual / candidates.relative_variance[used]))


def floor_error_scale(candidates: Candidates, floor: float, dof: int, config: FitConfig) -> float:
    """Return the factor for errors whose floor was estimated from few points (`error_scale`).

    Parameters
    ----------
    candidates
        The points.
    floor, dof
        phi and the degrees of freedom behind it.
    config
        Settings of the fit: without the floor the errors are the sampling errors.

    Returns
    -------
    float
    """
    if not config.floor:
        return 1.0
    return error_scale(dof, floor**2 / (floor**2 + candidates.typical_variance))
