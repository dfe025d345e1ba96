"""The points behind a fit: covariance records and a fit record, brought together again.

A fit record says by index which points it left out; the points themselves stand in the covariance
records. `join_curves` finds the records that the fit was made of, puts the points in the order that the
indices mean, and gives every point its reason. Tables and plots start from here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ptc_stream.errors import InvalidRecord
from ptc_stream.physics.models import (
    FitModel,
    evaluate_expapproximation,
    evaluate_full_covariance,
    evaluate_polynomial,
)
from ptc_stream.ranges import unpack
from ptc_stream.records import AmplifierFitResult, CovariancePoint, PairCovariances, PtcFit

__all__ = ["AmplifierCurve", "join_curves", "live_pairs", "model_covariances", "model_variance"]

FloatArray = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AmplifierCurve:
    """All points of one amplifier, sorted by mean signal, with what the fit made of each.

    Attributes
    ----------
    amplifier
        Name of the amplifier.
    pairs
        For each of the N points the record of its pair.
    points
        The points.
    reasons
        For each point why the fit left it out; empty where it is used. Where there is no fit at all, the
        status of the amplifier.
    """

    amplifier: str
    pairs: tuple[PairCovariances, ...]
    points: tuple[CovariancePoint, ...]
    reasons: tuple[str, ...]

    @property
    def mean(self) -> FloatArray:
        """Mean signal [ADU], shape (N,)."""
        return np.array([point.mean for point in self.points], dtype=np.float64)

    @property
    def variance(self) -> FloatArray:
        """Variance, half that of the difference image [ADU^2], shape (N,)."""
        return np.array([point.variance for point in self.points], dtype=np.float64)

    @property
    def pixel_count(self) -> NDArray[np.int64]:
        """Pixels behind each variance, the pixel count of C_00 [1], shape (N,)."""
        counts = [point.pixel_count[0][0] if point.pixel_count else 0 for point in self.points]
        return np.array(counts, dtype=np.int64)

    @property
    def used(self) -> NDArray[np.bool_]:
        """True where the fit uses the point, shape (N,)."""
        return np.array([not reason for reason in self.reasons], dtype=np.bool_)

    def covariance(self, lag_x: int, lag_y: int) -> FloatArray:
        """Return C_ij at one lag.

        Parameters
        ----------
        lag_x, lag_y
            Lag along x (serial) and along y (parallel) [pixels].

        Returns
        -------
        ndarray
            C_ij [ADU^2], shape (N,); NaN where a point does not reach this lag.
        """
        return np.array(
            [
                point.covariances[lag_x][lag_y]
                if lag_x < len(point.covariances) and lag_y < len(point.covariances[lag_x])
                else np.nan
                for point in self.points
            ],
            dtype=np.float64,
        )

    def lag_pixel_count(self, lag_x: int, lag_y: int) -> NDArray[np.int64]:
        """Return the pixel pairs behind C_ij [1], shape (N,); 0 where a point does not reach this lag."""
        return np.array(
            [
                point.pixel_count[lag_x][lag_y]
                if lag_x < len(point.pixel_count) and lag_y < len(point.pixel_count[lag_x])
                else 0
                for point in self.points
            ],
            dtype=np.int64,
        )


def live_pairs(fit: PtcFit, covariances: Iterable[PairCovariances]) -> list[PairCovariances]:
    """Find the pairs that `fit` was made of.

    Parameters
    ----------
    fit
        A fit of any age.
    covariances
        Covariance records in the order of the log; those of other groups and other measuring settings,
        duplicates, and those that came after the fit are passed over.

    Returns
    -------
    list of PairCovariances
        The pairs that nothing before the fit supersedes, by pair id.
    """
    known: dict[str, PairCovariances] = {}
    superseded: set[str] = set()
    for record in covariances:
        if record.group != fit.group or record.measuring_digest != fit.measuring_digest:
            continue
        known.setdefault(record.pair_id, record)
        superseded.update(record.supersedes)
        if record.pair_id == fit.last_pair_id:
            break
    return [known[pair_id] for pair_id in sorted(known) if pair_id not in superseded]


def join_curves(fit: PtcFit, covariances: Iterable[PairCovariances]) -> dict[str, AmplifierCurve]:
    """Give every point behind `fit` its place in the curve and the reason why it is not used.

    Parameters
    ----------
    fit
        The fit of one detector.
    covariances
        Covariance records in the order of the log, see `live_pairs`; none at all gives empty curves.

    Returns
    -------
    dict of str to AmplifierCurve
        By amplifier, in the order of the fit.

    Raises
    ------
    InvalidRecord
        The covariances are not those that the fit was made of, so its indices would point at the wrong
        points.
    """
    pairs = live_pairs(fit, covariances)
    if pairs and len(pairs) != fit.pairs:
        raise InvalidRecord(
            f"the fit of {fit.group} was made of {fit.pairs} pairs, but {len(pairs)} of them are here: "
            "give all covariances of the group, in the order of the log"
        )
    return {amplifier.name: _amplifier_curve(fit, amplifier, pairs) for amplifier in fit.amplifiers}


def _amplifier_curve(
    fit: PtcFit, result: AmplifierFitResult, pairs: Sequence[PairCovariances]
) -> AmplifierCurve:
    found = [
        (pair, point)
        for pair in pairs
        for amplifier in pair.amplifiers
        if amplifier.name == result.name
        for point in amplifier.points
    ]
    # The order that UnusedPoints.ranges is defined in: NaN sorts last, a stable sort keeps ties by pair id.
    order = np.argsort(np.array([point.mean for _, point in found]), kind="stable").tolist()
    reasons = ["" if result.points_used else result.status] * len(found)
    for unused in result.unused if found else ():
        # Before the ranges are written out: a range may name any number of points.
        if max(unused.ranges, default=0) > len(reasons):
            raise InvalidRecord(
                f"the fit of {fit.group} leaves out point {max(unused.ranges) - 1} "
                f"of amplifier {result.name}, which has {len(reasons)} points"
            )
        for index in unpack(unused.ranges):
            reasons[index] = unused.reason
    return AmplifierCurve(
        amplifier=result.name,
        pairs=tuple(found[i][0] for i in order),
        points=tuple(found[i][1] for i in order),
        reasons=tuple(reasons),
    )


def model_variance(model: str, result: AmplifierFitResult, mean: FloatArray) -> FloatArray | None:
    """Evaluate C_00 of a fitted model.

    Parameters
    ----------
    model
        Name of the fit model.
    result
        What was fitted.
    mean
        Mean signal [ADU], shape (N,).

    Returns
    -------
    ndarray or None
        C_00 [ADU^2], shape (N,); None where there is no curve to draw: the fit gave no finite parameters,
        or the model is not known here.
    """
    matrices = model_covariances(result, mean)
    if matrices is not None:
        return matrices[:, 0, 0]
    if not result.parameters or not np.all(np.isfinite(result.parameters)):
        return None
    values = np.array(result.parameters, dtype=np.float64)
    # A wild fit may overflow far from its points: what is not finite there is not drawn.
    with np.errstate(all="ignore"):
        if model == FitModel.EXPAPPROXIMATION:
            return evaluate_expapproximation(mean, *values)[0]
        if model == FitModel.POLYNOMIAL:
            return evaluate_polynomial(mean, values)[0]
    return None


def model_covariances(result: AmplifierFitResult, mean: FloatArray) -> FloatArray | None:
    """Evaluate C_ij of a fitted full covariance model.

    Parameters
    ----------
    result
        What was fitted.
    mean
        Mean signal [ADU], shape (N,).

    Returns
    -------
    ndarray or None
        C_ij [ADU^2], shape (N, R, R) for the R lags per axis that were fitted; None where the model has no
        matrices, or they are not finite.
    """
    if result.a_matrix is None or result.noise_matrix is None:
        return None
    a, noise = (np.array(values, dtype=np.float64) for values in (result.a_matrix, result.noise_matrix))
    b = None if result.b_matrix is None else np.array(result.b_matrix, dtype=np.float64)
    given = [a, noise, np.array([result.gain])] + ([] if b is None else [b])
    if not all(np.isfinite(values).all() for values in given):
        return None
    with np.errstate(all="ignore"):
        return evaluate_full_covariance(mean, gain=result.gain, a_matrix=a, b_matrix=b, noise_matrix=noise)
