"""A recorded step, as on a GPU, does what the step from Python does; the tapes are taped.py's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import taped
import torch
from small_runs import digits, digits_backbone
from torch import Tensor

from bench.data.augment import Batch, pad_images
from bench.engine.plan import METHODS
from bench.method import Budget, DynamicNet, LossTerms, Method, OptimizerSpec, ParameterGroup, Phase
from bench.networks.gated import GatedResNet
from bench.phases import CrossEntropy
from bench.records.record import EpochRow
from bench.seeding import seed_globally
from bench.training import loop
from bench.training.checkpoint import Checkpoint
from bench.training.loop import Settings, TrainingImages, train
from bench.training.optimizer import build_optimizer, restore_optimizer
from bench.training.reporter import Silent

BUDGET = Budget(recipe="test", epochs=4, batch_size=64, optimizer=OptimizerSpec(lr=0.05))
FROM_PYTHON = {"blockdrop": {"curriculum"}}
NAMES = sorted({*METHODS.names()} - {"static_projection", "shuffled_masks", "random_skip_test"})

Tape = Callable[[], object]


class Notes(Silent):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


def rerun(work: Tape, *, warm: Tape) -> tuple[Tape, None]:
    """Record nothing: each step runs from Python."""
    warm()
    return work, None


class Recording:
    """Records as taped.py does, and counts how often what it recorded ran."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Tape, *, warm: Tape) -> tuple[Tape, object]:
        tape, result = taped.record(work, warm=warm)
        self.recorded += 1

        def counted() -> None:
            self.replayed += 1
            tape()

        return counted, result


def train_on_digits(
    net: DynamicNet, phases: list[Phase], folder: Path, notes: Notes
) -> list[EpochRow]:
    """Train on 640 digits, so 10 steps an epoch."""
    info, few = digits().info, digits().train.take(torch.arange(640))
    rows, _ = train(
        net,
        phases,
        images=TrainingImages(pad_images(few, info.pad), False, info.mean, info.std),
        settings=Settings(seed=0, device=torch.device("cpu")),
        checkpoint=Checkpoint(folder / "checkpoint", identity="test"),
        reporter=notes,
    )
    return rows


def trained(
    method: Method, record: object, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], list[EpochRow], Notes]:
    monkeypatch.setattr(loop, "recorder_of", lambda device: record)
    seed_globally(0, "build")
    # Halting needs stages of several blocks.
    backbone = digits_backbone("resnet14" if "act" in method.name else "resnet8")
    net, notes = method.build(backbone, method.Config()), Notes()
    folder.mkdir()
    rows = train_on_digits(net, list(method.phases(method.Config(), BUDGET)), folder, notes)
    return net.state_dict(), rows, notes


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_training_ends_in_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, recording = METHODS.get(name)(), Recording()
    replayed, rows, notes = trained(method, recording, tmp_path / "a", monkeypatch)
    expected, expected_rows, _ = trained(method, rerun, tmp_path / "b", monkeypatch)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in replayed.items())
    assert [row.values for row in rows] == [row.values for row in expected_rows]
    assert notes.told == []
    phases = {row.phase for row in rows} - FROM_PYTHON.get(name, set())
    steps = 10 * sum(row.phase in phases for row in rows)
    assert recording.recorded == len(phases)
    assert recording.replayed == steps - 3 * len(phases)


def test_a_recorded_training_learns_what_the_plain_one_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = METHODS.get("resnet")()
    _, rows, _ = trained(method, Recording(), tmp_path / "a", monkeypatch)
    _, plain, _ = trained(method, None, tmp_path / "b", monkeypatch)
    for row, other in zip(rows, plain, strict=True):
        assert row.values["loss"] == pytest.approx(other.values["loss"], rel=0.02)


def test_a_phase_that_looks_at_its_loss_goes_on_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Curious(CrossEntropy):
        def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
            terms = super().loss(net, batch, progress)
            return terms if terms.total.item() < 1e9 else LossTerms(0 * terms.total)

    notes = Notes()
    monkeypatch.setattr(loop, "recorder_of", lambda device: taped.record)
    phase = Curious("curious", epochs=2, batch_size=64, optimizer=OptimizerSpec(lr=0.05))
    seed_globally(0, "build")
    rows = train_on_digits(GatedResNet(digits_backbone("resnet8")), [phase], tmp_path, notes)
    assert len(notes.told) == 1 and "'curious' cannot be recorded" in notes.told[0]
    assert rows[1].values["loss"] < rows[0].values["loss"]


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("recordable", [True, False])
def test_an_optimizer_goes_on_where_another_kind_of_machine_stopped(
    kind: str, recordable: bool
) -> None:
    spec = OptimizerSpec(kind=kind, lr=0.1)  # type: ignore[arg-type]

    def at_work(*, recordable: bool) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(torch.ones(3))
        return weight, build_optimizer([ParameterGroup([weight])], spec, recordable=recordable)

    def step(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        weight.grad = torch.tensor([1.0, 2.0, 3.0])
        optimizer.step()

    weight, before = at_work(recordable=not recordable)
    step(weight, before)
    again, after = at_work(recordable=recordable)
    again.data.copy_(weight.data)
    restore_optimizer(after, copy.deepcopy(before.state_dict()))
    step(weight, before)
    step(again, after)
    torch.testing.assert_close(again, weight)
    assert after.param_groups[0]["fused"] is (True if recordable else None)
