from __future__ import annotations

import itertools

import numpy as np
import pytest

from ptc_stream.physics.covariance import lag_sums
from ptc_stream.physics.reference import fft_lag_sums
from ptc_stream.physics.tiles import cut_into_tiles, group_by_signal, group_lag_sums, lost_means


@pytest.mark.parametrize("shape", [(2000, 512), (100, 30), (65, 200), (7, 1), (31, 33)])
def test_tiles_cover_a_frame_once(shape: tuple[int, int]) -> None:
    seen = np.zeros(shape, int)
    sizes = set()
    for tile in cut_into_tiles(shape, 64):
        seen[tile] += 1
        sizes.add(seen[tile].shape)
    assert (seen == 1).all()
    for axis in (0, 1):
        sides = [size[axis] for size in sizes]
        assert max(sides) - min(sides) <= 1
        assert max(sides) < 96


@pytest.mark.parametrize("shape", [(0, 10), (10, 0), (0, 0)])
def test_no_tiles_in_no_frame(shape: tuple[int, int]) -> None:
    assert cut_into_tiles(shape, 64) == []


def test_groups_are_narrow_ordered_and_complete() -> None:
    signals = np.random.default_rng(0).uniform(5_000, 26_000, 300).tolist()
    groups = group_by_signal(signals, 0.05, 40)
    assert sorted(k for group in groups for k in group) == list(range(300))
    edges = [(min(signals[k] for k in group), max(signals[k] for k in group)) for group in groups]
    assert all(high <= low * 1.05 for low, high in edges)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(edges))
    assert len(groups) == 34


def test_groups_grow_wider_rather_than_too_many() -> None:
    signals = np.geomspace(10, 60_000, 500).tolist()
    groups = group_by_signal(signals, 0.05, 12)
    assert len(groups) == 12
    assert {len(group) for group in groups} <= {41, 42}


@pytest.mark.parametrize("signals", [[5.0], [5.0, 5.0, 5.0], [5.0, 5.1, 5.2]])
def test_near_equal_signals_are_one_group(signals: list[float]) -> None:
    assert group_by_signal(signals, 0.05, 40) == [list(range(len(signals)))]


def test_no_signals_no_groups() -> None:
    assert group_by_signal([], 0.05, 40) == []


def test_pairs_count_within_a_group_and_across_its_tiles_only() -> None:
    rng = np.random.default_rng(1)
    shape, lags = (120, 150), 6
    residual = rng.normal(0.0, 10.0, shape).astype(np.float32)
    tiles = cut_into_tiles(shape, 30)
    members = np.full(shape, -1, np.int32)
    groups: list[list[int]] = [[], [], []]
    for k, tile in enumerate(tiles):
        groups[(k * 7) % 3].append(k)
        members[tile] = (k * 7) % 3
    members[rng.random(shape) < 0.05] = -1
    residual[members < 0] = 0
    for group, indices in enumerate(groups):
        sums = group_lag_sums(residual, members, group, [tiles[k] for k in indices], lags)
        whole = fft_lag_sums(residual, members == group, lags)
        np.testing.assert_array_equal(sums.counts, whole.counts)
        for part, expected in zip(sums, whole, strict=True):
            np.testing.assert_allclose(part, expected, rtol=0, atol=1e-8 * whole.products.max())


def test_one_tile_is_the_image() -> None:
    rng = np.random.default_rng(2)
    residual = rng.normal(0.0, 10.0, (40, 50)).astype(np.float32)
    everything = (slice(0, 40), slice(0, 50))
    sums = group_lag_sums(residual, np.zeros((40, 50), np.int32), 0, [everything], 4)
    for a, b in zip(sums, lag_sums(residual, np.ones((40, 50), bool), 4), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8 * 2000 * 100)
    kappa = lost_means([everything], sums)
    np.testing.assert_allclose(kappa, 1.0 / 2_000)  # all pairs are within the tile


def test_lost_means_of_lags_without_pairs_are_nothing() -> None:
    sums = group_lag_sums(np.zeros((4, 4), np.float32), np.full((4, 4), -1, np.int32), 0, [], 3)
    assert not sums.counts.any()
    assert not lost_means([(slice(0, 4), slice(0, 4))], sums).any()
