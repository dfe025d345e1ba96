from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from astropy import units
from astropy.io.misc import yaml
from astropy.table import Table

from ptc_stream.export.tables import (
    display_table,
    fit_table,
    gains_yaml,
    write_ecsv,
)
from tests.unit.export.made_up import DEAD, MadeUpRun, full_fit, make_run, with_linearity


def test_the_result_table_has_a_row_per_amplifier_and_units(run: MadeUpRun) -> None:
    table = fit_table(run.fits, run="13144")
    assert len(table) == 32
    assert table["gain"].unit == units.electron / units.adu
    assert table["read_noise"].unit == table["read_noise_error"].unit == units.electron
    assert table["overscan_read_noise"].unit == units.electron
    assert table["a00"].unit == table["a00_error"].unit == 1 / units.electron
    assert table["turnoff"].unit == table["turnoff_error"].unit == units.adu
    assert all(column.description for column in table.itercols())
    assert table.meta["run"] == "13144"
    assert table.meta["instrument"] == "LSSTCam"
    assert table["gain"].tolist()[0] == run.fits[0].amplifiers[0].gain
    dead = table[DEAD]
    assert dead["status"] == "DEAD"
    assert math.isnan(dead["gain"])
    assert math.isnan(dead["overscan_read_noise"])
    assert dead["points_not_used"] == "NO_SIGNAL 50"


def test_the_result_table_survives_the_file_to_the_last_bit(run: MadeUpRun, tmp_path: Path) -> None:
    table = fit_table(run.fits, run="13144")
    path = write_ecsv(table, tmp_path / "made" / "results.ecsv")
    again = Table.read(path)
    assert again.colnames == table.colnames
    assert dict(again.meta) == dict(table.meta)
    for name in table.colnames:
        assert again[name].unit == table[name].unit
        if table[name].dtype.kind == "f":
            np.testing.assert_array_equal(again[name], table[name])
        else:
            # An empty text comes back as an empty cell.
            assert [str(v) for v in np.ma.filled(again[name], "")] == [str(v) for v in table[name]]


def test_the_same_table_gives_the_same_bytes(run: MadeUpRun, tmp_path: Path) -> None:
    table = fit_table(run.fits, run="13144")
    first = write_ecsv(table, tmp_path / "a.ecsv").read_bytes()
    assert write_ecsv(table, tmp_path / "a.ecsv").read_bytes() == first


def test_no_fits_give_an_empty_table_with_all_columns(run: MadeUpRun) -> None:
    table = fit_table([], run="13144")
    assert len(table) == 0
    assert table.colnames == fit_table(run.fits, run="13144").colnames
    assert table["gain"].unit == units.electron / units.adu
    assert len(display_table([])) == 0


def test_the_table_for_the_eye_rounds_to_the_errors(run: MadeUpRun) -> None:
    rows = display_table(run.fits)
    assert rows["gain [e-/ADU]"][0] == "1.59453 ± 0.00064"
    assert rows["gain [e-/ADU]"][DEAD] == "–"
    assert rows["pairs"][DEAD] == "0 of 50"


def test_a_lower_limit_of_the_turnoff_reads_as_one(run: MadeUpRun) -> None:
    limited = dataclasses.replace(
        run.fits[0],
        amplifiers=(
            dataclasses.replace(
                run.fits[0].amplifiers[0],
                turnoff=91234.4,
                turnoff_error=math.nan,
                turnoff_is_lower_limit=True,
            ),
        ),
    )
    assert display_table([limited])["turnoff [ADU]"].tolist() == ["> 91234"]


def test_gains_as_yaml(run: MadeUpRun) -> None:
    document = yaml.load(gains_yaml(run.fits, run="13144"))
    assert document["run"] == "13144"
    assert document["unit"] == "e-/ADU"
    assert document["gain"]["R22_S11"]["C10"] == run.fits[0].amplifiers[0].gain
    assert document["gain_error"]["R22_S11"]["C10"] == run.fits[0].amplifiers[0].gain_error
    assert document["gain"]["R22_S12"]["C15"] is None


def test_coefficients_linearity_and_drift_have_columns() -> None:
    made = with_linearity(make_run(("R22_S11",), amplifiers=6, pairs=12))
    fit = full_fit(made.fits[0], lags=2)
    table = fit_table([fit], run="13144")
    first = fit.amplifiers[0]
    assert first.a_matrix is not None
    assert first.noise_matrix is not None
    assert first.linearity is not None
    assert table["a01"][0] == first.a_matrix[0][1]
    assert table["a10"][0] == first.a_matrix[1][0]
    assert table["n11"][0] == first.noise_matrix[1][1]
    assert table["a01"].unit == 1 / units.electron
    assert table["n11"].unit == units.electron**2
    assert table["linearity_max_deviation"][0] == first.linearity.max_deviation
    assert table["linearity_turnoff"].unit == units.adu
    assert table["lamp_drift"][0] == 1e-3
    without = fit_table([dataclasses.replace(full_fit(made.fits[0], lags=1))], run="13144")
    assert np.isnan(without["a01"]).all()
    assert np.isnan(table["a01"][DEAD])
