"""Zero level and read noise from the overscan of one amplifier.

Overscan pixels are read like all others but hold no light: their level is the zero of the row, their
scatter the read noise. The steps are those of the field (median of every row, then of every column of the
parallel overscan), with the noise corrected for what the subtracted estimates have fitted away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ptc_stream.physics.clipping import clipped_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ptc_stream.images.sections import Box

__all__ = ["Zero", "clipped_medians", "subtract_parallel", "subtract_serial"]

# sigma / (q3 - q1) of a Gaussian.
_SIGMA_PER_IQR = 0.741301109252802

# Fewer pixels give a median uncertain by more than half the read noise, which it would add to every pixel
# of the row, in common: one level per amplifier then does less harm.
_MIN_USED = 8

# Farther from the level of the amplifier than this, a pixel of the overscan holds something else than
# zero [ADU]: charge of saturated pixels. Real levels wander by tens of ADU along a read-out.
_MAX_DEVIATION = 1000.0
# The same for the parallel overscan, which is near zero by then and which bleeding columns run into.
_MAX_PARALLEL_EXCESS = 100.0

# The clip of all statistics of the project (physics.clipping), for levels and noise.
_N_SIGMA = 5.5
_PASSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Zero:
    """What the overscan of an amplifier told.

    Attributes
    ----------
    level
        Mean level that was subtracted [ADU]; None where there was no usable overscan.
    read_noise, read_noise_error
        [ADU]; None where it cannot be measured.
    method
        ``row``, ``level`` or ``none``.
    notes
        For people: what was done differently from what was asked for, and why.
    """

    level: float | None
    read_noise: float | None
    read_noise_error: float | None
    method: str
    notes: tuple[str, ...] = ()


def subtract_serial(pixels: NDArray[np.float32], box: Box, *, method: str, skip: int, n_sigma: float) -> Zero:
    """Subtract the level of the serial overscan from an amplifier, in place.

    Parameters
    ----------
    pixels
        All pixels of the amplifier, ``[y, x]`` [ADU].
    box
        The overscan. With ``row``, its columns over all rows count, so that every row has a level.
    method
        ``row``: median of each row; falls back on ``level`` if fewer than 8 columns are left.
        ``level``: one clipped mean for the amplifier.
    skip
        Columns left out at both ends; the first hold charge that the image left behind.
    n_sigma
        Pixels farther than this from the median of their row do not count.

    Returns
    -------
    Zero
        ``method`` ``none``, and nothing subtracted, if no overscan pixel is usable.
    """
    notes: list[str] = []
    first, last = box.x0 + skip, box.x1 - skip
    if last - first < _MIN_USED:
        if method == "row":
            notes.append(
                f"{box.width} overscan columns are too few for a level per row: one level per amplifier"
            )
        # The first column after the image holds most of the deferred charge; the last is the cleanest.
        first, last = (box.x0 + min(skip, box.width - 1), box.x1) if box.x0 > 0 else (box.x0, box.x1)
        method = "level"
    region = pixels[:, first:last] if method == "row" else pixels[box.y0 : box.y1, first:last]
    usable = _near_level(region, -_MAX_DEVIATION, _MAX_DEVIATION)
    nothing = Zero(
        level=None,
        read_noise=None,
        read_noise_error=None,
        method="none",
        notes=(*notes, "no usable pixel in the overscan"),
    )
    if not usable.any():
        return nothing
    if method == "level":
        level = clipped_statistics(region, n_sigma, _PASSES, usable=usable).mean
        noise, error = _noise(region - np.float32(level), usable, row_wise=False)
        pixels -= np.float32(level)
    else:
        medians, good = clipped_medians(region, usable, n_sigma)
        if not good.any():
            return nothing
        if not good.all():
            notes.append(f"{np.count_nonzero(~good)} rows without a level of their own: interpolated")
        noise, error = _noise(region - medians[:, np.newaxis], usable, row_wise=True)
        pixels -= medians[:, np.newaxis]
        level = float(np.mean(medians, dtype=np.float64))
    return Zero(level=level, read_noise=noise, read_noise_error=error, method=method, notes=tuple(notes))


def subtract_parallel(
    pixels: NDArray[np.float32], data: Box, box: Box, *, skip: int, n_sigma: float
) -> tuple[str, ...]:
    """Subtract the column levels of the parallel overscan from the imaging area, in place.

    Parameters
    ----------
    pixels
        All pixels of the amplifier after `subtract_serial`, ``[y, x]`` [ADU].
    data, box
        Imaging area and parallel overscan, with the same columns.
    skip
        Rows left out at both ends; the first hold charge that the image left behind.
    n_sigma
        As in `subtract_serial`.

    Returns
    -------
    tuple of str
        Why nothing was subtracted, if so.
    """
    region = pixels[box.y0 + skip : box.y1 - skip, box.x0 : box.x1]
    if region.shape[0] < _MIN_USED:
        return (f"{box.height} rows of parallel overscan are too few: not used",)
    usable = (region > -_MAX_DEVIATION) & (region < _MAX_PARALLEL_EXCESS)
    medians, good = clipped_medians(np.ascontiguousarray(region.T), np.ascontiguousarray(usable.T), n_sigma)
    if 2 * np.count_nonzero(good) < good.size:
        return ("the parallel overscan is filled with charge: not used",)
    pixels[data.slices] -= medians[np.newaxis, :]
    return ()


def clipped_medians(
    region: NDArray[np.float32], usable: NDArray[np.bool_], n_sigma: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the median of every row, without pixels that lie too far from it.

    Parameters
    ----------
    region
        ``[rows, pixels]`` [ADU].
    usable
        Same shape; pixels that may count.
    n_sigma
        A pixel counts within this many sigma of the median of its row. Sigma is the median over the rows
        of 0.7413 (q3 - q1): the noise of an amplifier is one number, that of one row a poor estimate. Where
        it is 0 (noise far below 1 ADU), all usable pixels count.

    Returns
    -------
    medians : float32 [rows]
        Interpolated for rows without half of their pixels usable; meaningless where no row is good.
    good : bool [rows]
        False where interpolated.
    """
    # NaN sorts to the end, so the usable pixels of a row are its first `count`, in order; those within a
    # distance of the median are again neighbours: one sort serves for both medians.
    ordered = np.sort(np.where(usable, region, np.float32(np.nan)), axis=1)
    count = np.count_nonzero(usable, axis=1)
    good = 2 * count >= region.shape[1]
    nothing = np.zeros_like(count)
    raw_medians = _quantile(ordered, nothing, count, 0.5)
    iqr = _quantile(ordered, nothing, count, 0.75) - _quantile(ordered, nothing, count, 0.25)
    sigma = _SIGMA_PER_IQR * float(np.median(iqr[good])) if good.any() else 0.0
    limit = np.float32(n_sigma * sigma if sigma > 0.0 else np.inf)
    inside = usable & (np.abs(region - raw_medians[:, np.newaxis]) <= limit)
    start = np.count_nonzero(ordered < (raw_medians - limit)[:, np.newaxis], axis=1)
    medians = _quantile(ordered, start, np.count_nonzero(inside, axis=1), 0.5)
    if good.any() and not good.all():
        rows = np.arange(good.size)
        medians[~good] = np.interp(rows[~good], rows[good], medians[good])
    return medians, good


