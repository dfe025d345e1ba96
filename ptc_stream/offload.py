"""Jobs away from the event loop: in place, in threads, or in worker processes.

A job is plain data, its function a function of a module: in worker processes both travel as pickles, and
pixels never do. Results are independent of where, when and beside what a job runs.

Why worker processes of our own: `concurrent.futures` breaks the whole pool with one worker, and pools that
share a queue between workers (multiprocessing, pebble) lose jobs or the pool when one is killed at the wrong
moment. Here each worker has a pipe of its own to the parent, so nothing of one can harm another, and the
event loop waits for the pipes: there is no queue, and no polling. Workers are new interpreters, not forks: a
fork of a process with threads may hang, and would inherit the lock of the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ptc_stream.errors import JobTimeout, OffloadError, PtcStreamError, WorkerDied
from ptc_stream.offload_worker import LENGTH_BYTES, Answer, Setup

__all__ = ["InlineOffload", "Offload", "ProcessOffload", "ThreadOffload"]

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)

# How long `close` waits for what it has ended. A process in a read from a dead file server does not even
# obey SIGKILL; a thread in a fit cannot be ended at all.
_CLOSE_S = 5.0

# A worker that is killed while it starts says nothing about any job; one that never starts stops the stage.
_STARTS = 3
_START_S = 60.0

# One job, one core: the parallelism is in the number of workers, and sums keep their order.
_THREADS = ("MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# Runs by -c, not -m: the package may import the worker's module by itself, which -m warns about.
_PROGRAM = "from ptc_stream.offload_worker import main; main()"


class Offload(Protocol):
    """Something that runs jobs."""

    async def run(self, function: Callable[[JobT], ResultT], job: JobT) -> ResultT:
        """Return ``function(job)``.

        An exception of the function is raised as it is; where it cannot be (it does not travel between
        processes, or is no `Exception`, such as SystemExit), as an `OffloadError` with its text. Cancelling
        ends the job or ignores its result. After `close`, CancelledError.
        """
        ...

    async def close(self) -> None:
        """End all jobs, those under way too, in bounded time. Idempotent."""
        ...


def _called(function: Callable[[JobT], ResultT], job: JobT) -> ResultT:
    """Call `function`, so that nothing is raised which an event loop takes for its own."""
    try:
        return function(job)
    except Exception as error:
        if isinstance(error, StopIteration):  # a Future refuses it
            raise OffloadError(_text(error)) from error
        raise
    except BaseException as error:
        raise OffloadError(_text(error)) from error


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class InlineOffload:
    """Runs every job at once, on the event loop itself: for tests and replay, and for small jobs."""

    def __init__(self) -> None:
        self._closed = False

    async def run(self, function: Callable[[JobT], ResultT], job: JobT) -> ResultT:
        """Return ``function(job)``: see `Offload.run`."""
        await asyncio.sleep(0)  # the one place where this can be cancelled
        if self._closed:
            raise asyncio.CancelledError
        return _called(function, job)

    async def close(self) -> None:
        """Refuse further jobs."""
        self._closed = True


class ThreadOffload:
    """Runs jobs in threads: right where they release the GIL (compiled kernels) and end by themselves.

    Parameters
    ----------
    max_workers
        Jobs at once.
    """

    def __init__(self, max_workers: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers, thread_name_prefix="ptc_stream.offload")
        self._under_way: set[Future[Any]] = set()
        self._closed = False

    async def run(self, function: Callable[[JobT], ResultT], job: JobT) -> ResultT:
        """Return ``function(job)``: see `Offload.run`. A cancelled job that has begun runs on, unheard."""
        if self._closed:
            raise asyncio.CancelledError
        submitted = self._pool.submit(_called, function, job)
        self._under_way.add(submitted)
        submitted.add_done_callback(self._under_way.discard)
        return await asyncio.wrap_future(submitted)

    async def close(self) -> None:
        """Drop the jobs that wait; give those under way 5 s, after which they run on unheard."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        left = [asyncio.wrap_future(future) for future in tuple(self._under_way)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.gather(*left, return_exceptions=True)


