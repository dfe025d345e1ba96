from __future__ import annotations

from pathlib import Path

import pytest

from ptc_stream.bus import mounts

MOUNTINFO = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 27 0:40 / /data rw,relatime shared:2 master:1 - nfs4 server:/export rw,vers=4.2
32 31 254:1 / /data/scratch rw - xfs /dev/vdb rw
33 27 0:41 / /mnt/test\040stand rw - cifs //server/share rw
34 27 0:42 / /home/me/remote rw - fuse.sshfs me@server: rw
35 27 0:43 / /over rw - ext4 /dev/vdc rw
36 35 0:44 / /over rw - lustre mgs@tcp:/fs rw
this line says nothing
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/srv/ptc.sqlite", "ext4"),
        ("/data", "nfs4"),
        ("/data/run 1/ptc.sqlite", "nfs4"),
        ("/database/ptc.sqlite", "ext4"),
        ("/data/scratch/ptc.sqlite", "xfs"),
        ("/mnt/test stand/ptc.sqlite", "cifs"),
        ("/home/me/remote/ptc.sqlite", "fuse.sshfs"),
        ("/over/ptc.sqlite", "lustre"),
    ],
)
def test_the_longest_mount_point_decides_and_of_two_the_upper(path: str, kind: str) -> None:
    assert mounts.filesystem_type(path, MOUNTINFO) == kind


def test_no_mount_no_type() -> None:
    assert mounts.filesystem_type("/data", "") is None


def test_network_file_systems_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "_MOUNTINFO", table)
    here = str(tmp_path).replace(" ", r"\040")
    for kind, network in (
        ("nfs", True),
        ("ext4", False),
        ("fuse.sshfs", True),
        ("9p", True),
        ("tmpfs", False),
    ):
        table.write_text(f"27 1 254:0 / / rw - ext4 /dev/vda rw\n31 27 0:40 / {here} rw - {kind} x rw\n")
        assert mounts.network_filesystem(str(tmp_path / "ptc.sqlite")) == (kind if network else None)


def test_a_link_counts_where_it_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "_MOUNTINFO", table)
    table.write_text(f"31 27 0:40 / {str(tmp_path / 'far').replace(' ', chr(92) + '040')} rw - nfs x rw\n")
    assert mounts.network_filesystem(str(tmp_path / "near" / "ptc.sqlite")) == "nfs"


def test_without_a_mount_table_everything_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_MOUNTINFO", tmp_path / "missing")
    assert mounts.network_filesystem(str(tmp_path)) is None
