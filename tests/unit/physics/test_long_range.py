from __future__ import annotations

import numpy as np
import pytest

from ptc_stream.physics.long_range import long_range_surface

I, J = np.indices((8, 8))


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_a_surface_is_found_whatever_lies_at_small_lags(degree: int) -> None:
    rng = np.random.default_rng(degree)
    terms = rng.normal(size=(5, degree + 1, degree + 1))
    powers = np.vander(np.arange(8) / 8.0, degree + 1, increasing=True)
    surface = np.einsum("npq,ip,jq->nij", terms, powers, powers)
    covariances = surface.copy()
    covariances[:, :4, :4] += 1000.0
    counts = rng.integers(900_000, 1_000_000, covariances.shape)
    covariances[2, 6, 3] = np.nan
    covariances[1, 0, 7] = 1e9
    counts[1, 0, 7] = 0
    found = long_range_surface(covariances, counts, start=4, degree=degree)
    assert found is not None
    np.testing.assert_allclose(found, surface, atol=1e-9)


def test_pairs_do_not_influence_each_other() -> None:
    covariances = np.random.default_rng(0).normal(size=(4, 8, 8))
    counts = np.full(covariances.shape, 10**6)
    together = long_range_surface(covariances, counts, start=4, degree=1)
    alone = long_range_surface(covariances[2:3], counts[2:3], start=4, degree=1)
    assert together is not None
    assert alone is not None
    assert together[2].tobytes() == alone[0].tobytes()


def test_too_few_large_lags() -> None:
    covariances, counts = np.ones((3, 8, 8)), np.full((3, 8, 8), 10**6)
    assert long_range_surface(covariances, counts, start=8, degree=1) is None
    # All at i >= 7 or j >= 7: a line of each, and a surface of degree 3 needs four.
    assert long_range_surface(covariances[:, :2, :2], counts[:, :2, :2], start=1, degree=2) is None
    covariances[1, 4:, :] = np.nan
    covariances[1, :, 4:] = np.nan
    found = long_range_surface(covariances, counts, start=4, degree=0)
    assert found is not None
    np.testing.assert_array_equal(found[1], 0.0)
    np.testing.assert_allclose(found[2], 1.0)
    covariances[:] = np.nan
    assert long_range_surface(covariances, counts, start=4, degree=0) is None
