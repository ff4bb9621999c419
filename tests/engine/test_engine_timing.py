"""Latency of finished runs: several fresh processes make one cell, and say who they were."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest

from bench import api
from bench.engine.latency import processes, timing
from bench.errors import RecordError, RunFailed
from bench.measure.latency.profiles import PROFILES, Profile
from bench.records.arrays import read_arrays
from bench.records.record import LatencyCell, RunRecord
from bench.records.store import RunStore

QUICK = Profile(
    "publish",
    round_s=0.01,
    max_time_s=0.03,
    rounds=3,
    warmup_calls=2,
    warmup_s=0.0,
    coverage_images=16,
    processes=3,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> api.Folders:
    """A results folder with one small SGAD run."""
    made = commands.new_folders(tmp_path_factory)
    commands.run(made, "sgad")
    return made


def test_any_list_of_batch_sizes_is_timed_and_tables_show_their_own(
    folders: api.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    # First of all here: cells of the better profile `publish` are not replaced.
    one = Profile("default", round_s=0.01, max_time_s=0.02, warmup_calls=2, warmup_s=0.0)
    monkeypatch.setitem(PROFILES, "default", one)  # type: ignore[arg-type]
    outcome = api.latency(["sgad"], folders, batch_sizes=(1, 32, 128, 256), device="cpu")
    timed = [c for c in outcome.records[0].points[0].latency if c.runtime == "eager"]
    cells = {cell.batch_size: cell for cell in timed[-4:]}
    assert list(cells) == [1, 32, 128, 256]
    assert [cell.scenario for cell in cells.values()] == ["stream", "batch", "batch", "batch"]
    assert {cell.memory_reason for cell in cells.values()} == {"not measured with this profile"}
    (row,) = api.rows_of(outcome)
    for size in (1, 256):
        shown = row.timing(size)
        assert shown is not None
        assert (shown.speedup, shown.latency_ms) == (cells[size].speedup, cells[size].latency_ms)


def test_reference_runs_are_copied_without_the_latencies_of_their_machine_and_timed(
    folders: api.Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Profile("default", round_s=0.01, max_time_s=0.02, warmup_calls=2, warmup_s=0.0)
    monkeypatch.setitem(PROFILES, "default", one)  # type: ignore[arg-type]
    api.latency(["sgad"], folders, batch_sizes=(1,), device="cpu")
    mine = api.Folders(tmp_path, folders.data)
    with pytest.raises(RecordError, match="no reference runs with weights"):
        api.latency(["reference"], mine)
    shutil.copytree(folders.results / "runs", tmp_path / "reference" / "runs")
    for _ in range(2):
        how: dict[str, Any] = {"runtimes": ["eager"], "batch_sizes": (1,), "device": "cpu"}
        outcome = api.latency(["reference"], mine, **how)
    assert not outcome.failures
    kept, copy = (RunStore(d).load_all().records[0] for d in (tmp_path / "reference", tmp_path))
    assert len(kept.points[0].latency) >= 1
    # One of each command; those of the other machine are not among them.
    assert [cell.runtime for cell in copy.points[0].latency] == ["eager", "eager"]
    assert copy.points[0].model_copy(update={"latency": kept.points[0].latency}) == kept.points[0]


def test_what_one_runtime_gave_is_kept_when_the_next_is_interrupted(
    folders: api.Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folders.results, tmp_path, dirs_exist_ok=True)
    one = Profile("default", round_s=0.01, max_time_s=0.02, warmup_calls=2, warmup_s=0.0)
    monkeypatch.setitem(PROFILES, "default", one)  # type: ignore[arg-type]
    before = len(RunStore(tmp_path).get("sgad").points[0].latency)

    def until_the_second(job: processes.LatencyJob, place: Any, **how: Any) -> processes.Cells:
        if job.runtime == "onnxruntime":
            raise KeyboardInterrupt
        return processes.measure(job, place, **how)

    monkeypatch.setattr(timing, "measure", until_the_second)
    how: dict[str, Any] = {"runtimes": ["eager", "onnxruntime"], "batch_sizes": (1,)}
    with pytest.raises(KeyboardInterrupt):
        api.latency(["sgad"], api.Folders(tmp_path, folders.data), device="cpu", **how)
    kept = RunStore(tmp_path).get("sgad").points[0].latency[before:]
    assert [cell.runtime for cell in kept] == ["eager"]


@pytest.fixture(scope="module")
def record(folders: api.Folders) -> RunRecord:
    """The run after a quick `publish` measurement by three processes."""
    how: dict[str, Any] = {"batch_sizes": (1, 32), "runtimes": ["eager", "native"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "publish", QUICK)  # type: ignore[arg-type]
        outcome = api.latency(["sgad"], folders, profile="publish", device="cpu", **how)
    return outcome.records[0]


def test_three_processes_make_one_cell_and_say_which_is_which(
    record: RunRecord, folders: api.Folders
) -> None:
    cells: tuple[LatencyCell, ...] = record.points[0].latency[-2:]
    assert [(cell.batch_size, cell.profile) for cell in cells] == [(1, "publish"), (32, "publish")]
    for cell in cells:
        raw = read_arrays(RunStore(folders.results).folder_of(record), cell.raw_file)
        rounds = [set(raw["round_n"][raw["process_n"] == one]) for one in range(3)]
        assert set(raw["process_n"]) == {0, 1, 2} and all(rounds)
        assert rounds[0] | rounds[1] | rounds[2] == set(range(sum(map(len, rounds))))
        assert not rounds[0] & rounds[1] and not rounds[1] & rounds[2]
        assert cell.n == len(raw["ms_n"]) and cell.median_ms == np.median(raw["ms_n"])
        assert cell.environment.values["latency_processes"] == 3
        assert cell.environment.values["latency_rounds"] == sum(map(len, rounds))
        assert cell.speedup_interval is not None and cell.speedup is not None
        assert cell.speedup_interval.low <= cell.speedup <= cell.speedup_interval.high
        first = [raw["image_nb"][raw["process_n"] == one][0, 0] for one in range(3)]
        assert len(set(first)) > 1, "each process has an order of its own"


def test_memory_has_a_number_or_a_reason(record: RunRecord) -> None:
    cells = record.points[0].latency
    alone, batch = [cell for cell in cells if cell.runtime == "eager"][-2:]
    for cell in cells:
        assert (cell.memory_mib is None) == bool(cell.memory_reason)
    assert alone.first_ms is not None and batch.first_ms is None
    assert alone.first_ms > 0
    if alone.memory_mib is not None and batch.memory_mib is not None:
        weights_mib = record.points[0].params_inference * 4 / 2**20
        assert weights_mib < alone.memory_mib < batch.memory_mib < weights_mib + 50


def test_a_process_that_ends_early_says_why_and_nothing_is_recorded(
    folders: api.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROFILES, "publish", QUICK)  # type: ignore[arg-type]
    monkeypatch.setattr(processes, "plugin_files", lambda: [Path("none.py")])
    before = RunStore(folders.results).get("sgad")
    with pytest.raises(RunFailed, match=r"status 1: .*none\.py") as caught:
        api.latency(["sgad"], folders, profile="publish", batch_sizes=(1,), device="cpu")
    assert "--profile default" in str(caught.value.hint)
    assert RunStore(folders.results).get("sgad") == before
