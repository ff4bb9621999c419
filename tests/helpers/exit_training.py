"""Training of small networks with exits on real digits, by the real loop; the tests lie elsewhere.

600 digits are trained on, 200 more are held out to calibrate, 300 of the test split are judged.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import small_runs
import torch
from torch import Tensor

from baselines.resnet import DenseResNet
from bench.data.augment import Batch, eval_batches
from bench.data.images import ImageSet, hold_out
from bench.method import Budget, DynamicNet, Method, MethodConfig, OptimizerSpec


@functools.cache
def digits() -> tuple[ImageSet, ImageSet, ImageSet]:
    """Return the digits to train on, those held out, and those to judge by."""
    dataset = small_runs.digits()
    rest, held_out = hold_out(dataset.train, 200, seed=1)
    _, chosen = hold_out(rest, 600, seed=2)
    return chosen, held_out, dataset.test.take(torch.arange(300))


def held_out() -> list[Batch]:
    info = small_runs.digits().info
    return list(eval_batches(digits()[1], batch_size=100, mean=info.mean, std=info.std))


def trained(
    method: Method,
    config: MethodConfig,
    *,
    epochs: int,
    lr: float,
    base: str = "resnet8",
    weights: Mapping[str, Tensor] | None = None,
) -> DynamicNet:
    """Return the network after all phases of the method, in eval mode."""
    optimizer = OptimizerSpec(lr=lr, schedule="cosine")
    budget = Budget(recipe="test", epochs=epochs, batch_size=32, optimizer=optimizer)
    backbone = small_runs.digits_backbone(base, weights)
    return small_runs.trained(method, config, backbone, budget, digits()[0]).eval()


@functools.cache
def dense_weights() -> Mapping[str, Tensor]:
    """Return the weights of a ResNet-8 trained on the digits."""
    net = trained(DenseResNet(), DenseResNet.Config(), epochs=4, lr=0.1)
    return net.get_submodule("trunk").state_dict()


def judged(net: DynamicNet) -> tuple[float, float]:
    """Return mean MACs relative to a dense ResNet-8, and accuracy, on the digits to judge by."""
    return small_runs.judged(net, small_runs.digits_backbone("resnet8"), digits()[2])
