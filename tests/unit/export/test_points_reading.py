from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.points_reading import read_points_table
from ptc_stream.export.results import RunResult
from ptc_stream.export.tables import write_ecsv
from tests.unit.export.made_up import make_run


def test_exported_points_can_be_read_back(result: RunResult, tmp_path: Path) -> None:
    names = ["C10", "C15", "C04"]
    tables = [result.points("R22_S11", name, matrices=True) for name in names]
    read = read_points_table(write_ecsv(tables, tmp_path / "points.ecsv"))
    assert [(points.detector, points.amplifier) for points in read] == [("R22_S11", name) for name in names]
    for points, name in zip(read, names, strict=True):
        curve = result.curves("R22_S11")[name]
        np.testing.assert_array_equal(points.mean, curve.mean)
        np.testing.assert_array_equal(points.variance, curve.variance)
        assert points.pixel_count is not None
        np.testing.assert_array_equal(points.pixel_count, curve.pixel_count)
        assert points.covariances is not None
        assert points.covariances.shape == (50, 3, 3)
        np.testing.assert_array_equal(points.covariances[:, 1, 2], curve.covariance(1, 2))
        assert points.lag_pixel_count is not None
        np.testing.assert_array_equal(points.lag_pixel_count[:, 2, 1], curve.lag_pixel_count(2, 1))


def test_amplifiers_without_points_do_not_spoil_the_export(tmp_path: Path) -> None:
    made = make_run(("det",), 2, 6)
    records = [
        dataclasses.replace(
            record, amplifiers=(record.amplifiers[0], dataclasses.replace(record.amplifiers[1], points=()))
        )
        for record in made.covariances
    ]
    fit = dataclasses.replace(
        made.fits[0],
        amplifiers=tuple(
            dataclasses.replace(amplifier, unused=(), points_used=0) for amplifier in made.fits[0].amplifiers
        ),
    )
    result = RunResult("13144", [fit], records)
    tables = [result.points("det", name, matrices=True) for name in ("C10", "C11")]
    assert [len(table) for table in tables] == [6, 0]
    read = read_points_table(write_ecsv(tables, tmp_path / "points.ecsv"))
    assert [points.amplifier for points in read] == ["C10"]


def test_points_without_matrices_read_back_too(result: RunResult, tmp_path: Path) -> None:
    path = write_ecsv(result.points("R22_S11", "C10"), tmp_path / "points.ecsv")
    (points,) = read_points_table(path)
    assert points.covariances is None
    assert points.lag_pixel_count is None
    assert points.pixel_count is not None
    assert set(points.pixel_count.tolist()) == {900_000}


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_plain_csv_needs_three_columns_only(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.csv", "# from the lab\namplifier,mean,variance\n1,100,70\n2,100,71\n1,200,\n")
    one, two = read_points_table(path)
    assert (one.detector, one.amplifier, two.amplifier) == ("", "1", "2")
    assert one.mean.tolist() == [100.0, 200.0]
    assert one.variance[0] == 70.0
    assert math.isnan(one.variance[1])
    assert one.pixel_count is None
    assert one.covariances is None


def test_spreadsheets_begin_with_a_mark_and_may_leave_the_detector_empty(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.csv", "\ufeffdetector,amplifier,mean,variance\nD,A,1,2\n,A,3,4\n")
    assert [points.detector for points in read_points_table(path)] == ["D", ""]


def test_matrices_in_plain_csv_are_json(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "t.csv",
        'amplifier,mean,variance,covariances,pixel_count\nA,100,70,"[[70,1],[2,0.5]]","[[9,8],[7,6]]"\n',
    )
    (points,) = read_points_table(path)
    assert points.covariances is not None
    assert points.covariances.tolist() == [[[70.0, 1.0], [2.0, 0.5]]]
    assert points.lag_pixel_count is not None
    assert points.lag_pixel_count.tolist() == [[[9, 8], [7, 6]]]
    assert points.pixel_count is not None
    assert points.pixel_count.tolist() == [9]


@pytest.mark.parametrize("unit", ["adu", "DN"])
def test_adu_and_dn_are_the_same(tmp_path: Path, unit: str) -> None:
    table = Table({"amplifier": ["A"], "mean": [1.5], "variance": [3.0]})
    table["mean"].unit, table["variance"].unit = unit, f"{unit}2"
    (points,) = read_points_table(write_ecsv(table, tmp_path / "t.ecsv"))
    assert points.mean.tolist() == [1.5]
    assert points.variance.tolist() == [3.0]


def test_other_units_of_adu_are_converted_and_electrons_refused(tmp_path: Path) -> None:
    table = Table({"amplifier": ["A"], "mean": [1.5], "variance": [3.0]})
    table["mean"].unit = "kadu"
    (points,) = read_points_table(write_ecsv(table, tmp_path / "t.ecsv"))
    assert points.mean.tolist() == [1500.0]
    table["variance"].unit = "electron2"
    with pytest.raises(ConfigurationError, match="column variance is in electron2, not in adu2"):
        read_points_table(write_ecsv(table, tmp_path / "t.ecsv"))


HEAD = "amplifier,mean,variance"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("amplifier,mean,var\nA,1,2\n", "no column variance; the columns are: amplifier, mean, var"),
        ("x\n1\n", "no column amplifier and no column mean and no column variance"),
        (f"{HEAD}\n", "has no rows"),
        (f"{HEAD}\nA,1,2\nA,1,2,3,4\n", "is not a table"),
        (f"{HEAD}\nA,1,2\n,1,2\n", "column amplifier is empty in row 2"),
        (f"{HEAD}\nA,one,2\n", "column mean: could not convert"),
        (f"{HEAD},pixel_count\nA,1,2,3.5\n", "pixel_count holds what is not a number of pixels"),
        (f"{HEAD},pixel_count\nA,1,2,-3\n", "pixel_count holds what is not a number of pixels"),
        (f"{HEAD},pixel_count\nA,1,2,7\nA,1,2,\n", "pixel_count holds what is not a number of pixels"),
        (f"{HEAD},covariances\nA,1,2,4\n", "column covariances needs a square matrix"),
        (f"{HEAD},covariances\nA,1,2,[[1\n", "column covariances: '\\[\\[1' is no matrix in JSON"),
        (f'{HEAD},covariances\nA,1,2,"[[1,2]]"\n', "column covariances needs a square matrix"),
        (f'{HEAD},covariances\nA,1,2,"[[1]]"\nA,1,2,"[[1,2],[3,4]]"\n', "column covariances"),
        (
            f'{HEAD},covariances,pixel_count\nA,1,2,"[[1]]","[[1,2],[3,4]]"\n',
            "covariances reach 1 lags, pixel_count 2",
        ),
        ("# %ECSV 1.0\n# ---\n# nonsense: [\nA\n", "is not a table"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path / "bad.csv", text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_points_table(path)
    assert "bad.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*none.csv: No such file"):
        read_points_table(tmp_path / "none.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not a text file"):
        read_points_table(binary)
    with pytest.raises(ConfigurationError, match="cannot write"):
        write_ecsv(Table({"a": [1]}), binary / "t.ecsv")
    with pytest.raises(ConfigurationError, match="no table to write"):
        write_ecsv([], tmp_path / "t.ecsv")
