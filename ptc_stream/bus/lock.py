"""One process per store: a lock beside it that names its holder.

``flock`` on a sidecar file, not on the store itself: SQLite holds POSIX locks on the store, and closing any
other descriptor of that file would drop them. The lock vanishes with its process, also after SIGKILL. Two
things keep it from living on in a child: the descriptor is closed on exec (as all of Python's are), and a
child that is forked without exec closes its copy.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import socket
import weakref

from ptc_stream.errors import ConfigurationError, StoreInUse

__all__ = ["StoreLock"]


class StoreLock:
    """The exclusive right to write one store, held until `release` or the end of this process."""

    __slots__ = ("__weakref__", "_descriptor")

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        _held.add(self)

    @classmethod
    def acquire(cls, store: str, *, purpose: str) -> StoreLock:
        """Lock `store`.

        Parameters
        ----------
        store
            Path of the store; the lock lies beside it as ``STORE.lock`` and stays there, empty, afterwards.
        purpose
            What the process is doing, for the one who comes second.

        Raises
        ------
        StoreInUse
            Another process, or this one, has the store open. The message names it.
        ConfigurationError
            The file system does not let us lock.
        """
        try:
            # World-readable, so that a second user is told who the first one is.
            descriptor = os.open(f"{os.path.realpath(store)}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigurationError(f"{store}: cannot be locked ({error.strerror})") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _describe(purpose).encode(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise StoreInUse(
                f"{store} is in use by {holder}: wait for it, end it, or name another store"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise ConfigurationError(
                f"{store}: cannot be locked ({error.strerror}): put it on another file system"
            ) from error
        return cls(descriptor)

    def release(self) -> None:
        """Let others write. Idempotent."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            self._forget()

    def _forget(self) -> None:
        """Close our descriptor; the lock itself goes when the last process that shares it does so."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _describe(purpose: str) -> str:
    since = dt.datetime.now(tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"pid {os.getpid()} on {socket.gethostname()} ({' '.join(purpose.split())}, since {since})\n"


_held: weakref.WeakSet[StoreLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in tuple(_held):
        lock._forget()  # noqa: SLF001 - same module


os.register_at_fork(after_in_child=_forget_in_child)
