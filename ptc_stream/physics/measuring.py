"""One flat pair of one amplifier in, points of the Photon Transfer Curve out.

A point is a mean signal, half the variance of the flux-matched difference, and half its covariances at small
lags, with the number of pixel pairs behind each: the sampling variance of C_ij is C_00^2 / n_ij, twice that
at lag (0, 0). The mean needs no error of its own: its shot noise and its correlation with C_00 cancel.

Nothing here raises because of what the pixels hold: what cannot be measured is a point with NaN and a flag.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from ptc_stream.errors import MeasurementError
from ptc_stream.physics.clipping import ClippedStatistics, clip_factor, clipped_statistics
from ptc_stream.physics.covariance import LagSums, lag_sums, quadrant_covariances
from ptc_stream.physics.difference import (
    flux_factors,
    gaussianity,
    mask_unusable,
    matched_difference,
    row_mean_variance,
    unmatched_difference,
    weigh,
)
from ptc_stream.physics.points import MeasuringConfig, PointFlag, PointMeasurement
from ptc_stream.physics.tiles import cut_into_tiles, group_by_signal, group_lag_sums, lost_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ptc_stream.physics.tiles import Tile

_COARSE = 3.0  # ADU

# Unmasked pixels of 1e30 overflow on their way through float32; the point says NOT_FINITE, no warning need.
_quiet = np.errstate(over="ignore", invalid="ignore")

_T = TypeVar("_T", bound=np.generic)

__all__ = [
    "measure_amplifier_pair",
    "measure_points",
    "measure_tiles",
]


def measure_points(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    *,
    usable_first: NDArray[np.bool_],
    usable_second: NDArray[np.bool_],
    read_noise: float | None,
    config: MeasuringConfig,
) -> list[PointMeasurement]:
    """Measure one flat pair of one amplifier, in tiles if the configuration says so.

    Parameters
    ----------
    first, second
        The two exposures, [y, x], zero level subtracted [ADU].
    usable_first, usable_second
        [y, x], False at masked pixels; the two may differ.
    read_noise
        Measured on overscan or bias frames [ADU]; None if it is not known.
    config
        How to measure.

    Returns
    -------
    list of PointMeasurement
        One point, or in tile mode one per group of tiles, in order of signal; never empty.

    Raises
    ------
    MeasurementError
        If the four arrays are not two-dimensional and of one shape.
    """
    one, two = _inside_frame(first, second, usable_first, usable_second, config)
    if config.tiles:
        return _measure_groups(one, two, read_noise, config)
    return [_measure_whole(one, two, read_noise, config)]


def measure_amplifier_pair(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    *,
    usable_first: NDArray[np.bool_],
    usable_second: NDArray[np.bool_],
    read_noise: float | None,
    config: MeasuringConfig,
) -> PointMeasurement:
    """Measure one flat pair of one amplifier as one point.

    Parameters
    ----------
    first, second, usable_first, usable_second, read_noise, config
        As for `measure_points`.

    Returns
    -------
    PointMeasurement

    Raises
    ------
    MeasurementError
        If the four arrays are not two-dimensional and of one shape.
    """
    one, two = _inside_frame(first, second, usable_first, usable_second, config)
    return _measure_whole(one, two, read_noise, config)


def measure_tiles(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    *,
    usable_first: NDArray[np.bool_],
    usable_second: NDArray[np.bool_],
    read_noise: float | None,
    config: MeasuringConfig,
) -> list[PointMeasurement]:
    """Measure one flat pair of one amplifier as many points, each from tiles of near-equal signal.

    A tile is flux-matched on its own, so that a ratio of the exposures that varies across the amplifier (a
    shutter, a lamp that moved) leaves no pattern. The exposures themselves are clipped only to find a first
    ratio, tile by tile, where a gradient is a flat-topped distribution that no clip at 5.5 sigma cuts. What
    counts in the end is decided on the difference alone, and the means of the point are those of exactly the
    pixels that count: the wings of the illumination stay in.

    Parameters
    ----------
    first, second, usable_first, usable_second, read_noise, config
        As for `measure_points`.

    Returns
    -------
    list of PointMeasurement
        One per group, in order of signal; tiles without signal make one group, the first. One flagged point
        if no tile has usable pixels.

    Raises
    ------
    MeasurementError
        If the four arrays are not two-dimensional and of one shape.
    """
    one, two = _inside_frame(first, second, usable_first, usable_second, config)
    return _measure_groups(one, two, read_noise, config)


def _inside_frame(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    usable_first: NDArray[np.bool_],
    usable_second: NDArray[np.bool_],
    config: MeasuringConfig,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Check shapes, leave the edge out, set unusable pixels to NaN in both exposures."""
    shapes = {np.shape(a) for a in (first, second, usable_first, usable_second)}
    if len(shapes) != 1 or len(np.shape(first)) != 2:
        raise MeasurementError(
            f"exposures of shape {np.shape(first)} and {np.shape(second)} with masks of shape "
            f"{np.shape(usable_first)} and {np.shape(usable_second)} are not one amplifier seen twice"
        )
    return mask_unusable(
        np.ascontiguousarray(first, np.float32),
        np.ascontiguousarray(second, np.float32),
        np.ascontiguousarray(usable_first, np.bool_),
        np.ascontiguousarray(usable_second, np.bool_),
        config.edge,
    )


