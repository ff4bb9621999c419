"""Several processes on one results folder: no run twice, no record half, no cell lost."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from bench_processes import QUICK, RESNET, Command, Nursery
from fault_counts import Faults
from run_comparing import assert_same_run, record_in, run_folder

SLOWLY = """
import time
from bench.training.loop import PhaseRun
step = PhaseRun.step
def slow(self, *given, **named):
    time.sleep(0.15)
    step(self, *given, **named)
PhaseRun.step = slow
"""


def _until_training(results: Path) -> None:
    end = time.monotonic() + 60
    while not list(results.glob("runs/*/.work.lock")):
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.3)


def _all_well(*commands: Command) -> None:
    for command in commands:
        assert command.wait() == 0, command.said
        assert "Traceback" not in command.said


@pytest.mark.fault("two drivers, the same run")
def test_of_two_with_the_same_run_one_waits_and_finds_it(
    finished: Path, tmp_path: Path, nursery: Nursery
) -> None:
    first = nursery.start(*RESNET, results=tmp_path, before=SLOWLY)
    _until_training(tmp_path)
    second = nursery.start(*RESNET, results=tmp_path)
    _all_well(first, second)
    assert second.said.count("Another process is at work") == 1
    assert "· main" not in second.said, "the second one trained too"
    assert_same_run(run_folder(tmp_path, "resnet"), run_folder(finished, "resnet"))


@pytest.mark.fault("two drivers, the one at work is killed")
def test_who_waits_takes_over_when_the_first_is_killed(
    finished: Path, tmp_path: Path, nursery: Nursery
) -> None:
    first = nursery.start(*RESNET, results=tmp_path, before=SLOWLY)
    _until_training(tmp_path)
    second = nursery.start(*RESNET, results=tmp_path)
    time.sleep(0.5)
    first.kill()
    _all_well(second)
    assert_same_run(run_folder(tmp_path, "resnet"), run_folder(finished, "resnet"))


@pytest.mark.fault("two drivers, different runs")
def test_two_with_different_runs_do_not_wait(
    finished: Path, tmp_path: Path, nursery: Nursery
) -> None:
    first = nursery.start(*RESNET, results=tmp_path)
    second = nursery.start("run", "--methods", "sgad", *QUICK, results=tmp_path)
    _all_well(first, second)
    assert "waiting" not in first.said + second.said
    assert_same_run(run_folder(tmp_path, "resnet"), run_folder(finished, "resnet"))
    assert record_in(run_folder(tmp_path, "sgad"))["status"] == "finished"


@pytest.mark.fault("--fresh while another process works on the run")
def test_fresh_waits_for_the_one_at_work(finished: Path, tmp_path: Path, nursery: Nursery) -> None:
    first = nursery.start(*RESNET, results=tmp_path, before=SLOWLY)
    _until_training(tmp_path)
    second = nursery.start(*RESNET, "--fresh", results=tmp_path)
    _all_well(first, second)
    assert "Another process is at work" in second.said
    assert_same_run(run_folder(tmp_path, "resnet"), run_folder(finished, "resnet"))


@pytest.mark.fault("two bench latency on one run")
def test_two_that_time_one_run_both_keep_their_cells(
    finished: Path, tmp_path: Path, nursery: Nursery
) -> None:
    shutil.copytree(finished, tmp_path / "r")
    time_it = ("latency", "resnet", "--runtime", "eager", "--profile", "smoke", "--device", "cpu")
    time_it = (*time_it, "--batch-sizes")
    both = [nursery.start(*time_it, size, results=tmp_path / "r") for size in ("1", "8")]
    _all_well(*both)
    folder = run_folder(tmp_path / "r", "resnet")
    cells = record_in(folder)["points"][0]["latency"]
    assert sorted(cell["batch_size"] for cell in cells) == [1, 8]
    assert all((folder / cell["raw_file"]).is_file() for cell in cells)


AMEND = """
import sys
from pathlib import Path
from bench.records.store import RunStore

store = RunStore(Path({results!r}))
for number in range(20):
    def longer(now):
        files = now.files | {{f"{{number}}-{name}": "0" * 64}}
        return now.model_copy(update={{"files": files}})
    store.amend({run!r}, longer)
sys.exit(0)
"""


def test_no_amendment_of_four_processes_is_lost(
    finished: Path, tmp_path: Path, nursery: Nursery, faults: Faults
) -> None:
    kind = "amendments of one record by four processes"
    shutil.copytree(finished, tmp_path / "r")
    folder = run_folder(tmp_path / "r", "resnet")
    before = len(record_in(folder)["files"])
    codes = [AMEND.format(results=str(tmp_path / "r"), run=folder.name, name=n) for n in "abcd"]
    _all_well(*[nursery.start(results=tmp_path / "r", before=code) for code in codes])
    kept = len(record_in(folder)["files"]) - before
    faults.tried[kind] += 80
    faults.survived[kind] += kept
    assert kept == 80
    assert not list(folder.glob(".*.tmp"))


def test_ten_that_read_while_one_writes_see_whole_records(
    finished: Path, tmp_path: Path, nursery: Nursery, faults: Faults
) -> None:
    shutil.copytree(finished, tmp_path / "r")
    results = tmp_path / "r"
    folder = run_folder(results, "resnet")
    amending = AMEND.replace("range(20)", "range(600)")
    code = amending.format(results=str(results), run=folder.name, name="w")
    writer = nursery.start(results=results, before=code)
    driver = nursery.start("run", "--methods", "sgad", *QUICK, results=results)
    looks = [("results", "--format", "json"), ("list", "runs"), ("pareto", "--x", "nflops")]
    readers = [nursery.start(*looks[n % 3], results=results, absent=()) for n in range(10)]
    for reader in faults.each("ten readers beside a writer", readers):
        assert reader.wait() == 0, reader.said
        assert "Not counted" not in reader.said and "Traceback" not in reader.said
    for reader in readers[::3]:
        assert "resnet" in {row["method"] for row in json.loads(reader.out.read_text())}
    _all_well(writer, driver)
