"""Are the errors honest? Pulls over many runs drawn from Eq. 16 at the level of covariances."""

from __future__ import annotations

import numpy as np
import pytest

from ptc_stream.physics.fitting import AmplifierFit, FitConfig, FitStatus, fit_amplifier
from tests.curves import A00, GAIN, READ_NOISE, break_off, curve_points


def fits(count: int, lamp: float, number: int, seed: int = 0, *, top: float = 9e4) -> list[AmplifierFit]:
    mean = np.geomspace(200.0, top, count)
    generator = np.random.default_rng([seed, count])
    return [fit_amplifier(curve_points(mean, generator, lamp=lamp), FitConfig()) for _ in range(number)]


def pulls_of(results: list[AmplifierFit]) -> np.ndarray:
    return np.array(
        [
            (
                (r.gain - GAIN) / r.gain_error,
                (r.read_noise - READ_NOISE) / r.read_noise_error,
                (r.a00 - A00) / r.a00_error,
            )
            for r in results
        ]
    )


@pytest.mark.parametrize("lamp", [0.0, 0.004])
@pytest.mark.parametrize(("count", "number"), [(20, 1500), (60, 1500), (337, 800)])
def test_pulls_of_gain_noise_and_a00(count: int, number: int, lamp: float) -> None:
    results = fits(count, lamp, number)
    assert all(r.status is FitStatus.OK for r in results)
    pulls = pulls_of(results)
    np.testing.assert_allclose(np.mean(pulls, axis=0), 0.0, atol=0.15)
    width = np.std(pulls, axis=0)
    assert np.all((width > 0.9) & (width < 1.1)), width
    held = np.mean(np.abs(pulls) < 2.0, axis=0)
    assert np.all(held > 0.94), held  # 95.4 %, less what 800 runs scatter
    assert np.mean([sum(reason is not None for reason in r.reasons) for r in results]) < 2e-4 * count


@pytest.mark.parametrize("lamp", [0.0, 0.001, 0.004])
@pytest.mark.parametrize("count", [4, 5, 7, 10])
def test_two_errors_hold_95_percent_even_of_the_shortest_runs(count: int, lamp: float) -> None:
    """Ends of the range as in a run of few pairs; 1500 runs scatter by 0.6 %."""
    results = [r for r in fits(count, lamp, 1500) if r.status is FitStatus.OK]
    assert len(results) > 1400
    held = np.mean(np.abs(pulls_of(results)[:, 0]) < 2.0)
    assert held > 0.935, held


@pytest.mark.parametrize("shape", ["step", "drop"])
@pytest.mark.parametrize(
    ("count", "pixels", "lamp"),
    [(20, 1_000_000, 0.004), (60, 100_000, 0.004), (337, 1_000_000, 0.004), (337, 4000, 0.0)],
)
def test_the_turnoff_interval_covers_the_truth(count: int, pixels: int, lamp: float, shape: str) -> None:
    """The last case is one of tiles: 2.2 % error per point, so that neighbours must be pooled."""
    generator = np.random.default_rng([7, count, pixels])
    mean = np.linspace(300.0, 1e5, count)
    covered = []
    pulls = []
    for _ in range(200):
        truth = generator.uniform(6e4, 8.5e4)
        points = curve_points(mean, generator, pixels=pixels, lamp=lamp, factor=break_off(mean, truth, shape))
        result = fit_amplifier(points, FitConfig())
        covered.append(
            not result.turnoff_is_lower_limit and result.turnoff_low <= truth <= result.turnoff_high
        )
        pulls.append((result.gain - GAIN) / result.gain_error)
    assert np.mean(covered) >= 0.95
    assert abs(np.mean(pulls)) < 0.3  # 200 runs scatter by 0.07; points above the turnoff would do far more
    assert np.mean(np.abs(pulls) < 2.0) > 0.91


def test_no_turnoff_is_claimed_where_there_is_none() -> None:
    for count, lamp in [(20, 0.004), (60, 0.0), (60, 0.004)]:
        assert all(r.turnoff_is_lower_limit for r in fits(count, lamp, 300, seed=1))
