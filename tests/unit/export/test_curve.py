from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from ptc_stream.errors import InvalidRecord
from ptc_stream.export.curve import join_curves, live_pairs, model_covariances, model_variance
from ptc_stream.physics.models import evaluate_expapproximation, evaluate_full_covariance
from ptc_stream.records import PairCovariances, PtcFit, UnusedPoints
from tests.unit.export.made_up import DEAD, MadeUpRun, full_fit


def _covariances(run: MadeUpRun) -> list[PairCovariances]:
    return [record for record in run.covariances if record.detector == "R22_S11"]


def _first(fit: PtcFit, **changes: Any) -> PtcFit:
    """The fit with only its first amplifier, changed."""
    return dataclasses.replace(fit, amplifiers=(dataclasses.replace(fit.amplifiers[0], **changes),))


def test_points_come_sorted_by_mean_with_their_reason(run: MadeUpRun) -> None:
    fit = run.fits[0]
    curves = join_curves(fit, run.covariances)
    assert list(curves) == [amplifier.name for amplifier in fit.amplifiers]
    for result in fit.amplifiers:
        curve = curves[result.name]
        assert len(curve.points) == fit.pairs
        assert np.all(np.diff(curve.mean) >= 0)
        counts = {unused.reason: curve.reasons.count(unused.reason) for unused in result.unused}
        assert counts == {unused.reason: unused.count for unused in result.unused}
        assert int(curve.used.sum()) == result.points_used


def test_the_reason_stands_at_the_point_it_is_about(run: MadeUpRun) -> None:
    curve = join_curves(run.fits[0], run.covariances)["C10"]
    flagged = [bool(point.flags) for point in curve.points]
    assert [reason == "FLUX_MISMATCH" for reason in curve.reasons] == flagged
    assert any(flagged)


def test_equal_means_keep_the_order_of_pair_ids_and_nan_comes_last(run: MadeUpRun) -> None:
    records = []
    for record in _covariances(run)[:4]:
        mean = math.nan if record is _covariances(run)[0] else 5.0
        amplifier = record.amplifiers[0]
        point = dataclasses.replace(amplifier.points[0], mean=mean)
        records.append(
            dataclasses.replace(record, amplifiers=(dataclasses.replace(amplifier, points=(point,)),))
        )
    fit = dataclasses.replace(_first(run.fits[0], unused=()), pairs=4, last_pair_id=records[-1].pair_id)
    curve = join_curves(fit, records)["C10"]
    ids = [pair.pair_id for pair in curve.pairs]
    assert ids[:3] == sorted(ids[:3])
    assert ids[3] == records[0].pair_id


def test_all_points_of_a_pair_count_in_tile_mode(run: MadeUpRun) -> None:
    record = _covariances(run)[0]
    amplifier = record.amplifiers[0]
    tiles = tuple(dataclasses.replace(amplifier.points[0], mean=mean) for mean in (30.0, 10.0, 20.0))
    tiled = dataclasses.replace(record, amplifiers=(dataclasses.replace(amplifier, points=tiles),))
    unused = (UnusedPoints(reason="BELOW_MIN", count=1, pairs=0, ranges=(0, 1)),)
    fit = dataclasses.replace(_first(run.fits[0], unused=unused), pairs=1, last_pair_id=record.pair_id)
    curve = join_curves(fit, [tiled])["C10"]
    assert curve.mean.tolist() == [10.0, 20.0, 30.0]
    assert curve.reasons == ("BELOW_MIN", "", "")


def test_pairs_after_the_fit_of_other_groups_and_superseded_ones_do_not_belong(run: MadeUpRun) -> None:
    own = _covariances(run)
    late = dataclasses.replace(own[0], pair_id="late")
    other = dataclasses.replace(own[0], pair_id="other", measuring_digest="x")
    again = dataclasses.replace(own[0], pair_id="again", supersedes=(own[0].pair_id,))
    fit = dataclasses.replace(run.fits[0], last_pair_id="again")
    found = live_pairs(fit, [own[0], *run.covariances, other, again, late])
    assert [pair.pair_id for pair in found] == sorted(["again", *(record.pair_id for record in own[1:])])


def test_covariances_of_another_fit_are_refused(run: MadeUpRun) -> None:
    with pytest.raises(InvalidRecord, match="made of 50 pairs, but 7"):
        join_curves(run.fits[0], _covariances(run)[:7])


