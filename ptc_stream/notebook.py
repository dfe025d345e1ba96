"""The product in a notebook: list a run, pair, look at the parameters, measure, fit, read gains, plot.

The same cores as the stream, called directly. `open_store` follows a run that another process is working on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from astropy.table import Table

from ptc_stream.config import Settings, load_settings
from ptc_stream.core.effects import Compute
from ptc_stream.core.fit_job import FitJob, fit_pairs
from ptc_stream.core.fitting import PtcAggregator
from ptc_stream.core.measuring import MeasurePair
from ptc_stream.core.pairing import pair_exposures
from ptc_stream.errors import ConfigurationError, GeometryError
from ptc_stream.export.lsst_reading import is_fits, read_lsst_ptc
from ptc_stream.export.points_reading import TablePoints, read_points_table
from ptc_stream.export.results import RunResult
from ptc_stream.images.camera import load_camera
from ptc_stream.ingest.files import Catalogue, UnreadFile, find_files, read_catalogue
from ptc_stream.records import (
    AmplifierCovariances,
    CovariancePoint,
    ExposureArrived,
    ExposureReference,
    FlatPair,
    GroupKey,
    PairCovariances,
    PtcFit,
)
from ptc_stream.services.fitting import FittingSettings
from ptc_stream.services.measuring import MeasuringSettings, measure
from ptc_stream.store import Store

__all__ = [
    "ExposureList",
    "find_pairs",
    "fit_ptc",
    "fit_store",
    "fit_table_file",
    "list_exposures",
    "measure_files",
    "measure_pair",
    "open_store",
    "parameters",
]

_Path: TypeAlias = str | os.PathLike[str]

# Pixels behind a point of a table that does not say. Only the balance between points and floor depends on it:
# with 1e6 (half an LSST amplifier) the floor, which is fitted, makes up for whatever the truth is.
_UNKNOWN_PIXELS = 1_000_000


class ExposureList(Sequence[ExposureArrived]):
    """The exposures of a set of files, in observation order.

    Parameters
    ----------
    catalogue
        What their headers say.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def __len__(self) -> int:
        return len(self._catalogue.exposures)

    def __getitem__(self, index: Any) -> Any:
        return self._catalogue.exposures[index]

    def __iter__(self) -> Iterator[ExposureArrived]:
        return iter(self._catalogue.exposures)

    @property
    def unread(self) -> tuple[UnreadFile, ...]:
        """Files whose header could not be used, with the reason."""
        return self._catalogue.unread

    def table(self) -> Table:
        """One row per exposure: id, detector, type, exposure time [s], filter."""
        rows = self._catalogue.exposures
        table = Table()
        table["exposure"] = [row.exposure for row in rows]
        table["detector"] = [row.detector for row in rows]
        table["image_type"] = [row.image_type for row in rows]
        table["exposure_time"] = [
            float("nan") if row.exposure_time is None else row.exposure_time for row in rows
        ]
        table["exposure_time"].unit = "s"
        table["filter"] = [row.filter for row in rows]
        return table

    def _repr_html_(self) -> str:
        html: str = self.table()._repr_html_()
        return html


def parameters(settings: Mapping[str, Any] | None = None) -> Table:
    """Every parameter with value, unit and meaning.

    Parameters
    ----------
    settings
        Values by name, such as ``{"measuring.max_lag": 8}``.
    """
    lines = list(_settings(settings).lines())
    return Table(
        {
            "parameter": [line.name for line in lines],
            "value": [str(line.value) for line in lines],
            "unit": [line.unit for line in lines],
            "meaning": [line.meaning for line in lines],
        }
    )


