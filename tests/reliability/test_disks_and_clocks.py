"""Full and read-only disks, a results folder that vanishes, a clock set back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from bench_processes import QUICK, RESNET, Command, Nursery
from run_comparing import assert_same_run, record_in, run_folder, snapshot

OFTEN = "import bench.training.loop as loop; loop._CHECKPOINT_EVERY_S = 0.0\n"
Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts or remounts a small file system of its own with the given options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mounting(options: str) -> Path:
        again = ["-o", "remount"] if os.path.ismount(place) else []
        command = ["mount", "-t", "tmpfs", *again, "-o", options, "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode and not again:
            pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        return place

    yield mounting
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", str(place)], check=True)


def _refused(command: Command, words: str) -> None:
    assert command.wait() in (1, 2), command.said
    assert words in command.said
    assert "Traceback" not in command.said and "Unexpected" not in command.said


@pytest.mark.parametrize("size_kib", [4, 16, 64, 300, 420, 700, 1000, 1200])
@pytest.mark.fault("full disk")
def test_a_full_disk_is_named_and_the_run_done_when_there_is_room(
    size_kib: int, mount: Mount, finished: Path, nursery: Nursery
) -> None:
    results = mount(f"size={size_kib}k") / "results"
    results.mkdir()
    first = nursery.run(*RESNET, results=results, before=OFTEN)
    _refused(first, "the disk is full")
    left = [p.name for p in results.rglob("*") if p.name.endswith(".tmp")]
    assert left == []
    mount("size=16m")
    again = nursery.run(*RESNET, results=results)
    assert again.wait() == 0, again.said
    assert_same_run(run_folder(results, "resnet"), run_folder(finished, "resnet"))


@pytest.mark.fault("full disk beside finished runs")
def test_a_disk_that_fills_up_keeps_finished_runs(
    mount: Mount, finished: Path, nursery: Nursery
) -> None:
    results = mount("size=1400k")
    shutil.copytree(finished, results, dirs_exist_ok=True)
    before = snapshot(run_folder(results, "resnet"))
    _refused(nursery.run("run", "--methods", "sgad", *QUICK, results=results), "the disk is full")
    assert snapshot(run_folder(results, "resnet")) == before


@pytest.mark.fault("full disk while latency is kept")
def test_a_latency_that_cannot_be_kept_leaves_the_record_as_it_was(
    mount: Mount, finished: Path, nursery: Nursery
) -> None:
    results = mount("size=8m")
    shutil.copytree(finished, results, dirs_exist_ok=True)
    before = record_in(run_folder(results, "resnet"))
    with (results / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"\0" * 4096)
    time_it = ("latency", "resnet", "--profile", "smoke", "--device", "cpu", "--batch-sizes", "1")
    time_it = (*time_it, "--runtime", "eager")
    _refused(nursery.run(*time_it, results=results), "the disk is full")
    assert record_in(run_folder(results, "resnet")) == before


@pytest.mark.fault("read-only results")
def test_a_read_only_folder_is_named_and_can_be_read(
    mount: Mount, finished: Path, nursery: Nursery
) -> None:
    results = mount("size=16m")
    shutil.copytree(finished, results, dirs_exist_ok=True)
    mount("ro")
    before = snapshot(results)
    _refused(nursery.run("run", "--methods", "sgad", *QUICK, results=results), "read-only")
    _refused(nursery.run(*RESNET, "--fresh", results=results), "read-only")
    for view in (("results",), ("list", "runs"), RESNET):
        seen = nursery.run(*view, results=results)
        assert seen.wait() == 0 and "resnet" in seen.said, seen.said
    assert snapshot(results) == before


VANISHING = """
import shutil
import bench.training.loop as loop
from bench.training.loop import PhaseRun
loop._CHECKPOINT_EVERY_S = 0.0
step, count = PhaseRun.step, 0
def vanishing(self, *given, **named):
    global count
    count += 1
    if count == 5:
        shutil.rmtree({results!r})
    step(self, *given, **named)
PhaseRun.step = vanishing
"""


@pytest.mark.fault("results folder removed under a run")
def test_a_results_folder_removed_under_a_run_is_named(
    finished: Path, tmp_path: Path, nursery: Nursery
) -> None:
    results = tmp_path / "r"
    removed = nursery.run(*RESNET, results=results, before=VANISHING.format(results=str(results)))
    _refused(removed, "it does not exist")
    again = nursery.run(*RESNET, results=results)
    assert again.wait() == 0, again.said
    assert_same_run(run_folder(results, "resnet"), run_folder(finished, "resnet"))


BACKWARDS = """
import datetime as module
import time
import bench.engine.single, bench.measure.latency.cells, bench.records.tracking

real, ticks = module.datetime, iter(range(1, 10_000))


class Backwards(real):
    @classmethod
    def now(cls, tz=None):
        back = module.timedelta({days}, hours=next(ticks))
        return real(2026, 1, 1, tzinfo=tz) - back


bench.engine.single.datetime = bench.measure.latency.cells.datetime = Backwards
time.time = lambda: 1.7e9 - 3600.0 * next(ticks) - 86400 * {days}
"""


@pytest.mark.fault("clock set back")
def test_a_clock_that_runs_backwards_changes_no_number(
    finished: Path, tmp_path: Path, nursery: Nursery
) -> None:
    time_it = ("latency", "resnet", "--profile", "smoke", "--device", "cpu", "--batch-sizes", "1")
    time_it = (*time_it, "--runtime", "eager")
    commands = [RESNET, time_it, time_it, ("results", "--format", "json")]
    for days, command in enumerate(commands):
        done = nursery.run(*command, results=tmp_path, before=BACKWARDS.format(days=days))
        assert done.wait() == 0, done.said
    folder = run_folder(tmp_path, "resnet")
    record = record_in(folder)
    first, second = record["points"][0]["latency"]
    assert first["measured_at"] > second["measured_at"]
    assert f'"latency_ms_b1": {second["latency_ms"]}' in done.out.read_text()
    assert record["wall_s"] > 0 and all(row["wall_s"] > 0 for row in record["history"])
    same = [name for name in ("point0.npz", "weights.safetensors", "inference.safetensors")]
    reference = run_folder(finished, "resnet")
    assert all((folder / name).read_bytes() == (reference / name).read_bytes() for name in same)


@pytest.mark.fault("clock that stands still")
def test_two_measurements_in_one_second_of_a_stopped_clock_are_both_kept(
    finished: Path, tmp_path: Path, nursery: Nursery
) -> None:
    shutil.copytree(finished, tmp_path / "r")
    time_it = ("latency", "resnet", "--profile", "smoke", "--device", "cpu", "--batch-sizes", "1")
    time_it = (*time_it, "--runtime", "eager")
    stopped = BACKWARDS.format(days=0).replace("next(ticks)", "1")
    for _ in range(2):
        assert nursery.run(*time_it, results=tmp_path / "r", before=stopped).wait() == 0
    folder = run_folder(tmp_path / "r", "resnet")
    files = [cell["raw_file"] for cell in record_in(folder)["points"][0]["latency"]]
    assert len(set(files)) == 2 and all((folder / name).is_file() for name in files)
