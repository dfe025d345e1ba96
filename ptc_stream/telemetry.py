"""The metric catalogue, and who fills it.

A metric exists when it is in `CATALOGUE`; the README prints the same table, and a test compares the two.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from ptc_stream.errors import ConfigurationError
from ptc_stream.records import Alert, ExposureArrived, FlatPair, PtcFit, Rejected

__all__ = ["CATALOGUE", "Metric", "Telemetry", "serve_metrics"]


class Metric(NamedTuple):
    """One metric: its name, kind, labels and meaning."""

    name: str
    kind: type[Counter | Gauge | Histogram]
    labels: tuple[str, ...]
    meaning: str


_LAST_PORT = 65_535
_DETECTOR = ("instrument", "run", "detector")
_AMPLIFIER = (*_DETECTOR, "amplifier", "model")

CATALOGUE = (
    Metric("ptc_exposures_total", Counter, ("image_type",), "Exposures announced."),
    Metric("ptc_pairs_total", Counter, (), "Flat pairs formed."),
    Metric("ptc_measured_total", Counter, (), "Flat pairs measured."),
    Metric("ptc_fits_total", Counter, ("model",), "Fits made."),
    Metric("ptc_alerts_total", Counter, ("rule", "action"), "Alerts raised and cleared."),
    Metric("ptc_rejected_total", Counter, ("stage", "reason"), "Records that could not be used."),
    Metric("ptc_alerts_active", Gauge, ("rule",), "Alerts raised by this process and not cleared."),
    Metric("ptc_exposures_waiting", Gauge, _DETECTOR, "Flats whose partner has not arrived."),
    Metric("ptc_position", Gauge, ("stage", "partition"), "Next input offset of a stage."),
    Metric("ptc_job_seconds", Histogram, ("stage",), "Time of a job, waiting for a worker included."),
    Metric("ptc_jobs_failed_total", Counter, ("stage",), "Jobs that ended in a rejected record."),
    Metric("ptc_storage_waiting", Gauge, ("stage",), "Jobs that wait for storage or a missing file."),
    Metric("ptc_restarts_total", Counter, ("stage",), "Partitions that went back to their last commit."),
    Metric("ptc_fit_pairs", Gauge, (*_DETECTOR, "model"), "Pairs in the newest fit of a detector."),
    Metric("ptc_gain_electrons_per_adu", Gauge, _AMPLIFIER, "Gain of the newest fit [e-/ADU]."),
    Metric("ptc_read_noise_electrons", Gauge, _AMPLIFIER, "Read noise of the newest fit [e-]."),
    Metric("ptc_a00_per_electron", Gauge, _AMPLIFIER, "a_00 of the newest fit [1/e-]."),
    Metric("ptc_turnoff_adu", Gauge, _AMPLIFIER, "Turnoff of the newest fit [ADU]."),
)


class Telemetry:
    """Fills the catalogue from what a pipeline does: an `Observer` of its runners."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {
            metric.name: metric.kind(
                metric.name, metric.meaning, labelnames=metric.labels, registry=self.registry
            )
            for metric in CATALOGUE
        }
        self._active: dict[str, set[str]] = {}

    def on_committed(self, stage: str, partition: int, next_offset: int, records: Sequence[Any]) -> None:
        """Count what a stage has written."""
        self._metrics["ptc_position"].labels(stage, str(partition)).set(next_offset)
        for record in records:
            if isinstance(record, FlatPair):
                self._metrics["ptc_pairs_total"].inc()
            elif isinstance(record, PtcFit):
                self._on_fit(record)
            elif isinstance(record, Alert):
                self._metrics["ptc_alerts_total"].labels(record.rule, record.action).inc()
                self._on_alert(record)
            elif isinstance(record, Rejected):
                self._metrics["ptc_rejected_total"].labels(record.stage, record.reason).inc()
            elif isinstance(record, ExposureArrived):
                self._metrics["ptc_exposures_total"].labels(record.image_type).inc()
            else:
                self._metrics["ptc_measured_total"].inc()

    def on_job(self, stage: str, seconds: float, *, ok: bool) -> None:
        """Count a job and its time."""
        self._metrics["ptc_job_seconds"].labels(stage).observe(seconds)
        if not ok:
            self._metrics["ptc_jobs_failed_total"].labels(stage).inc()

    def on_waiting(self, group: tuple[str, str, str], count: int) -> None:
        """Set how many flats of a group wait."""
        self._metrics["ptc_exposures_waiting"].labels(*group).set(count)

    def on_storage_wait(self, stage: str, message: str | None) -> None:
        """Count the jobs that wait for storage."""
        self._metrics["ptc_storage_waiting"].labels(stage).inc(1 if message is not None else -1)

    def on_restart(self, stage: str, partition: int, error: BaseException) -> None:  # noqa: ARG002 - Observer
        """Count a restart."""
        self._metrics["ptc_restarts_total"].labels(stage).inc()

    def _on_alert(self, alert: Alert) -> None:
        # By key: a clear may belong to a process before this one, and other limits raise an alert anew.
        active = self._active.setdefault(alert.rule, set())
        (active.add if alert.action == "raise" else active.discard)(alert.key)
        self._metrics["ptc_alerts_active"].labels(alert.rule).set(len(active))

    def _on_fit(self, fit: PtcFit) -> None:
        self._metrics["ptc_fits_total"].labels(fit.model).inc()
        self._metrics["ptc_fit_pairs"].labels(*fit.group, fit.model).set(fit.pairs)
        for amplifier in fit.amplifiers:
            labels = (*fit.group, amplifier.name, fit.model)
            for name, value in (
                ("ptc_gain_electrons_per_adu", amplifier.gain),
                ("ptc_read_noise_electrons", amplifier.read_noise),
                ("ptc_a00_per_electron", amplifier.a00),
                ("ptc_turnoff_adu", amplifier.turnoff),
            ):
                if math.isfinite(value):
                    self._metrics[name].labels(*labels).set(value)
                else:
                    with contextlib.suppress(KeyError):  # it was never known, which some versions mind
                        self._metrics[name].remove(*labels)


def serve_metrics(telemetry: Telemetry, address: str) -> tuple[str, int]:
    """Serve the metrics over HTTP, in a thread of its own.

    Parameters
    ----------
    telemetry
        What to serve.
    address
        ``HOST:PORT``; port 0 takes a free one.

    Returns
    -------
    tuple of str and int
        Host and port that are served.

    Raises
    ------
    ConfigurationError
        The address is not ``HOST:PORT`` or cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > _LAST_PORT:
        raise ConfigurationError(f"--metrics {address}: expected HOST:PORT, for example 127.0.0.1:9464")
    try:
        server, _ = start_http_server(int(port), addr=host.strip("[]"), registry=telemetry.registry)
    except OSError as error:
        raise ConfigurationError(f"--metrics {address}: {error.strerror or error}") from error
    return host, int(server.server_port)
