"""Write the results of a detector as the LSST stack's PhotonTransferCurveDataset, FITS version 2.6.

Users of the field's batch code load the file with their own reader. What it cannot hold (reasons, turnoff
intervals, floors, errors of matrices) stands in the ECSV tables; what we do not measure is NaN in it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.curve import AmplifierCurve, live_pairs, model_covariances, model_variance
from ptc_stream.export.lsst_layout import (
    CALIBRATION_CLASS,
    COLUMNS,
    OBSERVATION_TYPE,
    SCHEMA,
    VERSION,
    ColumnLayout,
    exposure_numbers,
    lsst_detector_number,
)
from ptc_stream.export.notation import file_name
from ptc_stream.export.results import RunResult
from ptc_stream.physics.models import FitModel
from ptc_stream.physics.points import PointFlag
from ptc_stream.records import (
    AmplifierCovariances,
    AmplifierFitResult,
    CovariancePoint,
    Matrix,
    PairCovariances,
    PtcFit,
)

__all__ = ["save_lsst_ptcs", "write_lsst_ptc"]

FloatArray = NDArray[np.float64]

_FULL_MODELS = frozenset({FitModel.FULLCOVARIANCE, FitModel.FULLCOVARIANCE_NO_B})
_NOT_GAUSSIAN = PointFlag.NOT_GAUSSIAN.value
_MAD_TO_SIGMA = 1.482602218505602


def write_lsst_ptc(
    result: RunResult, detector: str | None, path: str | Path, *, detector_number: int | None = None
) -> Path:
    """Write fit and points of one detector as a PhotonTransferCurveDataset.

    Parameters
    ----------
    result
        The run, with its covariances: without them the file holds results but no points.
    detector
        Which; the first by default.
    path
        The FITS file; missing directories are made, an older file is replaced.
    detector_number
        Header key DETECTOR, which the batch code's plots need. Known for LSSTCam; else left out.

    Returns
    -------
    Path
        The file. The same result gives the same bytes.

    Raises
    ------
    ConfigurationError
        There is no such detector, a name in it cannot be written in FITS (ASCII only), or the file cannot be
        written.
    InvalidRecord
        The covariances of `result` are not those that the fit was made of.
    """
    fit = result.fit(detector)
    content = _Content(
        fit, result.curves(fit.detector), live_pairs(fit, result.covariances.get(fit.detector, ()))
    )
    target = Path(path)
    table = fits.BinTableHDU.from_columns([_column(spec, content) for spec in COLUMNS])
    for number, spec in enumerate(COLUMNS, start=1):
        table.header[f"TCOMM{number}"] = spec.meaning
    _write_header(table.header, content, detector_number)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(target, overwrite=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def save_lsst_ptcs(result: RunResult, directory: str | Path) -> list[Path]:
    """Write ``ptc_DETECTOR.fits`` for every detector of a run; see `write_lsst_ptc`."""
    return [
        write_lsst_ptc(result, detector, Path(directory) / f"ptc_{file_name(detector)}.fits")
        for detector in result.detectors
    ]


@dataclasses.dataclass(frozen=True)
class _Slot:
    """One of the N points of the table: the k-th point that a pair gives for each amplifier."""

    pair: PairCovariances
    points: Mapping[str, CovariancePoint]
    amplifiers: Mapping[str, AmplifierCovariances]

    @property
    def mean(self) -> float:
        """Mean signal, averaged over the amplifiers [ADU]: the batch code's order of points."""
        finite = [point.mean for point in self.points.values() if math.isfinite(point.mean)]
        return math.fsum(finite) / len(finite) if finite else math.nan


