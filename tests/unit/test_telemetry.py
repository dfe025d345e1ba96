from __future__ import annotations

import math
import urllib.request
from collections.abc import Iterator
from typing import Any

import prometheus_client
import pytest

from ptc_stream import telemetry as telemetry_module
from ptc_stream.errors import ConfigurationError, StorageUnavailable
from ptc_stream.telemetry import CATALOGUE, Telemetry, serve_metrics
from tests.builders import (
    alert,
    amplifier_fit_result,
    exposure_arrived,
    flat_pair,
    pair_covariances,
    ptc_fit,
    rejected,
)

GROUP = exposure_arrived().group
DETECTOR = {"instrument": "TestCam", "run": "13600", "detector": "R22_S11"}


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(name, labels)


def commit(telemetry: Telemetry, *records: Any) -> None:
    telemetry.on_committed("stage", 0, 1, records)


def filled() -> Telemetry:
    """Everything that an observer is ever told, once."""
    telemetry = Telemetry()
    telemetry.on_committed(
        "pairing",
        3,
        17,
        [exposure_arrived(), flat_pair(), pair_covariances(), ptc_fit(), alert(), rejected()],
    )
    telemetry.on_job("measuring", 0.25, ok=False)
    telemetry.on_waiting(GROUP, 5)
    telemetry.on_storage_wait("measuring", "stale")
    telemetry.on_restart("fitting", 2, StorageUnavailable("x"))
    return telemetry


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_every_metric_is_fed_by_what_a_pipeline_does(metric: telemetry_module.Metric) -> None:
    def samples(telemetry: Telemetry) -> dict[tuple[str, str], float]:
        return {
            (sample.name, str(sample.labels)): sample.value
            for family in telemetry.registry.collect()
            for sample in family.samples
            if sample.name.startswith(metric.name) and not sample.name.endswith("_created")
        }

    before, after = samples(Telemetry()), samples(filled())
    assert after != before
    assert len(metric.meaning) > 8
    assert metric.name.startswith("ptc_")


def test_names_are_unique() -> None:
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)


def test_what_is_committed_is_counted() -> None:
    telemetry = filled()
    assert value(telemetry, "ptc_exposures_total", image_type="flat") == 1
    assert value(telemetry, "ptc_pairs_total") == 1
    assert value(telemetry, "ptc_measured_total") == 1
    assert value(telemetry, "ptc_fits_total", model="EXPAPPROXIMATION") == 1
    assert value(telemetry, "ptc_rejected_total", stage="pairing", reason="NO_EXPOSURE_TIME") == 1
    assert value(telemetry, "ptc_position", stage="pairing", partition="3") == 17
    assert value(telemetry, "ptc_exposures_waiting", **DETECTOR) == 5
    assert value(telemetry, "ptc_restarts_total", stage="fitting") == 1


def test_jobs_are_timed_and_failures_counted() -> None:
    telemetry = Telemetry()
    telemetry.on_job("measuring", 0.25, ok=True)
    telemetry.on_job("measuring", 0.5, ok=False)
    assert value(telemetry, "ptc_job_seconds_sum", stage="measuring") == 0.75
    assert value(telemetry, "ptc_job_seconds_count", stage="measuring") == 2
    assert value(telemetry, "ptc_jobs_failed_total", stage="measuring") == 1


def test_gauges_go_back() -> None:
    telemetry = Telemetry()
    for message in ("stale", "stale too", None):
        telemetry.on_storage_wait("measuring", message)
    assert value(telemetry, "ptc_storage_waiting", stage="measuring") == 1
    telemetry.on_waiting(GROUP, 3)
    telemetry.on_waiting(GROUP, 0)
    assert value(telemetry, "ptc_exposures_waiting", **DETECTOR) == 0


