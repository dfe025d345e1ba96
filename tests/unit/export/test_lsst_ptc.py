from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.curve import model_covariances
from ptc_stream.export.lsst_ptc import save_lsst_ptcs, write_lsst_ptc
from ptc_stream.export.results import RunResult
from ptc_stream.records import PairCovariances, PtcFit
from tests.unit.export.lsst_reader import read
from tests.unit.export.made_up import DEAD, PIXELS, full_fit, make_run


@pytest.fixture
def file(result: RunResult, tmp_path: Path) -> Path:
    return write_lsst_ptc(result, "R22_S12", tmp_path / "new" / "ptc.fits")


def test_an_independent_strict_reader_finds_what_the_fit_says(result: RunResult, file: Path) -> None:
    header, rows = read(file)
    fit = result.fit("R22_S12")
    assert header["DETECTOR"] == 95
    assert header["DET_NAME"] == "R22_S12"
    assert (header["RAFTNAME"], header["SLOTNAME"]) == ("R22", "S12")
    assert header["PTC_FIT_TYPE"] == "EXPAPPROXIMATION"
    assert [row["AMPLIFIER_NAME"] for row in rows] == [amplifier.name for amplifier in fit.amplifiers]
    for row, amplifier in zip(rows, fit.amplifiers, strict=True):
        curve = result.curves("R22_S12")[amplifier.name]
        assert row["EXP_ID_MASK"].sum() == amplifier.points_used == curve.used.sum()
        assert sorted(row["RAW_MEANS"].tolist()) == curve.mean.tolist()
        assert row["BAD_AMPS"] == [fit.amplifiers[DEAD].name]
        for name, value in (
            ("GAIN", amplifier.gain),
            ("GAIN_UNADJUSTED", amplifier.gain),
            ("GAIN_ERR", amplifier.gain_error),
            ("NOISE", amplifier.read_noise),
            ("NOISE_ERR", amplifier.read_noise_error),
            ("PTC_FIT_CHI_SQ", amplifier.chi2_per_dof),
            ("PTC_TURNOFF", amplifier.turnoff_last_used),
        ):
            np.testing.assert_array_equal(row[name], value, err_msg=name)
        parameters = amplifier.parameters or (math.nan,) * 3
        np.testing.assert_array_equal(row["PTC_FIT_PARS"], parameters)


def test_points_stand_in_the_order_of_the_detector_not_of_each_amplifier(file: Path) -> None:
    _, rows = read(file)
    means = np.array([row["RAW_MEANS"] for row in rows])
    assert np.all(np.diff(means.mean(axis=0)) > 0)
    pairs = [row["INPUT_EXP_ID_PAIRS"].tolist() for row in rows]
    assert all(own == pairs[0] for own in pairs)
    # A dead amplifier's noise is in no order, and is not put into one.
    assert np.any(np.diff(means[DEAD]) < 0)


def test_matrices_run_fastest_along_y(result: RunResult, file: Path) -> None:
    _, rows = read(file)
    curve = result.curves("R22_S12")["C10"]
    order = np.argsort(rows[0]["RAW_MEANS"])
    for lag in ((0, 1), (1, 0), (2, 1)):
        np.testing.assert_array_equal(rows[0]["COVARIANCES"][order][:, *lag], curve.covariance(*lag))


def test_weights_are_those_of_the_batch_code(file: Path) -> None:
    row = read(file)[1][0]
    c00 = row["COVARIANCES"][:, 0, 0]
    np.testing.assert_allclose(row["COVARIANCES_SQRT_WEIGHTS"][:, 1, 2], math.sqrt(PIXELS) / c00, rtol=1e-14)
    np.testing.assert_allclose(
        row["COVARIANCES_SQRT_WEIGHTS"][:, 0, 0], math.sqrt(PIXELS / 2) / c00, rtol=1e-14
    )
    assert row["NPIXEL_COVARIANCES"] == PIXELS


