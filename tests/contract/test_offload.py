"""What `ptc_stream.offload` promises: first of every executor, then of worker processes alone."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ptc_stream.errors import ImageUnreadable, JobTimeout, OffloadError, PtcStreamError, WorkerDied
from ptc_stream.offload import InlineOffload, Offload, ProcessOffload, ThreadOffload
from tests.contract import offload_jobs as jobs

LIMIT_S = 30.0

_EXECUTORS: dict[str, Callable[[], Offload]] = {
    "inline": InlineOffload,
    "thread": lambda: ThreadOffload(2),
    "process": lambda: ProcessOffload(2, deadline_s=LIMIT_S),
}


@pytest.fixture(params=sorted(_EXECUTORS))
async def offload(request: pytest.FixtureRequest) -> AsyncIterator[Offload]:
    made = _EXECUTORS[request.param]()
    yield made
    await made.close()


@pytest.fixture
async def processes() -> AsyncIterator[ProcessOffload]:
    made = ProcessOffload(2, deadline_s=LIMIT_S)
    yield made
    await made.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - other processes set no Event
            await asyncio.sleep(0.002)


def names(folder: Path) -> list[int]:
    """Process numbers that `offload_jobs.tell_and_wait` has left in `folder`."""
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


def runs(pid: int) -> bool:
    """Whether there is such a process, and it is not just waiting to be reaped."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


async def test_the_result_comes_back(offload: Offload) -> None:
    assert await offload.run(jobs.square, 12) == 144
    assert await offload.run(jobs.echo, None) is None


async def test_many_jobs_give_the_same_in_any_order(offload: Offload) -> None:
    numbers = [*range(40), *reversed(range(40))]
    results = await asyncio.gather(*(offload.run(jobs.square, number) for number in numbers))
    assert results == [number * number for number in numbers]


async def test_large_jobs_and_results_pass(offload: Offload) -> None:
    value = bytes(range(256)) * 40_000
    assert await offload.run(jobs.echo, value) == value


async def test_an_error_of_ours_keeps_type_and_message(offload: Offload) -> None:
    with pytest.raises(ImageUnreadable) as caught:
        await offload.run(jobs.unreadable, "04803.fits")
    assert str(caught.value) == "04803.fits is not FITS"
    assert caught.value.reason == "IMAGE_UNREADABLE"
    assert await offload.run(jobs.square, 2) == 4


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        KeyError("k"),
        TimeoutError("late"),
        OSError(5, "I/O error", "a.fits"),
        WorkerDied("w"),
    ],
)
async def test_any_exception_comes_back_as_itself(offload: Offload, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        await offload.run(jobs.fail, error)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)


async def test_what_an_event_loop_would_take_for_its_own_becomes_an_offload_error(offload: Offload) -> None:
    with pytest.raises(OffloadError, match=r"^SystemExit: 3$"):
        await offload.run(jobs.exit_python, 3)
    with pytest.raises(OffloadError, match=r"^StopIteration: end$"):
        await offload.run(jobs.fail, StopIteration("end"))
    assert await offload.run(jobs.square, 2) == 4


