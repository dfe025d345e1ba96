"""A point of the Photon Transfer Curve: what is measured of one flat pair and amplifier, and the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MeasuringConfig", "PointFlag", "PointMeasurement"]


@unique
class PointFlag(StrEnum):
    """What is wrong with a point. A flagged point is complete otherwise; who fits decides what to use."""

    FLUX_MISMATCH = "FLUX_MISMATCH"
    """The two exposures differ in signal by more than ``max_flux_mismatch``."""
    NO_SIGNAL = "NO_SIGNAL"
    """No light in one exposure or both: a bias pair, a dead amplifier. The variance is that of the noise."""
    TOO_FEW_PIXELS = "TOO_FEW_PIXELS"
    """Less pixels count than ``min_pixels`` (``min_tile_pixels``)."""
    NOT_FINITE = "NOT_FINITE"
    """There is no mean or no variance."""
    NOT_GAUSSIAN = "NOT_GAUSSIAN"
    """The difference is no Gaussian: pixels near saturation, several levels of light, interference."""
    SATURATED = "SATURATED"
    """Saturated pixels cut the distribution off. Set by whoever reduces the frames and knows the level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringConfig:
    """How a pair is measured. Every field is part of a measurement's identity."""

    max_lag: Annotated[int, Interval(ge=1, le=64)] = field(
        default=10,
        metadata={
            "unit": "pixels",
            "meaning": "number of lags of the covariances per axis: 0 .. max_lag - 1",
        },
    )
    n_sigma: Annotated[float, Interval(ge=2, le=20)] = field(
        default=5.5,
        metadata={"unit": "sigma", "meaning": "pixels further than this from the mean are outliers"},
    )
    clip_passes: Annotated[int, Interval(ge=1, le=10)] = field(
        default=3,
        metadata={"unit": "1", "meaning": "passes of the clip; the first one uses median and quartiles"},
    )
    edge: Annotated[int, Interval(ge=0, le=1000)] = field(
        default=20,
        metadata={
            "unit": "pixels",
            "meaning": "frame left out on each side of an amplifier, where pixels differ in size and field",
        },
    )
    min_pixels: Annotated[int, Interval(ge=2)] = field(
        default=10_000,
        metadata={"unit": "pixels", "meaning": "a point from fewer pixels is flagged TOO_FEW_PIXELS"},
    )
    max_flux_mismatch: Annotated[float, Interval(gt=0, le=1)] = field(
        default=0.02,
        metadata={
            "unit": "1",
            "meaning": "relative difference of the two means above which a point is flagged FLUX_MISMATCH",
        },
    )
    min_signal: Annotated[float, Interval(ge=0, le=100)] = field(
        default=3.0,
        metadata={
            "unit": "sigma",
            "meaning": "an exposure below this many sigmas of one pixel's noise is flagged NO_SIGNAL",
        },
    )
    gaussianity_factor: Annotated[float, Interval(gt=0, le=100)] = field(
        default=1.2,
        metadata={
            "unit": "1",
            "meaning": "a point is flagged NOT_GAUSSIAN above this / sqrt(pixels) + gaussianity_floor",
        },
    )
    gaussianity_floor: Annotated[float, Interval(ge=0, le=1)] = field(
        default=0.003,
        metadata={
            "unit": "1",
            "meaning": "distance from a Gaussian that is let pass at any number of pixels: an illumination "
            "that varies by a factor of two across the point makes 0.0025",
        },
    )
    tiles: bool = field(
        default=False,
        metadata={
            "unit": "1",
            "meaning": "measure in tiles, grouped by signal: many points from one unevenly lit pair",
        },
    )
    tile_size: Annotated[int, Interval(ge=16, le=4096)] = field(
        default=64, metadata={"unit": "pixels", "meaning": "side of a tile"}
    )
    tile_signal_span: Annotated[float, Interval(gt=0, le=10)] = field(
        default=0.05,
        metadata={"unit": "1", "meaning": "tiles within one point differ in signal by this part at most"},
    )
    max_tile_groups: Annotated[int, Interval(ge=1, le=1000)] = field(
        default=40,
        metadata={
            "unit": "1",
            "meaning": "most points per amplifier and pair; 40 keep the record of 16 amplifiers below 1 MB",
        },
    )
    min_tile_pixels: Annotated[int, Interval(ge=2)] = field(
        default=1_000,
        metadata={"unit": "pixels", "meaning": "in tile mode: instead of min_pixels"},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PointMeasurement:
    """One point of a Photon Transfer Curve, measured on one pair. NaN where something could not be."""

    mean: float
    """mu, average of both exposures [ADU]."""
    mean_first: float
    """Mean of the first exposure [ADU]."""
    mean_second: float
    """Mean of the second exposure [ADU]."""
    variance: float
    """Half the clipped variance of the difference, corrected for the clip [ADU^2]."""
    covariances: NDArray[np.float64]
    """C_ij, [R, R], index [i, j] = [x lag, y lag], corrected for the clip [ADU^2]."""
    pixel_count: NDArray[np.int64]
    """Pixel pairs behind each C_ij, [R, R]."""
    pixels_used: int
    """Pixels that count: those that are usable and no outliers of the difference."""
    row_mean_variance: float
    """Variance of the row means of the difference [ADU^2]; white noise gives 2 C_00 / (pixels per row)."""
    gaussianity: float
    """Kolmogorov-Smirnov distance of I1 - I2 from a Gaussian; see `difference.gaussianity`."""
    gain_estimate: float
    """mu / (C_00 - noise), the gain from this pair alone, brighter-fatter effect not corrected [e-/ADU]."""
    flags: tuple[PointFlag, ...]
    """What is wrong with the point, in the order of `PointFlag`."""
