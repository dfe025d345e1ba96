"""From the first signal to the end of the process: drain on the first, end at once on the second."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

from ptc_stream.cli.display import console
from ptc_stream.services.pipeline import Pipeline

__all__ = ["Interrupted", "draining_on_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted:
    """Whether a signal has come, and an event to wait for it."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __bool__(self) -> bool:
        return self.event.is_set()


@contextlib.contextmanager
def draining_on_signals(pipeline: Pipeline) -> Iterator[Interrupted]:
    """While inside: the first SIGINT or SIGTERM stops `pipeline` gently, the second ends the process."""
    interrupted = Interrupted()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if interrupted:
            # Nothing is lost: what is not committed is done again by the next start.
            os._exit(130)
        interrupted.event.set()
        console.print("stopping: finishing what is under way (once more to stop at once)")
        pipeline.stop()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield interrupted
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
