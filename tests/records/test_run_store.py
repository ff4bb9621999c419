"""The store: what is written is found again, what is damaged never counts, what a name means."""

from __future__ import annotations

import errno
import io
import json
import math
import multiprocessing
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from beside import write_many
from synthetic_records import make_record

from bench.errors import RecordError, StorageError
from bench.records.arrays import read_arrays, save_arrays
from bench.records.document import decode, encode
from bench.records.record import EpochRow, RunRecord
from bench.records.store import RECORD_FILE, RunStore, finished_run, finished_runs
from bench.storage import write_atomically


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "results")


def damage(store: RunStore, record: RunRecord, content: bytes) -> Path:
    path = store.folder_of(record) / RECORD_FILE
    path.write_bytes(content)
    return path


def test_a_saved_record_is_found_by_its_spec(store: RunStore) -> None:
    record = make_record()
    path = store.save(record)
    assert path == store.results_dir / "runs" / record.run / "record.json"
    assert store.find(record.spec) == record
    assert store.find(make_record(seed=1).spec) is None


def test_asking_an_absent_store_creates_nothing(store: RunStore) -> None:
    assert store.load_all() == ([], [])
    assert store.find(make_record().spec) is None
    assert not store.results_dir.exists()


def test_a_failed_run_is_listed_but_not_found_as_finished(store: RunStore) -> None:
    failed = make_record(status="failed", reason="the loss is not a number")
    store.save(failed)
    assert store.find(failed.spec) is None
    assert store.load_all().records == [failed]


def test_a_run_that_has_only_a_folder_is_no_problem(store: RunStore) -> None:
    assert store.folder(make_record().spec).is_dir()
    assert store.load_all() == ([], [])


def test_numbers_that_are_not_finite_come_back() -> None:
    row = EpochRow(
        phase="main", epoch=0, lr=0.1, images_per_s=1.0, wall_s=math.inf, values={"loss": math.nan}
    )
    record = make_record(status="failed").model_copy(update={"history": (row,)})
    back = decode(encode(record)).history[0]
    assert math.isnan(back.values["loss"])
    assert back.wall_s == math.inf


def with_schema(record: RunRecord, version: int) -> bytes:
    document = json.loads(encode(record))
    document["record"]["schema_version"] = version
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda r: encode(r)[:-200], "truncated"),
        (lambda r: b"", "truncated"),
        (lambda r: b"\xff\xfe\x00", "truncated"),
        (lambda r: b"[" * 200_000, "truncated"),
        (lambda r: encode(r).replace(b'"accuracy": 0.92', b'"accuracy": 0.93'), "checksum"),
        (lambda r: json.dumps(r.model_dump(mode="json")).encode(), "no checksum"),
        (lambda r: b"[1, 2]", "no checksum"),
        (lambda r: with_schema(r, 99), "schema version 99"),
    ],
)
def test_a_damaged_record_is_reported_and_never_counted(
    store: RunStore, break_it: Callable[[RunRecord], bytes], reason: str
) -> None:
    record, healthy = make_record(), make_record(seed=1)
    store.save(record)
    store.save(healthy)
    damage(store, record, break_it(record))
    records, problems = store.load_all()
    assert records == [healthy]
    assert [problem.name for problem in problems] == [record.run]
    assert reason in problems[0].reason
    assert store.find(record.spec) is None
    with pytest.raises(RecordError, match=reason):
        store.get(record.run)


def test_a_record_with_a_true_checksum_and_a_wrong_shape_is_reported(store: RunStore) -> None:
    record = make_record()
    store.save(record)
    odd = record.model_copy(update={"test_images": "many"})
    with pytest.warns(UserWarning, match="serialized value"):
        damage(store, record, encode(odd))
    assert "test_images" in store.load_all().problems[0].reason


def test_a_record_in_a_foreign_folder_is_reported(store: RunStore) -> None:
    record, other = make_record(), make_record(seed=7)
    store.save(record)
    damage(store, record, encode(other))
    assert "another run" in store.load_all().problems[0].reason


def test_a_truncated_record_is_set_aside_when_its_run_starts_again(store: RunStore) -> None:
    record = make_record()
    store.save(record)
    for number in (1, 2):
        broken = b"{" * number
        damage(store, record, broken)
        folder = store.folder(record.spec)
        store.set_aside_broken(record.spec)
        assert not (folder / RECORD_FILE).exists()
        assert (folder / f"record.json.broken-{number}").read_bytes() == broken
    damage(store, record, b"{{{")
    store.save(record)
    assert store.load_all() == ([record], [])
    assert (store.folder_of(record) / "record.json.broken-3").read_bytes() == b"{{{"


def test_a_healthy_record_is_not_set_aside(store: RunStore) -> None:
    record = make_record()
    store.save(record)
    assert store.set_aside_broken(record.spec) is None
    assert store.find(record.spec) == record


def test_a_run_is_found_by_the_beginning_of_its_key(store: RunStore) -> None:
    record, other = make_record("sgad"), make_record("blockdrop")
    store.save(record)
    store.save(other)
    assert store.get(record.spec.key[:6]) == record
    assert store.get("block") == other


def test_an_ambiguous_name_lists_the_runs(store: RunStore) -> None:
    for seed in (0, 1):
        store.save(make_record(seed=seed))
    with pytest.raises(RecordError, match="names 2 runs") as caught:
        store.get("sgad")
    assert make_record(seed=1).run in str(caught.value)


@pytest.mark.parametrize("name", ["sgda-cifar10-resnet32", "../../etc", "", "."])
def test_an_unknown_run_says_so(store: RunStore, name: str) -> None:
    store.save(make_record())
    with pytest.raises(RecordError, match="There is no run"):
        store.get(name)


