from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptc_stream.bus.lock import StoreLock
from ptc_stream.errors import ConfigurationError, StoreInUse

HOLDER = """
import sys
from ptc_stream.bus.lock import StoreLock
lock = StoreLock.acquire(sys.argv[1], purpose="ptc-stream run\\n04803")
children = []
if sys.argv[2] == "exec":
    import subprocess
    children.append(subprocess.Popen(["sleep", "60"], close_fds=False).pid)
elif sys.argv[2] == "fork":
    import os, signal
    up, down = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(down, b"x")  # what a fork runs in the child before it returns has been run
        signal.pause()
    os.read(up, 1)
    children.append(pid)
print(*children, flush=True)
sys.stdin.read()
"""


def start_holder(store: Path, child: str) -> tuple[subprocess.Popen[str], list[int]]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store), child],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    return holder, [int(pid) for pid in holder.stdout.readline().split()]


def stop(holder: subprocess.Popen[str], children: list[int]) -> None:
    for pid in children:
        os.kill(pid, 9)
    holder.kill()
    holder.communicate()


def test_the_second_process_is_told_who_the_first_is(tmp_path: Path) -> None:
    store = tmp_path / "ptc.sqlite"
    holder, children = start_holder(store, "none")
    try:
        with pytest.raises(StoreInUse) as refused:
            StoreLock.acquire(str(store), purpose="second")
    finally:
        stop(holder, children)
    line = str(refused.value)
    assert f"{store} is in use by pid {holder.pid} on " in line
    assert "(ptc-stream run 04803, since " in line
    assert "another store" in line
    assert "\n" not in line


@pytest.mark.parametrize("child", ["none", "exec", "fork"])
def test_the_lock_goes_with_its_process_whatever_its_children_do(tmp_path: Path, child: str) -> None:
    store = tmp_path / "ptc.sqlite"
    holder, children = start_holder(store, child)
    try:
        with pytest.raises(StoreInUse):
            StoreLock.acquire(str(store), purpose="second")
        holder.kill()
        holder.wait()
        StoreLock.acquire(str(store), purpose="second").release()
    finally:
        stop(holder, children)


def test_one_process_locks_once_until_it_releases(tmp_path: Path) -> None:
    store = tmp_path / "ptc.sqlite"
    lock = StoreLock.acquire(str(store), purpose="first")
    link = tmp_path / "link.sqlite"
    link.symlink_to(store)
    for name in (store, link):
        with pytest.raises(StoreInUse, match="first"):
            StoreLock.acquire(str(name), purpose="second")
    lock.release()
    lock.release()
    assert (tmp_path / "ptc.sqlite.lock").read_bytes() == b""
    StoreLock.acquire(str(link), purpose="second").release()


def test_a_refused_process_does_not_release_the_first(tmp_path: Path) -> None:
    store = str(tmp_path / "ptc.sqlite")
    lock = StoreLock.acquire(store, purpose="first")
    for _ in range(2):
        with pytest.raises(StoreInUse):
            StoreLock.acquire(store, purpose="second")
    lock.release()


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    store = str(tmp_path / "missing" / "ptc.sqlite")
    with pytest.raises(ConfigurationError, match=r"missing/ptc.sqlite: cannot be locked \(No such file"):
        StoreLock.acquire(store, purpose="first")


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", cannot)
    with pytest.raises(ConfigurationError, match="No locks available"):
        StoreLock.acquire(str(tmp_path / "ptc.sqlite"), purpose="first")
