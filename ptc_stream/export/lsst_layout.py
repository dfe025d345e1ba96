"""Layout of the LSST stack's PhotonTransferCurveDataset in FITS, version 2.6: columns, header, identities.

One binary table, one row per amplifier. Every amplifier has N points, R x R measured lags and F x F fitted
ones; what one amplifier lacks is padded. Matrices are flattened in C order of [point, lag x, lag y], so the
lag along y (parallel) runs fastest.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ptc_stream.records import content_hash

__all__ = [
    "AUXILIARY_PREFIX",
    "CALIBRATION_CLASS",
    "COLUMNS",
    "OBSERVATION_TYPE",
    "SCHEMA",
    "VERSION",
    "ColumnLayout",
    "Identities",
    "Shape",
    "exposure_numbers",
    "lsst_detector_number",
]

SCHEMA = "Gen3 Photon Transfer Curve"
VERSION = 2.6
OBSERVATION_TYPE = "PTC"
CALIBRATION_CLASS = "lsst.ip.isr.ptcDataset.PhotonTransferCurveDataset"
AUXILIARY_PREFIX = "PTCAUX_"

Shape: TypeAlias = Literal["", "N", "2N", "NRR", "NFF", "FF", "P", "B"]
"""Elements per row, C order: none (a scalar), N points, N pairs of exposures, N measured matrices, N fitted
matrices, one fitted matrix, the parameters of the model, the names of the bad amplifiers."""


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnLayout:
    """One column: name, FITS type (A text, D double, K 64-bit integer, L logical), shape, unit, meaning.

    FITS knows no unit of electrons: where there are any, the unit stands in the meaning.
    """

    name: str
    kind: Literal["A", "D", "K", "L"]
    shape: Shape
    unit: str
    meaning: str


COLUMNS: tuple[ColumnLayout, ...] = (
    ColumnLayout("AMPLIFIER_NAME", "A", "", "", "amplifier"),
    ColumnLayout("PTC_FIT_TYPE", "A", "", "", "fit model, the same in every row"),
    ColumnLayout("COV_MATRIX_SIDE", "K", "", "", "R: measured lags per axis"),
    ColumnLayout("COV_MATRIX_SIDE_FULL_COV_FIT", "K", "", "", "F: fitted lags per axis"),
    ColumnLayout("INPUT_EXP_ID_PAIRS", "K", "2N", "", "both exposures of each pair, header EXPIDS says how"),
    ColumnLayout("INPUT_EXP_PAIR_MJD_START", "D", "N", "d", "MJD of the earlier exposure of each pair"),
    ColumnLayout("EXP_ID_MASK", "L", "N", "", "true: the fit uses the point"),
    ColumnLayout("EXP_ID_ROLLOFF_MASK", "L", "N", "", "always false: no roll-off is fitted"),
    ColumnLayout("RAW_EXP_TIMES", "D", "N", "s", "exposure time of the first exposure"),
    ColumnLayout("RAW_MEANS", "D", "N", "adu", "mean signal, average of both exposures"),
    ColumnLayout("RAW_VARS", "D", "N", "adu**2", "half the clipped variance of the difference"),
    ColumnLayout("RAW_DELTAS", "D", "N", "adu", "mean of the second minus mean of the first exposure"),
    ColumnLayout("ROW_MEAN_VARIANCE", "D", "N", "adu**2", "variance of row means of the difference"),
    ColumnLayout("GAIN", "D", "", "", "gain [e-/ADU]"),
    ColumnLayout("GAIN_ERR", "D", "", "", "standard error of the gain [e-/ADU]"),
    ColumnLayout("GAIN_UNADJUSTED", "D", "", "", "gain: nothing was adjusted [e-/ADU]"),
    ColumnLayout("GAIN_LIST", "D", "N", "", "gain from each pair alone [e-/ADU]"),
    ColumnLayout("OVERSCAN_MEDIAN_LIST", "D", "N", "adu", "overscan level of each pair"),
    ColumnLayout("OVERSCAN_MEDIAN", "D", "", "adu", "median overscan level of the used points"),
    ColumnLayout("OVERSCAN_MEDIAN_SIGMA", "D", "", "adu", "1.4826 x MAD of the overscan level"),
    ColumnLayout("NOISE_LIST", "D", "N", "adu", "read noise from overscan or bias frames"),
    ColumnLayout("NOISE", "D", "", "", "read noise from the fit [e-]"),
    ColumnLayout("NOISE_ERR", "D", "", "", "standard error of the read noise [e-]"),
    ColumnLayout("HIST_VARS", "D", "N", "adu**2", "always NaN: not measured"),
    ColumnLayout("HIST_CHI2_DOFS", "D", "N", "", "always NaN: not measured"),
    ColumnLayout("KS_PVALUES", "D", "N", "", "1: Gaussian, 0: not; NaN: not measured"),
    ColumnLayout("PTC_FIT_PARS", "D", "P", "", "EXP: a00 [1/e-], gain [e-/ADU], noise [e-^2]"),
    ColumnLayout("PTC_FIT_PARS_ERROR", "D", "P", "", "their standard errors, NaN if unknown"),
    ColumnLayout("PTC_FIT_CHI_SQ", "D", "", "", "chi-square per degree of freedom, without floor"),
    ColumnLayout("PTC_TURNOFF", "D", "", "adu", "mean of the last used point (batch convention)"),
    ColumnLayout("PTC_TURNOFF_SAMPLING_ERROR", "D", "", "adu", "half the distance between its neighbours"),
    ColumnLayout("PTC_ROLLOFF", "D", "", "adu", "always NaN: no roll-off is fitted"),
    ColumnLayout("PTC_ROLLOFF_ERROR", "D", "", "adu", "always NaN: no roll-off is fitted"),
    ColumnLayout("PTC_ROLLOFF_TAU", "D", "", "adu", "always NaN: no roll-off is fitted"),
    ColumnLayout("PTC_ROLLOFF_TAU_ERROR", "D", "", "adu", "always NaN: no roll-off is fitted"),
    ColumnLayout("NPIXEL_COVARIANCES", "K", "", "pixel", "median pixel count of C_00"),
    ColumnLayout("COVARIANCES", "D", "NRR", "adu**2", "C_ij, halved, as measured"),
    ColumnLayout("COVARIANCES_SQRT_WEIGHTS", "D", "NRR", "adu**-2", "1 / sampling error of C_ij; 0: none"),
    ColumnLayout("COVARIANCES_MODEL", "D", "NFF", "adu**2", "C_ij of the full covariance model"),
    ColumnLayout("A_MATRIX", "D", "FF", "", "a_ij [1/e-]"),
    ColumnLayout("B_MATRIX", "D", "FF", "", "b_ij [1/e-]"),
    ColumnLayout("NOISE_MATRIX", "D", "FF", "", "n_ij [e-^2]"),
    ColumnLayout("FINAL_VARS", "D", "N", "adu**2", "variance of the used points, else NaN"),
    ColumnLayout("FINAL_MODEL_VARS", "D", "N", "adu**2", "C_00 of the model at the used points, else NaN"),
    ColumnLayout("FINAL_MEANS", "D", "N", "adu", "mean of the used points, else NaN"),
    ColumnLayout("PHOTO_CHARGE", "D", "N", "", "lamp dose, average of both exposures"),
    ColumnLayout("PHOTO_CHARGE_DELTAS", "D", "N", "", "lamp dose of the second minus the first"),
    ColumnLayout("AMP_OFFSETS", "D", "N", "adu", "always NaN: not measured"),
    ColumnLayout("BAD_AMPS", "A", "B", "", "amplifiers without a result, the same in every row"),
)
"""Every column of version 2.6, in order; a reader of that version needs all of them."""


Identities: TypeAlias = Literal["LSST", "INTEGER", "HASH"]
"""How exposure names became numbers: LSST observation ids, numbers already, or a hash."""

# Only controllers O and C: those of simulators and tests have their days in other thousands of years.
_LSST_EXPOSURE = re.compile(r"[A-Z]{2}_[CO]_(\d{8})_(\d{6})")
_LARGEST = 2**63 - 1


def exposure_numbers(names: Sequence[str]) -> tuple[Identities, NDArray[np.int64]]:
    """Give every exposure a 64-bit number, as the LSST layout wants it.

    Parameters
    ----------
    names
        Names of exposures, repeated or not.

    Returns
    -------
    identities : str
        ``LSST``: all are observation ids such as MC_C_20240612_000123, the number is
        day * 100000 + sequence number. ``INTEGER``: all are numbers. ``HASH``: else, 63 bits of a SHA-256.
        One way for all, and only one in which different names have different numbers.
    numbers : ndarray
        Shape (len(names),).
    """
    ways: tuple[tuple[Identities, list[int | None]], ...] = (
        ("LSST", [_lsst_number(name) for name in names]),
        ("INTEGER", [_number(name) for name in names]),
    )
    for identities, numbers in ways:
        if None not in numbers and len(set(numbers)) == len(set(names)):
            return identities, np.array(numbers, dtype=np.int64)
    hashed = [int(content_hash("lsst exposure", name)[:16], 16) & _LARGEST for name in names]
    return "HASH", np.array(hashed, dtype=np.int64)


def _number(name: str) -> int | None:
    return int(name) if re.fullmatch(r"[0-9]{1,19}", name) and int(name) <= _LARGEST else None


def _lsst_number(name: str) -> int | None:
    found = _LSST_EXPOSURE.fullmatch(name)
    if found is None:
        return None
    sequence = int(found[2])
    # A sequence number of six digits would run into the day.
    return int(found[1]) * 100_000 + sequence if sequence < 100_000 else None


# Number of the first detector of each raft of LSSTCam: rafts row by row, nine sensors each, then the corners.
_SCIENCE_RAFTS = (
    *("R01", "R02", "R03"),
    *("R10", "R11", "R12", "R13", "R14"),
    *("R20", "R21", "R22", "R23", "R24"),
    *("R30", "R31", "R32", "R33", "R34"),
    *("R41", "R42", "R43"),
)
_CORNER_RAFTS = ("R00", "R04", "R40", "R44")
_CORNER_SLOTS = ("SG0", "SG1", "SW0", "SW1")


def lsst_detector_number(instrument: str, detector: str) -> int | None:
    """Return the number that LSSTCam has for a detector, for example 94 for R22_S11.

    Parameters
    ----------
    instrument, detector
        Their names.

    Returns
    -------
    int or None
        None for what is no detector of LSSTCam.
    """
    raft, _, slot = detector.partition("_")
    if instrument.lower() not in {"lsstcam", "lsst_camera"}:
        return None
    if raft in _SCIENCE_RAFTS and re.fullmatch(r"S[0-2][0-2]", slot):
        return 9 * _SCIENCE_RAFTS.index(raft) + 3 * int(slot[1]) + int(slot[2])
    if raft in _CORNER_RAFTS and slot in _CORNER_SLOTS:
        return 9 * len(_SCIENCE_RAFTS) + 4 * _CORNER_RAFTS.index(raft) + _CORNER_SLOTS.index(slot)
    return None