class ProcessOffload:
    """Runs jobs in worker processes, each with a deadline, and finds out which job kills its worker.

    A worker that dies takes its own job with it and no other. Because it may have died of what another job
    did (the kernel kills someone when memory runs out), its job is run again with nothing beside it, in a new
    worker; it is to blame when that happens twice. Running out of the memory limit counts as dying.

    Belongs to one event loop. On Linux the kernel kills the workers with the thread that runs it.

    Parameters
    ----------
    max_workers
        Jobs at once. Others wait, before a worker is started for them.
    deadline_s
        A job that takes longer is killed and run once more.
    memory_limit_bytes
        Private memory of each worker (RLIMIT_DATA; about 130 MB of it are taken by the libraries); None: no
        limit.
    initializer
        A function of a module, run in each worker before its first job (to import what the jobs need).
    """

    def __init__(
        self,
        max_workers: int,
        *,
        deadline_s: float,
        memory_limit_bytes: int | None = None,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        if max_workers < 1:
            raise ValueError(f"max_workers is {max_workers}; it must be at least 1")
        self._max_workers = max_workers
        self._deadline_s = deadline_s
        self._memory_limit_bytes = memory_limit_bytes
        self._initializer = pickle.dumps(initializer)
        # Who comes first takes its places first, one or all of them: nobody starves, whatever the mixture.
        self._turn = asyncio.Lock()
        self._places = asyncio.Semaphore(max_workers)
        self._idle: list[_Worker] = []
        self._workers: set[_Worker] = set()
        self._peak_memory_bytes = 0
        self._closed = False

    @property
    def peak_memory_bytes(self) -> int:
        """Largest resident memory of any worker after a job so far, in bytes; 0 where it is not known."""
        return self._peak_memory_bytes

    async def run(self, function: Callable[[JobT], ResultT], job: JobT) -> ResultT:
        """Return ``function(job)``: see `Offload.run`.

        Raises
        ------
        WorkerDied
            The job killed its worker, or ran out of memory, twice with nothing beside it.
        JobTimeout
            It passed its deadline twice.
        PtcStreamError
            Workers cannot be started.
        """
        request = pickle.dumps((function, job))  # what cannot travel costs no worker
        deaths_alone = timeouts = 0
        alone = False
        while True:
            try:
                async with self._place(alone=alone):
                    answer = await self._attempt(request, alone=alone)
                break
            except _Death as death:
                if self._closed:
                    raise asyncio.CancelledError from death
                deaths_alone += alone
                if deaths_alone == _DEATHS_ALONE:
                    raise WorkerDied(
                        f"{death} in job {_name(function)}, {_DEATHS_ALONE} times with nothing beside it"
                    ) from death
                _log.warning("%s; running its job %s again, alone", death, _name(function))
                alone = True
            except TimeoutError as overdue:
                timeouts += 1
                if timeouts == _TIMEOUTS:
                    raise JobTimeout(
                        f"job {_name(function)} took longer than {self._deadline_s:g} s, {_TIMEOUTS} times"
                    ) from overdue
                _log.warning("job %s took longer than %g s: again", _name(function), self._deadline_s)
        result: ResultT = _result(answer)
        return result

    async def close(self) -> None:
        """Kill all workers, which hold nothing that is worth keeping; wait up to 5 s for them."""
        self._closed = True
        self._idle.clear()
        ended = [worker.end() for worker in tuple(self._workers)]
        if ended:
            await asyncio.wait(ended, timeout=_CLOSE_S)

    @contextlib.asynccontextmanager
    async def _place(self, *, alone: bool) -> AsyncIterator[None]:
        """Wait for one place, or for all of them."""
        taken = 0
        try:
            async with self._turn:
                for _ in range(self._max_workers if alone else 1):
                    await self._places.acquire()
                    taken += 1
            yield
        finally:
            for _ in range(taken):
                self._places.release()

    async def _attempt(self, request: bytes, *, alone: bool) -> Answer:
        """Run one request in a worker, a new one when `alone`."""
        if alone and len(self._idle) == self._max_workers:
            self._idle.pop().end()
        worker = self._idle.pop() if self._idle and not alone else await self._start()
        answer = await self._ask(worker, request, self._deadline_s)
        self._peak_memory_bytes = max(self._peak_memory_bytes, answer.peak_memory_bytes)
        if answer.kind == "memory":
            worker.end()
            raise _Death(f"worker ran out of memory ({answer.text})")
        self._idle.append(worker)
        return answer

    async def _ask(self, worker: _Worker, request: bytes, seconds: float) -> Answer:
        """Send `request` and wait for the answer; without one in time the worker is ended."""
        try:
            async with asyncio.timeout(seconds):
                return await worker.ask(request)
        except BaseException:
            worker.end()
            raise

    async def _start(self) -> _Worker:
        for attempt in range(1, _STARTS + 1):
            if self._closed:
                raise asyncio.CancelledError
            try:
                return await self._start_once()
            except (_Death, OSError, TimeoutError) as error:
                if attempt == _STARTS and not self._closed:
                    raise PtcStreamError(f"worker processes cannot be started: {error}") from error
                _log.warning("a worker did not start: %s", error)
        raise asyncio.CancelledError  # closed meanwhile

    async def _start_once(self) -> _Worker:
        # Known before it starts, so that `close` waits for it too.
        worker = _Worker(self._forget)
        self._workers.add(worker)
        try:
            await self._execute(worker)
        except BaseException:
            worker.never_started()
            raise
        if self._closed or worker.gone:
            worker.end()
            raise _Death("worker ended before it had begun")
        setup = Setup(
            parent=os.getpid(),
            memory_limit_bytes=self._memory_limit_bytes,
            log_level=logging.getLogger().getEffectiveLevel(),
            initializer=self._initializer,
        )
        answer = await self._ask(worker, pickle.dumps(setup), _START_S)
        if answer.kind != "ready":
            worker.end()
            raise _Death(answer.text)
        return worker

    async def _execute(self, worker: _Worker) -> None:
        # -P: not from the working directory, where data lie and anything may be called numpy.py.
        await asyncio.get_running_loop().subprocess_exec(
            lambda: worker,
            sys.executable,
            "-P",
            "-c",
            _PROGRAM,
            stderr=None,
            env=os.environ
            | dict.fromkeys(_THREADS, "1")
            | {"PYTHONPATH": os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)},
            start_new_session=True,  # Ctrl-C in the terminal is for us alone
        )

    def _forget(self, worker: _Worker) -> None:
        """Learn that `worker` is gone, from it: whoever waits for its answer is told by itself."""
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)


