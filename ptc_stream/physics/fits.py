"""What goes into the fit of an amplifier and what comes out of it: points, settings, results.

The fit itself is `ptc_stream.physics.fitting`.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum, unique
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Interval

from ptc_stream.physics.models import FitModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ptc_stream.physics.selection import UnusedReason

__all__ = ["AmplifierFit", "FitConfig", "FitNote", "FitPoints", "FitStatus"]


@unique
class FitStatus(StrEnum):
    """What a fit is worth. With the first four of these the numbers may be used."""

    OK = "OK"
    """Everything was determined by the points."""

    NOISE_FIXED = "NOISE_FIXED"
    """The points span too little signal to tell the read noise; the measured one was used."""

    NEGATIVE_NOISE = "NEGATIVE_NOISE"
    """The curve meets zero signal below zero variance: gain and a00 stand, the read noise is NaN."""

    NO_ZERO_LEVEL = "NO_ZERO_LEVEL"
    """Neither overscan nor bias: gain and a00 are approximate (off by exp(2 a00 g B)), there is no noise."""

    NOT_ENOUGH_PAIRS = "NOT_ENOUGH_PAIRS"
    """Fewer points than the model has parameters, plus one."""

    NOT_CONVERGED = "NOT_CONVERGED"
    """No minimum within bounds."""

    UNDETERMINED = "UNDETERMINED"
    """The points tell the gain to no better than half of itself."""

    UNPHYSICAL = "UNPHYSICAL"
    """The points do not follow the curve of a sensor."""

    DEAD = "DEAD"
    """The amplifier gives no signal, or a variance that does not grow with it."""


@unique
class FitNote(StrEnum):
    """What else to know about a fit."""

    NOISE_FIXED = "NOISE_FIXED"
    """p0 was held at the measured read noise (also where the status says something else)."""

    A00_UNKNOWN = "A00_UNKNOWN"
    """The points span too little signal to tell a00: a straight line was fitted. The gain is the one at the
    signal of the points, larger than the true one by about -a00 g mu; its error allows for |a00| of 3e-6."""

    GAIN_APPROXIMATE = "GAIN_APPROXIMATE"
    """Without a zero level an unknown offset B remains in the signal."""

    SELECTION_UNSETTLED = "SELECTION_UNSETTLED"
    """Points at the edge of being outliers alternate; the last selection was taken."""

    B_NOT_FITTED = "B_NOT_FITTED"
    """FULLCOVARIANCE: too few points tell b; it was held at 0, as in FULLCOVARIANCE_NO_B."""

    RANGE_REDUCED = "RANGE_REDUCED"
    """Fewer lags were fitted than asked for: not measured or, with b, too noisy. Scatter in many a_ij adds up
    in the squares of Eq. 20, and would bias b and a00 by more than a tenth of their errors."""

    COVARIANCE_FLOOR = "COVARIANCE_FLOOR"
    """Lags other than (0, 0) scatter more than pixel counts explain; their errors were raised accordingly."""

    LONG_RANGE_KEPT = "LONG_RANGE_KEPT"
    """Too few large lags were measured to subtract the long-range covariances."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """Settings of a fit; all of them are part of its identity."""

    model: FitModel = dataclasses.field(
        default=FitModel.EXPAPPROXIMATION, metadata={"unit": "", "meaning": "model of the curve"}
    )
    polynomial_degree: Annotated[int, Interval(ge=2, le=3)] = dataclasses.field(
        default=3, metadata={"unit": "", "meaning": "degree of POLYNOMIAL"}
    )
    min_mean: Annotated[float, Ge(0.0)] = dataclasses.field(
        default=0.0, metadata={"unit": "ADU", "meaning": "smallest mean signal used, inclusive"}
    )
    max_mean: Annotated[float, Gt(0.0)] = dataclasses.field(
        default=1e6, metadata={"unit": "ADU", "meaning": "largest mean signal used, inclusive"}
    )
    weights: Literal["model", "measured"] = dataclasses.field(
        default="model",
        metadata={
            "unit": "",
            "meaning": "variance behind the weights; `measured` is the (biased) way of the batch code",
        },
    )
    floor: bool = dataclasses.field(
        default=True,
        metadata={
            "unit": "",
            "meaning": "add a relative error to C_00 such that chi2/dof is 1; off: sampling errors alone",
        },
    )
    turnoff_fraction: Annotated[float, Interval(ge=0.002, le=0.2)] = dataclasses.field(
        default=0.02,
        metadata={"unit": "1", "meaning": "a variance this far below the model is above the turnoff"},
    )
    outlier_sigma: Annotated[float, Interval(ge=3.0, le=100.0)] = dataclasses.field(
        default=5.0,
        metadata={"unit": "sigma", "meaning": "points farther from the curve than this are not used"},
    )
    full_range: Annotated[int, Interval(ge=1, le=16)] = dataclasses.field(
        default=8,
        metadata={
            "unit": "pixels",
            "meaning": "FULLCOVARIANCE: fitted lags per axis, 0 .. full_range - 1; as many as were measured "
            "where that is less",
        },
    )
    subtract_long_range: bool = dataclasses.field(
        default=False,
        metadata={
            "unit": "",
            "meaning": "FULLCOVARIANCE: subtract a smooth surface through the covariances at large lags",
        },
    )
    long_range_start: Annotated[int, Interval(ge=1, le=63)] = dataclasses.field(
        default=4,
        metadata={"unit": "pixels", "meaning": "the surface is fitted to lags of at least this along x or y"},
    )
    long_range_degree: Annotated[int, Interval(ge=0, le=3)] = dataclasses.field(
        default=1, metadata={"unit": "", "meaning": "degree of the surface in each of the two lags"}
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitPoints:
    """All points of ONE amplifier.

    Attributes
    ----------
    mean
        (N,) float64 mean signals [ADU].
    variance
        (N,) float64 C_00 [ADU^2].
    pixel_count
        (N,) int64 pixels behind C_00.
    flags
        N sets of names of flags of the measurement.
    read_noise, read_noise_error
        Read noise measured on overscan or bias frames [ADU], None if unknown.
    zero_level
        False if there was neither overscan nor bias, so that an unknown offset remains in `mean`.
    covariances
        (N, R, R) float64 C_ij [ADU^2], NaN where not measured; None where nobody asks for FULLCOVARIANCE.
    lag_pixel_count
        (N, R, R) int64 pixel pairs behind each C_ij; goes with `covariances`.

    Raises
    ------
    ValueError
        The arrays differ in length or shape: a defect of the caller.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    pixel_count: NDArray[np.int64]
    flags: tuple[frozenset[str], ...]
    read_noise: float | None = None
    read_noise_error: float | None = None
    zero_level: bool = True
    covariances: NDArray[np.float64] | None = None
    lag_pixel_count: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        shapes = {
            np.shape(self.mean),
            np.shape(self.variance),
            np.shape(self.pixel_count),
            (len(self.flags),),
        }
        if len(shapes) != 1:
            raise ValueError(f"points of one amplifier differ in length: {sorted(shapes)}")
        shape = np.shape(self.covariances) if self.covariances is not None else None
        counts = np.shape(self.lag_pixel_count) if self.lag_pixel_count is not None else None
        if shape != counts or (
            shape is not None
            and not (len(shape) == 3 and shape[0] == len(self.flags) and shape[1] == shape[2] > 0)
        ):
            raise ValueError(
                f"covariances of {len(self.flags)} points must be (N, R, R), with as many pixel counts: "
                f"{shape} and {counts}"
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AmplifierFit:
    """Result for one amplifier. What is not determined is NaN.

    Attributes
    ----------
    model, status, notes
        What was fitted, what it is worth, what else to know (names of `FitNote`).
    gain, gain_error
        [e-/ADU].
    read_noise, read_noise_error
        [e-]. Never the root of a negative number: NaN then, with status NEGATIVE_NOISE.
    a00, a00_error
        [1/e-].
    parameters, parameter_names, parameter_covariance
        (K,), K names and (K, K): all parameters of the model, also where the status is not good.
        Errors here and above are such that 2 of them hold 95 % (`ptc_stream.physics.weights.error_scale`).
    turnoff, turnoff_error, turnoff_is_lower_limit, turnoff_low, turnoff_high
        [ADU]. Midpoint, width / sqrt(12) and ends of the interval between the last good and the first bad
        point; or the last good point, NaN, True, the last good point and NaN, where the run ends before.
    turnoff_last_used
        Mean of the highest used point [ADU], the convention of the field's batch code.
    chi2_per_dof
        With sampling errors alone, without the floor.
    dof
        Degrees of freedom.
    floor
        phi, relative error added to C_00 in quadrature.
    reasons
        Per point, in the order given: why it was not used, or None.
    a_matrix, a_matrix_error, b_matrix, b_matrix_error, noise_matrix, noise_matrix_error
        (R, R) a_ij [1/e-], b_ij [1/e-], n_ij [e-^2] and their errors, for the models that have them and
        where there are numbers; else None. R is the range that was fitted.
    """

    model: FitModel
    status: FitStatus
    notes: tuple[str, ...]
    gain: float
    gain_error: float
    read_noise: float
    read_noise_error: float
    a00: float
    a00_error: float
    parameters: NDArray[np.float64]
    parameter_names: tuple[str, ...]
    parameter_covariance: NDArray[np.float64]
    turnoff: float
    turnoff_error: float
    turnoff_is_lower_limit: bool
    turnoff_low: float
    turnoff_high: float
    turnoff_last_used: float
    chi2_per_dof: float
    dof: int
    floor: float
    reasons: tuple[UnusedReason | None, ...]
    a_matrix: NDArray[np.float64] | None = None
    a_matrix_error: NDArray[np.float64] | None = None
    b_matrix: NDArray[np.float64] | None = None
    b_matrix_error: NDArray[np.float64] | None = None
    noise_matrix: NDArray[np.float64] | None = None
    noise_matrix_error: NDArray[np.float64] | None = None
