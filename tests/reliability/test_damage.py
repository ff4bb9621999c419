"""Truncated and flipped bytes: recognised, named, set aside, done again; never a wrong number."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_processes import QUICK, WITHOUT, Nursery
from fault_counts import Faults
from run_comparing import assert_same_run, record_in, run_folder

from bench.data import cache
from bench.data.embedded import load_digits
from bench.data.images import Dataset
from bench.errors import CheckpointError, RecordError
from bench.records.arrays import read_arrays
from bench.records.document import decode
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.records.upkeep import checked_file, sound_record
from bench.training.checkpoint import Checkpoint, Position

RUN = ("run", "--methods", "sgad", *QUICK)
KEPT = ("record.json", "point0.npz", "weights.safetensors", "inference.safetensors")


@pytest.fixture(scope="module")
def finished(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with one finished sgad run."""
    folder = tmp_path_factory.mktemp("finished")
    done = nursery.run(*RUN, results=folder)
    assert done.wait() == 0, done.said
    return folder


def damages(content: bytes, *, count: int, seed: int) -> Iterator[bytes]:
    """Yield `content` cut at random places, then with one to eight random bytes changed."""
    draw = random.Random(seed)
    for number in range(count):
        if number % 2:
            yield content[: draw.randrange(len(content))]
            continue
        changed = bytearray(content)
        for _ in range(draw.randint(1, 8)):
            changed[draw.randrange(len(changed))] ^= draw.randint(1, 255)
        yield bytes(changed)


def _record(results: Path) -> RunRecord:
    return decode((run_folder(results, "sgad") / "record.json").read_bytes())


def test_no_damaged_record_counts(finished: Path, tmp_path: Path, faults: Faults) -> None:
    whole = run_folder(finished, "sgad") / "record.json"
    record = _record(finished)
    store = RunStore(tmp_path)
    path = store.save(record)
    for damaged in faults.each(
        "record.json damaged", damages(whole.read_bytes(), count=400, seed=1)
    ):
        path.write_bytes(damaged)
        found = store.find(record.spec)
        # A line feed that became a space says the same.
        assert found is None or found == record


def test_no_damaged_arrays_are_read(finished: Path, tmp_path: Path, faults: Faults) -> None:
    folder = run_folder(finished, "sgad")
    whole = read_arrays(folder, "point0.npz")
    for damaged in faults.each(
        "point0.npz damaged", damages((folder / "point0.npz").read_bytes(), count=600, seed=2)
    ):
        (tmp_path / "a.npz").write_bytes(damaged)
        try:
            found = read_arrays(tmp_path, "a.npz")
        except RecordError as error:
            assert "a.npz" in error.message
        else:
            assert found.keys() == whole.keys()
            for name, array in whole.items():
                np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize("name", KEPT[1:])
def test_no_damaged_file_of_a_run_is_taken_for_sound(
    name: str, finished: Path, tmp_path: Path, faults: Faults
) -> None:
    shutil.copytree(finished, tmp_path / "r")
    store, record = RunStore(tmp_path / "r"), _record(finished)
    path = store.folder_of(record) / name
    whole = path.read_bytes()
    assert sound_record(store, record.spec) == record
    for damaged in faults.each(f"{name} of a run damaged", damages(whole, count=60, seed=3)):
        path.write_bytes(damaged)
        assert sound_record(store, record.spec) is None
        with pytest.raises(RecordError, match="changed after"):
            checked_file(store, record, name)


def test_no_damaged_checkpoint_is_continued(tmp_path: Path, faults: Faults) -> None:
    net = {"weight": torch.arange(600.0)}
    checkpoint = Checkpoint(tmp_path / "checkpoint.bin", identity="x")
    checkpoint.save(Position(0, 1, net=net, optimizer={"state": {}}, log="{}"))
    whole = checkpoint.path.read_bytes()
    for damaged in faults.each("checkpoint.bin damaged", damages(whole, count=400, seed=4)):
        checkpoint.path.write_bytes(damaged)
        try:
            found = checkpoint.load()
        except CheckpointError as error:
            assert "checkpoint.bin" in error.message
        else:
            # The one byte between the digest and the content says nothing.
            assert found is not None and torch.equal(found.net["weight"], net["weight"])