def _quantile(
    ordered: NDArray[np.float32], start: NDArray[Any], count: NDArray[Any], fraction: float
) -> NDArray[np.float32]:
    """Quantile of ``ordered[row, start : start + count]``, linear between order statistics; NaN if empty."""
    position = start + fraction * np.maximum(count - 1, 0)
    low = np.minimum(position.astype(np.intp), ordered.shape[1] - 1)
    high = np.minimum(low + 1, np.maximum(start + count - 1, 0))
    rows = np.arange(ordered.shape[0])
    weight = (position - low).astype(np.float32)
    lower, upper = ordered[rows, low], ordered[rows, np.maximum(high, low)]
    quantile: NDArray[np.float32] = np.where(weight > 0, lower + weight * (upper - lower), lower)
    return quantile


def _near_level(region: NDArray[np.float32], low: float, high: float) -> NDArray[np.bool_]:
    finite = np.isfinite(region)
    if not finite.any():
        return finite
    level = np.median(region[finite])
    near: NDArray[np.bool_] = finite & (region >= level + low) & (region <= level + high)
    return near


def _noise(
    residual: NDArray[np.float32], usable: NDArray[np.bool_], *, row_wise: bool
) -> tuple[float | None, float | None]:
    """Read noise of an overscan region after subtraction of its level, and its error [ADU].

    Rows (where each had a level of its own) and columns are centred on their means first: a pattern along
    the columns is no noise, and a subtracted median takes (2 - pi/2)/n of the variance out of the pixels
    that it was made of. After centring on means the loss is exact, one degree of freedom per mean. The
    standard error of a standard deviation with f degrees of freedom is sigma / sqrt(2 f).
    """
    rough = clipped_statistics(residual, _N_SIGMA, _PASSES, usable=usable)
    if not rough.variance >= 0.0:
        return None, None
    counted = usable & (np.abs(residual - rough.mean) <= _N_SIGMA * math.sqrt(rough.variance))
    values = np.where(counted, residual, 0.0).astype(np.float64)
    axes = [1] if row_wise else []
    if residual.shape[0] > residual.shape[1]:
        axes.append(0)
    lost = 1
    for axis in axes:
        counts = np.count_nonzero(counted, axis=axis, keepdims=True)
        means = values.sum(axis=axis, keepdims=True) / np.maximum(counts, 1)
        values = np.where(counted, values - means, 0.0)
        lost += int(np.count_nonzero(counts)) - 1
    freedom = np.count_nonzero(counted) - lost
    if freedom < 1:
        return None, None
    sigma = math.sqrt(float(np.sum(values * values)) / freedom)
    return sigma, sigma / math.sqrt(2.0 * freedom)