def list_exposures(
    paths: _Path | Iterable[_Path],
    *,
    run: str | None = None,
    camera: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ExposureList:
    """Read the headers of exposure files.

    Parameters
    ----------
    paths
        Files, or directories of them.
    run
        Name of the run, over what the headers say.
    camera
        Camera description: a TOML file or a shipped name.
    settings
        Values by name, such as ``{"headers.exposure_time": "IMG_EXP*0.001"}``.

    Returns
    -------
    ExposureList

    Raises
    ------
    ConfigurationError
        A path that does not exist, a setting that cannot be.
    """
    chosen = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    return ExposureList(
        read_catalogue(
            find_files(chosen),
            header_map=_settings(settings).headers,
            camera=load_camera(camera) if camera else None,
            run=run,
        )
    )


def find_pairs(
    exposures: Iterable[ExposureArrived],
    *,
    every_nth_pair: int | None = None,
    detector: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[FlatPair]:
    """Pair the flats, by the code that pairs them in the stream.

    Parameters
    ----------
    exposures
        Of any type, in any order.
    every_nth_pair
        Keep only every n-th pair (default: as in `settings`, else all).
    detector
        Only this one.
    settings
        Values by name, such as ``{"pairing.time_tolerance": 0.01}``.

    Returns
    -------
    list of FlatPair
    """
    values = dict(settings or {})
    if every_nth_pair is not None:
        values["pairing.every_nth_pair"] = every_nth_pair
    pairing = _settings(values).pairing
    chosen = [exposure for exposure in exposures if detector in (None, exposure.detector)]
    return list(pair_exposures(chosen, pairing, measuring_digest="").pairs)


def measure_pair(
    pair: FlatPair,
    *,
    bias: Iterable[_Path] = (),
    mask: _Path | None = None,
    camera: str | None = None,
    tiles: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> PairCovariances:
    """Measure mean, variance and covariances of every amplifier of a flat pair.

    Parameters
    ----------
    pair
        One of `find_pairs`.
    bias
        Bias frames, for zero level and read noise where there is no overscan.
    mask
        FITS file of bad pixels.
    camera
        Camera description: a TOML file or a shipped name.
    tiles
        Many points per pair, for frames with a strong gradient.
    settings
        Values by name, such as ``{"measuring.max_lag": 8}``.

    Returns
    -------
    PairCovariances
        Units: ADU, ADU^2.

    Raises
    ------
    ImageError
        One of the exposures cannot be used.
    """
    values = dict(settings or {})
    if bias:
        values["reduction.bias"] = tuple(str(Path(path).absolute()) for path in bias)
    if mask is not None:
        values["reduction.mask"] = (str(Path(mask).absolute()),)
    if tiles:
        values["measuring.tiles"] = True
    return measure(MeasuringSettings.from_settings(_settings(values), camera=camera), MeasurePair(pair))


def fit_ptc(
    covariances: Iterable[PairCovariances],
    *,
    model: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunResult:
    """Fit the Photon Transfer Curve of every amplifier.

    Parameters
    ----------
    covariances
        Of any number of pairs and detectors of one run.
    model
        ``EXPAPPROXIMATION`` or ``POLYNOMIAL`` (default: as in `settings`, else EXPAPPROXIMATION).
    settings
        Values by name, such as ``{"fitting.max_mean": 60000}``.

    Returns
    -------
    RunResult
        With ``.gain``, ``.read_noise``, ``.table()``, ``.plot()``.
    """
    values = dict(settings or {})
    if model is not None:
        values["fitting.model"] = model
    chosen = _settings(values)
    return _fit_covariances(list(covariances), FittingSettings(chosen.fitting, chosen.linearity))


def open_store(path: _Path) -> Store:
    """Open the store of a run, live: every call reads what is there now."""
    return Store(path)


def measure_files(
    first: _Path, second: _Path, *, settings: Settings, camera: str | None = None, run: str | None = None
) -> PairCovariances:
    """Measure two files as a pair, whatever their headers say about time and type.

    Raises
    ------
    GeometryError
        They are of different detectors.
    ImageError
        One of them cannot be used.
    """
    measuring = MeasuringSettings.from_settings(settings, camera=camera)
    catalogue = read_catalogue(
        find_files([first, second]), header_map=settings.headers, camera=measuring.camera, run=run
    )
    if catalogue.unread:
        raise GeometryError(catalogue.unread[0].message)
    if len(catalogue.exposures) != 2:
        raise ConfigurationError(f"a pair needs two different files, not {first} twice")
    one, other = catalogue.exposures
    if one.detector != other.detector:
        raise GeometryError(
            f"{first} is of detector {one.detector}, {second} of {other.detector}: not a pair"
        )
    pair = FlatPair(
        instrument=one.instrument,
        run=one.run,
        detector=one.detector,
        pair_id="single",
        first=one.reference,
        second=other.reference,
        filter=one.filter,
        lamp=one.lamp,
    )
    return measure(measuring, MeasurePair(pair))


def fit_store(path: _Path, config: FittingSettings, *, run: str | None = None) -> RunResult:
    """Fit the measured pairs of a store again, without writing to it."""
    with Store(path) as store:
        chosen = store.one_run(run)
        covariances = store.covariances(chosen)
        if not covariances:
            raise ConfigurationError(f"{path} holds no measured pairs of run {chosen[1]}")
        waiting, rejected = len(store.waiting(chosen)), len(store.rejected())
    return _fit_covariances(covariances, config, unpaired=waiting, rejected=rejected)


def fit_table_file(path: _Path, config: FittingSettings) -> RunResult:
    """Fit the points of a table: LSST's PhotonTransferCurveDataset (FITS), or ECSV or CSV.

    In ECSV and CSV, row k of each amplifier counts as pair k.
    """
    if is_fits(path):
        return _fit_covariances(read_lsst_ptc(path), config)
    name = Path(path).stem
    return _fit_covariances(_table_covariances(name, read_points_table(Path(path))), config)


def _fit_covariances(
    covariances: Sequence[PairCovariances], config: FittingSettings, *, unpaired: int = 0, rejected: int = 0
) -> RunResult:
    if not covariances:
        raise ConfigurationError("there is nothing to fit: no measured pairs")
    jobs: dict[GroupKey, FitJob] = {}
    aggregators: dict[GroupKey, PtcAggregator] = {}
    for record in covariances:
        if record.group not in aggregators:
            aggregators[record.group] = PtcAggregator(
                record.group, config.fitting, fitting_digest=config.digest, linearity=config.linearity
            )
        aggregator = aggregators[record.group]
        for effect in aggregator.on_record(record):
            if not isinstance(effect, Compute):
                raise ConfigurationError(effect.message if hasattr(effect, "message") else str(effect))
            jobs[record.group] = effect.job
    fits: list[PtcFit] = [fit_pairs(job) for job in jobs.values()]
    return RunResult(covariances[0].run, fits, covariances, unpaired=unpaired, rejected=rejected)


def _table_covariances(name: str, tables: Sequence[TablePoints]) -> list[PairCovariances]:
    records = []
    for detector in dict.fromkeys(points.detector for points in tables):
        own = [points for points in tables if points.detector == detector]
        for row in range(max(len(points.mean) for points in own)):
            reference = ExposureReference(exposure=f"row {row}", uri="", content_tag="")
            records.append(
                PairCovariances(
                    instrument="",
                    run=name,
                    detector=detector or name,
                    pair_id=f"row-{row:06d}",
                    first=reference,
                    second=reference,
                    measuring_digest="table",
                    amplifiers=tuple(
                        AmplifierCovariances(name=points.amplifier, points=(_table_point(points, row),))
                        for points in own
                        if row < len(points.mean)
                    ),
                )
            )
    return records


def _table_point(points: TablePoints, row: int) -> CovariancePoint:
    mean, variance = float(points.mean[row]), float(points.variance[row])
    pixels = _UNKNOWN_PIXELS if points.pixel_count is None else int(points.pixel_count[row])
    matrix = ((variance,),) if points.covariances is None else _matrix(points.covariances[row])
    counts = (
        tuple(tuple(pixels for _ in line) for line in matrix)
        if points.lag_pixel_count is None
        else tuple(tuple(int(n) for n in line) for line in points.lag_pixel_count[row])
    )
    return CovariancePoint(
        mean=mean,
        mean_first=mean,
        mean_second=mean,
        variance=variance,
        covariances=matrix,
        pixel_count=counts,
        pixels_used=pixels,
        row_mean_variance=float("nan"),
        gaussianity=float("nan"),
        gain_estimate=mean / variance if variance > 0 else float("nan"),
    )


def _matrix(values: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in line) for line in values)


def _settings(values: Mapping[str, Any] | None) -> Settings:
    return load_settings(overrides={name: (value, "settings") for name, value in (values or {}).items()})