async def test_a_job_cancelled_before_it_begins_does_not_run(offload: Offload, tmp_path: Path) -> None:
    task = asyncio.create_task(offload.run(jobs.hang, str(tmp_path / "began")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await offload.run(jobs.square, 2) == 4
    assert not names(tmp_path)


async def test_close_can_be_repeated_and_cancels_what_comes_after(offload: Offload) -> None:
    await offload.run(jobs.square, 1)
    await asyncio.gather(offload.close(), offload.close())
    await offload.close()
    with pytest.raises(asyncio.CancelledError):
        await offload.run(jobs.square, 1)


async def test_close_before_any_job(offload: Offload) -> None:
    await offload.close()


async def test_threads_cancelled_while_working_are_not_waited_for(tmp_path: Path) -> None:
    offload = ThreadOffload(1)
    task = asyncio.create_task(offload.run(jobs.tell_and_wait, str(tmp_path)))
    waiting = asyncio.create_task(offload.run(jobs.square, 3))
    await until(lambda: names(tmp_path))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (tmp_path / "go").touch()
    assert await waiting == 9
    await offload.close()


async def test_closing_threads_drops_jobs_that_wait_and_lets_others_end(tmp_path: Path) -> None:
    offload = ThreadOffload(1)
    task = asyncio.create_task(offload.run(jobs.tell_and_wait, str(tmp_path)))
    waiting = asyncio.create_task(offload.run(jobs.square, 3))
    await until(lambda: names(tmp_path))
    closing = asyncio.create_task(offload.close())
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (tmp_path / "go").touch()
    await closing
    assert await task == os.getpid()


async def test_a_job_that_fails_while_threads_close_is_not_complained_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offload = ThreadOffload(1)
    task = asyncio.create_task(offload.run(jobs.wait_and_fail, str(tmp_path)))
    await until(lambda: names(tmp_path))
    task.cancel()
    closing = asyncio.create_task(offload.close())
    await asyncio.sleep(0)
    (tmp_path / "go").touch()
    await closing
    gc.collect()
    assert caplog.records == []


async def test_threads_are_not_the_event_loop() -> None:
    offload = ThreadOffload(1)
    assert await offload.run(lambda _: threading.get_ident(), None) != threading.get_ident()
    await offload.close()


# Worker processes alone


async def test_what_a_job_prints_reads_and_logs_disturbs_nobody(
    processes: ProcessOffload, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert await processes.run(jobs.talk, "hello") == "hello"
    assert ("jobs", logging.WARNING, "logged hello") in caplog.record_tuples
    assert any(name == "py.warnings" and "warned hello" in text for name, _, text in caplog.record_tuples)


async def test_the_remote_traceback_is_kept(processes: ProcessOffload) -> None:
    with pytest.raises(ImageUnreadable) as caught:
        await processes.run(jobs.unreadable, "04803.fits")
    assert "in unreadable" in caught.value.__notes__[0]


async def test_an_exception_that_does_not_travel_becomes_text(processes: ProcessOffload) -> None:
    with pytest.raises(OffloadError, match=r"^Awkward: a and a$"):
        await processes.run(jobs.raise_awkward, "a")
    with pytest.raises((OffloadError, AttributeError), match="pickle"):
        await processes.run(jobs.make_unpicklable, None)
    assert await processes.run(jobs.square, 2) == 4


async def test_a_job_that_does_not_travel_costs_no_worker(processes: ProcessOffload) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):
        await processes.run(lambda value: value, 1)
    assert not processes._workers


async def test_a_worker_has_one_thread_and_its_own_session(processes: ProcessOffload) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        assert await processes.run(jobs.environment, name) == "1"
    pid = await processes.run(jobs.process_number, None)
    assert os.getsid(pid) == pid
    assert processes.peak_memory_bytes > 1_000_000


async def test_workers_are_used_again(processes: ProcessOffload) -> None:
    pids = {await processes.run(jobs.process_number, None) for _ in range(5)}
    assert len(pids) == 1


async def test_no_more_jobs_at_once_than_workers(tmp_path: Path) -> None:
    offload = ProcessOffload(2, deadline_s=LIMIT_S)
    seen = await asyncio.gather(*(offload.run(jobs.concurrent_runs, str(tmp_path)) for _ in range(12)))
    assert max(seen) <= 2
    assert len(offload._workers) <= 2
    await offload.close()


async def test_the_initializer_runs_in_every_worker() -> None:
    offload = ProcessOffload(1, deadline_s=LIMIT_S, initializer=jobs.set_up)
    assert await offload.run(jobs.environment, "OFFLOAD_JOBS_SET_UP") == "yes"
    await offload.close()


async def test_a_pool_whose_workers_do_not_start_says_why() -> None:
    offload = ProcessOffload(1, deadline_s=LIMIT_S, initializer=jobs.refuse_to_set_up)
    with pytest.raises(PtcStreamError, match="no such library") as caught:
        await offload.run(jobs.square, 1)
    assert not isinstance(caught.value, OffloadError)  # the job is not to blame
    await offload.close()
    assert not offload._workers


@pytest.mark.parametrize(
    ("job", "status", "how"),
    [
        (jobs.exit_process, 0, "worker ended with status 0 in job exit_process"),
        (jobs.exit_process, 7, "worker ended with status 7 in job exit_process"),
        (jobs.kill_oneself, 0, "worker was ended by SIGKILL (out of memory?) in job kill_oneself"),
    ],
)
async def test_a_job_that_kills_its_worker_is_to_blame_after_two_deaths_alone(
    processes: ProcessOffload, job: Callable[[int], None], status: int, how: str
) -> None:
    with pytest.raises(WorkerDied) as caught:
        await processes.run(job, status)
    # Word for word: it gets into rejected records, which hold nothing that differs from run to run.
    assert str(caught.value) == f"{how}, 2 times with nothing beside it"
    assert await processes.run(jobs.square, 5) == 25


async def test_a_worker_killed_from_outside_costs_nobody_a_result(
    processes: ProcessOffload, tmp_path: Path
) -> None:
    innocent = [asyncio.create_task(processes.run(jobs.tell_and_wait, str(tmp_path))) for _ in range(4)]
    await until(lambda: len(names(tmp_path)) == 2)
    victim, beside = names(tmp_path)
    os.kill(victim, signal.SIGKILL)
    (tmp_path / "go").touch()
    pids = await asyncio.gather(*innocent)
    assert victim not in pids
    assert beside in pids


async def test_a_killer_beside_innocent_jobs_is_the_only_one_blamed(processes: ProcessOffload) -> None:
    killers = [asyncio.create_task(processes.run(jobs.exit_process, 1)) for _ in range(2)]
    results = await asyncio.gather(*(processes.run(jobs.square, number) for number in range(20)))
    assert results == [number * number for number in range(20)]
    for killer in killers:
        with pytest.raises(WorkerDied):
            await killer


async def test_a_job_whose_worker_died_runs_again_with_nothing_beside_it(
    processes: ProcessOffload, tmp_path: Path
) -> None:
    beside = asyncio.create_task(processes.run(jobs.tell_and_wait, str(tmp_path)))
    await until(lambda: names(tmp_path))
    dying = asyncio.create_task(processes.run(jobs.die_once, str(tmp_path)))
    await until(lambda: dying.done() or processes._turn.locked())
    later = asyncio.create_task(processes.run(jobs.square, 3))
    (tmp_path / "go").touch()
    assert await dying == "after go"  # that is, when the job beside it had ended
    assert await beside
    assert await later == 9


async def test_a_death_beside_others_does_not_count(processes: ProcessOffload, tmp_path: Path) -> None:
    assert await processes.run(jobs.die_twice, str(tmp_path / "deaths")) == "done"


async def test_an_idle_worker_that_is_killed_is_replaced(processes: ProcessOffload) -> None:
    pid = await processes.run(jobs.process_number, None)
    os.kill(pid, signal.SIGKILL)
    assert await processes.run(jobs.process_number, None) != pid  # noticed by the job, or before
    (worker,) = processes._idle
    os.kill(await processes.run(jobs.process_number, None), signal.SIGKILL)
    await until(lambda: not processes._workers)
    assert worker not in processes._idle


async def test_a_job_past_its_deadline_is_killed_and_tried_once_more(tmp_path: Path) -> None:
    offload = ProcessOffload(1, deadline_s=1.0)
    assert await offload.run(jobs.hang_once, str(tmp_path / "once")) == "done"
    with pytest.raises(JobTimeout, match=r"^job hang took longer than 1 s, 2 times$"):
        await offload.run(jobs.hang, str(tmp_path / "twice"))
    assert (tmp_path / "twice").read_text() == "xx"
    await offload.close()
    assert not offload._workers


async def test_a_job_that_needs_too_much_memory_dies_of_its_own_limit() -> None:
    offload = ProcessOffload(2, deadline_s=LIMIT_S, memory_limit_bytes=400_000_000)
    greedy = asyncio.create_task(offload.run(jobs.allocate, 1_000_000_000))
    assert await offload.run(jobs.allocate, 50_000_000) == 50_000_000
    with pytest.raises(WorkerDied, match="ran out of memory"):
        await greedy
    assert await offload.run(jobs.allocate, 50_000_000) == 50_000_000
    assert offload.peak_memory_bytes > 50_000_000
    await offload.close()


async def test_a_cancelled_job_is_ended(processes: ProcessOffload, tmp_path: Path) -> None:
    task = asyncio.create_task(processes.run(jobs.tell_and_wait, str(tmp_path)))
    await until(lambda: names(tmp_path))
    (pid,) = names(tmp_path)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not runs(pid))
    assert await processes.run(jobs.square, 2) == 4
    assert len(processes._workers) == 1


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 100])
async def test_cancelling_at_any_point_leaks_no_place_and_no_worker(
    processes: ProcessOffload, steps: int
) -> None:
    tasks = [asyncio.create_task(processes.run(jobs.square, 1)) for _ in range(5)]
    for _ in range(steps):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    both = asyncio.gather(*(processes.run(jobs.square, number) for number in range(4)))
    assert await asyncio.wait_for(both, LIMIT_S) == [0, 1, 4, 9]
    await processes.close()
    assert not processes._workers


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20])
async def test_closing_while_a_worker_starts_leaves_none(processes: ProcessOffload, steps: int) -> None:
    task = asyncio.create_task(processes.run(jobs.square, 1))
    for _ in range(steps):
        await asyncio.sleep(0)
    await processes.close()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, LIMIT_S)
    await until(lambda: not processes._workers)


