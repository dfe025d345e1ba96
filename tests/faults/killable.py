"""A process that forks children on request; each processes a recorded run into a store, and is killed.

Started with the paths of the recording and of a store to warm up with; says how many statements of SQL a
whole run takes. For every line on standard input, "NUMBER STORE", it forks a child that kills itself when
it is about to run that statement (0: never), and prints how it ended: 0, or -9. Pairs, fits and alerts of
the child are made as in `ptc-stream run`; its measurements come from the recording, so that a child is at
work as soon as it exists.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from ptc_stream.bus.api import Topics
from ptc_stream.bus.reader import SqliteReader
from ptc_stream.config import RunnerConfig, make_section
from ptc_stream.core.measuring import MeasurePair, PairMeasurer
from ptc_stream.offload import InlineOffload
from ptc_stream.records import FlatPair
from ptc_stream.replay import RecordedMeasurements, feed_recording, measuring_digest_of, recorded_configs
from ptc_stream.services.fitting import FittingSettings
from ptc_stream.services.runner import OnChange, Stage
from ptc_stream.services.session import Observers, open_store, run_stages


async def process(recording: Path, store: Path, *, last_statement: int) -> int:
    """Process `recording` into `store`; return how many statements that took."""
    topics = Topics()
    statements = itertools.count(1)
    seen = 0

    def about_to_run(_: str) -> None:
        nonlocal seen
        seen = next(statements)
        if seen == last_statement:
            os.kill(os.getpid(), signal.SIGKILL)

    with SqliteReader(recording) as reader:
        configs = recorded_configs(reader)
        measured = RecordedMeasurements(recording, topics)
        measuring = Stage(
            name="measuring",
            input_type=FlatPair,
            make_core=lambda _group: PairMeasurer(),
            config=configs["measuring"],
            on_change=OnChange.REFUSE,
            offload=InlineOffload(),
            functions={MeasurePair: measured},
        )
        async with (
            open_store(store, purpose="killable", partitions=reader.partitions) as bus,
            run_stages(
                bus,
                pairing=make_section("pairing", json.loads(configs["pairing"])["pairing"]),
                measuring_digest=measuring_digest_of(configs["pairing"]),
                measuring=measuring,
                fitting=[
                    FittingSettings(
                        **{name: make_section(name, values) for name, values in json.loads(config).items()}
                    )
                    for stage, config in configs.items()
                    if stage.startswith("fitting.")
                ],
                watching=make_section("watching", json.loads(configs["watching"])["watching"]),
                runner=RunnerConfig(window=2),  # many small commits, to be killed between
                observer=Observers(),
            ) as pipeline,
        ):
            # From here: opening sixteen partitions for each stage is mostly reading.
            bus._connection.set_trace_callback(about_to_run)

            async def feed() -> None:
                await feed_recording(reader, bus, topics)

            await pipeline.alongside(feed())
            await pipeline.drained()
        measured.close()
    return seen


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main() -> None:
    recording, warm = map(Path, sys.argv[1:])
    # Loads all compiled kernels, which the children then share.
    statements = asyncio.run(process(recording, warm, last_statement=0))
    while threading.active_count() > 1:  # fork copies one thread only
        time.sleep(0.01)
    _say(statements)
    for line in sys.stdin:
        last_statement, _, store = line.strip().partition(" ")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.run(process(recording, Path(store), last_statement=int(last_statement)))
                status = 0
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        _say(os.waitstatus_to_exitcode(ended))


if __name__ == "__main__":
    main()
