"""Locks, freed by death; what killed writers leave."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.errors import StorageError
from bench.storage import locked, write_atomically

HOLDING = """
import sys, time
from pathlib import Path
from bench.storage import locked
with locked(Path(sys.argv[1]), note=print):
    print("held", flush=True)
    time.sleep(60)
"""


def _nothing(message: str) -> None:
    raise AssertionError(message)


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    path, inside, most = tmp_path / ".lock", 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with locked(path, note=lambda _: None):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == 1


def test_that_it_is_held_is_said_once_and_a_killed_holder_lets_go(tmp_path: Path) -> None:
    path, notes = tmp_path / ".lock", list[str]()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(StorageError, match="has held"),
            locked(path, note=notes.append, patience_s=0.3),
        ):
            pass
        assert len(notes) == 1 and "Another process is at work" in notes[0]
        holder.kill()
    with locked(path, note=_nothing):
        pass


def test_without_locks_it_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("bench.storage.fcntl.flock", refuse)
    notes: list[str] = []
    with locked(tmp_path / ".lock", note=notes.append):
        pass
    assert len(notes) == 1 and "No locks" in notes[0]


def test_a_read_only_folder_is_a_storage_error(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="does not exist"),
        locked(tmp_path / "gone" / ".lock", note=_nothing),
    ):
        pass


def test_leftovers_of_killed_writers_are_removed_and_those_of_living_ones_kept(
    tmp_path: Path,
) -> None:
    dead, living = (tmp_path / f".a [x].{letter * 12}.tmp" for letter in "ab")
    of_a_user = tmp_path / ".keep.tmp"
    for path in (dead, living, of_a_user):
        path.write_bytes(b"half")
    for path in (dead, of_a_user):
        os.utime(path, (time.time() - 7200,) * 2)
    write_atomically(tmp_path / "a [x]", b"whole")
    assert sorted(os.listdir(tmp_path)) == [living.name, ".keep.tmp", "a [x]"]
