"""Records for tests: every builder gives a valid one, any argument replaces (or spoils) a field of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from ptc_stream.records import (
    Alert,
    AmplifierCovariances,
    AmplifierFitResult,
    CovariancePoint,
    ExposureArrived,
    ExposureReference,
    FlatPair,
    PairCovariances,
    Position,
    PtcFit,
    Rejected,
    UnusedPoints,
)

__all__ = [
    "alert",
    "amplifier_covariances",
    "amplifier_fit_result",
    "covariance_point",
    "exposure_arrived",
    "exposure_reference",
    "flat_exposure",
    "flat_pair",
    "pair_covariances",
    "position",
    "ptc_fit",
    "rejected",
    "unused_points",
]

_GROUP: dict[str, Any] = {"instrument": "TestCam", "run": "13600", "detector": "R22_S11"}
# Thirty seconds: one flat and its read-out.
_EXPOSURE_CYCLE_DAYS = 30.0 / 86_400.0


def exposure_arrived(**changes: Any) -> ExposureArrived:
    """A flat of 10 s."""
    record = ExposureArrived(
        **_GROUP,
        exposure="E0001",
        image_type="flat",
        exposure_time=10.0,
        filter="r~ND0",
        lamp="red 0.1 A",
        lamp_dose=2.5,
        sequence_number=1,
        observation_mjd=60_000.0,
        uri="13600/E0001_R22_S11.fits",
        content_tag="first upload of E0001",
    )
    return dataclasses.replace(record, **changes)


def flat_exposure(number: int, exposure_time: float | None = 10.0, **changes: Any) -> ExposureArrived:
    """The flat with this number in its run: id, time, file and tag follow from the number."""
    exposure = f"E{number:04d}"
    numbered: dict[str, Any] = {
        "exposure": exposure,
        "exposure_time": exposure_time,
        "sequence_number": number,
        "observation_mjd": 60_000.0 + number * _EXPOSURE_CYCLE_DAYS,
        "uri": f"13600/{exposure}_R22_S11.fits",
        "content_tag": f"first upload of {exposure}",
    }
    return exposure_arrived(**numbered | changes)


def exposure_reference(**changes: Any) -> ExposureReference:
    """What a pair says of the flat that `exposure_arrived` gives."""
    reference = ExposureReference(
        exposure="E0001",
        uri="13600/E0001_R22_S11.fits",
        content_tag="first upload of E0001",
        exposure_time=10.0,
        sequence_number=1,
        observation_mjd=60_000.0,
        lamp_dose=2.5,
    )
    return dataclasses.replace(reference, **changes)


def _second_reference() -> ExposureReference:
    return exposure_reference(
        exposure="E0002",
        uri="13600/E0002_R22_S11.fits",
        content_tag="first upload of E0002",
        sequence_number=2,
        observation_mjd=60_000.0 + _EXPOSURE_CYCLE_DAYS,
    )


def flat_pair(**changes: Any) -> FlatPair:
    """Two flats of 10 s, one after the other."""
    pair = FlatPair(
        **_GROUP,
        pair_id="0" * 31 + "1",
        first=exposure_reference(),
        second=_second_reference(),
        filter="r~ND0",
        lamp="red 0.1 A",
    )
    return dataclasses.replace(pair, **changes)


def covariance_point(**changes: Any) -> CovariancePoint:
    """A point at 10,000 ADU, gain 1.5 e-/ADU, with lags up to 1."""
    point = CovariancePoint(
        mean=10_000.0,
        mean_first=9_990.0,
        mean_second=10_010.0,
        variance=6_600.0,
        covariances=((6_600.0, 30.0), (12.0, 6.0)),
        pixel_count=((130_000, 129_500), (129_700, 129_200)),
        pixels_used=130_000,
        row_mean_variance=13.0,
        gaussianity=0.002,
        gain_estimate=1.52,
    )
    return dataclasses.replace(point, **changes)


def amplifier_covariances(**changes: Any) -> AmplifierCovariances:
    """One point of one live amplifier, with overscan."""
    amplifier = AmplifierCovariances(
        name="C00",
        points=(covariance_point(),),
        read_noise=4.0,
        read_noise_error=0.02,
        overscan_level=25_000.0,
    )
    return dataclasses.replace(amplifier, **changes)


def pair_covariances(**changes: Any) -> PairCovariances:
    """What `flat_pair` measures on a detector of two amplifiers."""
    record = PairCovariances(
        **_GROUP,
        pair_id="0" * 31 + "1",
        first=exposure_reference(),
        second=_second_reference(),
        filter="r~ND0",
        lamp="red 0.1 A",
        measuring_digest="measuring settings",
        amplifiers=(amplifier_covariances(), amplifier_covariances(name="C01")),
    )
    return dataclasses.replace(record, **changes)


def unused_points(**changes: Any) -> UnusedPoints:
    """Four points of two pairs, above turnoff."""
    return dataclasses.replace(
        UnusedPoints(reason="ABOVE_TURNOFF", count=4, pairs=2, ranges=(36, 40)), **changes
    )


def amplifier_fit_result(**changes: Any) -> AmplifierFitResult:
    """A good fit of a good amplifier."""
    result = AmplifierFitResult(
        name="C00",
        status="OK",
        gain=1.5,
        gain_error=0.002,
        read_noise=6.0,
        read_noise_error=0.1,
        overscan_read_noise=6.02,
        a00=-3e-6,
        a00_error=1e-8,
        turnoff=90_000.0,
        turnoff_error=1_500.0,
        turnoff_is_lower_limit=False,
        turnoff_last_used=89_000.0,
        chi2_per_dof=1.02,
        dof=33,
        floor=0.0005,
        parameters=(-3e-6, 1.5, 36.0),
        points_used=36,
        pairs_used=36,
        unused=(unused_points(),),
    )
    return dataclasses.replace(result, **changes)


def ptc_fit(**changes: Any) -> PtcFit:
    """The fit of a detector of two amplifiers after 40 pairs."""
    fit = PtcFit(
        **_GROUP,
        model="EXPAPPROXIMATION",
        fit_id="0" * 31 + "2",
        last_pair_id="0" * 31 + "1",
        pairs=40,
        measuring_digest="measuring settings",
        fitting_digest="fitting settings",
        amplifiers=(amplifier_fit_result(), amplifier_fit_result(name="C01")),
    )
    return dataclasses.replace(fit, **changes)


def alert(**changes: Any) -> Alert:
    """A gain that is too high."""
    record = Alert(
        **_GROUP,
        amplifier="C00",
        rule="gain",
        model="EXPAPPROXIMATION",
        action="raise",
        value=1.6,
        error=0.002,
        low=1.4,
        high=1.55,
        unit="e-/ADU",
        evidence="0" * 31 + "2",
        message="gain of C00 is 1.6 +- 0.002 e-/ADU, outside [1.4, 1.55] after 40 pairs",
        alert_id="0" * 31 + "3",
    )
    return dataclasses.replace(record, **changes)


def rejected(**changes: Any) -> Rejected:
    """An exposure without exposure time, as pairing rejects it."""
    record = Rejected(
        stage="pairing",
        reason="NO_EXPOSURE_TIME",
        message="flat E0001 has no exposure time, which match = TIME needs",
        source_topic="exposures",
        source_key="TestCam|13600|R22_S11|E0001",
        original=b"\x00\x00\x00\x00\x01 the bytes as they came",
    )
    return dataclasses.replace(record, **changes)


def position(**changes: Any) -> Position:
    """The position of a stage that has read 17 records."""
    return dataclasses.replace(Position(offset=17, config='{"digest":"settings"}'), **changes)
