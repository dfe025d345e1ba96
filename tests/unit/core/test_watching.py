from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptc_stream.core.effects import Emit
from ptc_stream.core.watching import AlertRules, WatchingConfig, make_alert
from ptc_stream.records import Alert, GroupKey, PtcFit
from tests.builders import amplifier_fit_result, ptc_fit
from tests.strategies import BOUNDED

LIMITS = WatchingConfig(gain_low=1.0, gain_high=2.0, read_noise_high=10.0, turnoff_low=30_000.0)
GROUP = ptc_fit().group


class Watch:
    """One group's rules, and the alerts so far."""

    def __init__(self, config: WatchingConfig = LIMITS) -> None:
        self.core = AlertRules(GROUP, config)
        self.alerts: list[Alert] = []
        self._fits = 0

    def take(self, fit: PtcFit) -> list[Alert]:
        effects = self.core.on_record(fit)
        alerts = [it.record for it in effects if isinstance(it, Emit) and isinstance(it.record, Alert)]
        assert len(alerts) == len(effects)
        self.alerts += alerts
        return alerts

    def fit(self, **amplifier: Any) -> list[str]:
        """A fit of one amplifier; what it raised and cleared, as "+rule" and "-rule"."""
        self._fits += 1
        fit = ptc_fit(
            fit_id=f"fit {self._fits}",
            pairs=amplifier.pop("pairs", 40),
            model=amplifier.pop("model", "EXPAPPROXIMATION"),
            amplifiers=(amplifier_fit_result(**amplifier),),
        )
        return [("+" if it.action == "raise" else "-") + it.rule for it in self.take(fit)]


# --- each rule ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        ("gain", {"gain": 2.2}),
        ("gain", {"gain": 0.8}),
        ("read_noise", {"read_noise": 12.0}),
        ("a00", {"a00": 1e-6}),
        ("a00", {"a00": -3e-5}),
        ("turnoff", {"turnoff": 15_000.0}),  # 22,500 electrons at gain 1.5
        ("dead_amplifier", {"status": "DEAD"}),
    ],
)
def test_each_rule_raises_once_and_clears_once(rule: str, bad: dict[str, Any]) -> None:
    watch = Watch()
    assert watch.fit() == []
    assert watch.fit(**bad) == [f"+{rule}"]
    assert watch.fit(**bad) == []
    assert watch.fit() == [f"-{rule}"]
    assert watch.fit() == []
    assert watch.fit(**bad) == [f"+{rule}"]


@pytest.mark.parametrize(
    ("limit", "bad"),
    [
        ("gain_low", {"gain": 0.5}),
        ("gain_high", {"gain": 99.0}),
        ("read_noise_high", {"read_noise": 999.0}),
        ("a00_low", {"a00": -1.0}),
        ("a00_high", {"a00": 1.0}),
        ("turnoff_low", {"turnoff": 1.0}),
    ],
)
def test_a_limit_that_is_none_is_switched_off(limit: str, bad: dict[str, Any]) -> None:
    off: Any = dataclasses.replace(LIMITS, **{limit: None})  # type: ignore[arg-type]  # one field at a time
    assert Watch(LIMITS).fit(**bad) != []
    assert Watch(off).fit(**bad) == []


def test_the_defaults_let_a_good_camera_pass_and_no_other() -> None:
    assert Watch(WatchingConfig()).fit() == []
    assert Watch(WatchingConfig()).fit(a00=2e-6) == ["+a00"]
    assert Watch(WatchingConfig()).fit(gain=25.0) == ["+gain"]


def test_an_alert_says_what_was_judged() -> None:
    watch = Watch()
    watch.fit(gain=2.2, gain_error=0.01)
    (raised,) = watch.alerts
    assert raised.group == GROUP
    assert (raised.amplifier, raised.model, raised.evidence) == ("C00", "EXPAPPROXIMATION", "fit 1")
    assert (raised.value, raised.error, raised.low, raised.high, raised.unit) == (
        2.2,
        0.01,
        1.0,
        2.0,
        "e-/ADU",
    )
    assert raised.message == "gain of C00 is 2.2 +- 0.01 e-/ADU, outside [1, 2] after 40 pairs"
    watch.fit()
    assert "inside [1, 2]" in watch.alerts[1].message
    assert watch.alerts[1].key == raised.key
    watch.fit(read_noise=50.0)
    assert "outside [none, 10]" in watch.alerts[2].message


