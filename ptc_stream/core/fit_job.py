"""The fit of one detector, from the blocks of its pairs to a PtcFit: numbers only, for a worker thread."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ptc_stream.physics.fitting import AmplifierFit, FitConfig, FitPoints, fit_detector
from ptc_stream.physics.linearity import LinearityConfig, fit_linearity
from ptc_stream.ranges import pack
from ptc_stream.records import (
    AmplifierCovariances,
    AmplifierFitResult,
    GroupKey,
    LinearityResult,
    Matrix,
    PairCovariances,
    PtcFit,
    UnusedPoints,
    content_hash,
    join_key,
)

__all__ = ["FitJob", "PairBlock", "fit_pairs"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _AmplifierBlock:
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    pixel_count: NDArray[np.int64]
    drift: NDArray[np.float64]
    covariances: NDArray[np.float64] | None
    lag_pixel_count: NDArray[np.int64] | None
    flags: tuple[frozenset[str], ...]
    read_noise: float | None
    read_noise_error: float | None
    zero_level: bool


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PairBlock:
    """What fits need of one pair: a block of points per amplifier."""

    pair_id: str
    setting: str
    exposure_time: float
    lamp_dose: float
    amplifiers: dict[str, _AmplifierBlock]

    @classmethod
    def from_record(cls, record: PairCovariances, *, lags: int = 0) -> PairBlock:
        """Take what fits need out of a covariance record: covariances up to `lags` per axis, if any."""
        return cls(
            pair_id=record.pair_id,
            setting=join_key(record.filter, record.lamp),
            exposure_time=_pair_mean(record.first.exposure_time, record.second.exposure_time),
            lamp_dose=_pair_mean(record.first.lamp_dose, record.second.lamp_dose),
            amplifiers={amp.name: _amplifier_block(amp, lags) for amp in record.amplifiers},
        )

    def size(self) -> int:
        """Return the memory held, in bytes, about."""
        return 400 + sum(
            1000 + 32 * block.mean.size + (0 if block.covariances is None else 2 * block.covariances.nbytes)
            for block in self.amplifiers.values()
        )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FitJob:
    """Job: fit these pairs of one detector; `blocks` are sorted by pair id."""

    group: GroupKey
    blocks: tuple[PairBlock, ...]
    last_pair_id: str
    measuring_digest: str
    fitting_digest: str
    history_incomplete: bool
    config: FitConfig
    linearity: LinearityConfig


def fit_pairs(job: FitJob) -> PtcFit:
    """Fit every amplifier of `job`: numbers only, no I/O; runs in a worker thread.

    Parameters
    ----------
    job
        Pairs of one detector and the settings of the fit.

    Returns
    -------
    PtcFit
        A function of the job's content: the same pairs and settings give the same bytes.
    """
    names = list(dict.fromkeys(name for block in job.blocks for name in block.amplifiers))
    stacked = [_stack(name, job.blocks) for name in names]
    fits = fit_detector([points for points, _ in stacked], job.config)
    return PtcFit(
        instrument=job.group.instrument,
        run=job.group.run,
        detector=job.group.detector,
        model=str(job.config.model),
        fit_id=content_hash(
            "PtcFit.1",
            *job.group,
            str(job.config.model),
            job.fitting_digest,
            *(b.pair_id for b in job.blocks),
        ),
        last_pair_id=job.last_pair_id,
        pairs=len(job.blocks),
        measuring_digest=job.measuring_digest,
        fitting_digest=job.fitting_digest,
        history_incomplete=job.history_incomplete,
        amplifiers=tuple(
            _amplifier_result(name, points, owners, fit, job)
            for name, (points, owners), fit in zip(names, stacked, fits, strict=True)
        ),
    )


def _pair_mean(first: float | None, second: float | None) -> float:
    return math.nan if first is None or second is None else 0.5 * (first + second)


def _amplifier_block(amplifier: AmplifierCovariances, lags: int) -> _AmplifierBlock:
    points = amplifier.points
    lags = min([lags, *(len(point.covariances) for point in points)])
    return _AmplifierBlock(
        mean=np.array([point.mean for point in points], dtype=np.float64),
        variance=np.array([point.variance for point in points], dtype=np.float64),
        pixel_count=np.array(
            [point.pixel_count[0][0] if point.pixel_count else 0 for point in points], dtype=np.int64
        ),
        drift=np.array([point.mean_second - point.mean_first for point in points], dtype=np.float64),
        covariances=_corners([point.covariances for point in points], lags, np.float64),
        lag_pixel_count=_corners([point.pixel_count for point in points], lags, np.int64),
        flags=tuple(frozenset(point.flags) for point in points),
        read_noise=amplifier.read_noise,
        read_noise_error=amplifier.read_noise_error,
        zero_level=amplifier.zero_level,
    )


def _corners(
    matrices: Sequence[Sequence[Sequence[float]]], lags: int, dtype: DTypeLike
) -> NDArray[Any] | None:
    """First `lags` rows and columns of every matrix, (N, lags, lags); None for no lags."""
    if not lags:
        return None
    corners = [[row[:lags] for row in matrix[:lags]] for matrix in matrices]
    return np.array(corners, dtype=dtype).reshape(len(matrices), lags, lags)


def _stack(name: str, blocks: Sequence[PairBlock]) -> tuple[FitPoints, list[int]]:
    """All points of amplifier `name`, and for each point the index of its pair."""
    own = [(index, block.amplifiers[name]) for index, block in enumerate(blocks) if name in block.amplifiers]
    owners = [index for index, block in own for _ in range(block.mean.size)]
    noises = [block.read_noise for _, block in own if block.read_noise is not None]
    errors = [block.read_noise_error for _, block in own if block.read_noise_error is not None]
    read_noise, read_noise_error = _combine_read_noise(noises, errors)
    lags = min(
        (0 if block.covariances is None else block.covariances.shape[1] for _, block in own), default=0
    )
    points = FitPoints(
        covariances=_join([block.covariances for _, block in own], lags),
        lag_pixel_count=_join([block.lag_pixel_count for _, block in own], lags),
        mean=np.concatenate([block.mean for _, block in own]),
        variance=np.concatenate([block.variance for _, block in own]),
        pixel_count=np.concatenate([block.pixel_count for _, block in own]),
        flags=tuple(flags for _, block in own for flags in block.flags),
        read_noise=read_noise,
        read_noise_error=read_noise_error,
        zero_level=all(block.zero_level for _, block in own),
    )
    return points, owners


def _join(arrays: Sequence[NDArray[Any] | None], lags: int) -> NDArray[Any] | None:
    """Stack what every pair has: measurements of one store have one range, those of a table may not."""
    if not lags:
        return None
    return np.concatenate([array[:, :lags, :lags] for array in arrays if array is not None])


def _combine_read_noise(noises: list[float], errors: list[float]) -> tuple[float | None, float | None]:
    """Median of the pairs' read noises: one noisy readout must not move it. Its error is the median's."""
    if not noises:
        return None, None
    median = float(np.median(noises))
    if len(errors) != len(noises):
        return median, None
    # sqrt(pi/2) is the price of a median; a single value is itself.
    factor = math.sqrt(math.pi / 2) if len(noises) > 2 else 1.0
    return median, factor * math.sqrt(math.fsum(e * e for e in errors)) / len(errors)


def _amplifier_result(
    name: str, points: FitPoints, owners: Sequence[int], fit: AmplifierFit, job: FitJob
) -> AmplifierFitResult:
    # Without a gain nothing was fitted, and no point was used: what it lacked is the reason.
    unfitted = None if math.isfinite(fit.gain) else str(fit.status)
    reasons = [unfitted if reason is None else str(reason) for reason in fit.reasons]
    used_pairs = {owner for owner, reason in zip(owners, reasons, strict=True) if reason is None}
    return AmplifierFitResult(
        name=name,
        status=str(fit.status),
        notes=tuple(fit.notes),
        gain=fit.gain,
        gain_error=fit.gain_error,
        read_noise=fit.read_noise,
        read_noise_error=fit.read_noise_error,
        overscan_read_noise=(
            points.read_noise * fit.gain
            if points.read_noise is not None and math.isfinite(fit.gain)
            else None
        ),
        a00=fit.a00,
        a00_error=fit.a00_error,
        turnoff=fit.turnoff,
        turnoff_error=fit.turnoff_error,
        turnoff_is_lower_limit=fit.turnoff_is_lower_limit,
        turnoff_last_used=fit.turnoff_last_used,
        chi2_per_dof=fit.chi2_per_dof,
        dof=fit.dof,
        floor=fit.floor,
        parameters=tuple(float(value) for value in fit.parameters),
        points_used=reasons.count(None),
        pairs_used=len(used_pairs),
        unused=_unused_points(points, owners, reasons, used_pairs),
        a_matrix=_matrix(fit.a_matrix),
        a_matrix_error=_matrix(fit.a_matrix_error),
        b_matrix=_matrix(fit.b_matrix),
        b_matrix_error=_matrix(fit.b_matrix_error),
        noise_matrix=_matrix(fit.noise_matrix),
        noise_matrix_error=_matrix(fit.noise_matrix_error),
        linearity=_linearity(points.mean, owners, reasons, job),
        lamp_drift=_lamp_drift(name, reasons, job),
    )


def _matrix(values: NDArray[np.float64] | None) -> Matrix | None:
    return None if values is None else tuple(tuple(row) for row in values.tolist())


def _linearity(
    mean: NDArray[np.float64], owners: Sequence[int], reasons: Sequence[str | None], job: FitJob
) -> LinearityResult | None:
    """Fit the means against lamp dose where every pair has one, else against exposure time."""
    if len(set(owners)) < len(owners):
        return None  # tiles of one exposure differ by the light that falls on them, not by time
    blocks = [job.blocks[owner] for owner in owners]
    against = "lamp_dose" if all(math.isfinite(block.lamp_dose) for block in blocks) else "exposure_time"
    found = fit_linearity(
        mean,
        np.array([getattr(block, against) for block in blocks], dtype=np.float64),
        [block.setting for block in blocks],
        below_turnoff=np.array([reason is None for reason in reasons], dtype=np.bool_),
        config=job.linearity,
    )
    if found is None:
        return None
    return LinearityResult(
        against=against,
        slope=found.slope,
        offset=found.offset,
        max_deviation=found.max_deviation,
        max_deviation_mean=found.max_deviation_mean,
        turnoff=found.turnoff,
        turnoff_is_lower_limit=found.turnoff_is_lower_limit,
        points_used=found.points_used,
    )


def _lamp_drift(name: str, reasons: Sequence[str | None], job: FitJob) -> float | None:
    """Root mean square of the relative difference of the two means, over the used points."""
    own = [block.amplifiers[name] for block in job.blocks if name in block.amplifiers]
    used = np.array([reason is None for reason in reasons], dtype=np.bool_)
    if not used.any():
        return None
    drift = np.concatenate([block.drift for block in own])[used]
    mean = np.concatenate([block.mean for block in own])[used]
    return float(np.sqrt(np.mean((drift / mean) ** 2)))


def _unused_points(
    points: FitPoints, owners: Sequence[int], reasons: Sequence[str | None], used_pairs: set[int]
) -> tuple[UnusedPoints, ...]:
    # NaN sorts last in numpy, and a stable sort keeps ties in canonical (pair id) order.
    by_signal = np.argsort(points.mean, kind="stable").tolist()
    indices: dict[str, list[int]] = {}
    lost_pairs: dict[str, int] = {}
    counted: set[int] = set()
    for place, index in enumerate(by_signal):
        reason = reasons[index]
        if reason is None:
            continue
        indices.setdefault(reason, []).append(place)
        owner = owners[index]
        if owner not in used_pairs and owner not in counted:
            counted.add(owner)
            lost_pairs[reason] = lost_pairs.get(reason, 0) + 1
    return tuple(
        UnusedPoints(
            reason=reason,
            count=len(places),
            pairs=lost_pairs.get(reason, 0),
            ranges=pack(places),
        )
        for reason, places in sorted(indices.items())
    )
