"""What is true of a simulated camera: the parameters of its amplifiers, and Eq. 20 evaluated from them.

This evaluation of Astier et al. 2019 (A&A 629 A36, arXiv:1905.08677), Eq. 20 shares no code with
`ptc_stream.physics`: it is what the measurements and fits are judged by.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum, unique
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from ptc_stream.errors import ConfigurationError

__all__ = ["AmplifierTruth", "Eq20", "Saturation", "Truth", "covariances_eq20"]

Float64Array: TypeAlias = NDArray[np.float64]

# Scales of saturation, in units of the turnoff: the mean flattens and the variance falls over the first,
# climbs again over the second, or dips at the third. With levels 30 % apart every behaviour lasts for two
# levels above turnoff and the level below is free of it. A quicker return to the model would look like an
# outlier; a slower one would not show before the brightest level, at twice the turnoff.
_SPILL = 0.08
_UPTURN = 0.8
_DIP_AT = 0.25
_DIP_DEPTH = 0.45


@unique
class Saturation(StrEnum):
    """What the variance does above turnoff."""

    DROP = "drop"
    UPTURN = "upturn"
    DIP = "dip"

    def response(self, mean: NDArray[np.float32], turnoff: float) -> NDArray[np.float32]:
        """Mean signal that is read [ADU] where `mean` would be without saturation.

        Charge spills where the variance drops; it stays where the variance only dips.
        """
        if self is Saturation.DIP:
            return mean
        excess = np.maximum(mean / turnoff - 1.0, 0.0)
        return np.asarray(
            np.minimum(mean, turnoff) - turnoff * _SPILL * np.expm1(-excess / _SPILL), dtype=np.float32
        )

    def variance_factor(self, mean: NDArray[np.float32], turnoff: float) -> NDArray[np.float32]:
        """Shot noise variance that is left, as a fraction of Eq. 20, 1 at and below turnoff."""
        excess = np.maximum(mean / turnoff - 1.0, 0.0)
        if self is Saturation.DIP:
            depth = _DIP_DEPTH * excess / _DIP_AT * np.exp(1.0 - excess / _DIP_AT)
            return np.asarray(1.0 - depth, dtype=np.float32)
        factor = np.exp(-2.0 * excess / _SPILL)  # the square of the slope of `response`
        if self is Saturation.UPTURN:
            factor += np.square(excess / _UPTURN)
        return np.asarray(factor, dtype=np.float32)


def _quadrant_of_convolution(first: Float64Array, second: Float64Array) -> Float64Array:
    """Convolve two arrays that are mirrored into four quadrants; the quadrant of lags >= 0 of the result."""
    full: Float64Array = scipy.signal.convolve2d(_mirrored(first), _mirrored(second))
    centre = len(full) // 2
    quadrant: Float64Array = full[centre:, centre:]
    return quadrant


def _mirrored(quadrant: Float64Array) -> Float64Array:
    lags = np.abs(np.arange(1 - len(quadrant), len(quadrant)))
    full: Float64Array = quadrant[np.ix_(lags, lags)]
    return full


def _padded(quadrant: Float64Array, size: int) -> Float64Array:
    result = np.zeros((size, size))
    kept = min(size, len(quadrant))
    result[:kept, :kept] = quadrant[:kept, :kept]
    return result


class Eq20:
    """Eq. 20 of one amplifier, ready for many means.

    Parameters
    ----------
    gain
        [e-/ADU]
    a_matrix, b_matrix : (R, R)
        [1/e-]
    noise_matrix : (R, R)
        [e-^2]
    size
        Lags per axis of the result; default R. The products of a with itself reach to 3 (R - 1) + 1.
    """

    def __init__(
        self,
        gain: float,
        a_matrix: Float64Array,
        b_matrix: Float64Array,
        noise_matrix: Float64Array,
        size: int | None = None,
    ) -> None:
        lags = len(a_matrix) if size is None else size
        a, c = a_matrix, a_matrix * b_matrix
        aa = _quadrant_of_convolution(a, a)
        shot = np.zeros((lags, lags))
        shot[0, 0] = 1.0
        self._gain = gain
        # Eq. 20 as a polynomial in M = g mu: g^2 C = n + delta M + a M^2 + ...
        self._terms = (
            _padded(noise_matrix, lags),
            shot,
            _padded(a, lags),
            (2.0 / 3.0) * (_padded(aa, lags) + _padded(c, lags)),
            _padded(_quadrant_of_convolution(aa, a), lags) / 3.0
            + (5.0 / 6.0) * _padded(_quadrant_of_convolution(a, c), lags),
        )

    def covariances(self, mean: float) -> Float64Array:
        """C_ij [ADU^2] at `mean` [ADU]."""
        charge = self._gain * mean
        return np.asarray(
            sum(term * charge**power for power, term in enumerate(self._terms)) / self._gain**2,
            dtype=np.float64,
        )

    @overload
    def variance(self, mean: float) -> float: ...
    @overload
    def variance(self, mean: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def variance(self, mean: float | NDArray[np.float32]) -> float | NDArray[np.float32]:
        """C_00 [ADU^2] at each `mean` [ADU]."""
        # Coefficients of powers of mu itself, Horner: one pass over an image per power.
        result: Any = 0.0
        for power in range(len(self._terms) - 1, -1, -1):
            result = result * mean + float(self._terms[power][0, 0]) * self._gain ** (power - 2)
        return result  # type: ignore[no-any-return]  # a number or an array, as `mean` is


def covariances_eq20(
    mean: float,
    gain: float,
    a: Float64Array,
    b: Float64Array,
    noise: Float64Array,
    *,
    size: int | None = None,
) -> Float64Array:
    """Covariances of a flat pair by Eq. 20 of Astier et al. 2019.

    Parameters
    ----------
    mean
        Mean signal [ADU].
    gain
        [e-/ADU]
    a, b : (R, R)
        [1/e-], index [x lag, y lag].
    noise : (R, R)
        [e-^2]
    size
        Lags per axis of the result, default R.

    Returns
    -------
    ndarray, (size, size)
        C_ij [ADU^2], i = lag along x, j = lag along y.
    """
    return Eq20(gain, a, b, noise, size).covariances(mean)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AmplifierTruth:
    """The truth about one amplifier.

    Attributes
    ----------
    name
        Such as ``C10``; its extension in the file is ``Segment10``.
    gain
        [e-/ADU]
    read_noise
        [e-], the root of ``noise_matrix[0, 0]``.
    a_matrix, b_matrix : (R, R)
        [1/e-], index [x lag, y lag].
    noise_matrix : (R, R)
        [e-^2]
    turnoff
        Mean signal [ADU] above which the variance leaves Eq. 20.
    saturation
        What the variance does from there on.
    bias_level
        [ADU]
    dead
        Bias level and read noise only, whatever the light.
    weak_columns
        Columns of the imaging area, from 0 in the order of the raw frame, that see half of the light.
    hot_columns
        Columns that gather charge in the dark, too.
    """

    name: str
    gain: float
    read_noise: float
    a_matrix: Float64Array
    b_matrix: Float64Array
    noise_matrix: Float64Array
    turnoff: float
    saturation: Saturation
    bias_level: float
    dead: bool
    weak_columns: tuple[int, ...]
    hot_columns: tuple[int, ...]

    @functools.cached_property
    def eq20(self) -> Eq20:
        """Eq. 20 of this amplifier, with every lag that is not zero."""
        return Eq20(
            self.gain, self.a_matrix, self.b_matrix, self.noise_matrix, size=3 * (len(self.a_matrix) - 1) + 1
        )

    def covariances(self, mean: float, *, size: int | None = None) -> Float64Array:
        """C_ij [ADU^2] of a flat pair at `mean` [ADU] below turnoff, (size, size), default (R, R)."""
        return covariances_eq20(mean, self.gain, self.a_matrix, self.b_matrix, self.noise_matrix, size=size)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """The truth about a simulated run, as written to ``truth.json`` beside its files.

    Attributes
    ----------
    instrument, run
        As in the headers.
    seed
        Of the scenario.
    detectors
        For every detector its amplifiers by name, in the order of the file's extensions.
    """

    instrument: str
    run: str
    seed: int
    detectors: Mapping[str, Mapping[str, AmplifierTruth]]

    def to_json(self) -> str:
        """Write as JSON; units as in `AmplifierTruth`, matrices as lists of rows [i][j]."""
        return json.dumps(_jsonable(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Truth:
        """Read what `to_json` wrote.

        Raises
        ------
        ConfigurationError
            The text is not JSON or not the truth of a run.
        """
        try:
            document = json.loads(text)
            return cls(
                instrument=document["instrument"],
                run=document["run"],
                seed=document["seed"],
                detectors={
                    detector: {name: _amplifier_from(fields) for name, fields in amplifiers.items()}
                    for detector, amplifiers in document["detectors"].items()
                },
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"this is not the truth file of a simulated run: {error!r}") from error

    @classmethod
    def read(cls, path: Path) -> Truth:
        """Read a truth file.

        Raises
        ------
        ConfigurationError
            There is no such file, or it holds something else.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"cannot read the truth file {path}: {error.strerror}") from error


def _jsonable(value: object) -> Any:
    if isinstance(value, Truth | AmplifierTruth):
        return {field.name: _jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _amplifier_from(fields: Mapping[str, Any]) -> AmplifierTruth:
    matrices = {name: _matrix(fields[name]) for name in ("a_matrix", "b_matrix", "noise_matrix")}
    columns = {
        name: tuple(int(column) for column in fields[name]) for name in ("weak_columns", "hot_columns")
    }
    return AmplifierTruth(**{**fields, **matrices, **columns, "saturation": Saturation(fields["saturation"])})


def _matrix(rows: Sequence[Sequence[float]]) -> Float64Array:
    matrix = np.array(rows, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not math.isfinite(float(matrix.sum())):
        raise ValueError(f"a matrix of shape {matrix.shape} where a square one belongs")
    return matrix
