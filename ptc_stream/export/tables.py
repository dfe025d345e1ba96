"""Results and points as astropy tables and files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from astropy import units
from astropy.io.misc import yaml
from astropy.table import Column, Table, vstack
from numpy.typing import NDArray

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.curve import AmplifierCurve
from ptc_stream.export.notation import NOT_KNOWN, with_error
from ptc_stream.records import AmplifierFitResult, PtcFit

__all__ = [
    "display_table",
    "fit_table",
    "gains_yaml",
    "points_table",
    "write_ecsv",
]

FloatArray = NDArray[np.float64]

_ADU = units.adu
_ELECTRON = units.electron


@dataclasses.dataclass(frozen=True, slots=True)
class _Column:
    name: str
    dtype: str
    unit: units.UnitBase | None
    description: str
    value: Callable[[PtcFit, AmplifierFitResult], object]


def _number(name: str, unit: units.UnitBase | None, description: str) -> _Column:
    return _Column(name, "f8", unit, description, lambda _, amplifier: getattr(amplifier, name))


def _count(name: str, description: str) -> _Column:
    return _Column(name, "i8", None, description, lambda _, amplifier: getattr(amplifier, name))


def _element(matrix: str, symbol: str, lag: tuple[int, int], unit: units.UnitBase) -> _Column:
    """Return one element of a matrix of coefficients; NaN where the model has none or fewer lags."""

    def value(_: PtcFit, amplifier: AmplifierFitResult) -> float:
        values = getattr(amplifier, matrix) or ()
        return float(values[lag[0]][lag[1]]) if len(values) > max(lag) else math.nan

    name = f"{symbol}{lag[0]}{lag[1]}"
    text = f"{symbol}_{lag[0]}{lag[1]}, first index lag along x (serial); full covariance models only"
    return _Column(name, "f8", unit, text, value)


def _line(name: str, unit: units.UnitBase | None, description: str) -> _Column:
    """Return one value of the linearity; NaN where there is none."""
    return _Column(
        f"linearity_{name}",
        "f8",
        unit,
        description,
        lambda _, amplifier: math.nan if amplifier.linearity is None else getattr(amplifier.linearity, name),
    )


_FIT_COLUMNS = (
    _Column("detector", "U", None, "Name of the detector", lambda fit, _: fit.detector),
    _Column("amplifier", "U", None, "Name of the amplifier", lambda _, amplifier: amplifier.name),
    _Column("model", "U", None, "Fit model", lambda fit, _: fit.model),
    _Column("status", "U", None, "OK, or why there is no full result", lambda _, amplifier: amplifier.status),
    _number("gain", _ELECTRON / _ADU, "Gain"),
    _number("gain_error", _ELECTRON / _ADU, "Standard error of the gain"),
    _number("read_noise", _ELECTRON, "Read noise from the fit"),
    _number("read_noise_error", _ELECTRON, "Standard error of the read noise"),
    _Column(
        "overscan_read_noise",
        "f8",
        _ELECTRON,
        "Read noise of the overscan or bias frames",
        lambda _, amplifier: (
            math.nan if amplifier.overscan_read_noise is None else amplifier.overscan_read_noise
        ),
    ),
    _number("a00", 1 / _ELECTRON, "Brighter-fatter coefficient a_00"),
    _number("a00_error", 1 / _ELECTRON, "Standard error of a_00"),
    _number("turnoff", _ADU, "Turnoff: middle of its interval, or the lower limit"),
    _number("turnoff_error", _ADU, "Width of the turnoff interval / sqrt(12)"),
    _Column(
        "turnoff_is_lower_limit",
        "?",
        None,
        "True: the run ends before a turnoff is certain",
        lambda _, amplifier: amplifier.turnoff_is_lower_limit,
    ),
    _number("turnoff_last_used", _ADU, "Mean of the last used point, the convention of the batch codes"),
    _number("chi2_per_dof", None, "Reduced chi-square without the floor"),
    _count("dof", "Degrees of freedom"),
    _number("floor", None, "Relative error added to C_00"),
    *(
        _element(name, symbol, lag, unit)
        for symbol, name, unit in (("a", "a_matrix", 1 / _ELECTRON), ("n", "noise_matrix", _ELECTRON**2))
        for lag in ((0, 1), (1, 0), (1, 1))
    ),
    _line("max_deviation", None, "Largest relative deviation from linearity"),
    _line("turnoff", _ADU, "Signal above which the response is not linear, or the last point"),
    _Column(
        "lamp_drift",
        "f8",
        None,
        "Root mean square of the relative difference of the two exposures of a pair",
        lambda _, amplifier: math.nan if amplifier.lamp_drift is None else amplifier.lamp_drift,
    ),
    _Column("pairs", "i8", None, "Pairs that the fit was offered", lambda fit, _: fit.pairs),
    _count("pairs_used", "Pairs with a point in the fit"),
    _count("points_used", "Points in the fit"),
    _Column(
        "points_not_used",
        "U",
        None,
        "Points left out, by reason",
        lambda _, amplifier: ", ".join(f"{unused.reason} {unused.count}" for unused in amplifier.unused),
    ),
    _Column(
        "notes", "U", None, "What to know about this fit", lambda _, amplifier: ", ".join(amplifier.notes)
    ),
)


def _column(
    name: str, values: Sequence[object], dtype: str, unit: units.UnitBase | None, text: str
) -> Column:
    return Column(np.array(values, dtype=dtype), name=name, unit=unit, description=text)


def fit_table(fits: Sequence[PtcFit], *, run: str) -> Table:
    """List the results, one row per amplifier.

    Parameters
    ----------
    fits
        One fit per detector.
    run
        Name of the run, for the header of the table.

    Returns
    -------
    astropy.table.Table
        With units and a description for every column; NaN where a value was not determined. ``meta`` holds
        the run, the instruments and the detectors whose history is incomplete.
    """
    rows = [(fit, amplifier) for fit in fits for amplifier in fit.amplifiers]
    table = Table(
        [
            _column(spec.name, [spec.value(*row) for row in rows], spec.dtype, spec.unit, spec.description)
            for spec in _FIT_COLUMNS
        ]
    )
    table.meta["run"] = run
    table.meta["instrument"] = ", ".join(sorted({fit.instrument for fit in fits}))
    table.meta["history_incomplete"] = [fit.detector for fit in fits if fit.history_incomplete]
    return table


def display_table(fits: Sequence[PtcFit]) -> Table:
    """List the results for the eye: text, values rounded to their errors.

    Parameters
    ----------
    fits
        One fit per detector.

    Returns
    -------
    astropy.table.Table
        One row of strings per amplifier, the units in the column names.
    """
    names = (
        "detector",
        "amplifier",
        "status",
        "gain [e-/ADU]",
        "read noise [e-]",
        "a00 [1e-6/e-]",
        "turnoff [ADU]",
        "chi2/dof",
        "pairs",
    )
    rows = [
        (
            fit.detector,
            amplifier.name,
            amplifier.status,
            with_error(amplifier.gain, amplifier.gain_error),
            with_error(amplifier.read_noise, amplifier.read_noise_error),
            with_error(amplifier.a00, amplifier.a00_error, scale=1e6),
            _turnoff_text(amplifier),
            f"{amplifier.chi2_per_dof:.3g}" if math.isfinite(amplifier.chi2_per_dof) else NOT_KNOWN,
            f"{amplifier.pairs_used} of {fit.pairs}",
        )
        for fit in fits
        for amplifier in fit.amplifiers
    ]
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return Table(
        [Column(np.array(values, dtype="U"), name=name) for name, values in zip(names, columns, strict=True)]
    )


def _turnoff_text(amplifier: AmplifierFitResult) -> str:
    if not math.isfinite(amplifier.turnoff):
        return NOT_KNOWN
    if amplifier.turnoff_is_lower_limit:
        return f"> {amplifier.turnoff:.0f}"
    return with_error(amplifier.turnoff, amplifier.turnoff_error)


def points_table(fit: PtcFit, curve: AmplifierCurve, *, lags: int = 0) -> Table:
    """List the points of one amplifier, sorted by mean signal.

    Parameters
    ----------
    fit
        The fit that the points belong to.
    curve
        Its points.
    lags
        Number R of lags in each direction to add the covariance matrices of; with 0 there are none, and
        ``pixel_count`` is that of C_00.

    Returns
    -------
    astropy.table.Table
        One row per point. With `lags`, ``covariances`` and ``pixel_count`` have shape (N, R, R), first index
        x lag; lags that a point does not reach hold NaN and 0.
    """
    points, pairs = curve.points, curve.pairs
    size = len(points)
    times = [(pair.first.exposure_time, pair.second.exposure_time) for pair in pairs]
    columns = [
        _column("detector", [fit.detector] * size, "U", None, "Name of the detector"),
        _column("amplifier", [curve.amplifier] * size, "U", None, "Name of the amplifier"),
        Column(curve.mean, name="mean", unit=_ADU, description="Mean signal, average of both exposures"),
        Column(
            curve.variance, name="variance", unit=_ADU**2, description="Half the variance of the difference"
        ),
        Column(curve.pixel_count, name="pixel_count", description="Pixels behind the variance"),
        _column("mean_first", [p.mean_first for p in points], "f8", _ADU, "Mean of the first exposure"),
        _column("mean_second", [p.mean_second for p in points], "f8", _ADU, "Mean of the second exposure"),
        _column(
            "exposure_time",
            [math.nan if None in both else sum(t for t in both if t is not None) / 2 for both in times],
            "f8",
            units.s,
            "Exposure time, average of both exposures",
        ),
        _column("exposure_first", [p.first.exposure for p in pairs], "U", None, "The earlier exposure"),
        _column("exposure_second", [p.second.exposure for p in pairs], "U", None, "The later exposure"),
        _column("used", curve.used.tolist(), "?", None, "True: the fit uses this point"),
        _column("reason", curve.reasons, "U", None, "Why the fit does not use it"),
        _column("flags", [" ".join(p.flags) for p in points], "U", None, "What is unusual about the point"),
        _column("pair_id", [p.pair_id for p in pairs], "U", None, "Identity of the pair"),
    ]
    table = Table(columns)
    if lags:
        grid = [(i, j) for i in range(lags) for j in range(lags)]
        count = np.stack([curve.lag_pixel_count(*lag) for lag in grid], axis=1).reshape(size, lags, lags)
        cov = np.stack([curve.covariance(*lag) for lag in grid], axis=1).reshape(size, lags, lags)
        table["pixel_count"] = Column(count, description="Pixel pairs behind each C_ij")
        table["covariances"] = Column(cov, unit=_ADU**2, description="C_ij, first index lag along x (serial)")
    table.meta.update(run=fit.run, instrument=fit.instrument, model=fit.model)
    return table


def write_ecsv(table: Table | Sequence[Table], path: str | Path) -> Path:
    """Write a table, or several of the same columns below each other, as ECSV.

    Parameters
    ----------
    table
        What to write.
    path
        The file; missing directories are made, an older file is replaced.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigurationError
        It cannot be written there, or there is no table.
    """
    target = Path(path)
    if not isinstance(table, Table):
        if not table:
            raise ConfigurationError(f"there is no table to write to {target}")
        table = vstack(list(table), metadata_conflicts="silent")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        table.write(target, format="ascii.ecsv", overwrite=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def gains_yaml(fits: Sequence[PtcFit], *, run: str) -> str:
    """Write the gains as YAML: run, unit, then detector, amplifier and gain.

    Parameters
    ----------
    fits
        One fit per detector.
    run
        Name of the run.

    Returns
    -------
    str
        The document; null where there is no gain.
    """

    def by_amplifier(quantity: str) -> dict[str, dict[str, float | None]]:
        return {
            fit.detector: {
                amplifier.name: _finite(getattr(amplifier, quantity)) for amplifier in fit.amplifiers
            }
            for fit in fits
        }

    document = {
        "run": run,
        "unit": "e-/ADU",
        "gain": by_amplifier("gain"),
        "gain_error": by_amplifier("gain_error"),
    }
    return str(yaml.dump(document, sort_keys=False))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