@_quiet
def _measure_whole(
    one: NDArray[np.float32], two: NDArray[np.float32], read_noise: float | None, config: MeasuringConfig
) -> PointMeasurement:
    stats_one, stats_two = _clipped(one, config), _clipped(two, config)
    means = (stats_one.mean, stats_two.mean)
    floor = _signal_floor(one, two, read_noise, config)
    lit = means[0] > floor and means[1] > floor
    factors = flux_factors(*means) if lit else (1.0, 1.0)
    difference = matched_difference(one, two, *factors)
    stats = _clipped(difference, config)
    weighed = weigh(difference, stats.mean, config.n_sigma * math.sqrt(stats.variance))
    return _point(
        means=means,
        variance=stats.variance,
        sums=lag_sums(weighed.residual, weighed.weights, config.max_lag),
        lost=None,
        row_sums=weighed.row_sums,
        row_counts=weighed.row_counts,
        delta=unmatched_difference(one, two, weighed.weights),
        lit=lit,
        floor=floor,
        read_noise=read_noise,
        min_pixels=config.min_pixels,
        config=config,
    )


class _Group(NamedTuple):
    """Tiles that make one point."""

    tiles: list[Tile]
    lit: bool
    floor: float


@_quiet
def _measure_groups(
    one: NDArray[np.float32], two: NDArray[np.float32], read_noise: float | None, config: MeasuringConfig
) -> list[PointMeasurement]:
    difference = np.full(one.shape, np.nan, np.float32)
    groups = _match_and_group(one, two, difference, read_noise, config)
    members = np.full(one.shape, -1, np.int32)
    residual = np.zeros(one.shape, np.float32)
    points = []
    for number, (tiles, lit, floor) in enumerate(groups):
        stats = _clipped(_gather(difference, tiles), config)
        limit = config.n_sigma * math.sqrt(stats.variance)
        row_sums = np.zeros(one.shape[0])
        row_counts = np.zeros(one.shape[0], np.int64)
        for tile in tiles:
            weighed = weigh(difference[tile], stats.mean, limit)
            residual[tile] = weighed.residual
            members[tile][weighed.weights] = number
            row_sums[tile[0]] += weighed.row_sums
            row_counts[tile[0]] += weighed.row_counts
        inside = _gather(members, tiles) == number
        values_one, values_two = _gather(one, tiles)[inside], _gather(two, tiles)[inside]
        sums = group_lag_sums(residual, members, number, tiles, config.max_lag)
        # A mean was taken off every lit tile, so that many degrees of freedom are gone instead of one.
        free = stats.count - (len(tiles) if lit else 1)
        points.append(
            _point(
                means=(_mean(values_one), _mean(values_two)),
                variance=stats.variance * (stats.count - 1) / free if free > 0 else math.nan,
                sums=sums,
                lost=lost_means(tiles, sums) if lit else None,
                row_sums=row_sums,
                row_counts=row_counts,
                delta=values_one - values_two,
                lit=lit,
                floor=floor,
                read_noise=read_noise,
                min_pixels=config.min_tile_pixels,
                config=config,
            )
        )
    return points


def _match_and_group(
    one: NDArray[np.float32],
    two: NDArray[np.float32],
    difference: NDArray[np.float32],
    read_noise: float | None,
    config: MeasuringConfig,
) -> list[_Group]:
    """Fill in the difference, each tile matched on its own, and group tiles by signal; never no group."""
    dark = _Group([], lit=False, floor=0.0)
    lit: list[Tile] = []
    signals: list[float] = []
    for tile in cut_into_tiles(one.shape, config.tile_size):
        means = _clipped(one[tile], config).mean, _clipped(two[tile], config).mean
        floor = _signal_floor(one[tile], two[tile], read_noise, config)
        factors = (1.0, 1.0)
        if means[0] > floor and means[1] > floor:
            lit.append(tile)
            signals.append((means[0] + means[1]) / 2)
            factors = flux_factors(*means)
        elif math.isfinite(means[0]):
            dark = _Group([*dark.tiles, tile], lit=False, floor=max(dark.floor, floor))
        difference[tile] = matched_difference(one[tile], two[tile], *factors)
    groups = [
        _Group([lit[k] for k in members], lit=True, floor=0.0)
        for members in group_by_signal(signals, config.tile_signal_span, config.max_tile_groups)
    ]
    for group in groups:
        _match_again(one, two, difference, group.tiles, config)
    return [dark, *groups] if dark.tiles or not groups else groups