def test_a_misspelt_run_gets_the_nearest_name(store: RunStore) -> None:
    record = make_record()
    store.save(record)
    with pytest.raises(RecordError) as caught:
        store.get(record.run.replace("sgad", "sgda"))
    assert record.run in (caught.value.hint or "")


def test_an_amendment_starts_from_what_is_on_disk(store: RunStore) -> None:
    record = make_record()
    store.save(record.model_copy(update={"reason": "by another"}))
    made = store.amend(record.run, lambda now: now.model_copy(update={"wall_s": 1.0}))
    assert store.get(record.run) == made
    assert (made.wall_s, made.reason) == (1.0, "by another")


def test_an_amendment_of_an_absent_run_is_refused(store: RunStore) -> None:
    with pytest.raises(StorageError):
        store.amend(make_record().run, lambda now: now)
    assert not store.results_dir.exists()


def test_no_temporary_file_is_left(store: RunStore) -> None:
    record = make_record()
    store.save(record)
    assert not list(store.folder_of(record).glob(".*.tmp"))


def test_a_full_disk_is_a_storage_error_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "record.json"
    write_atomically(target, b"old")

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bench.storage.os.fsync", refuse)
    with pytest.raises(StorageError, match="disk is full") as caught:
        write_atomically(target, b"new")
    assert "--results-dir" in str(caught.value)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["record.json"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_read_only_folder_is_a_storage_error(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match=r"permission denied|read-only"):
        store.save(make_record())


def test_a_file_in_place_of_the_results_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(StorageError, match="file stands where a folder"):
        RunStore(tmp_path / "results").save(make_record())


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_two_writers_never_leave_a_mixed_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"a" * 50_000)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(target), x)) for x in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        content = target.read_bytes()
        assert len(content) == 50_000
        assert len(set(content)) == 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ["file"]


def test_arrays_come_back_equal_and_their_bytes_repeat(tmp_path: Path) -> None:
    arrays = {
        "correct_bits": np.packbits(np.arange(20) % 3 == 0),
        "executed_nu": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3),
        "one": np.array(3),
    }
    first = save_arrays(tmp_path, "a.npz", arrays).read_bytes()
    back = read_arrays(tmp_path, "a.npz")
    assert back.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array, strict=True)
    assert save_arrays(tmp_path, "b.npz", arrays).read_bytes() == first


def test_arrays_of_objects_are_refused_both_ways(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(RecordError, match="Python objects"):
        save_arrays(tmp_path, "a.npz", {"x": objects})
    np.savez(tmp_path / "b.npz", x=objects)
    with pytest.raises(RecordError, match="cannot be read"):
        read_arrays(tmp_path, "b.npz")


def test_damaged_and_missing_arrays_are_record_errors(tmp_path: Path) -> None:
    whole = save_arrays(tmp_path, "a.npz", {"x": np.arange(1000)}).read_bytes()
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("x.npy", "no array")
    for content in (whole[:50], b"", b"text", buffer.getvalue(), flipped):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(RecordError, match="cannot be read"):
            read_arrays(tmp_path, "b.npz")
    with pytest.raises(RecordError, match="missing"):
        read_arrays(tmp_path, "c.npz")


@pytest.mark.parametrize("name", ["../a.npz", "/etc/passwd", "..", "", "a/b.npz", "a\\b", "C:x"])
def test_a_name_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match="not a plain file name"):
        read_arrays(tmp_path, name)
    with pytest.raises(RecordError, match="not a plain file name"):
        save_arrays(tmp_path, name, {})


def test_a_record_that_names_another_folder_writes_nothing(store: RunStore) -> None:
    record = make_record().model_copy(update={"run": "../../elsewhere"})
    with pytest.raises(RecordError, match="not a plain file name"):
        store.save(record)
    assert not store.results_dir.exists()


def test_blocks_come_back_in_the_order_of_execution(store: RunStore) -> None:
    record = make_record()
    names = [f"block{number}" for number in range(12)]
    point = record.points[0].model_copy(update={"block_rates": dict.fromkeys(names, 1.0)})
    record = record.model_copy(update={"points": (point,)})
    store.save(record)
    assert list(store.get(record.run).points[0].block_rates) == names


def test_the_beginning_of_several_names_means_all_finished_runs(store: RunStore) -> None:
    seeds = [make_record(seed=seed) for seed in (0, 1)]
    for record in (*seeds, make_record(seed=2, status="failed", reason="no luck")):
        store.save(record)
    assert finished_runs(store, "sgad-cifar10") == seeds


def test_the_name_of_a_method_means_no_longer_name(store: RunStore) -> None:
    record = make_record("sgad")
    for one in (record, make_record("sgad_beta")):
        store.save(one)
    assert finished_runs(store, "sgad") == [record] == [store.get("sgad")]
    assert len(finished_runs(store, "sga")) == 2


def test_a_failed_run_is_in_nobodys_way_where_one_finished_run_is_needed(store: RunStore) -> None:
    record = make_record(seed=0)
    for one in (record, make_record(seed=1, status="failed", reason="no luck")):
        store.save(one)
    assert finished_run(store, "sgad") == record
    with pytest.raises(RecordError, match=r"s1-\w+ is not finished. It failed: no luck"):
        finished_run(store, "sgad-cifar10-resnet32-s1")


def test_several_candidates_are_differences_by_what_differs(store: RunStore) -> None:
    for d_max in (0.5, 0.8):
        store.save(make_record(config={"d_max": d_max, "gamma": 1}))
    with pytest.raises(RecordError, match="names 2 finished runs") as caught:
        finished_run(store, "sgad")
    hint = caught.value.hint or ""
    assert "(d_max=0.5)" in hint and "(d_max=0.8)" in hint
    assert "gamma" not in hint and "the hash at its end" in hint
