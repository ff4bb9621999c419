"""Training speed on a CPU, side by side with the usual script; the loop's own cost; on a GPU.

Run on a quiet machine with `tox -e perf`. Each pair takes turns, so that a change of the machine's
speed meets both. The aims are stated; a run prints what was reached.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from baselines.resnet import DenseResNet
from bench.data.augment import PaddedImages, pad_images, train_batches
from bench.data.images import Dataset
from bench.method import METHODS, Budget, DynamicNet, MethodConfig, OptimizerSpec
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone
from bench.phases import CrossEntropy
from bench.training.checkpoint import Checkpoint
from bench.training.loop import Training, train

pytestmark = pytest.mark.perf

BATCH, STEPS, ROUNDS = 128, 12, 3
OPTIMIZER = OptimizerSpec(lr=0.01)
RESNET32 = Backbone("resnet32", 10, (3, 32, 32))
AIM_OVER_USUAL_SCRIPT, AIM_LOOP_OVERHEAD = 2.5, 0.03
AIM_ON_A_GPU = 50_000


def _usual_loader(image_folder: Path) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    augment = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(32, 4),
            transforms.ToTensor(),
            transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
        ]
    )
    images = ImageFolder(str(image_folder / "train"), augment)
    first = Subset(images, range((STEPS + 2) * BATCH))
    return DataLoader(first, batch_size=BATCH, shuffle=True, num_workers=2)


def _usual_images_per_s(image_folder: Path) -> float:
    """The usual script: PIL augmentation in two worker processes, fp32, NCHW."""
    net = RESNET32.build().to(memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    started, steps = 0.0, 0
    for x, labels in _usual_loader(image_folder):
        loss = functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        if steps == 2:
            started = time.perf_counter()
    return (steps - 2) * BATCH / (time.perf_counter() - started)


def _batches(padded: PaddedImages) -> Iterator[object]:
    return train_batches(
        padded,
        batch_size=BATCH,
        mean=(0.49, 0.48, 0.45),
        std=(0.25, 0.24, 0.26),
        generator=torch.Generator().manual_seed(0),
    )


CONSTANTS = ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))


def _some(cifar10: Dataset, steps: int) -> PaddedImages:
    return pad_images(cifar10.train.take(torch.arange(steps * BATCH)), 4, flip=True)


def _bench_images_per_s(padded: PaddedImages, folder: Path) -> float:
    """This project's loop, over one epoch of the same number of images, after a warm-up epoch."""
    phase = CrossEntropy("supervised", epochs=2, batch_size=BATCH, optimizer=OPTIMIZER)
    checkpoint = Checkpoint(folder / "checkpoint", identity=str(time.time_ns()))
    rows, _ = train(GatedResNet(RESNET32), [phase], Training(padded, *CONSTANTS, checkpoint))
    (folder / "checkpoint").unlink()
    return rows[-1].images_per_s


def _bare_images_per_s(padded: PaddedImages) -> float:
    """A bare loop over the same network and batches."""
    net: nn.Module = GatedResNet(RESNET32).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        for batch in _batches(padded):
            loss = functional.cross_entropy(net(batch.x_nchw).logits, batch.labels_n)  # type: ignore[attr-defined]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        seconds = time.perf_counter() - started
    return len(padded) / seconds


def _take_turns(
    ours: Callable[[], float], theirs: Callable[[], float]
) -> tuple[float, float, list[float]]:
    pairs = [(ours(), theirs()) for _ in range(ROUNDS)]
    return (
        median(pair[0] for pair in pairs),
        median(pair[1] for pair in pairs),
        [pair[0] / pair[1] for pair in pairs],
    )


def test_training_is_faster_than_the_usual_script(
    cifar10: Dataset, image_folder: Path, tmp_path: Path
) -> None:
    padded = _some(cifar10, STEPS)
    ours, usual, ratios = _take_turns(
        lambda: _bench_images_per_s(padded, tmp_path), lambda: _usual_images_per_s(image_folder)
    )
    print(
        f"\nResNet-32 training, {torch.get_num_threads()} threads: bench {ours:.0f} images/s, "
        f"usual script {usual:.0f} images/s, ratio {median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}); aim {AIM_OVER_USUAL_SCRIPT}"
    )
    assert median(ratios) > 1


def test_the_loop_costs_next_to_nothing(cifar10: Dataset, tmp_path: Path) -> None:
    padded = _some(cifar10, STEPS)
    ours, bare, ratios = _take_turns(
        lambda: _bench_images_per_s(padded, tmp_path), lambda: _bare_images_per_s(padded)
    )
    overhead = 1 - median(ratios)
    print(
        f"\nthe loop: bench {ours:.0f} images/s, bare {bare:.0f} images/s, "
        f"overhead {overhead:+.1%}; aim at most {AIM_LOOP_OVERHEAD:.0%}"
    )
    assert overhead < 0.10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["resnet", "sgad"])
def test_an_epoch_on_a_gpu_takes_a_second(name: str, cifar10: Dataset, tmp_path: Path) -> None:
    device, method = torch.device("cuda"), METHODS.get(name)()
    net = method.build(RESNET32, method.Config()).to(device, memory_format=torch.channels_last)
    budget = Budget(recipe="perf", epochs=6, batch_size=BATCH, optimizer=OPTIMIZER)
    padded = pad_images(cifar10.train.to(device), 4, flip=True)
    checkpoint = Checkpoint(tmp_path / "checkpoint", identity="perf")
    training = Training(padded, *CONSTANTS, checkpoint, device=device, precision="bf16")
    rows, _ = train(net, method.phases(method.Config(), budget), training)
    print(f"\n{name}, {torch.cuda.get_device_name()}, bf16, images/s; aim {AIM_ON_A_GPU:,}:")
    print("  " + ", ".join(f"{row.phase} {row.images_per_s:,.0f}" for row in rows))
    assert rows[-1].images_per_s > AIM_ON_A_GPU / 10


def test_the_benchmarked_phase_is_the_dense_methods_own() -> None:
    budget = Budget(recipe="perf", epochs=1, batch_size=BATCH, optimizer=OPTIMIZER)
    (phase,) = DenseResNet().phases(MethodConfig(), budget)
    assert isinstance(phase, CrossEntropy)
    assert isinstance(DenseResNet().build(RESNET32, MethodConfig()), DynamicNet)
