"""Points of curves read from a table, to be fitted: what `tables.points_table` writes, and any like it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy import units
from astropy.io.ascii import InconsistentTableError
from astropy.table import Column, Table
from numpy.typing import ArrayLike, NDArray

from ptc_stream.errors import ConfigurationError

__all__ = ["TablePoints", "read_points_table"]

FloatArray = NDArray[np.float64]

_ADU = units.adu


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TablePoints:
    """The points of one amplifier as a table gave them, in the order of its rows.

    Attributes
    ----------
    detector, amplifier
        Where they are from; the detector is empty if the table does not say.
    mean
        Mean signal [ADU], shape (N,); NaN for an empty cell.
    variance
        Variance [ADU^2], shape (N,); NaN for an empty cell.
    pixel_count
        Pixels behind each variance [1], shape (N,); None if the table does not say.
    covariances
        C_ij [ADU^2], shape (N, R, R), first index x lag; None if the table has none.
    lag_pixel_count
        Pixel pairs behind each C_ij [1], shape (N, R, R); None if the table has none.
    """

    detector: str
    amplifier: str
    mean: FloatArray
    variance: FloatArray
    pixel_count: NDArray[np.int64] | None = None
    covariances: FloatArray | None = None
    lag_pixel_count: NDArray[np.int64] | None = None


_NEEDED = ("amplifier", "mean", "variance")


def read_points_table(path: str | Path) -> tuple[TablePoints, ...]:
    """Read points to fit from an ECSV or CSV file.

    Parameters
    ----------
    path
        A file with the columns ``amplifier``, ``mean`` [ADU] and ``variance`` [ADU^2] and, if it has them,
        ``detector``, ``pixel_count`` (a number, or one per lag) and ``covariances`` (R x R, first index x
        lag; in plain CSV a JSON list). Other columns are passed over. Lines that begin with # are comments.

    Returns
    -------
    tuple of TablePoints
        One per detector and amplifier, in order of first appearance.

    Raises
    ------
    ConfigurationError
        There is no such file, it is no table, it has no rows, a column is missing (named), or a column
        holds what is not a number, a matrix or in the right unit (named).
    """
    source = Path(path)
    table = _read_table(source)
    missing = [name for name in _NEEDED if name not in table.colnames]
    if missing:
        raise ConfigurationError(
            f"{source}: no column {' and no column '.join(missing)}; "
            f"the columns are: {', '.join(table.colnames)}"
        )
    if not len(table):
        raise ConfigurationError(f"{source}: the table has no rows")
    columns = _numeric_columns(source, table)
    detectors = _names(table, "detector") if "detector" in table.colnames else [""] * len(table)
    amplifiers = _names(table, "amplifier")
    if "" in amplifiers:
        raise ConfigurationError(f"{source}: column amplifier is empty in row {1 + amplifiers.index('')}")
    rows: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(detectors, amplifiers, strict=True)):
        rows.setdefault(key, []).append(row)
    return tuple(
        TablePoints(
            detector=detector,
            amplifier=amplifier,
            mean=columns.mean[own],
            variance=columns.variance[own],
            pixel_count=None if columns.pixel_count is None else columns.pixel_count[own],
            covariances=None if columns.covariances is None else columns.covariances[own],
            lag_pixel_count=None if columns.lag_pixel_count is None else columns.lag_pixel_count[own],
        )
        for (detector, amplifier), own in rows.items()
    )


def _read_table(source: Path) -> Table:
    try:
        text = source.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot read {source}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{source} is not a text file") from error
    options: Mapping[str, str] = (
        {"format": "ascii.ecsv"} if text.startswith("# %ECSV") else {"format": "ascii.csv", "comment": "#"}
    )
    if not text.strip():
        raise ConfigurationError(f"{source} is empty")
    try:
        return Table.read(text.splitlines(), guess=False, **options)
    except (InconsistentTableError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{source} is not a table: {' '.join(str(error).split())}") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Columns:
    mean: FloatArray
    variance: FloatArray
    pixel_count: NDArray[np.int64] | None
    covariances: FloatArray | None
    lag_pixel_count: NDArray[np.int64] | None


def _numeric_columns(source: Path, table: Table) -> _Columns:
    covariances = lag_counts = counts = None
    if "covariances" in table.colnames:
        covariances = _numbers(source, table["covariances"], _ADU**2, ndim=3)
    if "pixel_count" in table.colnames:
        ndim = 3 if _is_matrix(table["pixel_count"]) else 1
        floats = _numbers(source, table["pixel_count"], None, ndim=ndim)
        if not np.all(np.isfinite(floats) & (floats >= 0) & (floats == np.floor(floats))):
            raise ConfigurationError(f"{source}: column pixel_count holds what is not a number of pixels")
        counts = floats.astype(np.int64)
        if ndim == 3:
            lag_counts, counts = counts, counts[:, 0, 0]
    if covariances is not None and lag_counts is not None and lag_counts.shape != covariances.shape:
        raise ConfigurationError(
            f"{source}: covariances reach {covariances.shape[1]} lags, pixel_count {lag_counts.shape[1]}"
        )
    return _Columns(
        mean=_numbers(source, table["mean"], _ADU, ndim=1),
        variance=_numbers(source, table["variance"], _ADU**2, ndim=1),
        pixel_count=counts,
        covariances=covariances,
        lag_pixel_count=lag_counts,
    )


def _is_matrix(column: Column) -> bool:
    return column.ndim == 3 or (column.dtype.kind in "UO" and str(column[0]).lstrip().startswith("["))


def _names(table: Table, name: str) -> list[str]:
    return ["" if value is np.ma.masked else str(value) for value in table[name]]


def _numbers(source: Path, column: Column, unit: units.UnitBase | None, *, ndim: int) -> FloatArray:
    """Return a column as floats of shape (N,) or (N, R, R), in `unit`; an empty cell is NaN."""
    try:
        array = np.array([_cell(cell, ndim) for cell in column], dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{source}: column {column.name}: {error}") from error
    if array.ndim != ndim or (ndim == 3 and (array.shape[1] != array.shape[2] or not array.shape[1])):
        wanted = "a number" if ndim == 1 else "a square matrix, all of one size,"
        raise ConfigurationError(f"{source}: column {column.name} needs {wanted} in every row")
    return array * _factor(source, column, unit)


def _cell(cell: object, ndim: int) -> ArrayLike:
    if not isinstance(cell, str):
        return np.asarray(np.ma.filled(np.ma.asarray(cell, dtype=np.float64), np.nan))
    if ndim == 1:
        return float(cell) if cell.strip() else math.nan
    try:
        return np.array(json.loads(cell), dtype=np.float64)
    except json.JSONDecodeError as error:
        raise ValueError(f"{cell[:40]!r} is no matrix in JSON") from error


def _factor(source: Path, column: Column, unit: units.UnitBase | None) -> float:
    """Return what turns the unit of `column` into `unit`; DN is another name of ADU."""
    if column.unit is None or unit is None:
        return 1.0
    try:
        return float(column.unit.to(unit, equivalencies=[(units.DN, _ADU), (units.DN**2, _ADU**2)]))
    except units.UnitConversionError as error:
        raise ConfigurationError(
            f"{source}: column {column.name} is in {column.unit}, not in {unit}"
        ) from error
