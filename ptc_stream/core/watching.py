"""Fits in, alerts out: range rules judged by value *and* error, raised once and cleared once.

A limit is broken when the value lies beyond it by more than `significance` standard errors, and kept again
when the value itself is back inside. Between the two nothing changes, so a value that hovers at a limit
raises one alert and not a stream of them; and a fit of three pairs, whose errors are wide or unknown,
alarms nobody.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt

from ptc_stream.core.effects import Effect, Emit
from ptc_stream.records import Alert, AmplifierFitResult, GroupKey, PtcFit, content_hash

__all__ = ["AlertRules", "WatchingConfig", "make_alert"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WatchingConfig:
    """Limits of the alert rules; None switches a limit off."""

    gain_low: Annotated[float, Gt(0)] | None = dataclasses.field(
        default=0.1, metadata={"unit": "e-/ADU", "meaning": "Alert when the gain is below."}
    )
    gain_high: Annotated[float, Gt(0)] | None = dataclasses.field(
        default=20.0, metadata={"unit": "e-/ADU", "meaning": "Alert when the gain is above."}
    )
    read_noise_high: Annotated[float, Gt(0)] | None = dataclasses.field(
        default=20.0, metadata={"unit": "e-", "meaning": "Alert when the read noise of the fit is above."}
    )
    a00_low: float | None = dataclasses.field(
        default=-2e-5, metadata={"unit": "1/e-", "meaning": "Alert when a_00 is below (more negative)."}
    )
    a00_high: float | None = dataclasses.field(
        default=0.0,
        metadata={"unit": "1/e-", "meaning": "Alert when a_00 is above: no real CCD has a_00 > 0."},
    )
    turnoff_low: Annotated[float, Gt(0)] | None = dataclasses.field(
        default=None,
        metadata={"unit": "e-", "meaning": "Alert when turnoff times gain is below, for example 90000."},
    )
    significance: Annotated[float, Ge(0)] = dataclasses.field(
        default=3.0,
        metadata={"unit": "sigma", "meaning": "How far beyond a limit, in standard errors, breaks it."},
    )
    min_dof: Annotated[int, Ge(0)] = dataclasses.field(
        default=4,
        metadata={
            "unit": "1",
            "meaning": "Fits with fewer degrees of freedom are not judged: their points may all lie above an "
            "unknown turnoff, and no error tells.",
        },
    )
    dead_after_pairs: Annotated[int, Ge(1)] = dataclasses.field(
        default=3, metadata={"unit": "pairs", "meaning": "Pairs before an amplifier is called dead."}
    )


class _Judgement(NamedTuple):
    rule: str
    value: float
    error: float
    low: float | None
    high: float | None
    unit: str


def make_alert(
    group: GroupKey,
    *,
    amplifier: str,
    rule: str,
    model: str,
    action: str,
    evidence: str,
    message: str,
    value: float | None = None,
    error: float | None = None,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
) -> Alert:
    """Make an alert whose identity is a function of what it says."""
    return Alert(
        instrument=group.instrument,
        run=group.run,
        detector=group.detector,
        amplifier=amplifier,
        rule=rule,
        model=model,
        action=action,
        value=value,
        error=error,
        low=low,
        high=high,
        unit=unit,
        evidence=evidence,
        message=message,
        alert_id=content_hash("Alert.1", *group, amplifier, rule, model, action, evidence),
    )


class AlertRules:
    """Core of the watching stage, for one group.

    Parameters
    ----------
    group
        Instrument, run and detector.
    config
        The limits.
    """

    def __init__(self, group: GroupKey, config: WatchingConfig) -> None:
        self._group = group
        self._config = config
        self._raised: set[tuple[str, str, str]] = set()

    def on_record(self, record: PtcFit) -> list[Effect]:
        """Judge every amplifier of a fit."""
        return [
            Emit(alert)
            for amplifier in record.amplifiers
            for alert in self._judge_amplifier(record, amplifier)
        ]

    def on_history_cut(self) -> None:
        """Nothing to do: an alert raised in the lost past is raised anew by the next fit."""

    def size(self) -> int:
        """Return the memory held, in bytes, about."""
        return 500 + 250 * len(self._raised)

    def _judge_amplifier(self, fit: PtcFit, amplifier: AmplifierFitResult) -> Iterator[Alert]:
        state = (amplifier.name, "dead_amplifier", fit.model)
        dead = amplifier.status == "DEAD" and fit.pairs >= self._config.dead_after_pairs
        if dead != (state in self._raised):
            self._raised ^= {state}
            yield make_alert(
                self._group,
                amplifier=amplifier.name,
                rule="dead_amplifier",
                model=fit.model,
                action="raise" if dead else "clear",
                evidence=fit.fit_id,
                message=(
                    f"amplifier {amplifier.name} shows no signal in {fit.pairs} pairs"
                    if dead
                    else f"amplifier {amplifier.name} shows signal again"
                ),
            )
        if amplifier.dof >= self._config.min_dof:
            for judgement in self._judgements(amplifier):
                yield from self._judge(fit, amplifier.name, judgement)

    def _judgements(self, amplifier: AmplifierFitResult) -> Iterator[_Judgement]:
        limits = self._config
        gain = amplifier.gain
        yield _Judgement("gain", gain, amplifier.gain_error, limits.gain_low, limits.gain_high, "e-/ADU")
        yield _Judgement(
            "read_noise", amplifier.read_noise, amplifier.read_noise_error, None, limits.read_noise_high, "e-"
        )
        yield _Judgement("a00", amplifier.a00, amplifier.a00_error, limits.a00_low, limits.a00_high, "1/e-")
        if not amplifier.turnoff_is_lower_limit:
            yield _Judgement(
                "turnoff",
                amplifier.turnoff * gain,
                amplifier.turnoff_error * gain,
                limits.turnoff_low,
                None,
                "e-",
            )

    def _judge(self, fit: PtcFit, name: str, judged: _Judgement) -> Iterator[Alert]:
        if not (math.isfinite(judged.value) and 0.0 <= judged.error < math.inf):
            return  # nothing is known, so nothing is broken and nothing is mended
        margin = self._config.significance * judged.error
        low, high = judged.low, judged.high
        broken = (low is not None and judged.value + margin < low) or (
            high is not None and judged.value - margin > high
        )
        kept = (low is None or judged.value >= low) and (high is None or judged.value <= high)
        state = (name, judged.rule, fit.model)
        raised = state in self._raised
        if (broken and not raised) or (kept and raised):
            self._raised ^= {state}
            yield make_alert(
                self._group,
                amplifier=name,
                rule=judged.rule,
                model=fit.model,
                action="raise" if broken else "clear",
                evidence=fit.fit_id,
                value=judged.value,
                error=judged.error,
                low=low,
                high=high,
                unit=judged.unit,
                message=(
                    f"{judged.rule} of {name} is {judged.value:.6g} +- {judged.error:.2g} {judged.unit}, "
                    f"{'outside' if broken else 'inside'} [{_limit(low)}, {_limit(high)}] "
                    f"after {fit.pairs} pairs"
                ),
            )


def _limit(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