def test_turnoff_is_judged_in_electrons_and_only_if_it_is_one() -> None:
    assert Watch().fit(turnoff=19_000.0, turnoff_error=100.0) == ["+turnoff"]  # 28,500 e-, 10 sigma below
    assert Watch().fit(turnoff=19_000.0, turnoff_error=1_000.0) == []  # 1 sigma below
    assert Watch().fit(turnoff=10_000.0, turnoff_is_lower_limit=True, turnoff_error=math.nan) == []


# --- value and error ------------------------------------------------------------------------------


def test_a_limit_is_broken_beyond_the_errors_only() -> None:
    assert Watch().fit(gain=2.09, gain_error=0.04) == []
    assert Watch().fit(gain=2.13, gain_error=0.04) == ["+gain"]
    assert Watch().fit(gain=0.91, gain_error=0.04) == []
    assert Watch().fit(gain=0.87, gain_error=0.04) == ["+gain"]
    exact = dataclasses.replace(LIMITS, significance=0.0)
    assert Watch(exact).fit(gain=2.0, gain_error=0.04) == []
    assert Watch(exact).fit(gain=2.0001, gain_error=0.04) == ["+gain"]


def test_a_value_that_hovers_at_a_limit_raises_one_alert() -> None:
    watch = Watch()
    said = [
        watch.fit(gain=gain, gain_error=0.04) for gain in (2.2, 2.05, 2.2, 2.01, 2.11, 2.2, 2.0, 2.1, 2.13)
    ]
    assert said == [["+gain"], [], [], [], [], [], ["-gain"], [], ["+gain"]]


def test_nothing_known_breaks_nothing_and_mends_nothing() -> None:
    watch = Watch()
    for unknown in (math.nan, math.inf, -math.inf):
        assert watch.fit(gain=unknown) == []
        assert watch.fit(gain=9.0, gain_error=unknown) == []
    assert watch.fit(gain=9.0) == ["+gain"]
    assert watch.fit(gain=math.nan) == []
    assert watch.fit(gain=1.5, gain_error=math.nan) == []
    assert watch.fit(gain=1.5) == ["-gain"]


def test_a_negative_error_is_no_error() -> None:
    assert Watch().fit(gain=1.9, gain_error=-1.0) == []


def test_a_fit_of_three_pairs_alarms_nobody() -> None:
    watch = Watch()
    wild = {
        "gain": 9.0,
        "gain_error": 0.0,
        "read_noise": 999.0,
        "a00": 1.0,
        "turnoff": 1.0,
        "turnoff_error": 0.0,
    }
    for dof in range(4):
        assert watch.fit(**wild, dof=dof, pairs=3 + dof) == []
    assert watch.fit(**wild, dof=4) == ["+gain", "+read_noise", "+a00", "+turnoff"]
    assert watch.fit(dof=3) == []  # nor does it mend
    assert watch.fit(dof=4) == ["-gain", "-read_noise", "-a00", "-turnoff"]


def test_an_amplifier_is_dead_after_some_pairs_and_alive_as_soon_as_it_is() -> None:
    watch = Watch()
    dead = {"status": "DEAD", "dof": 0, "gain": math.nan, "read_noise": math.nan, "a00": math.nan}
    assert [watch.fit(**dead, pairs=pairs) for pairs in (1, 2, 3, 4)] == [[], [], ["+dead_amplifier"], []]
    assert "no signal in 3 pairs" in watch.alerts[0].message
    assert watch.fit(pairs=5) == ["-dead_amplifier"]
    assert "signal again" in watch.alerts[1].message


# --- who is judged apart from whom ----------------------------------------------------------------


