"""Tiles of near-equal signal: many points of the curve from one pair with an uneven illumination.

A mean over a whole amplifier is no point of the curve when the signal falls by a factor of five across it.
The amplifier is cut into tiles, each flux-matched on its own, and tiles of near-equal signal make one point.
Along a group's remaining span of signal the variance is a straight line to first order, so its mean over the
group is the variance at the group's mean; the curvature changes it by a part a g mu (sigma_mu/mu)^2, 6e-5 at
a 5 % span and 100,000 electrons.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ptc_stream.physics.covariance import LagSums, window_lag_sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Tile", "cut_into_tiles", "group_by_signal", "group_lag_sums", "lost_means"]

Tile: TypeAlias = tuple[slice, slice]
"""Rows and columns of a tile."""


def cut_into_tiles(shape: tuple[int, int], tile_size: int) -> list[Tile]:
    """Cut a frame into tiles of about equal size that leave no pixel over.

    Parameters
    ----------
    shape
        Rows and columns of the frame.
    tile_size
        Side of a tile aimed at [pixels].

    Returns
    -------
    list of Tile
        Row by row; none for a frame without pixels.
    """
    rows, columns = (_boundaries(size, tile_size) for size in shape)
    return [
        (slice(top, bottom), slice(left, right))
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
        if bottom > top and right > left
    ]


def _boundaries(size: int, tile_size: int) -> list[int]:
    number = max(round(size / tile_size), 1)
    return [round(k * size / number) for k in range(number + 1)]


def group_by_signal(signals: Sequence[float], span: float, max_groups: int) -> list[list[int]]:
    """Group tiles into classes of equal width in log signal.

    Parameters
    ----------
    signals
        Mean signal of each tile, all positive [ADU].
    span
        Largest ratio of signals within a group, minus 1.
    max_groups
        If more groups than this were needed, they are made wider.

    Returns
    -------
    list of list of int
        Indices into `signals`, groups in order of signal, each in the order given; no group is empty.
    """
    if not signals:
        return []
    logs = np.log(np.asarray(signals, dtype=np.float64))
    lowest, width = float(logs.min()), float(logs.max() - logs.min())
    number = min(max(math.ceil(width / math.log1p(span)), 1), max_groups)
    steps = (logs - lowest) * (number / width) if width > 0.0 else np.zeros_like(logs)
    classes = np.minimum(steps, number - 1).astype(np.int64)
    return [np.flatnonzero(classes == k).tolist() for k in range(number) if np.any(classes == k)]


def group_lag_sums(
    residual: NDArray[np.float32],
    members: NDArray[np.int32],
    group: int,
    tiles: Sequence[Tile],
    max_lag: int,
) -> LagSums:
    """Sum over the pixel pairs of one group, also those across the border of two of its tiles.

    Parameters
    ----------
    residual
        (D - m) w of the whole amplifier, [y, x] [ADU].
    members
        [y, x]: the group whose weight map holds this pixel, -1 for none.
    group
        Which one to sum over.
    tiles
        The tiles of this group.
    max_lag
        R, number of lags per axis.

    Returns
    -------
    LagSums
    """
    reach = max_lag - 1
    total: LagSums | None = None
    for rows, columns in tiles:
        left = max(columns.start - reach, 0)
        window = (slice(rows.start, rows.stop + reach), slice(left, columns.stop + reach))
        weights = members[window] == group
        difference = np.where(weights, residual[window], np.float32(0))
        base = (slice(0, rows.stop - rows.start), slice(columns.start - left, columns.stop - left))
        sums = window_lag_sums(difference, weights, base, max_lag)
        total = sums if total is None else LagSums(*(a + b for a, b in zip(total, sums, strict=True)))
    if total is None:
        return LagSums(*(np.zeros((max_lag, 2 * max_lag - 1)) for _ in LagSums._fields))
    return total


def lost_means(tiles: Sequence[Tile], sums: LagSums) -> NDArray[np.float64]:
    """Tell what part of C_00 every covariance lacks because each tile's own mean was taken off.

    The flux matching of a tile of N pixels makes the mean of D zero there, so that each product within the
    tile is low by C_00 / N: 2.4e-4 for 64 x 64 pixels, as much as the error of a gain from one pair's tiles.

    Parameters
    ----------
    tiles
        The tiles of a group.
    sums
        Of that group.

    Returns
    -------
    array
        kappa, [R, 2 R - 1], index [dy, dx + R - 1]: pixel pairs within one tile over all pixel pairs, per
        pixel of the tile. Masked pixels change both alike.
    """
    lags = sums.counts.shape[0]
    dy = np.arange(lags)[:, np.newaxis]
    dx = np.abs(np.arange(-lags + 1, lags))[np.newaxis, :]
    inside = np.zeros(sums.counts.shape)
    for rows, columns in tiles:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        inside += np.maximum(1.0 - dy / height, 0.0) * np.maximum(1.0 - dx / width, 0.0)
    return np.divide(inside, sums.counts, out=np.zeros_like(inside), where=sums.counts > 0)
