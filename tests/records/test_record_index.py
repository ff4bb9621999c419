"""The index: it saves reading, and never changes what is read."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from beside import ask_often, wall_s
from synthetic_records import make_record

from bench.errors import StorageError
from bench.records import index
from bench.records.index import Digests, digests
from bench.records.record import RunRecord
from bench.records.store import RECORD_FILE, RunStore


def status(record: RunRecord) -> str:
    return record.status


def ask(store: RunStore) -> Digests:
    return digests(store, wall_s, name="wall")


@pytest.fixture(autouse=True)
def small_and_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "FEWEST", 1)
    monkeypatch.setattr(index, "_SETTLED_S", -60.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the records that were read."""
    names: list[str] = []
    load = RunStore.load

    def counted(self: RunStore, name: str) -> RunRecord:
        names.append(name)
        return load(self, name)

    monkeypatch.setattr(RunStore, "load", counted)
    return names


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path)
    for seed in range(3):
        store.save(make_record(seed=seed))
    return store


def file_of(store: RunStore) -> Path:
    return store.results_dir / ".cache" / "wall.json"


def test_a_record_is_read_once_and_again_when_it_changed(store: RunStore, reads: list[str]) -> None:
    first = ask(store)
    assert reads == store.names() == list(first.of)
    reads.clear()
    assert ask(store) == first
    assert reads == []
    newer = make_record(seed=1).model_copy(update={"wall_s": 1.0})
    store.save(newer)
    assert ask(store).of == first.of | {newer.run: [1.0]}
    assert reads == [newer.run]


def test_new_and_removed_records_are_noticed(store: RunStore, reads: list[str]) -> None:
    ask(store)
    gone, new = make_record(seed=0), make_record(seed=9)
    (store.folder_of(gone) / RECORD_FILE).unlink()
    store.save(new)
    reads.clear()
    for _ in range(2):
        assert list(ask(store).of) == store.names()
    assert reads == [new.run]


def test_a_record_damaged_in_place_with_its_old_time_is_a_problem_each_time(
    store: RunStore,
) -> None:
    ask(store)
    record = make_record(seed=1)
    path = store.folder_of(record) / RECORD_FILE
    before = path.stat()
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"accuracy": 0.92', b'"accuracy": 0.93'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        found = ask(store)
        assert record.run not in found.of
        assert [problem.name for problem in found.problems] == [record.run]
        assert "checksum" in found.problems[0].reason
    assert found.problems == store.load_all().problems


def test_a_record_that_changed_a_moment_ago_is_read_again(
    store: RunStore, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_SETTLED_S", 60.0)
    ask(store)
    ask(store)
    assert reads == 2 * store.names()
    assert not file_of(store).exists()


@pytest.mark.parametrize(
    "break_it",
    [
        lambda whole: b"",
        lambda whole: whole[:-10],
        lambda whole: whole.replace(b"1834.5", b"9999.9"),
        lambda whole: whole.partition(b"\n")[2],
        lambda whole: b"\xff\xfe\n[]",
        lambda whole: b"[" * 200_000,
    ],
)
def test_a_damaged_index_is_made_anew(
    store: RunStore, reads: list[str], break_it: Callable[[bytes], bytes]
) -> None:
    first = ask(store)
    whole = file_of(store).read_bytes()
    assert break_it(whole) != whole
    file_of(store).write_bytes(break_it(whole))
    reads.clear()
    assert ask(store) == first
    assert reads == store.names()
    assert file_of(store).read_bytes() == whole


def test_an_index_made_by_other_code_is_made_anew(
    store: RunStore, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(store)
    assert digests(store, status, name="wall").of == dict.fromkeys(first.of, "finished")
    reads.clear()
    monkeypatch.setattr(index, "SCHEMA_VERSION", 99)
    assert digests(store, status, name="wall").of == dict.fromkeys(first.of, "finished")
    assert reads == store.names()


def test_code_that_cannot_be_read_has_no_index(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wall_s, "__module__", "nowhere")
    assert list(ask(store).of) == store.names()
    assert not file_of(store).exists()


def test_a_folder_that_cannot_be_written_is_done_without(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise StorageError("read-only")

    monkeypatch.setattr(index, "write_atomically", refuse)
    assert list(ask(store).of) == store.names()


def test_a_file_in_place_of_the_folder_is_done_without(store: RunStore) -> None:
    (store.results_dir / ".cache").write_text("")
    for _ in range(2):
        assert list(ask(store).of) == store.names()


def test_a_small_or_absent_store_gets_no_index(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "FEWEST", 4)
    ask(store)
    assert os.listdir(store.results_dir) == ["runs"]
    assert ask(RunStore(tmp_path / "absent")) == ({}, [])
    assert not (tmp_path / "absent").exists()


def test_processes_that_share_an_index_all_see_the_truth(store: RunStore) -> None:
    truth = {record.run: [record.wall_s] for record in store.load_all().records}
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    askers = [
        context.Process(target=ask_often, args=(str(store.results_dir), answers)) for _ in "abc"
    ]
    for asker in askers:
        asker.start()
    for _ in range(30):
        file_of(store).unlink(missing_ok=True)
        store.save(make_record(seed=1))
    for _ in askers:
        assert answers.get(timeout=60) == [truth] * 10
    for asker in askers:
        asker.join()
    assert [path.name for path in file_of(store).parent.iterdir()] in ([], ["wall.json"])
