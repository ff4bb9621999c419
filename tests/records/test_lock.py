"""The lock: one at a time, freed by death, honest where there is none."""

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
from bench.storage import locked, remove_leftovers, write_atomically

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


def test_a_lock_is_held_by_one_at_a_time_and_leaves_no_file(tmp_path: Path) -> None:
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
    assert os.listdir(tmp_path) == []


def test_who_holds_it_is_said_once_and_a_killed_holder_lets_go(tmp_path: Path) -> None:
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
        assert len(notes) == 1 and f"Process {holder.pid} on " in notes[0]
        holder.kill()
    assert path.exists()
    with locked(path, note=_nothing):
        pass
    assert not path.exists()


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
    write_atomically(tmp_path / "file", b"content")
    monkeypatch.setattr("bench.storage.fcntl", None)
    with locked(tmp_path / ".lock", note=notes.append):
        write_atomically(tmp_path / "file", b"content")
    assert len(notes) == 2


def test_a_lock_file_of_another_folder_in_its_place_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder / ".lock", note=_nothing):
        (folder / ".lock").unlink()
        (folder / ".lock").write_text("another one's")
    assert (folder / ".lock").read_text() == "another one's"


def test_a_read_only_folder_is_a_storage_error(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="does not exist"),
        locked(tmp_path / "gone" / ".lock", note=_nothing),
    ):
        pass


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path: Path) -> None:
    import fcntl

    dead, living = (tmp_path / f".a [x].{letter * 12}.tmp" for letter in "ab")
    other = tmp_path / f".b.{'a' * 12}.tmp"
    for path in (dead, living, other):
        path.write_bytes(b"half")
    (tmp_path / ".keep.tmp").write_bytes(b"a user's")
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(tmp_path / "a [x]", b"whole")
        assert not dead.exists() and living.exists() and other.exists()
        assert remove_leftovers(tmp_path) == [other]
    assert remove_leftovers(tmp_path) == [living]
    assert sorted(os.listdir(tmp_path)) == [".keep.tmp", "a [x]"]


def test_a_writer_whose_new_file_was_taken_for_a_leftover_writes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import storage

    lock, swept = storage.try_lock, list[str]()

    def sweeping(handle: int) -> str:
        if not swept:
            (found,) = tmp_path.glob(".file.*.tmp")
            swept.append(found.name)
            found.unlink()
        return lock(handle)

    monkeypatch.setattr(storage, "try_lock", sweeping)
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert len(swept) == 1 and os.listdir(tmp_path) == ["file"]