@dataclasses.dataclass(frozen=True)
class _Content:
    """A detector's results and points in the order of the table."""

    fit: PtcFit
    curves: Mapping[str, AmplifierCurve]
    pairs: Sequence[PairCovariances]

    @cached_property
    def slots(self) -> tuple[_Slot, ...]:
        slots: list[_Slot] = []
        for pair in self.pairs:
            amplifiers = {amplifier.name: amplifier for amplifier in pair.amplifiers}
            for k in range(max((len(amplifier.points) for amplifier in pair.amplifiers), default=0)):
                points = {
                    name: amplifier.points[k]
                    for name, amplifier in amplifiers.items()
                    if k < len(amplifier.points)
                }
                slots.append(_Slot(pair, points, amplifiers))
        order = np.argsort(np.array([slot.mean for slot in slots]), kind="stable").tolist()
        return tuple(slots[index] for index in order)

    @cached_property
    def lags(self) -> int:
        """R, at least 1: the layout has no tables without lags."""
        return (
            max((len(point.covariances) for slot in self.slots for point in slot.points.values()), default=0)
            or 1
        )

    @cached_property
    def fitted_lags(self) -> int:
        """F: the largest matrix of any amplifier, R if the model has none."""
        return max((len(result.a_matrix or ()) for result in self.fit.amplifiers), default=0) or self.lags

    @cached_property
    def names(self) -> list[str]:
        return [result.name for result in self.fit.amplifiers]

    @cached_property
    def bad_amplifiers(self) -> list[str]:
        return [result.name for result in self.fit.amplifiers if not math.isfinite(result.gain)]

    @cached_property
    def parameters(self) -> int:
        """Size of PTC_FIT_PARS: that of the model; the full models have one NaN, by definition."""
        if self.fit.model in _FULL_MODELS:
            return 1
        return max((len(result.parameters) for result in self.fit.amplifiers), default=0) or 1

    @cached_property
    def exposures(self) -> tuple[str, NDArray[np.int64]]:
        names = [e.exposure for slot in self.slots for e in (slot.pair.first, slot.pair.second)]
        identities, numbers = exposure_numbers(names)
        return identities, numbers

    @cached_property
    def rows(self) -> list[dict[str, object]]:
        """The values of each amplifier by column."""
        return [
            _row(self, result, _used(self.curves[result.name], self.slots, result.name))
            for result in self.fit.amplifiers
        ]

    def elements(self, spec: ColumnLayout) -> int:
        """Return how many elements a row of a column has."""
        points, lags, fitted = len(self.slots), self.lags, self.fitted_lags
        return {
            "": 1,
            "N": points,
            "2N": 2 * points,
            "NRR": points * lags**2,
            "NFF": points * fitted**2,
            "FF": fitted**2,
            "P": self.parameters,
            "B": len(self.bad_amplifiers),
        }[spec.shape]


def _used(curve: AmplifierCurve, slots: Sequence[_Slot], name: str) -> NDArray[np.bool_]:
    # A curve holds the very points of the records, sorted by this amplifier's own means.
    used = {id(point) for point, reason in zip(curve.points, curve.reasons, strict=True) if not reason}
    return np.array([id(slot.points.get(name)) in used for slot in slots], dtype=np.bool_)


def _row(content: _Content, result: AmplifierFitResult, used: NDArray[np.bool_]) -> dict[str, object]:
    fit, slots, name = content.fit, content.slots, result.name

    def of_points(attribute: str) -> FloatArray:
        values = [
            getattr(slot.points[name], attribute) if name in slot.points else math.nan for slot in slots
        ]
        return np.array(values, dtype=np.float64)

    def of_amplifier(attribute: str) -> FloatArray:
        return np.array(
            [
                getattr(slot.amplifiers[name], attribute) if name in slot.amplifiers else None
                for slot in slots
            ],
            dtype=np.float64,
        )

    def of_exposures(attribute: str) -> FloatArray:
        return np.array(
            [(getattr(slot.pair.first, attribute), getattr(slot.pair.second, attribute)) for slot in slots],
            dtype=np.float64,
        ).reshape(-1, 2)

    nothing = np.full(len(slots), math.nan)
    mean, variance = of_points("mean"), of_points("variance")
    overscan = of_amplifier("overscan_level")
    doses, starts = of_exposures("lamp_dose"), of_exposures("observation_mjd")
    covariances, counts = _matrices(content, name)
    model = model_variance(fit.model, result, mean)
    fitted, full = content.fitted_lags, fit.model in _FULL_MODELS
    turnoff = result.turnoff_last_used
    # The batch code leaves out points of p < 0.01. Our test has a distance and a limit, and so a verdict.
    gaussian = [name in slot.points and _NOT_GAUSSIAN not in slot.points[name].flags for slot in slots]
    level, level_sigma = _median_and_sigma(overscan[used])
    return {
        "AMPLIFIER_NAME": name,
        "PTC_FIT_TYPE": fit.model,
        "COV_MATRIX_SIDE": content.lags,
        "COV_MATRIX_SIDE_FULL_COV_FIT": fitted,
        "INPUT_EXP_ID_PAIRS": content.exposures[1],
        "INPUT_EXP_PAIR_MJD_START": np.fmin(starts[:, 0], starts[:, 1]),
        "EXP_ID_MASK": used,
        "EXP_ID_ROLLOFF_MASK": np.zeros(len(slots), dtype=np.bool_),
        "RAW_EXP_TIMES": of_exposures("exposure_time")[:, 0],
        "RAW_MEANS": mean,
        "RAW_VARS": variance,
        "RAW_DELTAS": of_points("mean_second") - of_points("mean_first"),
        "ROW_MEAN_VARIANCE": of_points("row_mean_variance"),
        "GAIN": result.gain,
        "GAIN_ERR": result.gain_error,
        "GAIN_UNADJUSTED": result.gain,
        "GAIN_LIST": of_points("gain_estimate"),
        "OVERSCAN_MEDIAN_LIST": overscan,
        "OVERSCAN_MEDIAN": level,
        "OVERSCAN_MEDIAN_SIGMA": level_sigma,
        "NOISE_LIST": of_amplifier("read_noise"),
        "NOISE": result.read_noise,
        "NOISE_ERR": result.read_noise_error,
        "HIST_VARS": nothing,
        "HIST_CHI2_DOFS": nothing,
        "KS_PVALUES": np.where(np.isfinite(of_points("gaussianity")), gaussian, math.nan),
        "PTC_FIT_PARS": _padded(() if full else result.parameters, content.parameters),
        "PTC_FIT_PARS_ERROR": _padded(_parameter_errors(fit.model, result), content.parameters),
        "PTC_FIT_CHI_SQ": result.chi2_per_dof,
        "PTC_TURNOFF": turnoff,
        "PTC_TURNOFF_SAMPLING_ERROR": _sampling_error(mean, turnoff),
        "PTC_ROLLOFF": math.nan,
        "PTC_ROLLOFF_ERROR": math.nan,
        "PTC_ROLLOFF_TAU": math.nan,
        "PTC_ROLLOFF_TAU_ERROR": math.nan,
        "NPIXEL_COVARIANCES": _median_count(counts[:, 0, 0]),
        "COVARIANCES": covariances,
        "COVARIANCES_SQRT_WEIGHTS": _sqrt_weights(covariances, counts),
        "COVARIANCES_MODEL": _square(model_covariances(result, mean), (len(slots), fitted, fitted)),
        "A_MATRIX": _square(result.a_matrix, (fitted, fitted)),
        "B_MATRIX": _square(_b_matrix(fit.model, result), (fitted, fitted)),
        "NOISE_MATRIX": _square(result.noise_matrix, (fitted, fitted)),
        "FINAL_VARS": np.where(used, variance, math.nan),
        "FINAL_MODEL_VARS": nothing if model is None else np.where(used, model, math.nan),
        "FINAL_MEANS": np.where(used, mean, math.nan),
        "PHOTO_CHARGE": doses.mean(axis=1),
        "PHOTO_CHARGE_DELTAS": doses[:, 1] - doses[:, 0],
        "AMP_OFFSETS": nothing,
        "BAD_AMPS": content.bad_amplifiers,
    }


