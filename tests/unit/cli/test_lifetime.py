from __future__ import annotations

import asyncio
import os
import signal
from typing import Any, cast

import pytest

from ptc_stream.cli import lifetime
from ptc_stream.cli.lifetime import draining_on_signals
from ptc_stream.services.pipeline import Pipeline


class Stoppable:
    """As much of a pipeline as a signal reaches."""

    def __init__(self) -> None:
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_drains_and_the_second_ends(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    def end(code: int) -> None:
        assert code == 130
        ended.set()

    monkeypatch.setattr(lifetime, "os", type("os", (), {"_exit": staticmethod(end)}))
    pipeline = Stoppable()
    with draining_on_signals(cast("Pipeline", cast("Any", pipeline))) as interrupted:
        assert not interrupted
        os.kill(os.getpid(), number)
        await asyncio.wait_for(interrupted.event.wait(), 10.0)
        assert interrupted
        assert pipeline.stops == 1
        assert not ended.is_set()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(ended.wait(), 10.0)


async def test_afterwards_signals_mean_what_they_meant() -> None:
    with draining_on_signals(cast("Pipeline", cast("Any", Stoppable()))):
        pass
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
