"""The loop: it learns, continues bit for bit, notices broken checkpoints and broken losses."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from bench.data.augment import Batch, PaddedImages, pad_images
from bench.data.images import ImageSet
from bench.errors import CheckpointError, DivergedError
from bench.measure.cost import unit_macs
from bench.method import (
    Budget,
    DynamicNet,
    LossTerms,
    Method,
    OptimizerSpec,
    ParameterGroup,
    Phase,
)
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone
from bench.recipes import Precision
from bench.records.record import EpochRow, PhaseCost
from bench.seeding import seed_globally
from bench.training.checkpoint import Checkpoint
from bench.training.loop import Training, Watch, step_macs_per_image, train
from bench.training.reporter import Reporter
from methods.blockdrop import BlockDrop, BlockDropConfig
from methods.sgad import Sgad, SgadConfig

BACKBONE = Backbone("resnet8", 4, (1, 8, 8))
BUDGET = Budget(
    recipe="test", epochs=4, batch_size=16, optimizer=OptimizerSpec(lr=0.05, schedule="cosine")
)


def _images() -> PaddedImages:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 4
    pixels = torch.randint(0, 60, (64, 8, 8, 1), generator=generator)
    for label in range(4):
        pixels[labels == label, 2 * label : 2 * label + 2] += 150
    images = ImageSet(pixels.to(torch.uint8), labels)
    return pad_images(images, 0)


class _KilledError(Exception):
    pass


class _KillAfter(Reporter):
    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def epoch_finished(self, row: EpochRow) -> None:
        self.left -= 1

    def advanced(self, images: int) -> None:
        if self.left == 0:
            raise _KilledError


def _train_phases(
    net: DynamicNet,
    phases: Sequence[Phase],
    path: Path,
    *,
    reporter: Reporter | None = None,
    watch: Watch | None = None,
    precision: Precision = "fp32",
) -> tuple[list[EpochRow], list[PhaseCost]]:
    training = Training(
        _images(),
        (0.3,),
        (0.3,),
        Checkpoint(path, identity="x"),
        precision=precision,
        reporter=reporter or Reporter(),
        watch=watch,
    )
    return train(net, phases, training)


def _train(
    method: Method, config: object, path: Path, *, reporter: Reporter | None = None
) -> tuple[DynamicNet, list[EpochRow]]:
    seed_globally(0, "build")
    net = method.build(BACKBONE, config)  # type: ignore[arg-type]
    phases = method.phases(config, BUDGET)  # type: ignore[arg-type]
    return net, _train_phases(net, phases, path, reporter=reporter)[0]


@pytest.mark.parametrize(
    ("method", "config"), [(Sgad(), SgadConfig()), (BlockDrop(), BlockDropConfig())]
)
@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_killed_run_continues_to_the_identical_weights(
    method: Method,
    config: object,
    killed_after: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.training.loop._CHECKPOINT_EVERY_S", 0.0)
    whole, rows = _train(method, config, tmp_path / "whole")
    with pytest.raises(_KilledError):
        _train(method, config, tmp_path / "cut", reporter=_KillAfter(killed_after))
    continued, continued_rows = _train(method, config, tmp_path / "cut")
    for key, value in whole.state_dict().items():
        assert torch.equal(value, continued.state_dict()[key]), key
    assert [row.values for row in continued_rows] == [row.values for row in rows]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "of another run"])
def test_a_checkpoint_that_cannot_be_used_is_set_aside_and_the_work_redone(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.training.loop._CHECKPOINT_EVERY_S", 0.0)
    path = tmp_path / "checkpoint"
    whole, _ = _train(Sgad(), SgadConfig(), tmp_path / "whole")
    with pytest.raises(_KilledError):
        _train(Sgad(), SgadConfig(), path, reporter=_KillAfter(2))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(bytes(content[: len(content) // 2]))
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
    else:
        position = Checkpoint(path, identity="x").load()
        assert position is not None
        Checkpoint(path, identity="y").save(position)
    notes: list[str] = []
    reporter = Reporter()
    reporter.note = notes.append  # type: ignore[method-assign]
    again, _ = _train(Sgad(), SgadConfig(), path, reporter=reporter)
    assert len(notes) == 1
    assert "starts over" in notes[0]
    assert path.with_name("checkpoint.broken-1").exists()
    assert all(
        torch.equal(value, again.state_dict()[key]) for key, value in whole.state_dict().items()
    )


def test_each_phase_keeps_the_optimizer_it_was_trained_by(tmp_path: Path) -> None:
    budget = BUDGET.model_copy(update={"published": True})
    method, config = BlockDrop(), BlockDropConfig()
    phases = method.phases(config, budget)
    _, costs = _train_phases(method.build(BACKBONE, config), phases, tmp_path / "checkpoint")
    kept = [cost.optimizer for cost in costs]
    assert kept == [phase.optimizer for phase in phases]
    assert len(set(kept)) == 2 and budget.optimizer not in kept
    assert all(cost.batch_size and cost.batch_size <= 64 for cost in costs)


class _Plain(Phase):
    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        logits = net(batch.x_nchw).logits
        total = functional.cross_entropy(logits, batch.labels_n)
        return LossTerms(total, {"loss": total}, logits)


class _Explodes(_Plain):
    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        total = super().loss(net, batch, progress).total * float("nan")
        return LossTerms(total, {"loss": total})


def _run_phase(phase: Phase, tmp_path: Path, *, watch: Watch | None = None) -> list[EpochRow]:
    seed_globally(0, "build")
    net = GatedResNet(BACKBONE)
    rows, costs = _train_phases(net, [phase], tmp_path / "checkpoint", watch=watch)
    assert [cost.name for cost in costs] == [phase.name]
    return rows


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    optimizer = OptimizerSpec(lr=0.05)
    rows = _run_phase(_Plain("p", epochs=15, batch_size=16, optimizer=optimizer), tmp_path)
    assert rows[-1].values["loss"] < rows[0].values["loss"] / 2
    assert rows[-1].values["accuracy_train"] > 0.9
    assert [row.epoch for row in rows] == list(range(1, 16))


def test_what_is_watched_after_an_epoch_stands_in_its_row(tmp_path: Path) -> None:
    seen: list[bool] = []

    def watch(net: DynamicNet) -> dict[str, float]:
        seen.append(net.training)
        return {"accuracy_held_out": len(seen) / 10}

    phase = _Plain("p", epochs=3, batch_size=16, optimizer=OptimizerSpec(lr=0.05))
    rows = _run_phase(phase, tmp_path, watch=watch)
    assert [row.values["accuracy_held_out"] for row in rows] == [0.1, 0.2, 0.3]


def test_a_continued_training_tells_the_epochs_before_it_again(tmp_path: Path) -> None:
    told: list[int] = []

    class Telling(_KillAfter):
        def epoch_finished(self, row: EpochRow) -> None:
            told.append(row.epoch)
            super().epoch_finished(row)

    with pytest.raises(_KilledError):
        _train(Sgad(), SgadConfig(), tmp_path / "checkpoint", reporter=Telling(2))
    _train(Sgad(), SgadConfig(), tmp_path / "checkpoint", reporter=Telling(99))
    assert told[:2] == [1, 2]
    assert told[-4:] == [1, 2, 3, 4]


def test_a_loss_that_is_not_a_number_ends_the_run_with_the_epoch_and_the_cause(
    tmp_path: Path,
) -> None:
    phase = _Explodes("p", epochs=2, batch_size=16, optimizer=OptimizerSpec(lr=0.1))
    with pytest.raises(DivergedError, match="nan in epoch 1 of phase 'p'") as caught:
        _run_phase(phase, tmp_path)
    assert "likely a learning rate (0.1) that is too large" in caught.value.message
    assert "--set train.lr" in str(caught.value.hint)


def test_a_loss_that_is_not_a_number_ends_the_run_long_before_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.training.loop._LOOK_EVERY_STEPS", 4)
    seen: list[float] = []

    class Explodes(_Explodes):
        def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
            seen.append(progress)
            return super().loss(net, batch, progress)

    phase = Explodes("p", epochs=2, batch_size=2, optimizer=OptimizerSpec(lr=0.1))
    with pytest.raises(DivergedError, match="nan in epoch 1"):
        _run_phase(phase, tmp_path)
    assert len(seen) == 1 + 4, "one to count its MACs, then as many steps as are taken on trust"


def test_parameters_outside_the_phase_stay_as_they_are(tmp_path: Path) -> None:
    seed_globally(0, "build")
    net = GatedResNet(BACKBONE)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    phase = _HeadOnly("p", epochs=1, batch_size=16, optimizer=OptimizerSpec())
    _train_phases(net, [phase], tmp_path / "checkpoint")
    changed = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"trunk.head.linear.weight", "trunk.head.linear.bias"}
    assert all(parameter.requires_grad for parameter in net.parameters())


class _HeadOnly(_Plain):
    def groups(self, net: DynamicNet) -> list[ParameterGroup]:
        assert isinstance(net, GatedResNet)
        return [ParameterGroup(tuple(net.trunk.head.parameters()))]


class _ExtraPass(_Plain):
    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        with torch.no_grad():
            net(batch.x_nchw)
        return super().loss(net, batch, progress)


def test_a_step_is_counted_forward_and_backward_through_what_it_trains(tmp_path: Path) -> None:
    net = GatedResNet(BACKBONE)
    macs = unit_macs(net)
    dense, stem, head = sum(macs.values()), macs["stem"], macs["head"]
    x, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 4
    batch = Batch(x, labels, torch.arange(16))

    def counted(form: type[Phase]) -> float:
        phase = form("p", epochs=1, batch_size=16, optimizer=OptimizerSpec())
        return step_macs_per_image(phase, net, batch)

    # Nobody needs the gradient of the image.
    assert counted(_Plain) == 3 * dense - stem
    # Of a frozen trunk only the forward pass runs, and of the head no gradient of its input.
    assert counted(_HeadOnly) == dense + head
    # A pass without gradient is a third of a step.
    assert counted(_ExtraPass) == 4 * dense - stem
    assert all(parameter.grad is None for parameter in net.parameters())


def test_bf16_autocast_trains_in_fp32_weights(tmp_path: Path) -> None:
    seed_globally(0, "build")
    net = GatedResNet(BACKBONE)
    phase = _Plain("p", epochs=2, batch_size=16, optimizer=OptimizerSpec(lr=0.05))
    rows, _ = _train_phases(net, [phase], tmp_path / "checkpoint", precision="bf16")
    assert rows[-1].values["loss"] < rows[0].values["loss"]
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_a_whole_checkpoint_of_another_version_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    write = io.BytesIO()
    torch.save({"identity": "x", "position": 3}, write)
    digest = hashlib.sha256(write.getvalue()).hexdigest().encode()
    path.write_bytes(digest + b"\n" + write.getvalue())
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint(path, identity="x").load()
