"""Read the points of a PhotonTransferCurveDataset, ours or the LSST batch code's, as covariance records.

What the batch code decided (its mask, gain, turnoff) is left aside: the records can be fitted, plotted and
written by the same code as our own measurements.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from ptc_stream.errors import ConfigurationError
from ptc_stream.physics.points import MeasuringConfig, PointFlag
from ptc_stream.records import (
    AmplifierCovariances,
    CovariancePoint,
    ExposureReference,
    Matrix,
    PairCovariances,
)

__all__ = ["is_fits", "read_lsst_ptc"]

FloatArray = NDArray[np.float64]

_NEEDED = ("AMPLIFIER_NAME", "RAW_MEANS", "RAW_VARS")
# A p-value below which the batch code does not use a point, and we neither.
_LEAST_PROBABILITY = 0.01
# Pixels behind a point of a file that does not say: half an LSST amplifier.
_UNKNOWN_PIXELS = 500_000


def is_fits(path: str | os.PathLike[str]) -> bool:
    """Return whether the name of a file says that it is FITS, compressed or not."""
    name = Path(path).name.lower()
    return name.removesuffix(".gz").removesuffix(".fz").endswith((".fits", ".fit"))


def read_lsst_ptc(
    path: str | os.PathLike[str], measuring: MeasuringConfig | None = None
) -> list[PairCovariances]:
    """Read the points of every amplifier of a detector.

    Parameters
    ----------
    path
        A FITS file of the layout of `ptc_stream.export.lsst_layout`, of any version: only
        ``AMPLIFIER_NAME``, ``RAW_MEANS`` and ``RAW_VARS`` are needed, the rest is taken where it is there.
    measuring
        Limits for the flags of the points.

    Returns
    -------
    list of PairCovariances
        One per pair of exposures, in the order of the file. Padding (points without mean and variance) is
        left out. Pixel counts follow from the weights, npix = (weight * C_00)^2. Flags are those that a
        measurement would give, NOT_GAUSSIAN as the batch code has it (p < 0.01).

    Raises
    ------
    ConfigurationError
        There is no such file, it is not FITS, or it is not such a table (what is missing is named).
    """
    source = Path(path)
    try:
        with warnings.catch_warnings():
            # Half a file is no file.
            warnings.filterwarnings("error", message=".*truncated", category=AstropyUserWarning)
            with fits.open(source, memmap=False) as units:
                table, header = _table(source, units)
    except OSError as error:
        raise ConfigurationError(f"cannot read {source}: {error.strerror or error}") from error
    except (AstropyUserWarning, ValueError, TypeError, KeyError, IndexError) as error:
        # What astropy says of a damaged header or table.
        raise ConfigurationError(f"cannot read {source}: {error}") from error
    detector = str(header.get("DET_NAME") or header.get("DETECTOR", "") or source.stem)
    pairs = _pair_keys(table)
    # (pair, amplifier) -> its points. By index first, so that pairs keep the order of the file.
    points: dict[tuple[tuple[int, int], str], list[CovariancePoint]] = {}
    details: dict[tuple[tuple[int, int], str], tuple[float | None, float | None]] = {}
    references: dict[tuple[int, int], tuple[ExposureReference, ExposureReference]] = {}
    amplifiers = [
        _Amplifier(table, row, measuring or MeasuringConfig()) for row in range(len(table["AMPLIFIER_NAME"]))
    ]
    for index in range(_width(table["RAW_MEANS"])):
        for amplifier, name, own in zip(amplifiers, table["AMPLIFIER_NAME"], pairs, strict=True):
            pair = own[index]
            if math.isnan(amplifier.mean[index]) and math.isnan(amplifier.variance[index]):
                continue
            references.setdefault(pair, amplifier.references(index, pair))
            points.setdefault((pair, name), []).append(amplifier.point(index))
            details.setdefault((pair, name), amplifier.noise_and_level(index))
    if not points:
        raise ConfigurationError(f"{source} holds no points")
    return [
        PairCovariances(
            instrument=str(header.get("INSTRUME", "")),
            run=str(header.get("RUN") or source.stem),
            detector=detector,
            pair_id=f"pair-{number:06d}",
            first=first,
            second=second,
            filter=str(header.get("FILTER", "")),
            measuring_digest="lsst_ptc",
            amplifiers=tuple(
                AmplifierCovariances(
                    name=name,
                    points=tuple(points[pair, name]),
                    read_noise=details[pair, name][0],
                    overscan_level=details[pair, name][1],
                )
                for name in table["AMPLIFIER_NAME"]
                if (pair, name) in points
            ),
        )
        for number, (pair, (first, second)) in enumerate(references.items())
    ]


def _table(source: Path, units: Sequence[Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return the columns of the first table, in native byte order, and its header."""
    for unit in units:
        if isinstance(unit, fits.BinTableHDU):
            names = {name.upper(): name for name in unit.columns.names}
            missing = [name for name in _NEEDED if name not in names]
            if missing:
                raise ConfigurationError(
                    f"{source}: no column {' and no column '.join(missing)}: "
                    "it is no PhotonTransferCurveDataset of LSST"
                )
            columns = {upper: np.asarray(unit.data[name]) for upper, name in names.items()}
            return columns | {
                "AMPLIFIER_NAME": [str(name).strip() for name in columns["AMPLIFIER_NAME"]]
            }, unit.header
    raise ConfigurationError(f"{source} holds no table: it is no PhotonTransferCurveDataset of LSST")


