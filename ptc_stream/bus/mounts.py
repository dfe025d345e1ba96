"""Which file systems cannot carry SQLite's write-ahead log.

The write-ahead log keeps its index in memory shared between the processes that have the store open
(https://www.sqlite.org/wal.html, "all processes must be on the same host"). On a network file system there
is no such memory; readers would see old or torn pages without any error. FUSE is counted among them: most of
its file systems are remote, and for the others the rollback journal only costs speed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["filesystem_type", "network_filesystem"]

_MOUNTINFO = Path("/proc/self/mountinfo")

_NETWORK = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "drvfs",
        "gfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "prl_fs",
        "pvfs2",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
        "wekafs",
    }
)


def filesystem_type(path: str, mountinfo: str) -> str | None:
    """Type of the file system that holds `path`.

    Parameters
    ----------
    path
        Absolute path without symbolic links; it need not exist.
    mountinfo
        Text of ``/proc/self/mountinfo`` (proc(5)).

    Returns
    -------
    str or None
        Type of the mount with the longest matching mount point, of equal ones the last (it lies on top);
        None when no line matches.
    """
    best: tuple[int, str] | None = None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:  # the mount point is the fifth field
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= best[0]):
            best = len(point), after.split(" ")[0]
    return None if best is None else best[1]


def network_filesystem(path: str) -> str | None:
    """Type of the network file system that holds `path`, or None when it lies on a local one.

    Where there is no ``/proc`` (outside Linux) every file system counts as local; SQLite then decides by
    itself whether it can use a write-ahead log.
    """
    try:
        mountinfo = _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    kind = filesystem_type(os.path.realpath(path), mountinfo)
    if kind is not None and (kind in _NETWORK or kind.startswith("fuse.")):
        return kind
    return None