def _clipped(values: NDArray[np.float32], config: MeasuringConfig) -> ClippedStatistics:
    return clipped_statistics(values, config.n_sigma, config.clip_passes)


def _signal_floor(
    one: NDArray[np.float32], two: NDArray[np.float32], read_noise: float | None, config: MeasuringConfig
) -> float:
    """Signal below which an exposure is not bright enough to be matched [ADU].

    One pixel's noise is a hundred times the error of the mean, but about what an overscan level may be off.
    """
    if read_noise is not None and math.isfinite(read_noise):
        return config.min_signal * read_noise
    noise = math.sqrt(_clipped(one - two, config).variance / 2)
    return config.min_signal * noise if math.isfinite(noise) else 0.0


def _gather(image: NDArray[_T], tiles: Sequence[Tile]) -> NDArray[_T]:
    return np.concatenate([np.empty(0, image.dtype), *(image[tile].ravel() for tile in tiles)])


def _mean(values: NDArray[np.float32]) -> float:
    return float(values.mean(dtype=np.float64)) if values.size else math.nan


def _match_again(
    one: NDArray[np.float32],
    two: NDArray[np.float32],
    difference: NDArray[np.float32],
    tiles: Sequence[Tile],
    config: MeasuringConfig,
) -> None:
    """Match each tile's flux on the pixels that are no outliers of the difference.

    A single cosmic ray of 10^4 ADU hides in a tile's gradient and moves its mean by 2 ADU.
    """
    stats = _clipped(_gather(difference, tiles), config)
    limit = config.n_sigma * math.sqrt(stats.variance)
    for tile in tiles:
        weights = weigh(difference[tile], stats.mean, limit).weights
        means = _mean(one[tile][weights]), _mean(two[tile][weights])
        if min(means) > 0.0:
            difference[tile] = matched_difference(one[tile], two[tile], *flux_factors(*means))


def _point(
    *,
    means: tuple[float, float],
    variance: float,
    sums: LagSums,
    lost: NDArray[np.float64] | None,
    row_sums: NDArray[np.float64],
    row_counts: NDArray[np.int64],
    delta: NDArray[np.float32],
    lit: bool,
    floor: float,
    read_noise: float | None,
    min_pixels: int,
    config: MeasuringConfig,
) -> PointMeasurement:
    """Put a point together: corrections for the clip, derived numbers, flags."""
    factor = clip_factor(config.n_sigma)
    half_variance = factor * variance / 2
    covariances, pixel_count = quadrant_covariances(sums, lost_means=lost)
    # C_00 lost the wings of one distribution; a product of two pixels lost those of both.
    covariances *= factor * factor
    covariances[0, 0] /= factor
    mean = (means[0] + means[1]) / 2
    pixels = int(pixel_count[0, 0])
    distance = gaussianity(delta)

    flags = set()
    if abs(means[0] - means[1]) > config.max_flux_mismatch * mean and mean > floor:
        flags.add(PointFlag.FLUX_MISMATCH)
    if not lit and math.isfinite(mean):
        flags.add(PointFlag.NO_SIGNAL)
    if pixels < min_pixels:
        flags.add(PointFlag.TOO_FEW_PIXELS)
    if not (math.isfinite(mean) and math.isfinite(half_variance)):
        flags.add(PointFlag.NOT_FINITE)
    # Under so little scatter the steps of integers are no smooth curve, however many pixels there are.
    judged = 2 * half_variance > _COARSE**2
    if judged and distance > config.gaussianity_factor / math.sqrt(pixels) + config.gaussianity_floor:
        flags.add(PointFlag.NOT_GAUSSIAN)

    gain = math.nan
    if lit and means[0] > 0.0 and means[1] > 0.0:  # those of a group's last weights, not those it was lit by
        # Matching the fluxes scales the shot noise back to mu/g but the read noise up, by (m1/m2 + m2/m1)/2.
        noise = read_noise if read_noise is not None and math.isfinite(read_noise) else 0.0
        shot = half_variance - noise * noise * (means[0] / means[1] + means[1] / means[0]) / 2
        gain = mean / shot if shot > 0.0 else math.nan
    return PointMeasurement(
        mean=mean,
        mean_first=means[0],
        mean_second=means[1],
        variance=half_variance,
        covariances=covariances,
        pixel_count=pixel_count,
        pixels_used=pixels,
        row_mean_variance=row_mean_variance(row_sums, row_counts, config.n_sigma, config.clip_passes),
        gaussianity=distance,
        gain_estimate=gain,
        flags=tuple(flag for flag in PointFlag if flag in flags),
    )