def test_the_model_is_given_where_points_are_used_and_agrees_with_them(file: Path) -> None:
    row = read(file)[1][0]
    used = row["EXP_ID_MASK"]
    np.testing.assert_allclose(row["FINAL_MODEL_VARS"][used], row["FINAL_VARS"][used], rtol=0.01)
    assert np.isnan(row["FINAL_MODEL_VARS"][~used]).all()
    assert np.isnan(row["COVARIANCES_MODEL"]).all()


def test_turnoff_follows_the_batch_convention(file: Path) -> None:
    row = read(file)[1][0]
    means = np.sort(row["RAW_MEANS"])
    last = int(np.searchsorted(means, row["PTC_TURNOFF"]))
    assert row["PTC_TURNOFF_SAMPLING_ERROR"] == (means[last + 1] - means[last - 1]) / 2


def test_astropy_reads_it_without_a_warning_and_finds_units_and_meanings(file: Path) -> None:
    with fits.open(file, checksum=True, memmap=False) as units:
        units.verify("exception")
        assert len(units) == 2
    table = Table.read(file, hdu=1, mask_invalid=False)
    assert table["RAW_MEANS"].unit == "adu"
    assert table["RAW_VARS"].unit == "adu2"
    assert table["RAW_EXP_TIMES"].unit == "s"
    assert table.meta["OBSTYPE"] == "PTC"
    assert table.meta["PTC_VERSION"] == 2.6
    assert table["EXP_ID_MASK"].dtype == np.bool_


def test_same_result_same_bytes(result: RunResult, file: Path, tmp_path: Path) -> None:
    assert write_lsst_ptc(result, "R22_S12", tmp_path / "again.fits").read_bytes() == file.read_bytes()
    # An older file of the name is replaced.
    assert write_lsst_ptc(result, "R22_S12", file).read_bytes() == (tmp_path / "again.fits").read_bytes()


def _with_first_pair(run: RunResult, **changes: object) -> RunResult:
    first, *others = run.covariances["R22_S11"]
    return RunResult(run.run, run.fits, [dataclasses.replace(first, **changes), *others])  # type: ignore[arg-type] # fields of any type


@pytest.fixture
def small() -> RunResult:
    made = make_run(("R22_S11",), amplifiers=3, pairs=8)
    return RunResult("13144", made.fits, made.covariances)


def test_an_amplifier_missing_from_a_pair_is_padded(small: RunResult, tmp_path: Path) -> None:
    pairs = sorted(small.covariances["R22_S11"], key=lambda pair: pair.pair_id)
    fit = small.fit()
    # Without its point the amplifier's indices would point elsewhere: nothing is left out of this one.
    highest = small.curves()["C10"].mean.max()
    amplifiers = (
        dataclasses.replace(fit.amplifiers[0], points_used=7, unused=(), turnoff_last_used=highest),
        *fit.amplifiers[1:],
    )
    pairs[0] = dataclasses.replace(pairs[0], amplifiers=pairs[0].amplifiers[1:])
    fit = dataclasses.replace(fit, amplifiers=amplifiers, last_pair_id=pairs[-1].pair_id)
    cut = RunResult("13144", [fit], pairs)
    _, rows = read(write_lsst_ptc(cut, None, tmp_path / "ptc.fits"))
    missing = np.isnan(rows[0]["RAW_MEANS"])
    assert missing.sum() == 1
    assert not rows[0]["EXP_ID_MASK"][missing].any()
    assert not rows[0]["COVARIANCES_SQRT_WEIGHTS"][missing].any()
    assert np.isnan(rows[0]["COVARIANCES"][missing]).all()
    assert np.isfinite(rows[1]["RAW_MEANS"]).all()


