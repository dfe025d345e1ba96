from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.lsst_ptc import write_lsst_ptc
from ptc_stream.export.lsst_reading import is_fits, read_lsst_ptc
from ptc_stream.export.results import RunResult
from ptc_stream.physics.points import MeasuringConfig
from tests.unit.export.made_up import PIXELS, make_run


def batch_table(amplifiers: int = 2, points: int = 6, lags: int = 2) -> Table:
    """What the batch code writes, in the columns that matter, made by astropy's own writer as there."""
    rng = np.random.default_rng(5)
    mean = np.geomspace(500, 90_000, points) * np.ones((amplifiers, 1))
    cov = rng.normal(size=(amplifiers, points, lags, lags))
    cov[..., 0, 0] = mean / 1.5
    weights = math.sqrt(PIXELS) / (mean / 1.5)[..., None, None] * np.ones((lags, lags))
    weights[..., 0, 0] /= math.sqrt(2)
    ids = 2024061200000 + np.arange(2 * points).reshape(points, 2)
    return Table(
        {
            "AMPLIFIER_NAME": [f"C1{i}" for i in range(amplifiers)],
            "INPUT_EXP_ID_PAIRS": np.repeat(ids[None], amplifiers, axis=0),
            "RAW_EXP_TIMES": mean / 2000,
            "RAW_MEANS": mean,
            "RAW_VARS": cov[..., 0, 0],
            "RAW_DELTAS": 0.002 * mean,
            "NOISE_LIST": np.full((amplifiers, points), 4.2),
            "KS_PVALUES": np.ones((amplifiers, points)),
            "COVARIANCES": cov.reshape(amplifiers, -1),
            "COVARIANCES_SQRT_WEIGHTS": weights.reshape(amplifiers, -1),
            "PHOTO_CHARGE": mean / 10,
            "PHOTO_CHARGE_DELTAS": mean / 1000,
        }
    )


def written(table: Table, path: Path, **header: Any) -> Path:
    unit = fits.table_to_hdu(table)
    unit.header.update(header)
    unit.writeto(path, overwrite=True)
    return path


def test_fits_is_known_by_its_name() -> None:
    assert all(is_fits(name) for name in ("a.fits", "A.FITS.gz", "a.fits.fz", "a.fit"))
    assert not any(is_fits(name) for name in ("fits.csv", "a.sqlite", "fits"))


def test_what_was_written_is_read_back(result: RunResult, tmp_path: Path) -> None:
    path = write_lsst_ptc(result, "R22_S11", tmp_path / "ptc.fits")
    read = {
        (amplifier.name, point.mean): (record, amplifier, point)
        for record in read_lsst_ptc(path)
        for amplifier in record.amplifiers
        for point in amplifier.points
    }
    number = 0
    for record in result.covariances["R22_S11"]:
        for amplifier in record.amplifiers:
            for point in amplifier.points:
                number += 1
                found, found_amplifier, found_point = read[amplifier.name, point.mean]
                assert found_amplifier.read_noise == amplifier.read_noise
                assert found.first.exposure_time == record.first.exposure_time
                np.testing.assert_array_equal(found_point.variance, point.variance)
                np.testing.assert_array_equal(found_point.covariances, point.covariances)
                if math.isfinite(point.variance):
                    assert found_point.pixel_count == point.pixel_count
                np.testing.assert_allclose(found_point.mean_second, point.mean_second, rtol=1e-12)
    assert number == len(read)


def test_writing_what_was_read_changes_nothing(result: RunResult, tmp_path: Path) -> None:
    """Beyond exposures that were renamed once, and the last digit of RAW_DELTAS: it is kept as two means."""
    files = []
    records = list(result.covariances["R22_S11"])
    for turn in ("a", "b", "c"):
        unused = tuple(
            dataclasses.replace(a, unused=(), points_used=50, turnoff_last_used=1.0)
            for a in result.fits[0].amplifiers
        )
        fit = dataclasses.replace(
            result.fits[0],
            amplifiers=unused,
            last_pair_id=records[-1].pair_id,
            measuring_digest=records[0].measuring_digest,
        )
        records = [dataclasses.replace(record, instrument="LSSTCam") for record in records]
        path = write_lsst_ptc(RunResult("13144", [fit], records), None, tmp_path / f"{turn}.fits")
        records = read_lsst_ptc(path)
        files.append(Table.read(path, hdu=1, mask_invalid=False))
    for name in files[1].colnames:
        if name == "RAW_DELTAS":
            np.testing.assert_allclose(files[1][name], files[2][name], rtol=1e-9)
        else:
            np.testing.assert_array_equal(files[1][name], files[2][name])


