"""A directory that fills up: every file is announced when it is whole, once per revision.

Clock policy: the clock decides only *when* a file is looked at, never what it says. A file is taken when
two looks in a row find it unchanged and complete; one that stays incomplete is taken after `settle_s`, so
that a broken upload ends as a rejected record instead of waiting for ever. Polling instead of kernel
notices, because camera files land on network file systems, where notices do not arrive.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from ptc_stream.errors import ImageError, StorageUnavailable
from ptc_stream.images.reading import check_whole
from ptc_stream.ingest.files import is_exposure_file

__all__ = ["arriving_files"]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class _Seen:
    stamp: tuple[int, int]
    since: float
    taken: bool = False


async def arriving_files(
    directory: Path,
    *,
    poll_s: float = 1.0,
    settle_s: float = 30.0,
    idle: Callable[[float], bool] | None = None,
) -> AsyncIterator[list[Path]]:
    """Yield files of `directory` (and below) as they become ready, in batches, sorted by name.

    Parameters
    ----------
    directory
        What to watch. It need not exist yet.
    poll_s
        Time between looks [s].
    settle_s
        Time after which an unchanged file is taken even if it is not complete [s].
    idle
        Asked after every look with the seconds since something last changed; True ends the iteration.

    Yields
    ------
    list of Path
        New files and new revisions. May be empty, once per look.
    """
    seen: dict[Path, _Seen] = {}
    last_change = time.monotonic()
    while True:
        ready, changed = await asyncio.to_thread(_look, directory, seen, settle_s)
        if changed:
            last_change = time.monotonic()
        yield ready
        waiting = any(not entry.taken for entry in seen.values())
        if idle is not None and not waiting and idle(time.monotonic() - last_change):
            return
        await asyncio.sleep(poll_s)


def _look(directory: Path, seen: dict[Path, _Seen], settle_s: float) -> tuple[list[Path], bool]:
    now = time.monotonic()
    ready: list[Path] = []
    changed = False
    try:
        found = sorted(file for file in directory.rglob("*") if is_exposure_file(file))
    except OSError as error:
        _log.warning("%s: %s; looking again", directory, error.strerror or error)
        return [], False
    for gone in seen.keys() - set(found):
        del seen[gone]  # an upload that was given up, or moved away: nobody need wait for it
    for path in found:
        try:
            status = path.stat()
        except OSError:
            continue  # it went away between two calls; the next look knows more
        stamp = (status.st_size, status.st_mtime_ns)
        entry = seen.get(path)
        if entry is None or entry.stamp != stamp:
            seen[path] = _Seen(stamp, now)
            changed = True
        elif not entry.taken and (now - entry.since >= settle_s or _is_whole(path)):
            entry.taken = True
            changed = True
            ready.append(path)
    return ready, changed


def _is_whole(path: Path) -> bool:
    try:
        check_whole(path)
    except (ImageError, StorageUnavailable):
        return False
    return True
