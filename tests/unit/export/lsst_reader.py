"""A strict reader of LSST's PhotonTransferCurveDataset in FITS, version 2.6.

Written from the published layout alone, byte by byte: it shares nothing with the code that writes, not even
astropy. What is not exactly as the layout says is an AssertionError.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

# Column, FITS type, elements in N (points), R (measured lags), F (fitted lags).
LAYOUT = tuple(
    """
    AMPLIFIER_NAME A 1
    PTC_FIT_TYPE A 1
    COV_MATRIX_SIDE K 1
    COV_MATRIX_SIDE_FULL_COV_FIT K 1
    INPUT_EXP_ID_PAIRS K 2N
    INPUT_EXP_PAIR_MJD_START D N
    EXP_ID_MASK L N
    EXP_ID_ROLLOFF_MASK L N
    RAW_EXP_TIMES D N
    RAW_MEANS D N
    RAW_VARS D N
    RAW_DELTAS D N
    ROW_MEAN_VARIANCE D N
    GAIN D 1
    GAIN_ERR D 1
    GAIN_UNADJUSTED D 1
    GAIN_LIST D N
    OVERSCAN_MEDIAN_LIST D N
    OVERSCAN_MEDIAN D 1
    OVERSCAN_MEDIAN_SIGMA D 1
    NOISE_LIST D N
    NOISE D 1
    NOISE_ERR D 1
    HIST_VARS D N
    HIST_CHI2_DOFS D N
    KS_PVALUES D N
    PTC_FIT_PARS D any
    PTC_FIT_PARS_ERROR D any
    PTC_FIT_CHI_SQ D 1
    PTC_TURNOFF D 1
    PTC_TURNOFF_SAMPLING_ERROR D 1
    PTC_ROLLOFF D 1
    PTC_ROLLOFF_ERROR D 1
    PTC_ROLLOFF_TAU D 1
    PTC_ROLLOFF_TAU_ERROR D 1
    NPIXEL_COVARIANCES K 1
    COVARIANCES D NRR
    COVARIANCES_SQRT_WEIGHTS D NRR
    COVARIANCES_MODEL D NFF
    A_MATRIX D FF
    B_MATRIX D FF
    NOISE_MATRIX D FF
    FINAL_VARS D N
    FINAL_MODEL_VARS D N
    FINAL_MEANS D N
    PHOTO_CHARGE D N
    PHOTO_CHARGE_DELTAS D N
    AMP_OFFSETS D N
    BAD_AMPS A any
    """.strip().split("\n    ")
)

BLOCK = 2880
WIDTHS = {"A": 1, "D": 8, "K": 8, "L": 1}
DTYPES = {"A": "S", "D": ">f8", "K": ">i8", "L": "S1"}


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return header and rows: vectors as flat arrays, matrices of the points as [N, R, R]."""
    raw = path.read_bytes()
    assert len(raw) % BLOCK == 0
    primary, start = _header(raw, 0)
    assert list(primary)[:3] == ["SIMPLE", "BITPIX", "NAXIS"]
    assert primary["SIMPLE"] is True
    assert primary["NAXIS"] == 0
    header, start = _header(raw, start)
    assert list(header)[:8] == [
        *("XTENSION", "BITPIX", "NAXIS", "NAXIS1"),
        *("NAXIS2", "PCOUNT", "GCOUNT", "TFIELDS"),
    ]
    assert (header["XTENSION"], header["BITPIX"], header["NAXIS"]) == ("BINTABLE", 8, 2)
    assert (header["PCOUNT"], header["GCOUNT"]) == (0, 1)
    assert "EXTNAME" not in header
    assert header["OBSTYPE"] == "PTC"
    assert header["PTC_VERSION"] == 2.6
    assert isinstance(header["PTC_VERSION"], float)
    assert header["PTC_SCHEMA"] == "Gen3 Photon Transfer Curve"
    assert header["CALIBCLS"] == "lsst.ip.isr.ptcDataset.PhotonTransferCurveDataset"
    assert header["TFIELDS"] == len(LAYOUT)
    columns = _columns(header)
    size = sum(repeat * WIDTHS[kind] for _, kind, repeat, _ in columns)
    assert header["NAXIS1"] == size
    end = start + size * header["NAXIS2"]
    # Nothing follows but zeros to the end of the block: the batch code's reader tries further tables.
    assert len(raw) == -(-end // BLOCK) * BLOCK
    assert not raw[end:].strip(b"\0")
    rows = [_row(raw[start + size * index :], columns) for index in range(header["NAXIS2"])]
    for row in rows:
        _check_shapes(row, header)
    return header, rows


def _header(raw: bytes, start: int) -> tuple[dict[str, Any], int]:
    header: dict[str, Any] = {}
    for at in range(start, len(raw), 80):
        card = raw[at : at + 80].decode("ascii")
        assert all(" " <= character <= "~" for character in card)
        if card.rstrip() == "END":
            return header, start + -(-(at + 80 - start) // BLOCK) * BLOCK
        if card.startswith("HIERARCH "):
            key, _, value = card[9:].partition(" = ")
        else:
            assert card[8:10] == "= ", card
            key, value = card[:8], card[10:]
        assert re.fullmatch(r"[A-Z0-9_-]+", key.strip()), card
        assert key.strip() not in header, f"{key} twice"
        header[key.strip()] = _value(value)
    raise AssertionError("no END card")


def _value(text: str) -> Any:
    quoted = re.match(r"\s*'((?:[^']|'')*)'", text)
    if quoted:
        return quoted[1].replace("''", "'").rstrip()
    plain = text.split("/", maxsplit=1)[0].strip()
    if plain in {"T", "F"}:
        return plain == "T"
    return float(plain) if re.search(r"[.E]", plain) else int(plain)


def _columns(header: dict[str, Any]) -> list[tuple[str, str, int, tuple[int, ...]]]:
    columns = []
    for number, line in enumerate(LAYOUT, start=1):
        name, kind, _ = line.split()
        assert header[f"TTYPE{number}"] == name
        form = re.fullmatch(r"(\d*)([A-Z])", header[f"TFORM{number}"])
        assert form, header[f"TFORM{number}"]
        assert form[2] == kind, f"{name} is {form[2]}, not {kind}"
        dims = tuple(int(n) for n in re.findall(r"\d+", header.get(f"TDIM{number}", "")))
        columns.append((name, kind, int(form[1]) if form[1] else 1, dims))
        # The standard's names: a reader that knows no other unit warns.
        assert header.get(f"TUNIT{number}", "s") in {"s", "d", "adu", "adu**2", "adu**-2", "pixel"}
        assert header[f"TCOMM{number}"], f"{name} has no meaning"
    return columns


def _row(raw: bytes, columns: list[tuple[str, str, int, tuple[int, ...]]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, kind, repeat, dims in columns:
        piece, raw = raw[: repeat * WIDTHS[kind]], raw[repeat * WIDTHS[kind] :]
        if kind == "A":
            width = dims[0] if dims else repeat
            count = dims[1] if len(dims) > 1 else 1
            texts = [piece[i * width : (i + 1) * width].rstrip(b"\0 ").decode("ascii") for i in range(count)]
            row[name] = texts if len(dims) > 1 else texts[0]
            continue
        values = np.frombuffer(piece, DTYPES[kind])
        if kind == "L":
            assert set(values.tolist()) <= {b"T", b"F"}
            values = values == b"T"
        # Slowest axis first, as C has it.
        row[name] = values.reshape(dims[::-1]) if dims else values
        if not dims:
            assert repeat == 1
            row[name] = row[name][0]
    return row


def _check_shapes(row: dict[str, Any], header: dict[str, Any]) -> None:
    points, lags = row["RAW_MEANS"].size, int(row["COV_MATRIX_SIDE"])
    fitted = int(row["COV_MATRIX_SIDE_FULL_COV_FIT"])
    assert 1 <= fitted <= lags
    sizes = {
        "1": 1,
        "N": points,
        "2N": 2 * points,
        "NRR": points * lags**2,
        "NFF": points * fitted**2,
        "FF": fitted**2,
    }
    for line in LAYOUT:
        name, kind, elements = line.split()
        if kind != "A" and elements != "any":
            assert np.size(row[name]) == sizes[elements], name
            assert np.ndim(row[name]) == {"1": 0, "2N": 2}.get(elements, 1), name
    assert row["INPUT_EXP_ID_PAIRS"].shape == (points, 2)
    assert row["PTC_FIT_TYPE"] == header["PTC_FIT_TYPE"]
    assert row["PTC_FIT_PARS"].shape == row["PTC_FIT_PARS_ERROR"].shape
    for name, side in (
        ("COVARIANCES", lags),
        ("COVARIANCES_SQRT_WEIGHTS", lags),
        ("COVARIANCES_MODEL", fitted),
    ):
        row[name] = row[name].reshape(points, side, side)
    for name in ("A_MATRIX", "B_MATRIX", "NOISE_MATRIX"):
        row[name] = row[name].reshape(fitted, fitted)
    weights = row["COVARIANCES_SQRT_WEIGHTS"]
    assert np.all(np.isfinite(weights) & (weights >= 0))
    used = row["EXP_ID_MASK"]
    for name in ("FINAL_MEANS", "FINAL_VARS"):
        assert np.array_equal(np.isfinite(row[name]), used), name
    if used.any():
        assert row["PTC_TURNOFF"] == row["FINAL_MEANS"][used].max()
    assert math.isnan(row["GAIN"]) == (row["AMPLIFIER_NAME"] in row["BAD_AMPS"])