def test_a_file_of_the_batch_code_gives_pairs_that_can_be_fitted(tmp_path: Path) -> None:
    path = written(
        batch_table(), tmp_path / "batch.fits", OBSTYPE="PTC", DET_NAME="R22_S11", INSTRUME="LSSTCam"
    )
    records = read_lsst_ptc(path)
    assert len(records) == 6
    first = records[0]
    assert (first.instrument, first.detector, first.run) == ("LSSTCam", "R22_S11", "batch")
    assert first.first.exposure == "2024061200000"
    assert first.second.exposure == "2024061200001"
    assert first.first.lamp_dose == pytest.approx(49.75)
    assert first.second.lamp_dose == pytest.approx(50.25)
    amplifier = first.amplifiers[0]
    assert amplifier.name == "C10"
    assert amplifier.read_noise == 4.2
    assert amplifier.points[0].pixel_count == ((PIXELS,) * 2,) * 2
    assert amplifier.points[0].mean_second - amplifier.points[0].mean_first == pytest.approx(1.0)
    assert amplifier.points[0].flags == ()


def test_little_is_needed(tmp_path: Path) -> None:
    table = batch_table()[["AMPLIFIER_NAME", "RAW_MEANS", "RAW_VARS"]]
    records = read_lsst_ptc(written(table, tmp_path / "old.fits"))
    assert len(records) == 6
    point = records[2].amplifiers[1].points[0]
    assert point.covariances == ((point.variance,),)
    assert point.pixel_count[0][0] > 0
    assert records[2].detector == "old"
    assert records[2].first.exposure_time is None


@pytest.mark.parametrize(("number", "pairs"), [(-1, 6), (0, 6), (7, 1)])
def test_numbers_that_are_none_tell_no_pairs_apart(tmp_path: Path, number: int, pairs: int) -> None:
    table = batch_table()
    table["INPUT_EXP_ID_PAIRS"][:] = number
    assert len(read_lsst_ptc(written(table, tmp_path / "t.fits"))) == pairs


def test_points_of_one_pair_belong_together(tmp_path: Path) -> None:
    table = batch_table()
    table["INPUT_EXP_ID_PAIRS"][:, 1] = table["INPUT_EXP_ID_PAIRS"][:, 0]
    records = read_lsst_ptc(written(table, tmp_path / "t.fits"))
    assert [len(record.amplifiers[0].points) for record in records] == [2, 1, 1, 1, 1]


def test_flags_are_those_that_a_measurement_would_give(tmp_path: Path) -> None:
    table = batch_table()
    table["KS_PVALUES"][0, 0] = 0.001
    table["RAW_DELTAS"][0, 1] = 0.03 * table["RAW_MEANS"][0, 1]
    table["RAW_VARS"][0, 2] = np.nan
    table["COVARIANCES_SQRT_WEIGHTS"][0, 12:16] = 0.0
    table["RAW_MEANS"][0, 4] = table["RAW_VARS"][0, 4] = np.nan
    path = written(table, tmp_path / "t.fits")
    records = read_lsst_ptc(path)
    assert [r.amplifiers[0].points[0].flags for r in records if r.amplifiers[0].name == "C10"] == [
        ("NOT_GAUSSIAN",),
        ("FLUX_MISMATCH",),
        ("NOT_FINITE",),
        ("TOO_FEW_PIXELS",),
        (),
    ]
    assert [amplifier.name for amplifier in records[4].amplifiers] == ["C11"]  # padding is no point
    table["RAW_MEANS"][0, 5], table["RAW_VARS"][0, 5] = 10.0, 18.0
    dark = read_lsst_ptc(written(table, tmp_path / "dark.fits"))
    assert dark[5].amplifiers[0].points[0].flags == ("NO_SIGNAL",)  # 10 ADU in a noise of 4.2
    table.remove_column("NOISE_LIST")
    dark = read_lsst_ptc(written(table, tmp_path / "dark.fits"))
    assert dark[5].amplifiers[0].points[0].flags == ("NO_SIGNAL",)
    loose = read_lsst_ptc(path, MeasuringConfig(max_flux_mismatch=0.1))
    assert loose[1].amplifiers[0].points[0].flags == ()


def test_files_that_are_something_else_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_lsst_ptc(tmp_path / "none.fits")
    (tmp_path / "text.fits").write_text("not FITS at all " * 300)
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_lsst_ptc(tmp_path / "text.fits")
    (tmp_path / "empty.fits").write_text("")
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_lsst_ptc(tmp_path / "empty.fits")
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(tmp_path / "image.fits")
    with pytest.raises(ConfigurationError, match="holds no table"):
        read_lsst_ptc(tmp_path / "image.fits")
    with pytest.raises(ConfigurationError, match="no column RAW_VARS"):
        read_lsst_ptc(written(batch_table()[["AMPLIFIER_NAME", "RAW_MEANS"]], tmp_path / "t.fits"))
    table = batch_table()
    table["RAW_MEANS"][:] = table["RAW_VARS"][:] = np.nan
    with pytest.raises(ConfigurationError, match="holds no points"):
        read_lsst_ptc(written(table, tmp_path / "u.fits"))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = written(batch_table(), tmp_path / "t.fits")
    path.write_bytes(path.read_bytes()[:-2880])
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_lsst_ptc(path)


def test_no_points_at_all(tmp_path: Path) -> None:
    made = make_run(("R22_S11",), amplifiers=2, pairs=8)
    path = write_lsst_ptc(RunResult("13144", made.fits, ()), None, tmp_path / "ptc.fits")
    with pytest.raises(ConfigurationError, match="holds no points"):
        read_lsst_ptc(path)
