from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.figures import plan_figures, save_all
from ptc_stream.export.results import RunResult
from tests.unit.export.made_up import full_fit, make_run, with_linearity


@pytest.fixture(scope="module")
def small() -> RunResult:
    made = make_run(("R22/S11",), 1, 8)
    return RunResult("13144", made.fits, made.covariances)


def test_every_figure_is_saved_under_a_name_that_files_can_have(small: RunResult, tmp_path: Path) -> None:
    other = dataclasses.replace(small.fits[0], model="POLYNOMIAL")
    paths = save_all(small, tmp_path / "new" / "figures", history=[other, small.fits[0]])
    assert [path.name for path in paths] == [
        "summary.png",
        "overview.png",
        "distributions.png",
        "ptc_R22_S11.png",
        "ptc_log_R22_S11.png",
        "variance_over_mean_R22_S11.png",
        "covariance_over_mean_R22_S11.png",
        "convergence_R22_S11.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_without_history_there_is_no_convergence_and_the_bytes_repeat(
    small: RunResult, tmp_path: Path
) -> None:
    first = save_all(small, tmp_path / "a", formats=("png", "svg"))
    second = save_all(small, tmp_path / "b", formats=("png",))
    assert len(first) == 14
    first = [path for path in first if path.suffix == ".png"]
    assert not any("convergence" in path.name for path in first)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_run_without_fits_still_has_its_summary(tmp_path: Path) -> None:
    assert [path.name for path in save_all(RunResult("13144", []), tmp_path)] == [
        "summary.png",
        "overview.png",
        "distributions.png",
    ]


@pytest.mark.parametrize("formats", [("gif",), ()])
def test_unknown_formats_are_refused_before_anything_is_drawn(
    small: RunResult, tmp_path: Path, formats: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError, match="saved as png, pdf, svg"):
        save_all(small, tmp_path / "figures", formats=formats)
    assert not (tmp_path / "figures").exists()


def test_a_place_that_cannot_be_written(small: RunResult, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write to"):
        save_all(small, tmp_path / "file")


def test_figures_of_matrices_and_linearity_are_drawn_where_there_are_any() -> None:
    made = with_linearity(make_run(("R22_S11",), 2, 12))
    full = full_fit(made.fits[0], lags=3)
    names = [planned.name for planned in plan_figures(RunResult("13144", [full], made.covariances))]
    assert names[-4:] == [
        "linearity_R22_S11",
        "bf_matrices_R22_S11",
        "bf_distance_R22_S11",
        "bf_cumulative_R22_S11",
    ]
    bare = full_fit(make_run(("R22_S11",), 2, 12).fits[0], lags=3, with_b=False)
    kinds = {planned.kind for planned in plan_figures(RunResult("13144", [bare]))}
    assert "bf_distance" in kinds
    assert "linearity" not in kinds
