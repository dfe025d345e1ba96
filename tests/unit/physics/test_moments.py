from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ptc_stream.physics.moments import Moments, compress

RNG_SEED = 5


def points(count: int, measured: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng([RNG_SEED, count])
    signal = np.sort(rng.random(count))
    signal[-1] = 1.0
    reference = 10.0 + 6e4 * signal
    covariances = rng.normal(size=(count + 3, measured, measured)) * 30.0
    return {
        "powers": np.vander(signal, 5, increasing=True).T,
        "variance": reference * (1.0 + 1e-3 * rng.normal(size=count)),
        "weight": 5e5 / reference**2,
        "covariances": covariances,
        "pixel_count": 900_000 + rng.integers(0, 5000, covariances.shape),
        "rows": rng.permutation(count + 3)[:count],
        "reference": reference,
        "lags": 3,
        "zero": (0.0, 0.0),
    }


def chi2(moments: Moments, lag: int, coefficients: NDArray[np.float64]) -> float:
    left = moments.triangle[lag] @ coefficients - moments.right[lag]
    return float(left @ left + moments.rest[lag])


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7, 60])
def test_moments_give_the_chi2_of_any_polynomial(count: int) -> None:
    given = points(count)
    moments = compress(**given)
    powers = given["powers"].T
    assert np.all(moments.count == count)
    for lag in range(9):
        i, j = divmod(lag, 3)
        coefficients = np.random.default_rng(lag).normal(size=5) * 30.0
        if lag == 0:
            values, weight = given["variance"], given["weight"]
        else:
            coefficients[1] = 0.0  # only C_00 has a linear term
            values = given["covariances"][given["rows"], i, j]
            weight = given["pixel_count"][given["rows"], i, j] / given["reference"] ** 2
        expected = np.sum(weight * (values - powers @ coefficients) ** 2)
        assert chi2(moments, lag, coefficients) == pytest.approx(expected, rel=1e-9)
        np.testing.assert_array_equal(np.tril(moments.triangle[lag], -1), 0.0)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_powers_that_few_signals_cannot_tell_have_no_rows(count: int) -> None:
    given = points(12)
    signal = np.linspace(0.2, 1.0, count)[np.arange(12) * count // 12]
    given["powers"] = np.vander(signal, 5, increasing=True).T
    moments = compress(**given)
    expected = np.arange(5) < count
    np.testing.assert_array_equal(np.diag(moments.triangle[0]) > 0.0, expected)
    np.testing.assert_array_equal(np.diag(moments.triangle[4])[[0, 2, 3, 4]] > 0.0, expected[:4])


def test_covariances_that_are_missing_do_not_count() -> None:
    given = points(30)
    whole = compress(**given)
    rows = given["rows"]
    given["covariances"][rows[3], 0, 1] = np.nan
    given["covariances"][rows[8], 0, 1] = np.inf
    given["pixel_count"][rows[11], 0, 1] = 0
    moments = compress(**given)
    assert moments.count.tolist() == [30, 27, 30, 30, 30, 30, 30, 30, 30]
    kept = np.delete(np.arange(30), [3, 8, 11])
    fewer = compress(
        **(
            given
            | {name: given[name][kept] for name in ("variance", "weight", "rows", "reference")}
            | {"powers": given["powers"][:, kept]}
        )
    )
    coefficients = np.array([1.0, 0.0, 20.0, -3.0, 5.0])
    assert chi2(moments, 1, coefficients) == pytest.approx(chi2(fewer, 1, coefficients))
    np.testing.assert_allclose(moments.triangle[2:], whole.triangle[2:])
    given["covariances"][:, 2, 2] = np.nan
    gone = compress(**given)
    assert gone.count[8] == 0
    np.testing.assert_array_equal(gone.triangle[8], 0.0)


def test_the_measured_zero_is_one_more_point() -> None:
    given = points(20)
    moments = compress(**(given | {"zero": (22.0, 4.0)}))
    plain = compress(**given)
    coefficients = np.array([25.0, 3.0, -1.0, 2.0, 4.0])
    assert chi2(moments, 0, coefficients) == pytest.approx(chi2(plain, 0, coefficients) + 4.0 * 9.0)
    np.testing.assert_array_equal(moments.triangle[1:], plain.triangle[1:])


def test_lag_zero_alone() -> None:
    given = points(9)
    moments = compress(**(given | {"lags": 1}))
    assert moments.triangle.shape == (1, 5, 5)
    np.testing.assert_array_equal(moments.triangle[0], compress(**given).triangle[0])
