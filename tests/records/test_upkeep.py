"""Before a run is worked on: damage is named and set aside, and what is missing is no damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_records import make_record

from bench.errors import RecordError
from bench.records.record import RunRecord
from bench.records.store import RECORD_FILE, RunStore
from bench.records.upkeep import at_work, checked_file, fingerprints, forget, sound_record


def _nothing(message: str) -> None:
    raise AssertionError(message)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path)


@pytest.fixture
def record(store: RunStore) -> RunRecord:
    """A finished record with two files beside it."""
    made = make_record()
    folder = store.folder(made.spec)
    for name in ("a.npz", "b.npz"):
        (folder / name).write_text(name)
    files = fingerprints(folder, ["a.npz", "b.npz", "missing"])
    made = made.model_copy(update={"files": files})
    store.save(made)
    return made


def test_a_sound_run_is_found_and_left_as_it_is(store: RunStore, record: RunRecord) -> None:
    assert set(record.files) == {"a.npz", "b.npz"}
    assert sound_record(store, record.spec) == record
    with at_work(store, record.spec, note=_nothing) as found:
        assert found == record


def test_a_file_that_was_deleted_is_no_damage(store: RunStore, record: RunRecord) -> None:
    (store.folder_of(record) / "a.npz").unlink()
    assert sound_record(store, record.spec) == record
    assert checked_file(store, record, "a.npz").name == "a.npz"


def test_a_changed_file_is_set_aside_with_its_record(store: RunStore, record: RunRecord) -> None:
    folder, notes = store.folder_of(record), list[str]()
    (folder / "a.npz").write_text("another")
    assert sound_record(store, record.spec) is None
    with pytest.raises(RecordError, match=r"a\.npz was changed"):
        checked_file(store, record, "a.npz")
    assert checked_file(store, record, "b.npz").is_file()
    with at_work(store, record.spec, note=notes.append) as found:
        assert found is None
    assert len(notes) == 1 and "a.npz.broken-1" in notes[0]
    names = {path.name for path in folder.iterdir() if path.suffix != ".lock"}
    assert names == {"a.npz.broken-1", "b.npz", f"{RECORD_FILE}.broken-1"}


def test_a_damaged_record_is_named_and_set_aside(store: RunStore, record: RunRecord) -> None:
    notes: list[str] = []
    (store.folder_of(record) / RECORD_FILE).write_bytes(b"{")
    with at_work(store, record.spec, note=notes.append) as found:
        assert found is None
    assert len(notes) == 1 and f"{RECORD_FILE}.broken-1" in notes[0]


def test_a_forgotten_run_leaves_a_folder_with_locks_alone(
    store: RunStore, record: RunRecord
) -> None:
    folder = store.folder_of(record)
    (folder / "sub").mkdir()
    forget(store, record.spec, note=_nothing)
    assert {path.suffix for path in folder.iterdir()} == {".lock"}