def test_doses_and_starts_are_kept(small: RunResult, tmp_path: Path) -> None:
    pair = small.covariances["R22_S11"][0]
    lit = _with_first_pair(
        small,
        first=dataclasses.replace(pair.first, lamp_dose=3.0, observation_mjd=60000.5),
        second=dataclasses.replace(pair.second, lamp_dose=4.0, observation_mjd=60000.25),
        filter="g~ND",
    )
    header, rows = read(write_lsst_ptc(lit, None, tmp_path / "ptc.fits", detector_number=7))
    row = rows[0]
    at = np.flatnonzero(np.isfinite(row["PHOTO_CHARGE"]))
    assert at.size == 1
    assert row["PHOTO_CHARGE"][at] == 3.5
    assert row["PHOTO_CHARGE_DELTAS"][at] == 1.0
    assert row["INPUT_EXP_PAIR_MJD_START"][at] == 60000.25
    assert (header["MJD-BEG"], header["MJD-END"]) == (60000.25, 60000.5)
    assert header["DETECTOR"] == 7
    assert header["FILTER"] == "/g~ND"


def test_a_verdict_on_gaussianity_stands_for_a_probability(small: RunResult, tmp_path: Path) -> None:
    pair = small.covariances["R22_S11"][0]
    amplifier = pair.amplifiers[0]
    bad = dataclasses.replace(amplifier.points[0], flags=("NOT_GAUSSIAN",))
    unknown = dataclasses.replace(pair.amplifiers[1].points[0], gaussianity=math.nan)
    changed = _with_first_pair(
        small,
        amplifiers=(
            dataclasses.replace(amplifier, points=(bad,)),
            dataclasses.replace(pair.amplifiers[1], points=(unknown,)),
            pair.amplifiers[2],
        ),
    )
    _, rows = read(write_lsst_ptc(changed, None, tmp_path / "ptc.fits"))
    assert sorted(rows[0]["KS_PVALUES"].tolist()) == [0.0, *[1.0] * 7]
    assert np.isnan(rows[1]["KS_PVALUES"]).sum() == 1
    assert rows[2]["KS_PVALUES"].tolist() == [1.0] * 8


def test_several_points_of_a_pair_stand_below_each_other(small: RunResult, tmp_path: Path) -> None:
    doubled = [
        dataclasses.replace(
            pair,
            amplifiers=tuple(dataclasses.replace(a, points=a.points * 2) for a in pair.amplifiers),
        )
        for pair in small.covariances["R22_S11"]
    ]
    fit = small.fit()
    all_used = tuple(
        dataclasses.replace(a, unused=(), points_used=16, turnoff_last_used=0.0) for a in fit.amplifiers
    )
    run = RunResult("13144", [dataclasses.replace(fit, amplifiers=all_used)], doubled)
    path = write_lsst_ptc(run, None, tmp_path / "ptc.fits")
    with fits.open(path, memmap=False) as units:
        assert units[1].data["RAW_MEANS"].shape == (3, 16)


@pytest.mark.parametrize("points", [0, 1])
def test_no_points_and_one_keep_their_shapes(small: RunResult, tmp_path: Path, points: int) -> None:
    covariances: list[PairCovariances] = list(small.covariances["R22_S11"])[:points]
    fit = dataclasses.replace(
        small.fit(),
        pairs=points,
        last_pair_id=covariances[-1].pair_id if covariances else "",
        amplifiers=tuple(
            dataclasses.replace(a, unused=(), points_used=0, turnoff_last_used=math.nan, parameters=())
            for a in small.fit().amplifiers
        ),
    )
    path = write_lsst_ptc(RunResult("13144", [fit], covariances), None, tmp_path / "ptc.fits")
    table = Table.read(path, hdu=1, mask_invalid=False)
    assert table["RAW_MEANS"].shape == (3, points)
    assert table["INPUT_EXP_ID_PAIRS"].shape == (3, points, 2)
    assert table["COVARIANCES"].shape == (3, points * (9 if points else 1))
    assert table["BAD_AMPS"].shape == (3, 0)  # the three have a gain


def _named(small: RunResult, name: str) -> RunResult:
    fit: PtcFit = small.fit()
    renamed = dataclasses.replace(
        fit, amplifiers=(dataclasses.replace(fit.amplifiers[0], name=name), *fit.amplifiers[1:])
    )
    return RunResult("13144", [renamed], ())


