"""``bench fit``: points in, parameters out, for every model there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptc_stream.bench.figures import Figure, cpu_seconds
from ptc_stream.bench.hardware import memory_rate
from ptc_stream.bench.reference import least_squares
from ptc_stream.physics.fitting import FitConfig, FitPoints, fit_detector
from ptc_stream.physics.models import (
    FitModel,
    evaluate_expapproximation,
    evaluate_full_covariance,
    evaluate_polynomial,
)

__all__ = ["fitting_figures"]

_AMPLIFIERS = 16
_PIXELS = 900_000
_GAIN, _NOISE = 1.5, 49.0
_TURNOFF_ADU = 60_000.0
_DEGREE = 3
# Models that fit every covariance, and what they are to reach; EXPAPPROXIMATION has a target of its own.
_FULL = frozenset({FitModel.FULLCOVARIANCE, FitModel.FULLCOVARIANCE_NO_B})
_SECONDS = {FitModel.EXPAPPROXIMATION: 5e-3, FitModel.FULLCOVARIANCE: 80e-3}


def fitting_figures(*, pairs: tuple[int, int] = (337, 10_000), repeats: int = 3) -> Iterator[Figure]:
    """Time the refit of 16 amplifiers, selection and weights included.

    Parameters
    ----------
    pairs
        A usual and a large number of pairs.
    repeats
        Runs of which the fastest counts.

    Yields
    ------
    Figure
        Two per model.
    """
    few, many = ([_points(number, seed) for seed in range(_AMPLIFIERS)] for number in pairs)
    memory = memory_rate()
    for model in FitModel:
        config = FitConfig(model=model, polynomial_degree=_DEGREE)
        seconds = cpu_seconds(lambda config=config: fit_detector(few, config), repeats=repeats)  # type: ignore[misc]
        brute = _AMPLIFIERS * cpu_seconds(_brute_force(model, few[0], config), repeats=1, warm_up=False)
        target = _SECONDS.get(model)
        wanted = "" if target is None else f"<= {1e3 * target:.0f} ms"
        met = None if target is None else seconds <= target
        if model is FitModel.FULLCOVARIANCE:
            wanted, met = f"{wanted}, >= 300x brute force", bool(met) and brute >= 300 * seconds
        yield Figure(
            name=f"{model} refit of 16 amplifiers, {pairs[0]} pairs",
            value=seconds,
            unit="s",
            reference=brute,
            reference_is="least squares over all points, derivatives by differences; one pass, no selection",
            limit=_bytes(few, model, config) / memory,
            limit_is="the points from memory once",
            target=wanted,
            met=met,
        )
        later = cpu_seconds(lambda config=config: fit_detector(many, config), repeats=1)  # type: ignore[misc]
        yield Figure(
            name=f"{model} refit of 16 amplifiers, {pairs[1]} pairs",
            value=later,
            unit="s",
            reference=seconds,
            reference_is=f"{pairs[0]} pairs",
            limit=_bytes(many, model, config) / memory,
            limit_is="the points from memory once",
            target=f"<= 2x {pairs[0]} pairs" if model is FitModel.FULLCOVARIANCE else "",
            met=later <= 2 * seconds if model is FitModel.FULLCOVARIANCE else None,
        )


class _Matrices(NamedTuple):
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    noise: NDArray[np.float64]

    @classmethod
    def of(cls, lags: int) -> _Matrices:
        """Signs and sizes of real sensors."""
        i, j = np.indices((lags, lags))
        distance = np.maximum(i * i + j * j, 1)
        a = np.where(i + j == 0, -2.4e-6, 2.2e-7 / distance**1.35)
        return cls(a, np.where(i + j == 0, 1e-6, -5e-7), np.where(i + j == 0, _NOISE, 0.3 / distance))


def _points(pairs: int, seed: int, lags: int = 10) -> FitPoints:
    """Points that follow Eq. 20 up to the turnoff, with their sampling errors and a lamp that scatters."""
    rng = np.random.default_rng(seed)
    mean = np.geomspace(500.0, 1.1 * _TURNOFF_ADU, pairs)
    matrices = _Matrices.of(lags)
    covariances = _full(np.concatenate([[_GAIN], *(m.ravel() for m in matrices)]), mean, lags, with_b=True)
    truth = covariances[:, 0, 0].copy()
    scatter = truth[:, np.newaxis, np.newaxis] / np.sqrt(_PIXELS)
    covariances += rng.standard_normal(covariances.shape) * scatter
    variance = truth * (1.0 + np.hypot(np.sqrt(2.0 / _PIXELS), 2e-3) * rng.standard_normal(pairs))
    variance[mean > _TURNOFF_ADU] *= 0.6
    covariances[:, 0, 0] = variance
    return FitPoints(
        mean=mean,
        variance=variance,
        pixel_count=np.full(pairs, _PIXELS),
        flags=(frozenset(),) * pairs,
        read_noise=float(np.sqrt(_NOISE)) / _GAIN,
        read_noise_error=0.02,
        covariances=covariances,
        lag_pixel_count=np.full(covariances.shape, _PIXELS),
    )


def _full(
    theta: NDArray[np.float64], mean: NDArray[np.float64], lags: int, *, with_b: bool
) -> NDArray[np.float64]:
    matrices = theta[1:].reshape(-1, lags, lags)
    return evaluate_full_covariance(
        mean,
        gain=theta[0],
        a_matrix=matrices[0],
        b_matrix=matrices[1] if with_b else None,
        noise_matrix=matrices[-1],
    )


def _brute_force(model: FitModel, points: FitPoints, config: FitConfig) -> Callable[[], object]:
    """Return a fit of the points below the turnoff, from a start that is good to 3 %."""
    good = points.mean <= _TURNOFF_ADU
    mean, variance = points.mean[good], points.variance[good]
    error = variance * np.hypot(np.sqrt(2.0 / _PIXELS), 2e-3)
    start = 1.03 * np.array([_GAIN, -2.4e-6, _NOISE])

    def exponential(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        return evaluate_expapproximation(mean, theta[1], theta[0], theta[2])[0]

    if model is FitModel.EXPAPPROXIMATION:
        return lambda: least_squares(exponential, variance, error, start, np.abs(start))
    if model is FitModel.POLYNOMIAL:
        line = np.zeros(config.polynomial_degree + 1)
        line[1] = 1.0 / start[0]
        scale = np.array([0.1 * float(np.max(mean)) ** (1 - power) for power in range(line.size)])
        return lambda: least_squares(
            lambda theta: evaluate_polynomial(mean, theta)[0], variance, error, line, scale
        )
    if model not in _FULL or points.covariances is None:
        raise NotImplementedError(f"brute force for {model}")
    lags = config.full_range
    measured = points.covariances[good, :lags, :lags]
    errors = np.broadcast_to(variance[:, np.newaxis, np.newaxis] / np.sqrt(_PIXELS), measured.shape).copy()
    errors[:, 0, 0] = error
    with_b = model is FitModel.FULLCOVARIANCE
    matrices = _Matrices.of(lags) if with_b else _Matrices.of(lags)._replace(b=np.empty(0))
    truth = np.concatenate([[_GAIN], *(matrix.ravel() for matrix in matrices)])
    return lambda: least_squares(
        lambda theta: _full(theta, mean, lags, with_b=with_b), measured, errors, 1.03 * truth, np.abs(truth)
    )


def _bytes(points: list[FitPoints], model: FitModel, config: FitConfig) -> int:
    """Bytes that a fit must read: mean, variance and pixel count of each point, or all covariances."""
    numbers = 2 * config.full_range**2 + 1 if model in _FULL else 3
    return 8 * numbers * sum(len(one.mean) for one in points)
