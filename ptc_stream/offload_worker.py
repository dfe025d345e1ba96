"""What a worker process of `ptc_stream.offload.ProcessOffload` runs.

Frames, each eight bytes of length and that many bytes, on the standard input and output given at the start;
both are then put out of the way of jobs that read or print. The parent sends one `Setup`, then requests. Each
frame is answered by one `Answer`; log records, ("log", level, logger, message), may come before it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import faulthandler
import logging
import os
import pickle
import resource
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import BinaryIO, NamedTuple

__all__ = ["LENGTH_BYTES", "Answer", "Setup", "main"]

LENGTH_BYTES = 8

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a worker is told before its first job; `initializer` is a pickled function without arguments."""

    parent: int
    memory_limit_bytes: int | None
    log_level: int
    initializer: bytes


class Answer(NamedTuple):
    """What a worker makes of one frame.

    `kind` is ``ready`` or ``failed`` for the `Setup`, ``result``, ``error`` or ``memory`` for a request;
    `payload` is the pickled result or exception, empty when it cannot be pickled; `text` describes an error.
    """

    kind: str
    payload: bytes = b""
    text: str = ""
    peak_memory_bytes: int = 0


class _Replies(logging.Handler):
    """Frames to the parent; as a handler, log records among them, so that warnings of a job are not lost."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._sending = threading.Lock()

    def send(self, frame: tuple[object, ...]) -> None:
        payload = pickle.dumps(tuple(frame))
        with self._sending:
            self._stream.write(len(payload).to_bytes(LENGTH_BYTES, "big") + payload)
            self._stream.flush()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.send(("log", record.levelno, record.name, self.format(record)))
        except Exception:  # noqa: BLE001 - a handler of logging must not raise; handleError is its rule
            self.handleError(record)


def main() -> None:
    """Serve until the parent closes the pipe, or dies."""
    requests, replies = _take_pipes()
    # Ctrl-C is the parent's to handle; it ends us when it has finished what is under way.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    frame = _receive(requests)
    if frame is None:
        return
    setup: Setup = pickle.loads(frame)  # noqa: S301 - from our own parent
    _die_with_parent(setup.parent)
    if setup.memory_limit_bytes is not None:
        # Not RLIMIT_AS: that one counts what is merely reserved (stacks, arenas, mapped files), several times
        # what is in use. This one counts private writable memory, which is what numpy and malloc ask for.
        resource.setrlimit(resource.RLIMIT_DATA, (setup.memory_limit_bytes, setup.memory_limit_bytes))
    logging.basicConfig(level=setup.log_level, handlers=[replies], format="%(message)s")
    logging.captureWarnings(capture=True)
    try:
        initializer = pickle.loads(setup.initializer)  # noqa: S301 - from our own parent
        if initializer is not None:
            initializer()
    except BaseException:  # noqa: BLE001 - reported, and the parent decides
        replies.send(Answer("failed", text=traceback.format_exc()))
        return
    replies.send(Answer("ready"))
    while (request := _receive(requests)) is not None:
        replies.send(_answer(request))


def _take_pipes() -> tuple[BinaryIO, _Replies]:
    """Keep the pipes for ourselves: jobs read nothing, and what they print goes to the standard error."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, _Replies(replies)


def _receive(requests: BinaryIO) -> bytes | None:
    header = requests.read(LENGTH_BYTES)
    if len(header) < LENGTH_BYTES:
        return None
    payload = requests.read(int.from_bytes(header, "big"))
    return payload or None


def _answer(request: bytes) -> Answer:
    try:
        function, job = pickle.loads(request)  # noqa: S301 - from our own parent
        return Answer("result", pickle.dumps(function(job)), "", _peak_memory())
    except MemoryError as error:
        return Answer("memory", b"", str(error) or "no more could be had", _peak_memory())
    except BaseException as error:  # noqa: BLE001 - travels back whatever it is
        error.add_note(f"In worker {os.getpid()}:\n{traceback.format_exc()}")
        return Answer("error", _pickled(error), f"{type(error).__name__}: {error}", _peak_memory())


def _pickled(error: BaseException) -> bytes:
    """Pickle `error`; nothing when it cannot be, for the parent then to make one of its text."""
    try:
        return pickle.dumps(error)
    except Exception:  # noqa: BLE001 - pickling runs the error's own code
        return b""


def _peak_memory() -> int:
    """Bytes resident at most so far; not ru_maxrss, which begins with the size of the parent."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill us when the parent is gone, even in the middle of a job.

    Elsewhere than on Linux we notice at the end of the job, by the closed pipe.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)
