from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.results import RunResult, detector_json, run_json
from tests.unit.export.made_up import DEAD, MadeUpRun, full_fit, make_run, with_linearity

# Relied on by others: the keys of the command line's --json, in its order.
PROMISED = (
    "name",
    "model",
    "status",
    "gain",
    "gain_error",
    "read_noise",
    "read_noise_error",
    "a00",
    "a00_error",
    "turnoff",
    "turnoff_error",
    "turnoff_is_lower_limit",
    "chi2_per_dof",
    "pairs_used",
    "pairs_not_used",
)
MORE = (
    "points_used",
    "points_not_used",
    "overscan_read_noise",
    "turnoff_last_used",
    "dof",
    "floor",
    "parameters",
    "notes",
    "a_matrix",
    "a_matrix_error",
    "b_matrix",
    "b_matrix_error",
    "noise_matrix",
    "noise_matrix_error",
    "linearity",
    "lamp_drift",
)


def test_keys_of_the_json_are_exact(run: MadeUpRun) -> None:
    shape = run_json("13144", run.fits, pairs=100, unpaired=2, rejected=1)
    assert list(shape) == ["run", "pairs", "unpaired", "rejected", "detectors"]
    assert (shape["run"], shape["pairs"], shape["unpaired"], shape["rejected"]) == ("13144", 100, 2, 1)
    assert [list(detector) for detector in shape["detectors"]] == [
        ["detector", "history_incomplete", "amplifiers"]
    ] * 2
    for detector in shape["detectors"]:
        for amplifier in detector["amplifiers"]:
            assert tuple(amplifier) == PROMISED + MORE


def test_values_of_the_json_are_those_of_the_fit(run: MadeUpRun) -> None:
    fit = run.fits[0]
    result = fit.amplifiers[0]
    shape = detector_json(fit)["amplifiers"][0]
    for name in PROMISED:
        if name not in {"model", "pairs_not_used"}:
            assert shape[name] == getattr(result, name), name
    assert shape["model"] == "EXPAPPROXIMATION"
    assert shape["pairs_not_used"] == {unused.reason: unused.pairs for unused in result.unused}
    assert shape["pairs_used"] + sum(shape["pairs_not_used"].values()) == fit.pairs


def test_what_is_not_known_is_null_and_the_json_is_strict(run: MadeUpRun) -> None:
    dead = detector_json(run.fits[0])["amplifiers"][DEAD]
    assert [name for name, value in dead.items() if value is None] == [
        "gain",
        "gain_error",
        "read_noise",
        "read_noise_error",
        "a00",
        "a00_error",
        "turnoff",
        "turnoff_error",
        "chi2_per_dof",
        "overscan_read_noise",
        "turnoff_last_used",
        "floor",
        *MORE[-8:],
    ]
    odd = dataclasses.replace(
        run.fits[0],
        amplifiers=(
            dataclasses.replace(run.fits[0].amplifiers[0], gain_error=math.inf, parameters=(math.nan, 1.0)),
        ),
    )
    shape = detector_json(odd)
    assert json.loads(json.dumps(shape, allow_nan=False)) == shape
    assert shape["amplifiers"][0]["gain_error"] is None
    assert shape["amplifiers"][0]["parameters"] == [None, 1.0]


def test_detectors_are_in_order_of_name_then_model(run: MadeUpRun) -> None:
    poly = dataclasses.replace(run.fits[0], model="POLYNOMIAL")
    shape = run_json("13144", [run.fits[1], poly, run.fits[0]], pairs=0, unpaired=0, rejected=0)
    found = [(d["detector"], d["amplifiers"][0]["model"]) for d in shape["detectors"]]
    assert found == [
        ("R22_S11", "EXPAPPROXIMATION"),
        ("R22_S11", "POLYNOMIAL"),
        ("R22_S12", "EXPAPPROXIMATION"),
    ]


def test_reasons_without_a_whole_pair_count_points_only(run: MadeUpRun) -> None:
    result = run.fits[0].amplifiers[0]
    tiles = tuple(dataclasses.replace(unused, pairs=0) for unused in result.unused)
    fit = dataclasses.replace(run.fits[0], amplifiers=(dataclasses.replace(result, unused=tiles),))
    shape = detector_json(fit)["amplifiers"][0]
    assert shape["pairs_not_used"] == {}
    assert shape["points_not_used"] == {unused.reason: unused.count for unused in result.unused}


def test_values_by_detector_and_amplifier(run: MadeUpRun, result: RunResult) -> None:
    assert result.detectors == ("R22_S11", "R22_S12")
    assert result.pairs == 100
    for name in ("gain", "read_noise", "a00", "turnoff"):
        values = getattr(result, name)
        assert values["R22_S12"]["C11"] == getattr(run.fits[1].amplifiers[1], name)
        assert math.isnan(values["R22_S11"]["C15"])
    assert result.to_json() == run_json("13144", run.fits, pairs=100, unpaired=2, rejected=1)
    assert len(result.table()) == 32