def _pair_keys(table: Mapping[str, Any]) -> list[list[tuple[int, int]]]:
    """Return for every amplifier and point the numbers of its exposures, else its index."""
    rows, points = len(table["AMPLIFIER_NAME"]), _width(table["RAW_MEANS"])
    by_index = [[(-1 - index, -1 - index) for index in range(points)]] * rows
    if "INPUT_EXP_ID_PAIRS" not in table:
        return by_index
    numbers = np.asarray(table["INPUT_EXP_ID_PAIRS"], dtype=np.int64).reshape(rows, -1, 2)
    if numbers.shape[1] != points or np.all(numbers <= 0):
        return by_index
    return [[(int(first), int(second)) for first, second in row] for row in numbers]


def _width(column: NDArray[Any]) -> int:
    return int(np.prod(column.shape[1:], dtype=np.int64))


class _Amplifier:
    """One row of the table."""

    def __init__(self, table: Mapping[str, Any], row: int, measuring: MeasuringConfig) -> None:
        self._measuring = measuring
        self._row = {
            name: np.asarray(column[row], dtype=np.float64).ravel()
            for name, column in table.items()
            if isinstance(column, np.ndarray) and column.dtype.kind in "fiub"
        }
        self.mean, self.variance = self._row["RAW_MEANS"], self._row["RAW_VARS"]
        size = self.mean.size
        covariances = self._row.get("COVARIANCES", np.zeros(0))
        lags = math.isqrt(covariances.size // size) if size else 0
        if lags and covariances.size == size * lags**2:
            self._covariances = covariances.reshape(size, lags, lags)
        else:
            self._covariances = self.variance.reshape(size, 1, 1)
        self._counts = self._pixel_counts()

    def _pixel_counts(self) -> NDArray[np.int64]:
        """Return the pixels behind every C_ij: var(C_ij) = C_00^2 / npix_ij, doubled at (0, 0)."""
        covariances = self._covariances
        weights = self._row.get("COVARIANCES_SQRT_WEIGHTS", np.zeros(0))
        if weights.size != covariances.size:
            given = int(self._row.get("NPIXEL_COVARIANCES", np.zeros(1))[0])
            return np.full(covariances.shape, given if given > 0 else _UNKNOWN_PIXELS, dtype=np.int64)
        counts = (weights.reshape(covariances.shape) * covariances[:, :1, :1]) ** 2
        counts[:, 0, 0] *= 2.0
        return np.rint(np.where(np.isfinite(counts), counts, 0.0)).astype(np.int64)

    def _value(self, name: str, index: int) -> float:
        values = self._row.get(name)
        return float(values[index]) if values is not None and index < values.size else math.nan

    def _known(self, name: str, index: int) -> float | None:
        value = self._value(name, index)
        return value if math.isfinite(value) else None

    def references(self, index: int, pair: tuple[int, int]) -> tuple[ExposureReference, ExposureReference]:
        """Return both exposures; the file knows the time of one, and of the dose mean and difference."""
        charge, delta = self._known("PHOTO_CHARGE", index), self._known("PHOTO_CHARGE_DELTAS", index) or 0.0
        first, second = (
            ExposureReference(
                exposure=str(number) if number >= 0 else f"point {-1 - number}",
                uri="",
                content_tag="",
                exposure_time=self._known("RAW_EXP_TIMES", index),
                observation_mjd=self._known("INPUT_EXP_PAIR_MJD_START", index),
                lamp_dose=None if charge is None else charge + sign * delta / 2,
            )
            for number, sign in zip(pair, (-1, 1), strict=True)
        )
        return first, second

    def noise_and_level(self, index: int) -> tuple[float | None, float | None]:
        """Return read noise and overscan level of one point [ADU]."""
        return self._known("NOISE_LIST", index), self._known("OVERSCAN_MEDIAN_LIST", index)

    def point(self, index: int) -> CovariancePoint:
        """Return one point as a record."""
        mean = float(self.mean[index])
        delta = self._value("RAW_DELTAS", index)
        half = delta / 2 if math.isfinite(delta) else 0.0
        counts = self._counts[index]
        return CovariancePoint(
            mean=mean,
            mean_first=mean - half,
            mean_second=mean + half,
            variance=float(self.variance[index]),
            covariances=_as_matrix(self._covariances[index]),
            pixel_count=tuple(tuple(line) for line in counts.tolist()),
            pixels_used=int(counts[0, 0]),
            row_mean_variance=self._value("ROW_MEAN_VARIANCE", index),
            gaussianity=math.nan,
            gain_estimate=self._value("GAIN_LIST", index),
            flags=tuple(self._flags(index, mean, half)),
        )

    def _flags(self, index: int, mean: float, half: float) -> Iterator[PointFlag]:
        """Yield what is wrong with a point, by the rules of `ptc_stream.physics.measuring`."""
        limits, variance = self._measuring, float(self.variance[index])
        noise = self._known("NOISE_LIST", index)
        if noise is None and variance > 0:
            noise = math.sqrt(variance)
        floor = limits.min_signal * (noise or 0.0)
        if 2 * abs(half) > limits.max_flux_mismatch * mean and mean > floor:
            yield PointFlag.FLUX_MISMATCH
        if mean - abs(half) <= floor:
            yield PointFlag.NO_SIGNAL
        if self._counts[index, 0, 0] < limits.min_pixels:
            yield PointFlag.TOO_FEW_PIXELS
        if not (math.isfinite(mean) and math.isfinite(variance)):
            yield PointFlag.NOT_FINITE
        if self._value("KS_PVALUES", index) < _LEAST_PROBABILITY:
            yield PointFlag.NOT_GAUSSIAN


def _as_matrix(values: FloatArray) -> Matrix:
    return tuple(tuple(line) for line in values.tolist())