@pytest.fixture(scope="module")
def few() -> Dataset:
    """A few of the digits."""
    whole = load_digits()
    some = torch.arange(20)
    return Dataset(whole.info, whole.train.take(some), whole.test.take(some))


def test_no_damaged_data_is_used(few: Dataset, tmp_path: Path, faults: Faults) -> None:
    path = tmp_path / cache.FILE_NAME
    cache.save(few, path, source="here")
    for damaged in faults.each(
        "decoded data set damaged", damages(path.read_bytes(), count=400, seed=5)
    ):
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = cache.load(path, source="here")
        if found is None:
            assert path.exists() or any(cache.FILE_NAME in str(w.message) for w in caught)
        else:
            assert found.info == few.info
            assert torch.equal(found.train.images_nhwc, few.train.images_nhwc)
            assert torch.equal(found.test.labels_n, few.test.labels_n)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: random.Random(6).randrange(path.stat().st_size)])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(7).randrange(len(content))] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [_cut, _flip])
@pytest.mark.parametrize("name", [*KEPT, "trunk.safetensors"])
@pytest.mark.fault("a file of a finished run damaged, then bench run")
def test_a_damaged_file_is_named_set_aside_and_made_again(
    name: str,
    damage: Callable[[Path], None],
    finished: Path,
    tmp_path: Path,
    nursery: Nursery,
) -> None:
    shutil.copytree(finished, tmp_path / "r")
    folder = run_folder(tmp_path / "r", "sgad")
    damage(folder / name)
    damaged = (folder / name).read_bytes()
    again = nursery.run(*RUN, results=tmp_path / "r")
    assert again.wait() == 0 and "Traceback" not in again.said, again.said
    assert f"{name}.broken-1" in again.said
    assert (folder / f"{name}.broken-1").read_bytes() == damaged
    assert_same_run(folder, run_folder(finished, "sgad"))


@pytest.mark.parametrize("damage", [_cut, _flip])
@pytest.mark.fault("checkpoint.bin damaged, then bench run")
def test_a_damaged_checkpoint_is_named_set_aside_and_the_training_redone(
    damage: Callable[[Path], None], finished: Path, tmp_path: Path, nursery: Nursery
) -> None:
    dying = """
import os, signal
import bench.engine.single as single
single._measure = lambda *given, **more: os.kill(os.getpid(), signal.SIGKILL)
"""
    assert nursery.run(*RUN, results=tmp_path, before=dying).wait() == -9
    folder = run_folder(tmp_path, "sgad")
    damage(folder / "checkpoint.bin")
    again = nursery.run(*RUN, results=tmp_path)
    assert again.wait() == 0 and "Traceback" not in again.said, again.said
    assert "checkpoint.bin is truncated or damaged" in again.said and ".broken" in again.said
    assert_same_run(folder, run_folder(finished, "sgad"))


@pytest.mark.parametrize("damage", [_cut, _flip])
@pytest.mark.fault("weights damaged, then bench latency")
def test_damaged_weights_are_not_timed(
    damage: Callable[[Path], None], finished: Path, tmp_path: Path, nursery: Nursery
) -> None:
    shutil.copytree(finished, tmp_path / "r")
    folder = run_folder(tmp_path / "r", "sgad")
    damage(folder / "weights.safetensors")
    time_it = ("latency", "sgad", "--profile", "smoke", "--device", "cpu", "--batch-sizes", "1")
    done = nursery.run(*time_it, results=tmp_path / "r")
    assert "was changed after it was written" in done.said and "Traceback" not in done.said
    assert record_in(folder)["points"][0]["latency"] == []


@pytest.mark.fault("mlflow.db damaged, then bench run")
def test_a_run_goes_on_beside_a_damaged_mlflow_database_and_says_the_way_out(
    finished: Path, tmp_path: Path, nursery: Nursery
) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database here" * 1000)
    done = nursery.run(*RUN, results=tmp_path, absent=WITHOUT[1:])
    assert done.wait() == 0 and "Traceback" not in done.said, done.said
    assert "did not take the record" in done.said and "can be deleted" in done.said
    assert_same_run(run_folder(tmp_path, "sgad"), run_folder(finished, "sgad"))