def test_the_last_fit_of_a_detector_counts(run: MadeUpRun) -> None:
    older = dataclasses.replace(run.fits[0], pairs=3)
    assert RunResult("13144", [older, run.fits[0]]).fit("R22_S11").pairs == 50
    assert RunResult("13144", [run.fits[0], older]).fit("R22_S11").pairs == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "POLYNOMIAL"}, "several models, choose one: EXPAPPROXIMATION, POLYNOMIAL"),
        ({"run": "13145"}, "several runs"),
        ({"instrument": "LATISS"}, "several instruments"),
    ],
)
def test_a_result_is_of_one_run_model_and_instrument(
    run: MadeUpRun, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RunResult("13144", [run.fits[0], dataclasses.replace(run.fits[1], **changes)])


def test_points_of_one_amplifier(result: RunResult) -> None:
    table = result.points("R22_S11", "C10")
    assert len(table) == 50
    assert str(table["mean"].unit) == "adu"
    assert str(table["variance"].unit) == "adu2"
    assert str(table["exposure_time"].unit) == "s"
    assert set(table["reason"][table["used"]]) == {""}
    assert set(table["reason"][~table["used"]]) == {"ABOVE_TURNOFF", "FLUX_MISMATCH", "OUTLIER"}
    assert table["exposure_first"][0] == "E0"
    assert table["exposure_second"][0] == "E1"
    assert table["exposure_time"][0] == 0.03
    assert table["pixel_count"][0] == 900_000
    assert "covariances" not in table.colnames
    assert table.meta["model"] == "EXPAPPROXIMATION"


def test_an_exposure_time_that_is_not_known_is_nan(run: MadeUpRun) -> None:
    own = [record for record in run.covariances if record.detector == "R22_S11"]
    unknown = [
        dataclasses.replace(record, first=dataclasses.replace(record.first, exposure_time=None))
        for record in own
    ]
    table = RunResult("13144", run.fits[:1], unknown).points("R22_S11", "C10")
    assert all(math.isnan(value) for value in table["exposure_time"])


@pytest.mark.parametrize(
    ("detector", "amplifier", "message"),
    [
        ("R99", "C10", "no result for detector R99; there are: R22_S11"),
        ("R22_S11", "C99", "no amplifier C99"),
    ],
)
def test_names_that_do_not_exist(result: RunResult, detector: str, amplifier: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        result.points(detector, amplifier)


def test_plots_by_kind(result: RunResult, run: MadeUpRun) -> None:
    assert "R22_S11" in result.plot().get_suptitle()
    assert "R22_S12" in result.plot("covariance_over_mean", detector="R22_S12").get_suptitle()
    assert len(result.plot("summary").axes) == 4
    assert len(result.plot("summary", truth=run.truth).axes) == 8
    assert "R22_S11" in result.plot_convergence(run.history("R22_S11")).get_suptitle()
    with pytest.raises(ConfigurationError, match="no figure is called pie; there are: ptc, "):
        result.plot("pie")
    with pytest.raises(ConfigurationError, match="has no effect"):
        result.plot("overview", detector="R22_S11")


def test_an_empty_result(run: MadeUpRun) -> None:
    empty = RunResult("13144", [], run.covariances)
    assert empty.gain == {}
    assert empty.to_json()["detectors"] == []
    assert len(empty.table()) == 0
    assert "0 detectors" in repr(empty)
    with pytest.raises(ConfigurationError, match="there are: none"):
        empty.plot()


def test_a_notebook_shows_the_table(result: RunResult, run: MadeUpRun) -> None:
    html = result._repr_html_()
    assert "&lt;RunResult of run 13144: 2 detectors, 100 pairs, 28 of 32 amplifiers OK&gt;" in html
    assert "1.59453 ± 0.00064" in html
    assert "more amplifiers" not in html
    odd = dataclasses.replace(run.fits[0], detector="<script>")
    assert "<script>" not in RunResult("13144", [odd])._repr_html_()
    many = [dataclasses.replace(run.fits[0], detector=f"D{i}") for i in range(5)]
    assert "and 16 more amplifiers" in RunResult("13144", many)._repr_html_()


def test_matrices_and_linearity_are_part_of_the_json() -> None:
    made = with_linearity(make_run(("R22_S11",), amplifiers=2, pairs=12))
    fit = full_fit(made.fits[0], lags=2)
    first = fit.amplifiers[0]
    assert first.a_matrix is not None
    assert first.linearity is not None
    holed = dataclasses.replace(
        first,
        a_matrix=((math.nan, 1e-7), first.a_matrix[1]),
        linearity=dataclasses.replace(first.linearity, turnoff=math.nan),
    )
    shape = detector_json(dataclasses.replace(fit, amplifiers=(holed,)))["amplifiers"][0]
    assert shape["a_matrix"] == [[None, 1e-7], list(first.a_matrix[1])]
    assert shape["noise_matrix_error"] == [[0.02, 0.02], [0.02, 0.02]]
    assert shape["linearity"]["against"] == "exposure_time"
    assert shape["linearity"]["turnoff"] is None
    assert shape["linearity"]["turnoff_is_lower_limit"] is True
    assert shape["lamp_drift"] == 1e-3
    json.dumps(shape, allow_nan=False)