def test_amplifiers_and_models_have_alerts_of_their_own() -> None:
    watch = Watch()
    both = ptc_fit(amplifiers=(amplifier_fit_result(gain=9.0), amplifier_fit_result(name="C01", gain=9.0)))
    assert [it.amplifier for it in watch.take(both)] == ["C00", "C01"]
    assert watch.fit(model="POLYNOMIAL") == []  # the other model is in order; it clears nothing
    assert watch.fit(model="POLYNOMIAL", gain=9.0) == ["+gain"]
    assert watch.fit() == ["-gain"]
    assert watch.take(ptc_fit(amplifiers=())) == []


def test_identity_of_an_alert() -> None:
    facts: dict[str, Any] = {
        "amplifier": "C00",
        "rule": "gain",
        "model": "M",
        "action": "raise",
        "evidence": "fit 1",
    }
    ids = [make_alert(GROUP, **facts, message="").alert_id]
    assert make_alert(GROUP, **facts, message="in other words", value=1.0).alert_id == ids[0]
    ids += [make_alert(GROUP, **facts | {name: "other"}, message="").alert_id for name in facts]
    ids.append(make_alert(GroupKey("a", "b", "c"), **facts, message="").alert_id)
    assert len(set(ids)) == len(ids)


# --- any stream of fits ---------------------------------------------------------------------------

ANY = st.sampled_from(
    [math.nan, math.inf, -math.inf, -1e9, -3e-5, -1e-6, 0.0, 1e-6, 0.5, 1.0, 1.5, 2.0, 2.1, 1e9]
)


@st.composite
def fits(draw: st.DrawFn) -> PtcFit:
    amplifiers = [
        amplifier_fit_result(
            name=name,
            status=draw(st.sampled_from(["OK", "DEAD", "NOT_CONVERGED"])),
            dof=draw(st.sampled_from([0, 3, 4, 33])),
            turnoff_is_lower_limit=draw(st.booleans()),
            **{
                field: draw(ANY)
                for field in (
                    *("gain", "gain_error", "read_noise", "read_noise_error"),
                    *("a00", "a00_error", "turnoff", "turnoff_error"),
                )
            },
        )
        for name in draw(st.lists(st.sampled_from(["C00", "C01"]), max_size=3))
    ]
    return ptc_fit(
        model=draw(st.sampled_from(["EXPAPPROXIMATION", "POLYNOMIAL"])),
        pairs=draw(st.integers(0, 5)),
        fit_id=draw(st.sampled_from(["1", "2", "3"])),
        amplifiers=tuple(amplifiers),
    )


@BOUNDED
@given(
    stream=st.lists(fits(), max_size=12), config=st.sampled_from([LIMITS, WatchingConfig(significance=0.0)])
)
@example(stream=[ptc_fit(amplifiers=(amplifier_fit_result(gain=1.9, gain_error=-1.0),))] * 2, config=LIMITS)
def test_raise_and_clear_alternate_whatever_comes(stream: list[PtcFit], config: WatchingConfig) -> None:
    watch = Watch(config)
    for fit in stream:
        watch.take(fit)
        repeated = collections.Counter(name.name for name in fit.amplifiers).most_common(1)
        if not repeated or repeated[0][1] == 1:
            assert watch.take(fit) == []  # a duplicate changes nothing
    actions: dict[str, list[str]] = {}
    for alert in watch.alerts:
        actions.setdefault(alert.key, []).append(alert.action)
    for said in actions.values():
        assert said == (["raise", "clear"] * len(said))[: len(said)]


@BOUNDED
@given(stream=st.lists(fits(), max_size=8), restart=st.integers(0, 8))
def test_a_core_fed_again_goes_on_as_if_nothing_had_happened(stream: list[PtcFit], restart: int) -> None:
    undisturbed, before, after = Watch(), Watch(), Watch()
    for fit in stream:
        undisturbed.take(fit)
    for fit in stream[:restart]:
        before.take(fit)
        after.take(fit)
    made = len(after.alerts)
    for fit in stream[restart:]:
        after.take(fit)
    assert before.alerts + after.alerts[made:] == undisturbed.alerts


def test_the_size_grows_with_what_is_raised() -> None:
    watch = Watch()
    empty = watch.core.size()
    watch.fit(gain=9.0, read_noise=99.0)
    assert watch.core.size() > empty
    watch.fit()
    assert watch.core.size() == empty
