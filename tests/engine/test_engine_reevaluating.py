"""Finished runs evaluated again: what was missing is filled in, and nothing else is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import commands
import numpy as np
import pytest
from commands import Heard, bench

from bench import api
from bench.analysis.statistics import extremes_of
from bench.errors import RecordError
from bench.records.arrays import read_arrays, save_arrays
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.records.store import RECORD_FILE, RunStore
from bench.records.upkeep import sound_record

NEWER = ("block_gradients", "block_gradients_reason", "positions_file", "dynamics", "equivalence")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> api.Folders:
    """A results folder with a small SACT, SGAD and BranchyNet run on the digits."""
    made = commands.new_folders(tmp_path_factory)
    asked = {"dataset": "digits", "backbone": "resnet14"}
    assert not commands.run(made, "sact,sgad,branchynet", **asked).failures
    return made


@pytest.fixture
def folders(finished: api.Folders, tmp_path: Path) -> api.Folders:
    shutil.copytree(finished.results, tmp_path / "results")
    return api.Folders(tmp_path / "results", finished.data)


def aged(folders: api.Folders, name: str) -> tuple[RunRecord, RunRecord]:
    """Take from a record what older versions did not measure; return it before and after."""
    store = RunStore(folders.results)
    before = store.get(name)
    for point in before.points:
        if point.positions_file:
            (store.folder_of(before) / point.positions_file).unlink()

    def older(point: PointRecord) -> PointRecord:
        given = point.model_dump(exclude=set(NEWER))
        return PointRecord.model_validate(given)

    points = tuple(map(older, before.points))
    return before, store.amend(before.run, lambda now: now.model_copy(update={"points": points}))


def with_flipped(folders: api.Folders, name: str, images: int) -> RunRecord:
    """Let the first `images` be classified otherwise on record than they are."""
    store = RunStore(folders.results)
    record = store.get(name)
    file = record.points[0].arrays_file
    arrays = read_arrays(store.folder_of(record), file)
    bits = np.unpackbits(arrays["correct_bits"])
    bits[:images] ^= 1
    save_arrays(store.folder_of(record), file, arrays | {"correct_bits": np.packbits(bits)})
    return record


@pytest.mark.parametrize("name", ["sact", "sgad", "branchynet"])
def test_an_older_record_gets_exactly_what_a_new_one_holds(
    name: str, folders: api.Folders, make_cell: Callable[..., LatencyCell]
) -> None:
    before, older = aged(folders, name)
    assert not older.points[0].block_gradients and before.points[0].block_gradients
    store, cell = RunStore(folders.results), make_cell(latency_ms=2.0)

    def timed(record: RunRecord) -> RunRecord:
        first, *rest = record.points
        points = (first.model_copy(update={"latency": (cell,)}), *rest)
        return record.model_copy(update={"points": points})

    store.amend(before.run, timed)
    outcome = api.evaluate([name], folders, device="cpu")
    assert not outcome.failures
    assert outcome.records == [timed(before)] and store.get(name) == timed(before)
    assert sound_record(store, before.spec) is not None
    for point in before.points[1:]:
        assert point.block_gradients_reason and not point.block_gradients


def test_a_record_that_lacks_nothing_stays_as_it_is(folders: api.Folders) -> None:
    store = RunStore(folders.results)
    folder = store.folder_of(store.get("sact"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    api.evaluate(["sact"], folders, device="cpu")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_maps_are_of_the_cheapest_and_dearest_images_and_add_up(finished: api.Folders) -> None:
    store = RunStore(finished.results)
    record = store.get("sact")
    (point,) = record.points
    arrays = read_arrays(store.folder_of(record), point.arrays_file)
    maps = read_arrays(store.folder_of(record), point.positions_file)
    found = extremes_of(arrays["macs_n"])
    assert maps["image_m"].tolist() == [*found.cheapest, *found.most_expensive]
    assert maps["blocks_mhw"].dtype == np.float16 and maps["blocks_mhw"].shape == (20, 8, 8)
    blocks = [n for n, name in enumerate(record.unit_macs) if name in point.block_rates]
    ran_m = arrays["executed_nu"][maps["image_m"]][:, blocks].sum(axis=1)
    assert np.allclose(maps["blocks_mhw"].astype(float).mean(axis=(1, 2)), ran_m, atol=1e-4)
    assert not store.get("sgad").points[0].positions_file


def test_one_image_in_256_may_differ_and_the_numbers_on_record_stay(folders: api.Folders) -> None:
    before, _ = aged(folders, "sgad")
    with_flipped(folders, "sgad", 1)
    listener = Heard()
    outcome = api.evaluate(["sgad"], folders, device="cpu", reporter=listener)
    assert not outcome.failures and outcome.records[0].points == before.points
    assert any("1 of 500 images run something else" in note for note in listener.notes)


def test_a_run_that_comes_out_otherwise_is_refused_and_the_others_are_done(
    folders: api.Folders,
) -> None:
    aged(folders, "sact")
    with_flipped(folders, "sgad", 2)
    path = next(folders.results.glob(f"runs/sgad-*/{RECORD_FILE}"))
    kept = path.read_bytes()
    outcome = api.evaluate(["sgad", "sact"], folders, device="cpu")
    (failure,) = outcome.failures
    assert "2 of 500 images run something else or are classified otherwise" in failure.reason
    assert "bench run --fresh" in failure.hint and path.read_bytes() == kept
    assert [record.spec.method for record in outcome.records] == ["sact"]
    assert outcome.records[0].points[0].positions_file


def test_an_image_that_runs_another_block_counts_as_different(folders: api.Folders) -> None:
    store = RunStore(folders.results)
    record = store.get("sgad")
    folder, file = store.folder_of(record), record.points[0].arrays_file
    arrays = read_arrays(folder, file)
    moved = arrays["executed_nu"].copy()
    moved[:5, 1] = 1 - moved[:5, 1]  # the same right and wrong, another block
    save_arrays(folder, file, arrays | {"executed_nu": moved})
    (failure,) = api.evaluate(["sgad"], folders, device="cpu").failures
    assert "5 of 500 images" in failure.reason


def test_a_run_that_failed_or_lost_its_weights_is_refused(folders: api.Folders) -> None:
    store = RunStore(folders.results)
    record = store.get("sgad")
    (store.folder_of(record) / "weights.safetensors").unlink()
    failed = {"status": "failed", "points": ()}
    store.amend(store.get("sact").run, lambda now: now.model_copy(update=failed))
    outcome = api.evaluate(["sgad"], folders, device="cpu")
    assert "weights" in outcome.failures[0].reason and not outcome.records
    with pytest.raises(RecordError, match="is not finished"):
        api.evaluate(["sgad", "sact"], folders, device="cpu")


def test_the_command_shows_the_table_and_ends_with_1_where_a_run_was_refused(
    folders: api.Folders,
) -> None:
    words = ["evaluate", "sact", "--device", "cpu", "--data-dir", str(folders.data)]
    done = bench(*words, results=folders.results)
    assert done.exit_code == 0 and "sact" in done.stdout
    with_flipped(folders, "sact", 20)
    refused = bench(*words, results=folders.results)
    assert refused.exit_code == 1 and "does not come out as recorded" in refused.stderr
    assert bench("evaluate", "nobody", results=folders.results).exit_code == 2