def _matrices(content: _Content, name: str) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return C_ij [ADU^2] and pixel counts of one amplifier, (N, R, R); NaN and 0 where there is nothing."""
    shape = (len(content.slots), content.lags, content.lags)
    covariances, counts = np.full(shape, math.nan), np.zeros(shape, dtype=np.int64)
    for index, slot in enumerate(content.slots):
        point = slot.points.get(name)
        if point is not None and point.covariances:
            size = len(point.covariances)
            covariances[index, :size, :size] = point.covariances
            counts[index, :size, :size] = point.pixel_count
    return covariances, counts


def _sqrt_weights(covariances: FloatArray, counts: NDArray[np.int64]) -> FloatArray:
    """Return 1 / error of C_ij: var(C_ij) = C_00^2 / npix_ij, doubled at (0, 0); 0 where it means nothing."""
    c00 = covariances[:, :1, :1]
    good = np.isfinite(covariances) & (c00 > 0) & (counts > 0)
    weights = np.zeros(covariances.shape)
    np.divide(np.sqrt(counts), c00, out=weights, where=good)
    weights[:, 0, 0] /= math.sqrt(2.0)
    return weights


def _median_count(counts: NDArray[np.int64]) -> int:
    return int(np.median(counts[counts > 0])) if (counts > 0).any() else 0


def _median_and_sigma(values: FloatArray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return math.nan, math.nan
    median = float(np.median(finite))
    return median, _MAD_TO_SIGMA * float(np.median(np.abs(finite - median)))


def _sampling_error(mean: FloatArray, turnoff: float) -> float:
    """Return half the distance between the neighbours of the last used point, as the batch code does."""
    ordered = np.sort(mean[np.isfinite(mean)])
    if not math.isfinite(turnoff) or ordered.size < 2:
        return math.nan
    below, above = ordered[ordered < turnoff], ordered[ordered > turnoff]
    if not below.size:
        return math.nan
    if not above.size:
        return turnoff - float(below[-1])
    return (float(above[0]) - float(below[-1])) / 2


def _parameter_errors(model: str, result: AmplifierFitResult) -> tuple[float, ...]:
    if model == FitModel.EXPAPPROXIMATION and result.parameters:
        # n is the square of the read noise; where it is negative there is no read noise and no error.
        return (result.a00_error, result.gain_error, 2 * result.read_noise * result.read_noise_error)
    return ()


def _b_matrix(model: str, result: AmplifierFitResult) -> Matrix | FloatArray | None:
    """Return b; the batch code has zeros where the model has none."""
    if model == FitModel.FULLCOVARIANCE_NO_B and result.a_matrix is not None:
        return np.zeros((len(result.a_matrix), len(result.a_matrix)))
    return result.b_matrix


def _square(values: Matrix | FloatArray | None, shape: tuple[int, ...]) -> FloatArray:
    """Pad the last two axes with NaN to `shape`: amplifiers may be fitted over fewer lags than others."""
    padded = np.full(shape, math.nan)
    if values is not None:
        array = np.array(values, dtype=np.float64)
        padded[..., : array.shape[-2], : array.shape[-1]] = array
    return padded


def _padded(values: Sequence[float], size: int) -> FloatArray:
    padded = np.full(size, math.nan)
    padded[: len(values)] = values
    return padded


_NUMPY_KIND = {"D": np.float64, "K": np.int64, "L": np.bool_}


def _column(spec: ColumnLayout, content: _Content) -> fits.Column:
    """Make a column of the right type and shape, whatever the number of amplifiers and points."""
    rows = [row[spec.name] for row in content.rows]
    size = content.elements(spec)
    per_row = {"": (), "2N": (size // 2, 2)}.get(spec.shape, (size,))
    array = np.array(rows) if spec.kind == "A" else np.array(rows, dtype=_NUMPY_KIND[spec.kind])
    width = 1
    if spec.kind == "A":
        # An empty list of names still needs a width, which that of the amplifiers' names is.
        array = _ascii(array if array.size else np.array(content.names))
        width = max(array.dtype.itemsize, 1)
        array = array if size else array[:0]
    # TDIM also for plain vectors: without it a reader takes a vector of one element for a number.
    axes = [*per_row, *([width] if spec.kind == "A" else [])][::-1]
    return fits.Column(
        name=spec.name,
        format=f"{size * width if spec.shape or spec.kind == 'A' else ''}{spec.kind}",
        dim=f"({','.join(map(str, axes))})" if per_row else None,
        unit=spec.unit or None,
        array=array.reshape(len(rows), *per_row),
    )


def _ascii(texts: NDArray[np.str_]) -> NDArray[np.bytes_]:
    try:
        return np.char.encode(texts.astype(np.str_), "ascii")
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"{str(error.object)!r} cannot be written in FITS, which knows ASCII only: rename it"
        ) from error


def _write_header(header: fits.Header, content: _Content, detector_number: int | None) -> None:
    fit = content.fit
    number = (
        lsst_detector_number(fit.instrument, fit.detector) if detector_number is None else detector_number
    )
    position = re.fullmatch(r"(R\d\d)_(S\w\w?)", fit.detector)
    starts = [
        exposure.observation_mjd
        for pair in content.pairs
        for exposure in (pair.first, pair.second)
        if exposure.observation_mjd is not None
    ]
    cards: list[tuple[str, str | int | float | None, str]] = [
        ("OBSTYPE", OBSERVATION_TYPE, "kind of calibration"),
        ("PTC_SCHEMA", SCHEMA, ""),
        ("PTC_VERSION", VERSION, ""),
        ("PTC_FIT_TYPE", fit.model, ""),
        ("CALIBCLS", CALIBRATION_CLASS, ""),
        ("INSTRUME", fit.instrument, "camera"),
        ("DETECTOR", number, "number of the detector"),
        ("DET_NAME", fit.detector, "name of the detector"),
        ("RAFTNAME", position[1] if position else None, ""),
        ("SLOTNAME", position[2] if position else None, ""),
        ("FILTER", "/".join(sorted({pair.filter for pair in content.pairs})), "filters of the flats"),
        ("RUN", fit.run, "run that the flats belong to"),
        ("EXPIDS", content.exposures[0], "numbers of exposures: LSST, INTEGER, HASH"),
        ("FITID", fit.fit_id, "identity of the fit"),
        ("NPAIRS", fit.pairs, "pairs in the fit"),
        ("MJD-BEG", min(starts, default=None), "start of the earliest exposure"),
        ("MJD-END", max(starts, default=None), "start of the latest exposure"),
    ]
    for key, value, comment in cards:
        if value is None:
            continue
        # FITS text is printable ASCII; what else a name holds is shown as a question mark.
        text = re.sub(r"[^ -~]", "?", value) if isinstance(value, str) else value
        header[key if len(key) <= 8 else f"HIERARCH {key}"] = (text, comment) if comment else text
