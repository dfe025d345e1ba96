from __future__ import annotations

import math
from pathlib import Path

import pytest

import ptc_stream
from ptc_stream import notebook
from ptc_stream.config import load_settings
from ptc_stream.errors import ConfigurationError, GeometryError
from tests.builders import flat_exposure, pair_covariances
from tests.curves import GAIN, eq16

SMALL = {"measuring.edge": 4, "measuring.min_pixels": 1000, "measuring.max_lag": 4}


# --- from files to gains, on the small simulated run ----------------------------------------------


def test_files_to_gains(small_run: Path) -> None:
    exposures = ptc_stream.list_exposures(small_run)
    assert exposures.unread == ()
    assert len(exposures) == len(exposures.table()) == len(list(exposures))
    assert exposures[0].run == "small"
    assert exposures.table()["exposure_time"].unit == "s"
    assert "R22_S11" in exposures._repr_html_()
    pairs = ptc_stream.find_pairs(exposures, detector="R22_S11")
    assert {pair.detector for pair in pairs} == {"R22_S11"}
    assert len(ptc_stream.find_pairs(exposures)) == 15
    covariances = [ptc_stream.measure_pair(pair, settings=SMALL) for pair in pairs]
    result = ptc_stream.fit_ptc(covariances)
    assert list(result.gain["R22_S11"]) == ["C10", "C11"]
    assert len(result.table()) == 2


def test_every_nth_pair_is_chosen_by_argument_or_by_setting(small_run: Path) -> None:
    exposures = ptc_stream.list_exposures([small_run])
    everything = ptc_stream.find_pairs(exposures, detector="R22_S11")
    by_argument = ptc_stream.find_pairs(exposures, detector="R22_S11", every_nth_pair=3)
    by_setting = ptc_stream.find_pairs(exposures, detector="R22_S11", settings={"pairing.every_nth_pair": 3})
    assert by_argument == by_setting
    assert math.ceil(len(everything) / 3) == len(by_argument)


def curve(detector: str = "R22_S11") -> list[object]:
    import numpy as np

    from tests.builders import amplifier_covariances, covariance_point

    found: list[object] = []
    for n in range(1, 13):
        mean = 3000.0 * n
        point = covariance_point(mean=mean, variance=float(eq16(np.array([mean]))[0]))
        found.append(
            pair_covariances(
                pair_id=f"{n:032x}", detector=detector, amplifiers=(amplifier_covariances(points=(point,)),)
            )
        )
    return found


def test_the_model_is_chosen_by_argument_or_by_setting() -> None:
    covariances = curve()
    fitted = [
        ptc_stream.fit_ptc(covariances),  # type: ignore[arg-type]  # records of the test
        ptc_stream.fit_ptc(covariances, model="POLYNOMIAL"),  # type: ignore[arg-type]  # as above
        ptc_stream.fit_ptc(covariances, settings={"fitting.model": "POLYNOMIAL"}),  # type: ignore[arg-type]  # as above
    ]
    assert [result.fits[0].model for result in fitted] == ["EXPAPPROXIMATION", "POLYNOMIAL", "POLYNOMIAL"]
    assert fitted[0].fits[0].amplifiers[0].gain == pytest.approx(GAIN, rel=0.01)


def test_detectors_are_fitted_apart() -> None:
    result = ptc_stream.fit_ptc([*curve(), *curve("R22_S12")])  # type: ignore[list-item]  # records of the test
    assert [(fit.detector, fit.pairs) for fit in result.fits] == [("R22_S11", 12), ("R22_S12", 12)]


# --- one line for what cannot be ------------------------------------------------------------------


def test_nothing_to_fit_is_said() -> None:
    with pytest.raises(ConfigurationError, match="nothing to fit"):
        ptc_stream.fit_ptc([])


def test_measurements_of_unlike_settings_are_not_mixed() -> None:
    with pytest.raises(ConfigurationError, match="never mixes"):
        ptc_stream.fit_ptc([pair_covariances(), pair_covariances(pair_id="2", measuring_digest="other")])


@pytest.mark.parametrize("settings", [{"measuring.max_lags": 3}, {"pairing.match": "DOSE"}])
def test_a_wrong_setting_is_said(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"^settings: "):
        ptc_stream.find_pairs([flat_exposure(1)], settings=settings)
    with pytest.raises(ConfigurationError, match=r"^settings: "):
        ptc_stream.parameters(settings)


def test_a_pair_of_files_must_be_two_of_one_detector(small_run: Path) -> None:
    flats = sorted(small_run.rglob("*R22_S11*.fits"))
    other = sorted(small_run.rglob("*R22_S12*.fits"))
    settings = load_settings(
        overrides={name: (value, "test") for name, value in SMALL.items()}, environment={}
    )
    with pytest.raises(ConfigurationError, match="two different files"):
        notebook.measure_files(flats[0], flats[0], settings=settings)
    with pytest.raises(GeometryError, match="not a pair"):
        notebook.measure_files(flats[0], other[0], settings=settings)
    record = notebook.measure_files(flats[0], flats[1], settings=settings, run="mine")
    assert (record.detector, record.run, len(record.amplifiers)) == ("R22_S11", "mine", 2)


def test_the_table_of_parameters() -> None:
    table = ptc_stream.parameters({"measuring.max_lag": 7})
    (row,) = [row for row in table if row["parameter"] == "measuring.max_lag"]
    assert (row["value"], row["unit"]) == ("7", "pixels")


def test_the_package_offers_what_it_lists() -> None:
    for name in ptc_stream.__all__:
        assert getattr(ptc_stream, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ptc_stream.nothing  # noqa: B018 - the access is what is tested