def test_a_name_that_fits_cannot_hold_is_refused(small: RunResult, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'Kanal é' cannot be written in FITS"):
        write_lsst_ptc(_named(small, "Kanal é"), None, tmp_path / "ptc.fits")


def test_odd_names_of_the_run_are_shown_with_question_marks(small: RunResult, tmp_path: Path) -> None:
    fit = dataclasses.replace(small.fit(), run="Läufe\n2", detector="Süd", instrument="")
    header = fits.getheader(write_lsst_ptc(RunResult("Läufe\n2", [fit]), None, tmp_path / "ptc.fits"), ext=1)
    assert header["RUN"] == "L?ufe?2"
    assert header["DET_NAME"] == "S?d"
    assert "DETECTOR" not in header


def test_a_place_that_cannot_be_written(small: RunResult, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write"):
        write_lsst_ptc(small, None, tmp_path / "file" / "ptc.fits")


def test_every_detector_has_a_file_of_its_own(result: RunResult, file: Path, tmp_path: Path) -> None:
    paths = save_lsst_ptcs(result, tmp_path / "all")
    assert [path.name for path in paths] == ["ptc_R22_S11.fits", "ptc_R22_S12.fits"]
    assert paths[1].read_bytes() == file.read_bytes()


def full_run(*, with_b: bool = True) -> RunResult:
    made = make_run(("R22_S11",), amplifiers=6, pairs=12, lags=4)
    fit = full_fit(made.fits[0], lags=3, with_b=with_b)
    # An amplifier fitted over fewer lags than the others.
    cut = full_fit(made.fits[0], lags=2, with_b=with_b).amplifiers[0]
    fit = dataclasses.replace(fit, amplifiers=(cut, *fit.amplifiers[1:]))
    return RunResult("13144", [fit], made.covariances)


def test_a_full_covariance_fit_has_its_matrices_and_models(tmp_path: Path) -> None:
    result = full_run()
    header, rows = read(write_lsst_ptc(result, None, tmp_path / "ptc.fits"))
    assert header["PTC_FIT_TYPE"] == "FULLCOVARIANCE"
    for row, amplifier in zip(rows, result.fits[0].amplifiers, strict=True):
        assert (row["COV_MATRIX_SIDE"], row["COV_MATRIX_SIDE_FULL_COV_FIT"]) == (4, 3)
        assert np.isnan(row["PTC_FIT_PARS"]).all()
        assert row["PTC_FIT_PARS"].shape == (1,)
        model = model_covariances(amplifier, row["RAW_MEANS"])
        side = 0 if model is None else model.shape[1]
        for name, values in (
            ("A_MATRIX", amplifier.a_matrix),
            ("B_MATRIX", amplifier.b_matrix),
            ("NOISE_MATRIX", amplifier.noise_matrix),
        ):
            np.testing.assert_array_equal(row[name][:side, :side], np.array(values or np.zeros((0, 0))))
            assert np.isnan(row[name][side:]).all()
            assert np.isnan(row[name][:, side:]).all()
        if model is not None:
            np.testing.assert_array_equal(row["COVARIANCES_MODEL"][:, :side, :side], model)
            used = row["EXP_ID_MASK"]
            np.testing.assert_array_equal(row["FINAL_MODEL_VARS"][used], model[used, 0, 0])
        assert np.isnan(row["COVARIANCES_MODEL"][:, side:]).all()


def test_without_b_the_matrix_is_zero_as_in_the_batch_code(tmp_path: Path) -> None:
    header, rows = read(write_lsst_ptc(full_run(with_b=False), None, tmp_path / "ptc.fits"))
    assert header["PTC_FIT_TYPE"] == "FULLCOVARIANCE_NO_B"
    assert not rows[1]["B_MATRIX"].any()
    assert np.isnan(rows[DEAD]["B_MATRIX"]).all()