async def test_close_kills_what_is_under_way(tmp_path: Path) -> None:
    offload = ProcessOffload(1, deadline_s=LIMIT_S)
    task = asyncio.create_task(offload.run(jobs.tell_and_wait, str(tmp_path)))
    waiting = asyncio.create_task(offload.run(jobs.square, 1))
    await until(lambda: names(tmp_path))
    (pid,) = names(tmp_path)
    await offload.close()
    assert not runs(pid)
    for cancelled in (task, waiting):
        with pytest.raises(asyncio.CancelledError):
            await cancelled


PARENT = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
import offload_jobs
from ptc_stream.offload import ProcessOffload

async def main():
    offload = ProcessOffload(2, deadline_s=100)
    await asyncio.gather(*(offload.run(offload_jobs.square, n) for n in range(4)))
    await asyncio.gather(*(offload.run(offload_jobs.tell_and_wait, sys.argv[1]) for n in range(2)))

asyncio.run(main())
"""


def start_parent(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), str(Path(__file__).parent)], text=True
    )


async def test_no_worker_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = start_parent(tmp_path)
    try:
        await until(lambda: len(names(tmp_path)) == 2 or parent.poll() is not None)
        workers = names(tmp_path)
        assert all(runs(pid) for pid in workers)
        assert len(workers) == 2
        parent.kill()
        await until(lambda: not any(runs(pid) for pid in workers))
    finally:
        (tmp_path / "go").touch()  # so that not even a failure of this test leaves a process behind
        parent.kill()
        parent.wait()
