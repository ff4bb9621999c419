"""Trials in processes of their own: what they say, and how sudden ends are told."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from commands import run_options
from sweep_parts import job_of

from bench.data.load import load_dataset
from bench.engine.plan import Planned
from bench.engine.supervising import Message, RunProcess, TrainingJob
from bench.method import METHODS
from bench.records.record import EpochRow
from bench.records.store import RunStore
from bench.sweep.trials import Planner, Proposal

SLEEPER = """
import os, signal, time
from baselines.resnet import DenseResNet

class Bad(DenseResNet):
    name = "{name}"

    def build(self, backbone, config):
        {deed}
        return super().build(backbone, config)
"""


def _trial(
    tmp_path: Path, method: str = "resnet", *, epochs: int = 3
) -> tuple[Planned, TrainingJob]:
    dataset = load_dataset("digits", data_dir=tmp_path)
    asked = {"backbone": "resnet8", "epochs": epochs, "held_out": 100, "controls": "none"}
    [trial] = Planner(run_options(asked), dataset, None).trials(Proposal(method, 0, {}), [0])
    return trial, job_of(trial.spec, tmp_path / "results")


def _bad(tmp_path: Path, name: str, deed: str) -> TrainingJob:
    """A job of a method that does `deed` before it can be trained."""
    file = tmp_path / f"{name}.py"
    file.write_text(SLEEPER.format(name=name, deed=deed))
    METHODS.add_file(file)
    _, job = _trial(tmp_path, name)
    return replace(job, plugins=[file])


def _last(job: TrainingJob) -> Message:
    with RunProcess(job) as process:
        return list(process.do(job))[-1]


def test_a_trial_tells_its_epochs_and_leaves_the_record_of_an_ordinary_run(tmp_path: Path) -> None:
    trial, job = _trial(tmp_path)
    with RunProcess(job) as process:
        said = list(process.do(job))
    kinds = [item.kind for item in said if item.kind not in {"images", "phase"}]
    assert kinds == ["started", "run", "epoch", "epoch", "epoch", "finished"]
    phases = [item.what["name"] for item in said if item.kind == "phase"]
    assert phases == ["supervised", "evaluation", "gradients"]
    training = next(item.what for item in said if item.kind == "phase")
    images = sum(item.what for item in said if item.kind == "images")
    assert images >= 3 * training["images_per_epoch"]
    assert said[0].what["torch"]
    record = RunStore(Path(job.results_dir)).find(trial.spec)
    assert record is not None
    rows = [EpochRow.model_validate(item.what) for item in said if item.kind == "epoch"]
    assert tuple(rows) == record.history
    assert rows[-1].values["nflops_held_out"] == pytest.approx(1)
    [point] = record.points
    assert said[-1].what == [[point.nflops_held_out, point.accuracy_held_out]]


def test_a_trial_that_nobody_listens_to_ends_and_tells_its_epochs_again_when_continued(
    tmp_path: Path,
) -> None:
    trial, job = _trial(tmp_path, epochs=4)
    with RunProcess(job) as process:
        for said in process.do(job):
            if said.kind == "epoch":
                break
    assert RunStore(Path(job.results_dir)).find(trial.spec) is None
    with RunProcess(job) as process:
        epochs = [said.what["epoch"] for said in process.do(job) if said.kind == "epoch"]
    assert epochs == [1, 2, 3, 4]


def test_a_trial_that_hangs_is_ended_at_its_time_limit(tmp_path: Path) -> None:
    job = replace(_bad(tmp_path, "hangs", "time.sleep(1000)"), time_limit_s=8)
    started = time.monotonic()
    said = _last(job)
    assert said == Message("failed", {"reason": "not done within the time limit of 8 s"})
    assert time.monotonic() - started < 30


def test_a_trial_that_is_killed_is_said_to_have_used_up_the_memory_most_likely(
    tmp_path: Path,
) -> None:
    said = _last(_bad(tmp_path, "eats", "os.kill(os.getpid(), signal.SIGKILL)"))
    assert said.kind == "failed"
    assert "memory" in said.what["reason"]


def test_other_signals_and_exits_are_told_by_name_and_last_words(tmp_path: Path) -> None:
    assert "SIGSEGV" in _last(_bad(tmp_path, "faults", "os.kill(os.getpid(), 11)")).what["reason"]
    said = _last(_bad(tmp_path, "leaves", "import sys; sys.exit('no more money')"))
    assert "no more money" in said.what["reason"]


def test_a_trial_that_raises_says_why_and_has_a_record_of_it(tmp_path: Path) -> None:
    job = _bad(tmp_path, "raises", "raise ValueError('seven is odd')")
    said = _last(job)
    assert said.kind == "failed"
    assert "seven is odd" in said.what["reason"]
    [record] = RunStore(Path(job.results_dir)).load_all().records
    assert record.status == "failed"
    assert "seven is odd" in record.reason


def test_a_plugin_finds_the_files_beside_it_and_is_refused_where_they_changed(
    tmp_path: Path,
) -> None:
    helper = tmp_path / "trial_helper.py"
    helper.write_text("WORD = 'one'\n")
    job = _bad(tmp_path, "helped", "import trial_helper; raise ValueError(trial_helper.WORD)")
    assert "one" in _last(job).what["reason"]
    helper.write_text("WORD = 'two'\n")
    assert "The code of 'helped' was changed after" in _last(job).what["reason"]


def test_memory_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    said = _last(_bad(tmp_path, "greedy", "import torch; torch.zeros(10**15)"))
    assert said.kind == "failed"
    assert "alloc" in said.what["reason"]


def test_when_the_watcher_is_killed_the_trial_ends_too(tmp_path: Path) -> None:
    _, job = _trial(tmp_path, epochs=500)
    source, sink = os.pipe()
    watcher = os.fork()
    if watcher == 0:  # pragma: no cover
        try:
            _watch_forever(job, sink)
        finally:
            os._exit(0)
    os.close(sink)
    with os.fdopen(source) as pids:
        trial = int(pids.readline())
    os.kill(watcher, signal.SIGKILL)
    os.waitpid(watcher, 0)
    _wait_until_gone(trial)


def _watch_forever(job: TrainingJob, sink: int) -> None:
    with RunProcess(job) as process:
        for said in process.do(job):
            if said.kind == "epoch":
                children = subprocess.run(
                    ["pgrep", "-P", str(os.getpid())], capture_output=True, text=True
                ).stdout.split()
                os.write(sink, f"{children[0]}\n".encode())
                threading.Event().wait()


def _wait_until_gone(pid: int) -> None:
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} is still there")


def test_a_worker_that_watches_a_trial_stays_small() -> None:
    code = "import sys, bench.sweep.worker; print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_a_process_does_one_job_after_the_other_and_what_a_method_prints_breaks_no_talk(
    tmp_path: Path,
) -> None:
    _, job = _trial(tmp_path, epochs=1)
    talker = _bad(tmp_path, "talks", "print('half a line', end='')")
    budget = {"budget": job.spec.budget}
    talker = replace(talker, spec=talker.spec.model_copy(update=budget))
    with RunProcess(job) as process:
        first, second = list(process.do(talker)), list(process.do(job))
        # The network may be built, and so printed about, more than once before a line ends.
        printed = [said.what for said in first if said.kind == "printed"]
        assert printed and set("".join(printed).split("half a line")) == {""}
        assert [said[-1].kind for said in (first, second)] == ["finished", "finished"]


def test_threads_of_a_process_are_those_of_its_job_and_do_not_spin(tmp_path: Path) -> None:
    policy = "os.environ['OMP_WAIT_POLICY']"
    deed = f"import torch; raise ValueError({policy}, torch.get_num_threads())"
    job = replace(_bad(tmp_path, "counts", deed), threads=2)
    assert "('PASSIVE', 2)" in _last(job).what["reason"]