_DEATHS_ALONE = 2
_TIMEOUTS = 2


class _Death(Exception):
    """A worker is gone, perhaps through no fault of its job; the message says how.

    It gets into rejected records, which are the same on every run: no process number in it.
    """


class _Worker(asyncio.SubprocessProtocol):
    """The parent's end of one worker."""

    def __init__(self, on_ended: Callable[[_Worker], None]) -> None:
        self._on_ended = on_ended
        self._transport: asyncio.SubprocessTransport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[Answer] | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unwanted = False

    @property
    def gone(self) -> bool:
        """Whether the process has ended."""
        return self._ended.done()

    async def ask(self, request: bytes) -> Answer:
        """Send `request` and return the frame that answers it.

        Raises
        ------
        _Death
            The worker is gone.
        """
        transport = self._transport
        pipe = transport.get_pipe_transport(0) if transport is not None else None
        if self.gone or not isinstance(pipe, asyncio.WriteTransport):
            raise _Death(self._how())
        self._answer = asyncio.get_running_loop().create_future()
        pipe.write(len(request).to_bytes(LENGTH_BYTES, "big") + request)
        return await self._answer

    def end(self) -> asyncio.Future[None]:
        """Kill the worker, or let it not begin; the future is done when it is gone."""
        self._unwanted = True
        if self._transport is not None:
            self._transport.close()  # closes the pipes, kills the process
        return self._ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)  # noqa: S101 - the protocol's other half
        self._transport = transport
        if self._unwanted:
            transport.close()

    def never_started(self) -> None:
        """Learn that starting it has failed; where there is a process, its end is waited for as usual."""
        if self._transport is None:
            self.connection_lost(None)
        else:
            self.end()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - there is one pipe from it
        self._received += data
        while len(self._received) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(self._received[:LENGTH_BYTES], "big")
            if len(self._received) < end:
                break
            frame = pickle.loads(self._received[LENGTH_BYTES:end])  # noqa: S301 - from our own worker
            del self._received[:end]
            if frame[0] == "log":
                logging.getLogger(frame[2]).log(frame[1], "%s", frame[3])
            elif self._answer is not None and not self._answer.done():
                self._answer.set_result(Answer(*frame))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the exit status says more
        if self._transport is not None:
            self._transport.close()  # not by itself, even when the process is gone
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_Death(self._how()))
        if not self.gone:
            self._ended.set_result(None)
        self._on_ended(self)

    def _how(self) -> str:
        status = None if self._transport is None else self._transport.get_returncode()
        if status is None or status >= 0:
            return f"worker ended with status {status}"
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        return f"worker was ended by {signal.Signals(-status).name}{hint}"


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", function))


def _result(answer: Answer) -> Any:
    """Return the result that a worker has sent, or raise its error."""
    try:
        content = pickle.loads(answer.payload)  # noqa: S301 - from our own worker
    except Exception as error:
        raise OffloadError(answer.text or f"unreadable result: {_text(error)}") from error
    if answer.kind == "result":
        return content
    if isinstance(content, Exception) and not isinstance(content, StopIteration):
        raise content
    raise OffloadError(answer.text)
