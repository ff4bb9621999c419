"""A loss that is not a number: early, with the epoch and the cause, and without taking others."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_processes import QUICK, RESNET, Nursery
from run_comparing import record_in, run_folder

ABSURD = """
from baselines.resnet import DenseResNet


class Absurd(DenseResNet):
    name = "absurd"

    def phases(self, config, budget):
        optimizer = budget.optimizer.model_copy(update={"lr": 1e9})
        return super().phases(config, budget.model_copy(update={"optimizer": optimizer}))
"""
COUNTING = """
from bench.training.loop import PhaseRun
step, count = PhaseRun.step, 0
def counting(self, *given, **named):
    global count
    count += 1
    step(self, *given, **named)
PhaseRun.step = counting
_exit = __import__("os")._exit
def ending(status):
    print(f"steps={count}", flush=True)
    _exit(status)
__import__("os")._exit = ending
"""


@pytest.mark.fault("a loss that is not a number")
def test_one_that_diverges_is_recorded_and_the_others_go_on(
    tmp_path: Path, nursery: Nursery
) -> None:
    plugin = tmp_path / "absurd.py"
    plugin.write_text(ABSURD)
    command = ("run", "--plugin", str(plugin), "--methods", "absurd,resnet", *QUICK)
    command = (*command, "--epochs", "2")
    created = []
    for _ in range(2):
        done = nursery.run(*command, results=tmp_path / "r")
        assert done.wait() == 1
        assert "in epoch 1 of phase" in done.said and "likely a learning rate (1e+09)" in done.said
        absurd = run_folder(tmp_path / "r", "absurd")
        record = record_in(absurd)
        assert record["status"] == "failed" and "likely a learning rate" in record["reason"]
        assert record_in(run_folder(tmp_path / "r", "resnet"))["status"] == "finished"
        created.append((absurd / "record.json").stat().st_mtime_ns)
    assert created[1] > created[0], "the same command tries it again"


@pytest.mark.fault("a loss that is not a number")
def test_an_absurd_learning_rate_stops_long_before_the_last_epoch(
    tmp_path: Path, nursery: Nursery
) -> None:
    done = nursery.run(
        *(*RESNET, "--epochs", "500", "--set", "train.lr=1e9"),
        results=tmp_path,
        before=COUNTING,
    )
    assert done.wait() == 1 and "in epoch 1 of phase" in done.said
    steps = int(done.said.rpartition("steps=")[2].split()[0])
    assert 0 < steps <= 64
