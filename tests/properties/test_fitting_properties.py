"""What fitting promises for any set of points."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ptc_stream.physics.fitting import AmplifierFit, FitConfig, FitPoints, FitStatus, fit_amplifier
from ptc_stream.physics.models import FitModel
from ptc_stream.physics.points import PointFlag
from ptc_stream.physics.weights import point_weights, solve_floor
from tests.curves import A00, GAIN, READ_NOISE, break_off, curve_points, eq16

USABLE = {FitStatus.OK, FitStatus.NOISE_FIXED, FitStatus.NEGATIVE_NOISE, FitStatus.NO_ZERO_LEVEL}
_ODD = st.sampled_from([0.0, -5.0, 1e30, -1e30, 1e-300, 5e-10, 9e14, 65_535.0, math.nan, math.inf, -math.inf])
_ANY = st.one_of(_ODD, st.floats(0.0, 1e5), st.floats())
_POINT = st.tuples(
    _ANY,
    _ANY,
    st.sampled_from([-3, 0, 1, 2, 100, 10**6, 2**62]),
    st.frozensets(st.sampled_from(PointFlag), max_size=2),
)
_CONFIGS = st.builds(
    FitConfig,
    model=st.sampled_from(FitModel),
    polynomial_degree=st.sampled_from([2, 3]),
    weights=st.sampled_from(["model", "measured"]),
    floor=st.booleans(),
)


def select(points: FitPoints, index: Any) -> FitPoints:
    return dataclasses.replace(
        points,
        mean=points.mean[index],
        variance=points.variance[index],
        pixel_count=points.pixel_count[index],
        flags=tuple(points.flags[i] for i in np.arange(points.mean.size)[index]),
    )


def numbers(result: AmplifierFit) -> list[bytes]:
    return [
        np.asarray(getattr(result, f.name)).tobytes()
        for f in dataclasses.fields(result)
        if f.name != "reasons"
    ]


def runs(seed: int, count: int, *, shape: str | None = "drop", lamp: float = 0.003) -> FitPoints:
    """A run in the order of a random generator: levels shuffled."""
    rng = np.random.default_rng(seed)
    mean = np.linspace(300.0, 1.2e5, count)
    factor = 1.0 if shape is None else break_off(mean, 9.3e4, shape)
    return select(curve_points(mean, rng, pixels=200_000, lamp=lamp, factor=factor), rng.permutation(count))


@settings(max_examples=400, deadline=None)
@given(st.lists(_POINT, max_size=12), st.none() | _ANY, st.none() | _ANY, st.booleans(), _CONFIGS)
def test_anything_at_all_gives_a_sane_fit_or_an_honest_status(
    points: list[tuple[float, float, int, frozenset[str]]],
    read_noise: float | None,
    read_noise_error: float | None,
    zero_level: bool,  # noqa: FBT001 - hypothesis passes by position
    config: FitConfig,
) -> None:
    result = fit_amplifier(
        FitPoints(
            mean=np.array([p[0] for p in points]),
            variance=np.array([p[1] for p in points]),
            pixel_count=np.array([p[2] for p in points], dtype=np.int64),
            flags=tuple(p[3] for p in points),
            read_noise=read_noise,
            read_noise_error=read_noise_error,
            zero_level=zero_level,
        ),
        config,
    )
    assert len(result.reasons) == len(points)
    if result.status in USABLE:
        assert 0.0 < result.gain < math.inf
        assert 0.0 < result.gain_error <= 0.5 * result.gain
        assert result.dof >= 1
        assert sum(reason is None for reason in result.reasons) >= 4
    else:
        assert math.isnan(result.gain)
    assert not result.read_noise <= 0.0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", ["step", "drop", "upturn", None])
def test_every_prefix_of_a_shuffled_run(shape: str | None, seed: int) -> None:
    points = runs(seed, 40, shape=shape)
    for count in range(41):
        result = fit_amplifier(select(points, slice(count)), FitConfig())
        if result.status in USABLE:
            assert abs(result.gain - GAIN) < 4.0 * result.gain_error
        if count >= 25:
            # The lowest level, which tells the noise, may be the last to come.
            assert result.status in {FitStatus.OK, FitStatus.NOISE_FIXED}
            assert result.gain == pytest.approx(GAIN, rel=0.02)
    assert result.turnoff_is_lower_limit == (shape is None)


@given(st.integers(0, 50), st.permutations(range(30)))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_points_leaves_no_trace(seed: int, order: list[int]) -> None:
    points = runs(seed, 30)
    index = np.array(order)
    first = fit_amplifier(points, FitConfig())
    second = fit_amplifier(select(points, index), FitConfig())
    assert numbers(first) == numbers(second)
    assert second.reasons == tuple(first.reasons[i] for i in order)


@given(st.integers(0, 50), st.floats(0.01, 100.0), st.sampled_from(FitModel))
@settings(max_examples=40, deadline=None)
def test_the_unit_of_the_signal_does_not_matter(seed: int, k: float, model: FitModel) -> None:
    points = runs(seed, 30)
    assert points.read_noise is not None
    assert points.read_noise_error is not None
    scaled = dataclasses.replace(
        points,
        mean=points.mean * k,
        variance=points.variance * k**2,
        read_noise=points.read_noise * k,
        read_noise_error=points.read_noise_error * k,
    )
    config = FitConfig(model=model, max_mean=1e9)
    first, second = fit_amplifier(points, config), fit_amplifier(scaled, config)
    assert first.status is second.status
    assert first.reasons == second.reasons
    for name, power in [
        ("gain", -1),
        ("gain_error", -1),
        ("read_noise", 0),
        ("read_noise_error", 0),
        ("turnoff", 1),
    ]:
        assert getattr(second, name) == pytest.approx(getattr(first, name) * k**power, rel=1e-6, nan_ok=True)
    # In electrons: a00 and its error do not know the unit.
    if model is FitModel.EXPAPPROXIMATION:
        assert second.a00 == pytest.approx(first.a00, rel=1e-6)
        assert second.a00_error == pytest.approx(first.a00_error, rel=1e-6)


@given(st.integers(0, 200), st.sampled_from([60, 100, 300]), st.data())
@settings(max_examples=40, deadline=None)
def test_two_percent_of_wild_points_are_left_out(seed: int, count: int, data: st.DataObject) -> None:
    points = runs(seed, count, shape=None)
    wild = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count // 50, unique=True))
    factors = data.draw(
        st.lists(st.sampled_from([0.01, 0.1, 0.8, 1.2, 10.0, 1e9]), min_size=len(wild), max_size=len(wild))
    )
    variance = points.variance.copy()
    variance[wild] *= factors
    clean = fit_amplifier(points, FitConfig())
    result = fit_amplifier(dataclasses.replace(points, variance=variance), FitConfig())
    assert result.status is FitStatus.OK
    assert all(result.reasons[i] is not None for i in wild)
    assert abs(result.gain - clean.gain) < 2.0 * clean.gain_error
    assert result.gain_error < 1.5 * clean.gain_error


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("weights", ["model", "measured"])
def test_the_fit_is_the_brute_force_minimum_over_all_points(seed: int, weights: str) -> None:
    """Reweighted MINPACK fits in (a00, g, n), from the truth: the same to 1e-6 in every parameter."""
    rng = np.random.default_rng(seed)
    mean = np.geomspace(200.0, 9e4, 60)
    pixels = rng.integers(50_000, 1_000_000, 60)
    variance = eq16(mean) * (1.0 + rng.standard_normal(60) * np.sqrt(2.0 / pixels + 0.003**2))
    points = curve_points(mean, variance=variance, pixel_count=pixels)
    config = FitConfig(weights="measured") if weights == "measured" else FitConfig()
    result = fit_amplifier(points, config)
    assert all(reason is None for reason in result.reasons)

    scale = np.array([1e-6, 1.0, 10.0])
    parameters = np.array([A00, GAIN, READ_NOISE**2]) / scale
    floor = 0.003

    def model(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        a, g, n = scaled * scale
        return eq16(mean, a, g, math.sqrt(n))

    # Many rounds instead of three: where they agree the third round had converged.
    for _ in range(8):
        reference = variance if weights == "measured" else model(parameters)
        root = np.sqrt(point_weights(reference, 2.0 / pixels, floor))

        def residual(scaled: NDArray[np.float64], root: NDArray[np.float64] = root) -> NDArray[np.float64]:
            return root * (model(scaled) - variance)

        found = least_squares(residual, parameters, method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14)
        parameters = found.x
        reference = variance if weights == "measured" else model(parameters)
        floor = solve_floor((variance - model(parameters)) / reference, 2.0 / pixels, 57)
    np.testing.assert_allclose(result.parameters, parameters * scale, rtol=1e-6)
    assert result.floor == pytest.approx(floor, rel=1e-4)
