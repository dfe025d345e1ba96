"""A made-up run: pairs that follow Eq. 16 with noise, and the fit that a good fitter would give."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ptc_stream.core.effects import Compute
from ptc_stream.core.fit_job import fit_pairs
from ptc_stream.core.fitting import PtcAggregator
from ptc_stream.physics.fits import FitConfig
from ptc_stream.physics.models import evaluate_expapproximation
from ptc_stream.ranges import pack
from ptc_stream.records import (
    AmplifierCovariances,
    AmplifierFitResult,
    CovariancePoint,
    ExposureReference,
    Matrix,
    PairCovariances,
    PtcFit,
    UnusedPoints,
)

PIXELS = 900_000
SATURATION = 110_000.0
TRUE_A00 = -2.9e-6
TRUE_NOISE = 6.5
DEAD, NOISY = 5, 11
OUTLIER_PAIR, MISMATCHED_PAIR = 9, 14


@dataclasses.dataclass(frozen=True)
class MadeUpRun:
    fits: list[PtcFit]
    covariances: list[PairCovariances]
    truth: dict[str, dict[str, dict[str, float]]]

    def history(self, detector: str) -> list[PtcFit]:
        """The fits after 4, 5, ... pairs, made up around the last one."""
        last = next(fit for fit in self.fits if fit.detector == detector)
        rng = np.random.default_rng(3)
        return [
            dataclasses.replace(
                last,
                pairs=pairs,
                amplifiers=tuple(_younger(result, last.pairs / pairs, rng) for result in last.amplifiers),
            )
            for pairs in range(4, last.pairs + 1)
        ]


def _younger(result: AmplifierFitResult, pairs_ratio: float, rng: np.random.Generator) -> AmplifierFitResult:
    size = pairs_ratio**1.5
    wander = 0.6 * math.sqrt(max(size**2 - 1, 0)) * rng.normal(size=2)
    return dataclasses.replace(
        result,
        gain=result.gain + float(wander[0]) * result.gain_error,
        gain_error=result.gain_error * size,
        a00=result.a00 + float(wander[1]) * result.a00_error,
        a00_error=result.a00_error * size,
    )


def exposure(name: str, time: float) -> ExposureReference:
    return ExposureReference(exposure=name, uri=f"file:{name}.fits", content_tag="t", exposure_time=time)


def make_run(
    detectors: tuple[str, ...] = ("R22_S11", "R22_S12"), amplifiers: int = 16, pairs: int = 50, lags: int = 3
) -> MadeUpRun:
    names = [f"C{i:02d}" for i in [*range(10, 18), *range(7, -1, -1)]][:amplifiers]
    fits, covariances, truth = [], [], {}
    for number, detector in enumerate(detectors):
        rng = np.random.default_rng([17, number])
        gains = 1.55 + 0.04 * rng.normal(size=amplifiers)
        truth[detector] = {
            name: {
                "gain": float(g),
                "read_noise": TRUE_NOISE,
                "a00": TRUE_A00,
                "turnoff": SATURATION / float(g) * 1.55,
            }
            for name, g in zip(names, gains, strict=True)
        }
        levels = np.geomspace(60, 125_000, pairs)
        points = [_points(levels, float(g), rng, index, lags) for index, g in enumerate(gains)]
        order = rng.permutation(pairs)
        for pair in order:
            time = round(float(levels[pair]) / 2000, 3)
            covariances.append(
                PairCovariances(
                    instrument="LSSTCam",
                    run="13144",
                    detector=detector,
                    pair_id=f"pair-{pair:04d}",
                    first=exposure(f"E{2 * pair}", time),
                    second=exposure(f"E{2 * pair + 1}", time),
                    measuring_digest="m",
                    amplifiers=tuple(
                        AmplifierCovariances(name=name, points=(points[index][pair],), read_noise=4.1)
                        for index, name in enumerate(names)
                    ),
                )
            )
        fits.append(
            PtcFit(
                instrument="LSSTCam",
                run="13144",
                detector=detector,
                model="EXPAPPROXIMATION",
                fit_id=f"fit-{detector}",
                last_pair_id=covariances[-1].pair_id,
                pairs=pairs,
                measuring_digest="m",
                fitting_digest="f",
                amplifiers=tuple(
                    _result(name, points[index], float(gains[index]), index, rng)
                    for index, name in enumerate(names)
                ),
            )
        )
    return MadeUpRun(fits, covariances, truth)


def _points(
    levels: np.ndarray, gain: float, rng: np.random.Generator, index: int, lags: int
) -> list[CovariancePoint]:
    means = levels * 1.55 / gain
    variances = evaluate_expapproximation(means, TRUE_A00, gain, TRUE_NOISE**2)[0]
    points = []
    for pair, (level, mean, variance) in enumerate(zip(levels, means, variances, strict=True)):
        flags: tuple[str, ...] = ()
        if index == DEAD:
            mean, variance = 0.4 * rng.normal(), 17.0  # noqa: PLW2901 - a dead channel
        elif level > SATURATION:
            variance *= math.exp(-8 * (level / SATURATION - 1))  # noqa: PLW2901
        elif pair == OUTLIER_PAIR and index % 3 == 0:
            variance *= 40  # noqa: PLW2901 - far beyond the axis
        elif pair == OUTLIER_PAIR + 30 and index % 3 == 1:
            variance *= 1.2  # noqa: PLW2901
        if pair == MISMATCHED_PAIR + 22:
            flags = ("FLUX_MISMATCH",)
            variance *= 1.04  # noqa: PLW2901
        variance *= 1 + math.sqrt(2 / PIXELS + 1e-6) * rng.normal()  # noqa: PLW2901
        if index == NOISY and pair == 2:
            variance = math.nan  # noqa: PLW2901
        matrix = np.zeros((lags, lags))
        for i in range(lags):
            for j in range(lags):
                strength = {(0, 1): 3.4e-7, (1, 0): 1.6e-7, (1, 1): 1.1e-7}.get((i, j), 2e-8)
                matrix[i, j] = strength * mean**2 + variance / math.sqrt(PIXELS) * rng.normal()
        matrix[0, 0] = variance
        points.append(
            CovariancePoint(
                mean=float(mean),
                mean_first=float(mean) * 0.999,
                mean_second=float(mean) * 1.001,
                variance=float(variance),
                covariances=tuple(tuple(float(v) for v in row) for row in matrix),
                pixel_count=tuple((PIXELS,) * lags for _ in range(lags)),
                pixels_used=PIXELS,
                row_mean_variance=1.0,
                gaussianity=0.001,
                gain_estimate=gain,
                flags=flags,
            )
        )
    return points


def _result(
    name: str, points: list[CovariancePoint], gain: float, index: int, rng: np.random.Generator
) -> AmplifierFitResult:
    mean = np.array([point.mean for point in points])
    by_signal = np.argsort(mean, kind="stable")
    reasons: dict[str, list[int]] = {}
    last_used, first_bad = math.nan, math.nan
    for place, pair in enumerate(by_signal.tolist()):
        point = points[pair]
        reason = ""
        if index == DEAD:
            reason = "NO_SIGNAL"
        elif not math.isfinite(point.variance):
            reason = "NOT_FINITE"
        elif point.mean * gain / 1.55 > SATURATION:
            reason = "ABOVE_TURNOFF"
            first_bad = point.mean if math.isnan(first_bad) else first_bad
        elif point.flags:
            reason = "FLUX_MISMATCH"
        elif (pair == OUTLIER_PAIR and index % 3 == 0) or (pair == OUTLIER_PAIR + 30 and index % 3 == 1):
            reason = "OUTLIER"
        else:
            last_used = point.mean
        if reason:
            reasons.setdefault(reason, []).append(place)
    nan = math.nan
    dead = index == DEAD
    lost = sum(len(places) for places in reasons.values())
    fitted = (
        TRUE_A00 + 3e-8 * rng.normal(),
        gain * (1 + 4e-4 * rng.normal()),
        (TRUE_NOISE + 0.03 * rng.normal()) ** 2,
    )
    return AmplifierFitResult(
        name=name,
        status="DEAD" if dead else "NO_ZERO_LEVEL" if index == NOISY else "OK",
        notes=() if index != NOISY else ("GAIN_APPROXIMATE",),
        gain=nan if dead else float(fitted[1]),
        gain_error=nan if dead else 4e-4 * gain,
        read_noise=nan if dead else math.sqrt(fitted[2]),
        read_noise_error=nan if dead else 0.03,
        overscan_read_noise=None if dead else 4.1 * gain,
        a00=nan if dead else float(fitted[0]),
        a00_error=nan if dead else 3e-8,
        turnoff=nan if dead else (last_used + first_bad) / 2,
        turnoff_error=nan if dead else (first_bad - last_used) / math.sqrt(12),
        turnoff_is_lower_limit=False,
        turnoff_last_used=last_used,
        chi2_per_dof=nan if dead else 1.5,
        dof=0 if dead else len(points) - lost - 3,
        floor=nan if dead else 1e-3,
        parameters=() if dead else tuple(float(value) for value in fitted),
        points_used=len(points) - lost,
        pairs_used=len(points) - lost,
        unused=tuple(
            UnusedPoints(reason=reason, count=len(places), pairs=len(places), ranges=pack(places))
            for reason, places in sorted(reasons.items())
        ),
    )


def full_fit(fit: PtcFit, lags: int = 8, *, with_b: bool = True) -> PtcFit:
    """The same results as a full covariance model would give them: matrices whose a sums up to about zero."""
    rng = np.random.default_rng(23)
    i, j = np.indices((lags, lags))
    distance = np.hypot(i, 0.8 * j)
    a = 3.2e-7 / np.maximum(distance, 0.8) ** 2.6
    weight = np.where(i > 0, 2, 1) * np.where(j > 0, 2, 1)
    a[0, 0] = -(weight * a).sum() + a[0, 0] - 1e-8
    b = 8e-7 * np.exp(-distance / 2)
    noise = np.where((i == 0) & (j == 0), TRUE_NOISE**2, 0.05 * (-1.0) ** i / (1 + distance))

    def matrix(values: np.ndarray, error: np.ndarray) -> dict[str, Matrix]:
        drawn = values + error * rng.normal(size=values.shape)
        return {
            "": tuple(tuple(line) for line in drawn.tolist()),
            "_error": tuple(tuple(line) for line in error.tolist()),
        }

    amplifiers = []
    for result in fit.amplifiers:
        fields: dict[str, Matrix] = {}
        if math.isfinite(result.gain):
            for name, values, error in (
                ("a_matrix", a, np.full(a.shape, 4e-9)),
                ("b_matrix", b, 3e-9 / np.abs(a) * 1e-6),
                ("noise_matrix", noise, np.full(a.shape, 0.02)),
            ):
                if with_b or name != "b_matrix":
                    fields |= {f"{name}{end}": value for end, value in matrix(values, error).items()}
        amplifiers.append(dataclasses.replace(result, **fields))  # type: ignore[arg-type] # fields by name
    model = "FULLCOVARIANCE" if with_b else "FULLCOVARIANCE_NO_B"
    return dataclasses.replace(fit, model=model, amplifiers=tuple(amplifiers))


def with_linearity(run: MadeUpRun) -> MadeUpRun:
    """The run with linearity in its fits, by the code that makes it in the stream."""
    fits = []
    for fit in run.fits:
        own = sorted(
            (pair for pair in run.covariances if pair.detector == fit.detector), key=lambda pair: pair.pair_id
        )
        aggregator = PtcAggregator(fit.group, FitConfig(), fitting_digest="f")
        for pair in own:
            (effect,) = aggregator.on_record(pair)
        assert isinstance(effect, Compute)
        made = {result.name: result for result in fit_pairs(effect.job).amplifiers}
        fits.append(
            dataclasses.replace(
                fit,
                amplifiers=tuple(
                    dataclasses.replace(result, linearity=made[result.name].linearity, lamp_drift=1e-3)
                    for result in fit.amplifiers
                ),
            )
        )
    return MadeUpRun(fits, run.covariances, run.truth)