def test_an_index_beyond_the_points_is_refused(run: MadeUpRun) -> None:
    # The second would not fit into memory if it were written out.
    for ranges, last in (((50, 51), 50), ((0, 10**15), 10**15 - 1)):
        fit = _first(run.fits[0], unused=(UnusedPoints(reason="OUTLIER", count=1, pairs=1, ranges=ranges),))
        with pytest.raises(InvalidRecord, match=f"point {last} of amplifier C10, which has 50"):
            join_curves(fit, run.covariances)


def test_without_covariances_there_are_no_points(run: MadeUpRun) -> None:
    assert all(not curve.points for curve in join_curves(run.fits[0], []).values())


def test_without_a_fit_the_status_is_the_reason(run: MadeUpRun) -> None:
    fit = _first(run.fits[0], status="NOT_ENOUGH_PAIRS", points_used=0, unused=())
    curve = join_curves(fit, run.covariances)["C10"]
    assert set(curve.reasons) == {"NOT_ENOUGH_PAIRS"}
    assert not curve.used.any()


def test_lags_first_along_x_then_along_y(run: MadeUpRun) -> None:
    curve = join_curves(run.fits[0], run.covariances)["C10"]
    assert curve.covariance(1, 0).tolist() == [point.covariances[1][0] for point in curve.points]
    assert curve.lag_pixel_count(2, 1).tolist() == [point.pixel_count[2][1] for point in curve.points]
    assert np.isnan(curve.covariance(0, 3)).all()
    assert not curve.lag_pixel_count(3, 0).any()


def test_a_point_without_covariances_has_no_pixels_to_count(run: MadeUpRun) -> None:
    curve = join_curves(run.fits[0], run.covariances)["C10"]
    bare = dataclasses.replace(curve.points[0], covariances=(), pixel_count=())
    assert dataclasses.replace(curve, points=(bare,)).pixel_count.tolist() == [0]


def test_models_are_evaluated_in_their_own_order_of_parameters(run: MadeUpRun) -> None:
    mean = np.array([10.0, 1e4, 1e5])
    result = run.fits[0].amplifiers[0]
    exponential = model_variance(
        "EXPAPPROXIMATION", dataclasses.replace(result, parameters=(-2e-6, 1.5, 36.0)), mean
    )
    assert exponential is not None
    np.testing.assert_array_equal(exponential, evaluate_expapproximation(mean, -2e-6, 1.5, 36.0)[0])
    polynomial = model_variance(
        "POLYNOMIAL", dataclasses.replace(result, parameters=(20.0, 0.7, -1e-6)), mean
    )
    assert polynomial is not None
    np.testing.assert_allclose(polynomial, 20 + 0.7 * mean - 1e-6 * mean**2, rtol=1e-14)
    assert model_covariances(result, mean) is None


@pytest.mark.parametrize("with_b", [True, False])
def test_full_models_are_evaluated_from_their_matrices(run: MadeUpRun, with_b: bool) -> None:  # noqa: FBT001 - a parameter
    mean = np.array([10.0, 1e4, 6e4])
    fit = full_fit(run.fits[0], lags=3, with_b=with_b)
    result = fit.amplifiers[0]
    matrices = model_covariances(result, mean)
    assert matrices is not None
    expected = evaluate_full_covariance(
        mean,
        gain=result.gain,
        a_matrix=np.array(result.a_matrix),
        b_matrix=np.array(result.b_matrix) if with_b else None,
        noise_matrix=np.array(result.noise_matrix),
    )
    np.testing.assert_array_equal(matrices, expected)
    np.testing.assert_array_equal(model_variance(fit.model, result, mean), expected[:, 0, 0])


@pytest.mark.parametrize(
    ("model", "parameters"),
    [("EXPAPPROXIMATION", ()), ("EXPAPPROXIMATION", (math.nan, 1.0, 1.0)), ("FULLCOVARIANCE", (1.0, 2.0))],
)
def test_where_there_is_no_curve_there_is_none(
    run: MadeUpRun, model: str, parameters: tuple[float, ...]
) -> None:
    result = dataclasses.replace(run.fits[0].amplifiers[0], parameters=parameters)
    assert model_variance(model, result, np.array([1.0])) is None


def test_matrices_that_are_not_finite_have_no_curve(run: MadeUpRun) -> None:
    result = full_fit(run.fits[0], lags=1).amplifiers[0]
    assert model_covariances(dataclasses.replace(result, a_matrix=((math.nan,),)), np.array([1.0])) is None
    assert model_covariances(dataclasses.replace(result, gain=math.nan), np.array([1.0])) is None


def test_the_dead_amplifier_is_part_of_the_made_up_run(run: MadeUpRun) -> None:
    assert run.fits[0].amplifiers[DEAD].status == "DEAD"
