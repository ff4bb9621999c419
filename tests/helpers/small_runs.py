"""Short trainings on the digits, for tests of what a setting does to cost and accuracy."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from baselines.resnet import DenseResNet
from bench.data.augment import eval_batches, pad_images
from bench.data.embedded import load_digits
from bench.data.images import Dataset, ImageSet
from bench.measure.accuracy import Evaluation, evaluate
from bench.measure.cost import dense_macs, macs_per_image, unit_macs
from bench.method import (
    Backbone,
    Budget,
    DynamicNet,
    Method,
    MethodConfig,
    OptimizerSpec,
    Phase,
)
from bench.networks.gated import GatedResNet
from bench.seeding import seed_globally
from bench.training.checkpoint import Checkpoint
from bench.training.loop import Training, train


@functools.cache
def digits() -> Dataset:
    return load_digits()


def digits_backbone(name: str, weights: Mapping[str, Tensor] | None = None) -> Backbone:
    return Backbone(name, 10, (1, 8, 8), "A", weights)


def digit_images() -> Tensor:
    """Return the 500 test images, normalised: (N, 1, 8, 8)."""
    info, test = digits().info, digits().test
    return next(eval_batches(test, batch_size=len(test), mean=info.mean, std=info.std)).x_nchw


def trained(
    method: Method,
    config: MethodConfig,
    backbone: Backbone,
    budget: Budget,
    images: ImageSet,
    *,
    pad: int = 0,
) -> DynamicNet:
    """Return the network of `method` after all its phases, on some of the digits."""
    seed_globally(0, "build")
    return taught(method.build(backbone, config), method.phases(config, budget), images, pad=pad)


def taught(
    net: DynamicNet, phases: Sequence[Phase], images: ImageSet, *, pad: int = 0
) -> DynamicNet:
    """Return the network itself, after these phases."""
    info = digits().info
    with tempfile.TemporaryDirectory() as folder:
        train(
            net,
            phases,
            Training(
                pad_images(images, pad),
                info.mean,
                info.std,
                Checkpoint(Path(folder) / "checkpoint.bin", identity="test"),
            ),
        )
    return net


def trained_on_digits(
    method: Method,
    config: MethodConfig,
    *,
    epochs: int,
    backbone: str = "resnet14",
    weights: Mapping[str, Tensor] | None = None,
    lr: float = 0.1,
) -> DynamicNet:
    """Return the network of `method` after `epochs` in all its phases, in batches of 32."""
    budget = Budget(recipe="test", epochs=epochs, batch_size=32, optimizer=OptimizerSpec(lr=lr))
    base, data = digits_backbone(backbone, weights), digits()
    return trained(method, config, base, budget, data.train, pad=data.info.pad)


@functools.cache
def dense_weights(backbone: str = "resnet14", epochs: int = 4) -> Mapping[str, Tensor]:
    """Return the weights of a dense network trained on the digits."""
    net = trained_on_digits(DenseResNet(), DenseResNet.Config(), epochs=epochs, backbone=backbone)
    return net.trunk.state_dict()


def evaluated(net: DynamicNet, test: ImageSet | None = None) -> Evaluation:
    """Return what comes of the test images, or of these."""
    info, test = digits().info, test or digits().test
    batches = eval_batches(test, batch_size=250, mean=info.mean, std=info.std)
    return evaluate(net, batches, num_images=len(test))


def judged(
    net: DynamicNet, backbone: Backbone, test: ImageSet | None = None
) -> tuple[float, float]:
    """Return the mean MACs over the test images, relative to the dense network, and accuracy."""
    outcome = evaluated(net, test)
    macs_n = macs_per_image(outcome.executed_nu, list(unit_macs(net).values()))
    return float(macs_n.mean()) / dense_macs(backbone), outcome.accuracy


def nflops(net: GatedResNet) -> float:
    return judged(net, net.backbone)[0]
