"""One value of every record and schema version, and the command that writes its golden bytes.

``python -m tests.unit.golden`` writes the files that are missing in ``tests/data/golden`` and touches no
other: the bytes of a released schema version never change.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ptc_stream.codec import encode
from ptc_stream.records import (
    Alert,
    AmplifierCovariances,
    AmplifierFitResult,
    CovariancePoint,
    ExposureArrived,
    ExposureReference,
    FlatPair,
    LinearityResult,
    PairCovariances,
    Position,
    PtcFit,
    Rejected,
    UnusedPoints,
)

__all__ = ["GOLDEN", "golden_file"]

_GROUP: dict[str, Any] = {"instrument": "LSSTCam", "run": "E1071", "detector": "R22_S11"}

_FIRST = ExposureReference(
    exposure="MC_C_20231108_000123",
    uri="/data/MC_C_20231108_000123_R22_S11.fits",
    content_tag="0f1e2d3c",
    exposure_time=12.5,
    sequence_number=123,
    observation_mjd=60256.25,
    lamp_dose=3.5e-7,
)
# Everything that may be unknown is unknown; the file has a name beyond ASCII.
_SECOND = ExposureReference(
    exposure="MC_C_20231108_000124", uri="file:///data/Flüsse/µ.fits", content_tag="4b5a6978"
)

GOLDEN: dict[str, Any] = {
    "ExposureArrived.1.0": ExposureArrived(
        **_GROUP,
        exposure="MC_C_20231108_000123",
        image_type="flat",
        exposure_time=12.5,
        filter="SDSSi~ND_OD0.5",
        lamp="red 0.1 A",
        lamp_dose=3.5e-7,
        pair_hint="pair 7",
        sequence_number=123,
        observation_mjd=60256.25,
        uri="/data/MC_C_20231108_000123_R22_S11.fits",
        content_tag="0f1e2d3c",
    ),
    "FlatPair.1.0": FlatPair(
        **_GROUP,
        pair_id="00112233445566778899aabbccddeeff",
        first=_FIRST,
        second=_SECOND,
        filter="SDSSi~ND_OD0.5",
        lamp="red 0.1 A",
        supersedes=("ffeeddccbbaa99887766554433221100", "an older one"),
    ),
    "PairCovariances.1.0": PairCovariances(
        **_GROUP,
        pair_id="00112233445566778899aabbccddeeff",
        first=_FIRST,
        second=_SECOND,
        measuring_digest="0123456789abcdef",
        amplifiers=(
            AmplifierCovariances(
                name="C10",
                points=(
                    CovariancePoint(
                        mean=10000.5,
                        mean_first=9990.25,
                        mean_second=10010.75,
                        variance=6600.125,
                        covariances=((6600.125, 30.5), (12.25, -6.0)),
                        pixel_count=((1_000_000, 999_500), (999_000, 998_501)),
                        pixels_used=1_000_000,
                        row_mean_variance=13.5,
                        gaussianity=0.001,
                        gain_estimate=1.515625,
                    ),
                ),
                read_noise=4.5,
                read_noise_error=0.03125,
                overscan_level=25000.75,
            ),
            AmplifierCovariances(
                name="C11",
                points=(
                    CovariancePoint(
                        mean=-math.inf,
                        mean_first=-0.0,
                        mean_second=5e-324,
                        variance=1.7976931348623157e308,
                        covariances=(),
                        pixel_count=(),
                        pixels_used=0,
                        row_mean_variance=0.0,
                        gaussianity=0.0,
                        gain_estimate=math.inf,
                        flags=("NO_SIGNAL", "NOT_FINITE"),
                    ),
                ),
                zero_level=False,
                flags=("NO_USABLE_PIXELS",),
            ),
        ),
    ),
    "PtcFit.1.0": PtcFit(
        **_GROUP,
        model="EXPAPPROXIMATION",
        fit_id="8899aabbccddeeff0011223344556677",
        last_pair_id="00112233445566778899aabbccddeeff",
        pairs=40,
        measuring_digest="0123456789abcdef",
        fitting_digest="fedcba9876543210",
        history_incomplete=True,
        amplifiers=(
            AmplifierFitResult(
                name="C10",
                status="OK",
                notes=("SELECTION_UNSETTLED",),
                gain=1.5,
                gain_error=0.001953125,
                read_noise=6.25,
                read_noise_error=0.125,
                overscan_read_noise=6.5,
                a00=-3e-6,
                a00_error=1e-8,
                turnoff=90000.5,
                turnoff_error=1500.25,
                turnoff_is_lower_limit=False,
                turnoff_last_used=89000.0,
                chi2_per_dof=1.0625,
                dof=33,
                floor=0.0005,
                parameters=(-3e-6, 1.5, 39.0625),
                points_used=36,
                pairs_used=36,
                unused=(
                    UnusedPoints(reason="ABOVE_TURNOFF", count=3, pairs=3, ranges=(37, 40)),
                    UnusedPoints(reason="OUTLIER", count=1, pairs=0, ranges=(5, 6)),
                ),
            ),
        ),
    ),
    "PtcFit.1.1": PtcFit(
        **_GROUP,
        model="FULLCOVARIANCE",
        fit_id="99aabbccddeeff008899aabbccddeeff",
        last_pair_id="00112233445566778899aabbccddeeff",
        pairs=40,
        measuring_digest="0123456789abcdef",
        fitting_digest="0f0f0f0f0f0f0f0f",
        amplifiers=(
            AmplifierFitResult(
                name="C10",
                status="OK",
                gain=1.5,
                gain_error=0.001953125,
                read_noise=6.25,
                read_noise_error=0.125,
                a00=-3e-6,
                a00_error=1e-8,
                turnoff=90000.5,
                turnoff_error=1500.25,
                turnoff_is_lower_limit=False,
                turnoff_last_used=89000.0,
                chi2_per_dof=1.0625,
                dof=33,
                floor=0.0005,
                points_used=36,
                pairs_used=36,
                a_matrix=((-3e-6, 2.5e-7), (1.25e-7, 6e-8)),
                a_matrix_error=((1e-8, 1e-9), (1e-9, 1e-9)),
                b_matrix=((8e-7, 0.0), (0.0, 0.0)),
                b_matrix_error=((1e-7, 1e-8), (1e-8, 1e-8)),
                noise_matrix=((39.0625, 0.5), (0.25, 0.125)),
                noise_matrix_error=((1.5, 0.25), (0.25, 0.25)),
                linearity=LinearityResult(
                    against="exposure_time",
                    slope=8000.0,
                    offset=0.0625,
                    max_deviation=0.00390625,
                    max_deviation_mean=60000.0,
                    turnoff=91000.0,
                    turnoff_is_lower_limit=False,
                    points_used=30,
                ),
                lamp_drift=0.001953125,
            ),
        ),
    ),
    "Alert.1.0": Alert(
        **_GROUP,
        amplifier="C10",
        rule="gain",
        model="EXPAPPROXIMATION",
        action="raise",
        value=1.75,
        error=0.001953125,
        high=1.6875,
        unit="e-/ADU",
        evidence="8899aabbccddeeff0011223344556677",
        message="gain of C10 is 1.75 +- 0.002 e-/ADU, outside [none, 1.6875] after 40 pairs",
        alert_id="76543210fedcba9876543210fedcba98",
    ),
    "Rejected.1.0": Rejected(
        stage="measuring",
        reason="IMAGE_UNREADABLE",
        message="MC_C_20231108_000123_R22_S11.fits ends after 2880 of 8640 bytes",
        source_topic="pairs",
        source_key="LSSTCam|E1071|R22_S11|00112233445566778899aabbccddeeff",
        original=bytes(range(256)),
    ),
    "Position.1.0": Position(offset=2**40, config='{"measuring":{"max_lag":10}}'),
}


def golden_file(stem: str) -> Path:
    """Where the bytes of one schema version are."""
    return Path(__file__).parents[1] / "data" / "golden" / f"{stem}.bin"


if __name__ == "__main__":
    for stem, record in GOLDEN.items():
        if not golden_file(stem).exists():
            golden_file(stem).write_bytes(encode(record))
