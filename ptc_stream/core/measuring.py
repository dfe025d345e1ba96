"""Flat pairs in, measuring jobs out; what a worker measured becomes a covariance record.

Stateless but for the pair ids already met: a duplicate changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ptc_stream.core.effects import Compute, Effect
from ptc_stream.physics.points import PointMeasurement
from ptc_stream.records import AmplifierCovariances, CovariancePoint, FlatPair, PairCovariances

__all__ = ["MeasurePair", "PairMeasurer", "amplifier_covariances", "pair_covariances"]

_BYTES_PER_PAIR = 120  # a 32-digit pair id as a Python string in a set


@dataclasses.dataclass(frozen=True, slots=True)
class MeasurePair:
    """Job: read both exposures of `pair` and measure them."""

    pair: FlatPair


class PairMeasurer:
    """Core of the measuring stage, for one group."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def on_record(self, record: FlatPair) -> list[Effect]:
        """Ask for a measurement of a pair that is new."""
        if record.pair_id in self._seen:
            return []
        self._seen.add(record.pair_id)
        return [Compute(MeasurePair(record))]

    def on_history_cut(self) -> None:
        """Older pairs were measured when they came; nothing depends on them."""

    def size(self) -> int:
        """Return the memory held, in bytes, about."""
        return 200 + _BYTES_PER_PAIR * len(self._seen)


def amplifier_covariances(
    name: str,
    points: Sequence[PointMeasurement],
    *,
    read_noises: Sequence[tuple[float | None, float | None]],
    overscan_levels: Sequence[float | None],
    zero_level: bool,
    flags: Sequence[str] = (),
) -> AmplifierCovariances:
    """Make the record of one amplifier from what `physics.measuring` returned.

    Parameters
    ----------
    name
        Name of the amplifier.
    points
        Its points, in order.
    read_noises
        (read noise, its error) of each exposure [ADU]; None where it is unknown.
    overscan_levels
        Overscan level of each exposure [ADU].
    zero_level
        Whether the zero of the signal is known.
    flags
        What is unusual about the amplifier.

    Returns
    -------
    AmplifierCovariances
        Its read noise is the mean of the exposures', with the error of that mean.
    """
    known = [(noise, error) for noise, error in read_noises if noise is not None and math.isfinite(noise)]
    levels = [level for level in overscan_levels if level is not None and math.isfinite(level)]
    read_noise = math.fsum(noise for noise, _ in known) / len(known) if known else None
    errors = [error for _, error in known if error is not None and math.isfinite(error)]
    read_noise_error = (
        math.sqrt(math.fsum(error * error for error in errors)) / len(known)
        if known and len(errors) == len(known)
        else None
    )
    return AmplifierCovariances(
        name=name,
        points=tuple(_covariance_point(point) for point in points),
        read_noise=read_noise,
        read_noise_error=read_noise_error,
        overscan_level=math.fsum(levels) / len(levels) if levels else None,
        zero_level=zero_level,
        flags=tuple(flags),
    )


def pair_covariances(
    pair: FlatPair, amplifiers: Sequence[AmplifierCovariances], *, measuring_digest: str
) -> PairCovariances:
    """Make the covariance record of `pair` from the records of its amplifiers, in file order."""
    return PairCovariances(
        instrument=pair.instrument,
        run=pair.run,
        detector=pair.detector,
        pair_id=pair.pair_id,
        first=pair.first,
        second=pair.second,
        filter=pair.filter,
        lamp=pair.lamp,
        supersedes=pair.supersedes,
        measuring_digest=measuring_digest,
        amplifiers=tuple(amplifiers),
    )


def _covariance_point(point: PointMeasurement) -> CovariancePoint:
    return CovariancePoint(
        mean=point.mean,
        mean_first=point.mean_first,
        mean_second=point.mean_second,
        variance=point.variance,
        covariances=tuple(tuple(row) for row in point.covariances.tolist()),
        pixel_count=tuple(tuple(row) for row in point.pixel_count.tolist()),
        pixels_used=point.pixels_used,
        row_mean_variance=point.row_mean_variance,
        gaussianity=point.gaussianity,
        gain_estimate=point.gain_estimate,
        flags=tuple(str(flag) for flag in point.flags),
    )