def test_active_alerts_are_those_raised_and_not_cleared() -> None:
    telemetry = Telemetry()
    commit(telemetry, alert(), alert(amplifier="C01"), alert(rule="a00"))
    assert value(telemetry, "ptc_alerts_active", rule="gain") == 2
    commit(telemetry, alert(action="clear"))
    assert value(telemetry, "ptc_alerts_active", rule="gain") == 1
    assert value(telemetry, "ptc_alerts_active", rule="a00") == 1
    assert value(telemetry, "ptc_alerts_total", rule="gain", action="raise") == 2
    assert value(telemetry, "ptc_alerts_total", rule="gain", action="clear") == 1


def test_an_alert_raised_by_an_earlier_process_makes_no_negative_number() -> None:
    telemetry = Telemetry()
    commit(telemetry, alert(action="clear"))
    assert value(telemetry, "ptc_alerts_active", rule="gain") == 0


def test_an_alert_raised_again_under_other_limits_is_one_alert() -> None:
    telemetry = Telemetry()
    commit(telemetry, alert(), alert())
    assert value(telemetry, "ptc_alerts_active", rule="gain") == 1


def test_the_newest_fit_of_each_amplifier_is_shown() -> None:
    telemetry = Telemetry()
    commit(telemetry, ptc_fit(pairs=3), ptc_fit(pairs=4, amplifiers=(amplifier_fit_result(gain=1.75),)))
    labels = {**DETECTOR, "amplifier": "C00", "model": "EXPAPPROXIMATION"}
    assert value(telemetry, "ptc_gain_electrons_per_adu", **labels) == 1.75
    assert value(telemetry, "ptc_read_noise_electrons", **labels) == 6.0
    assert value(telemetry, "ptc_a00_per_electron", **labels) == -3e-6
    assert value(telemetry, "ptc_turnoff_adu", **labels) == 90_000.0
    assert value(telemetry, "ptc_fit_pairs", **DETECTOR, model="EXPAPPROXIMATION") == 4


def test_a_number_that_is_not_known_leaves_no_sample_and_no_stale_one() -> None:
    telemetry = Telemetry()
    labels = {**DETECTOR, "amplifier": "C00", "model": "EXPAPPROXIMATION"}
    unknown = ptc_fit(amplifiers=(amplifier_fit_result(gain=math.nan),))
    commit(telemetry, unknown)
    assert value(telemetry, "ptc_gain_electrons_per_adu", **labels) is None
    commit(telemetry, ptc_fit(), unknown)
    assert value(telemetry, "ptc_gain_electrons_per_adu", **labels) is None
    assert value(telemetry, "ptc_read_noise_electrons", **labels) == 6.0


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def _ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the servers of a test; outside of tests they live as long as their process."""
    start, started = prometheus_client.start_http_server, []

    def remembered(*args: Any, **kwargs: Any) -> Any:
        started.append(start(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(telemetry_module, "start_http_server", remembered)
    yield
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.usefixtures("_ended")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_metrics_are_served_at_a_free_port(host: str) -> None:
    telemetry = filled()
    served_host, port = serve_metrics(telemetry, f"{host}:0")
    assert served_host == host
    assert port > 0
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'ptc_exposures_total{image_type="flat"} 1.0' in text
    for metric in CATALOGUE:
        assert f"# HELP {metric.name} " in text
    telemetry.on_committed("stage", 0, 1, [flat_pair()])
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        assert "ptc_pairs_total 2.0" in answer.read().decode()


@pytest.mark.usefixtures("_ended")
def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    _, port = serve_metrics(Telemetry(), "127.0.0.1:0")
    with pytest.raises(ConfigurationError, match=f"--metrics 127.0.0.1:{port}: "):
        serve_metrics(Telemetry(), f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "9464",
        ":9464",
        "localhost",
        "localhost:",
        "localhost:http",
        "localhost:-1",
        "127.0.0.1:65536",
        "localhost:²",
    ],
)
def test_an_address_that_is_none_is_said_in_one_line(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--metrics ") as refused:
        serve_metrics(Telemetry(), address)
    assert "\n" not in str(refused.value)


def test_a_host_that_is_not_ours_is_said_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match=r"--metrics 192\.0\.2\.1:0: "):
        serve_metrics(Telemetry(), "192.0.2.1:0")
