"""kill -9 at any moment: the same command ends in the same record, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest
from bench_processes import Nursery
from fault_counts import Faults
from run_comparing import assert_same_run, run_folder, snapshot

from bench.data import cache

OFTEN = "import bench.training.loop as loop; loop._CHECKPOINT_EVERY_S = 0.0\n"
AT_A_CALL = """
import os, signal
import bench.storage as storage

name, number, moment = {name!r}, {number}, {moment!r}
seen, fsync, replace, whole = 0, os.fsync, os.replace, storage._replace


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def counting(path, content):
    global seen
    seen += path.name == name
    if path.name == name and seen == number and moment == "before it is written":
        die()
    whole(path, content)


def now(path, when):
    inside = os.path.basename(str(path)).startswith(f".{{name}}.")
    return inside and seen == number and moment == when


def half(handle):
    if now(os.readlink(f"/proc/self/fd/{{handle}}"), "half written"):
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        die()
    fsync(handle)


def renaming(source, target):
    if now(source, "before the rename"):
        die()
    replace(source, target)
    if now(source, "after the rename"):
        die()


storage._replace, os.fsync, os.replace = counting, half, renaming
"""
MOMENTS = ("before it is written", "half written", "before the rename", "after the rename")
FILES = (
    *("checkpoint.bin", "record.json", "point0.npz"),
    *("weights.safetensors", "inference.safetensors", "trunk.safetensors"),
)
RUN = ("run", "--methods", "sgad", "--recipe", "smoke", "--epochs", "2", "--latency", "off")
RUN = (*RUN, "--dataset", "digits", "--backbone", "resnet8", "--controls", "none")
OTHER = ("run", "--methods", "resnet", *RUN[3:])


@pytest.fixture(scope="module")
def reference(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the run without any interruption, and of another run."""
    folder = tmp_path_factory.mktemp("reference")
    for command in (OTHER, RUN):  # the dense run judges the other one
        since = time.monotonic()
        done = nursery.run(*command, results=folder, before=OFTEN)
        assert done.wait() == 0, done.said
    (folder / "duration_s").write_text(str(time.monotonic() - since))
    return folder


@pytest.fixture
def results(reference: Path, tmp_path: Path) -> Path:
    """A results folder with the other run in it, finished."""
    other = run_folder(reference, "resnet")
    shutil.copytree(other, tmp_path / "runs" / other.name)
    return tmp_path


def _assert_nothing_lost(
    results: Path, reference: Path, before: dict[str, tuple[int, bytes]], nursery: Nursery
) -> None:
    again = nursery.run(*RUN, results=results, before=OFTEN)
    assert again.wait() == 0, again.said
    assert "Traceback" not in again.said
    assert_same_run(run_folder(results, "sgad"), run_folder(reference, "sgad"))
    assert snapshot(run_folder(results, "resnet")) == before


def _deterministic() -> list[tuple[str, int, str]]:
    chosen = [(name, 1, moment) for name in FILES[:2] for moment in MOMENTS]
    draw = random.Random(20)
    return chosen + [(name, 1, draw.choice(MOMENTS)) for name in FILES[2:]]


@pytest.mark.parametrize(("name", "number", "moment"), _deterministic())
def test_a_kill_while_a_file_is_written_loses_nothing(
    name: str, number: int, moment: str, results: Path, reference: Path, nursery: Nursery,
    faults: Faults,
) -> None:  # fmt: skip
    with faults.during(f"kill -9 while {name} is written"):
        before = snapshot(run_folder(results, "resnet"))
        dying = OFTEN + AT_A_CALL.format(name=name, number=number, moment=moment)
        assert nursery.run(*RUN, results=results, before=dying).wait() == -9
        _assert_nothing_lost(results, reference, before, nursery)


@pytest.mark.parametrize("share", [(n + random.Random(n).random()) / 12 for n in range(12)])
def test_a_kill_at_any_moment_loses_nothing(
    share: float, results: Path, reference: Path, nursery: Nursery, faults: Faults
) -> None:
    kind = "kill -9 at a random moment of a run"
    before = snapshot(run_folder(results, "resnet"))
    command = nursery.start(*RUN, results=results, before=OFTEN)
    time.sleep(share * float((reference / "duration_s").read_text()))
    command.kill()
    killed = command.wait() == -9  # it may have been quicker this time
    faults.tried[kind] += killed
    _assert_nothing_lost(results, reference, before, nursery)
    faults.survived[kind] += killed


DURING = """
import os, signal
import bench.engine.evaluating as evaluating
told, calls = evaluating._told, 0
def dying(*given):
    global calls
    calls += 1
    for batch in told(*given):
        yield batch
        if calls == {number}:
            os.kill(os.getpid(), signal.SIGKILL)
evaluating._told = dying
"""


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.fault("kill -9 during the evaluation")
def test_a_kill_during_the_evaluation_loses_nothing(
    number: int, results: Path, reference: Path, nursery: Nursery
) -> None:
    before = snapshot(run_folder(results, "resnet"))
    dying = OFTEN + DURING.format(number=number)
    assert nursery.run(*RUN, results=results, before=dying).wait() == -9
    _assert_nothing_lost(results, reference, before, nursery)


@pytest.mark.fault("kill -9 while --fresh deletes")
def test_a_kill_while_the_folder_is_emptied_loses_no_other_run(
    results: Path, reference: Path, nursery: Nursery
) -> None:
    mine = run_folder(reference, "sgad")
    shutil.copytree(mine, results / "runs" / mine.name)
    before = snapshot(run_folder(results, "resnet"))
    dying = """
import os, pathlib, signal
unlink = pathlib.Path.unlink
def unlinking(path, missing_ok=False):
    unlink(path, missing_ok)
    if path.name == "inference.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.unlink = unlinking
"""
    assert nursery.run(*RUN, "--fresh", results=results, before=dying).wait() == -9
    _assert_nothing_lost(results, reference, before, nursery)


DECODING = """
import os, signal, sys
from pathlib import Path
from bench.data import cache
from bench.data.embedded import load_digits
if {dies}:
    os.replace = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
cache.save(load_digits(), Path({path!r}), source="x")
sys.exit(0)
"""


@pytest.mark.fault("kill -9 while decoded data is written")
def test_a_kill_while_decoded_data_is_written_leaves_nothing_behind(
    tmp_path: Path, nursery: Nursery
) -> None:
    path = tmp_path / "data" / cache.FILE_NAME
    for dies, status in ((True, -9), (False, 0)):
        code = DECODING.format(dies=dies, path=str(path))
        assert nursery.run(results=tmp_path, before=code).wait() == status
        assert path.exists() != dies
        for left in path.parent.glob(".*.tmp"):
            os.utime(left, (time.time() - 7200,) * 2)
    assert [file.name for file in path.parent.iterdir()] == [cache.FILE_NAME]
    assert cache.load(path, source="x") is not None
