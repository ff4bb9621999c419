"""Training of small networks with exits on real digits, by the real loop; the tests lie elsewhere.

600 digits are trained on, 200 more are held out to calibrate, 300 of the test split are judged.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from small_runs import digits_backbone, trained_on_digits
from torch import Tensor

from baselines.resnet import DenseResNet
from bench.data.augment import Batch, eval_batches, pad_images
from bench.data.embedded import load_digits
from bench.data.images import DatasetInfo, ImageSet, hold_out
from bench.measure.accuracy import evaluate
from bench.measure.cost import dense_macs, macs_per_image, unit_macs
from bench.method import DynamicNet, Method, MethodConfig


@functools.cache
def digits() -> tuple[DatasetInfo, ImageSet, ImageSet, ImageSet]:
    """Return what is known of the digits, and those to train on, held out, and to judge by."""
    dataset = load_digits()
    rest, held_out = hold_out(dataset.train, 200, seed=1)
    _, chosen = hold_out(rest, 600, seed=2)
    return dataset.info, chosen, held_out, dataset.test.take(torch.arange(300))


def batches(images: ImageSet) -> list[Batch]:
    info = digits()[0]
    return list(eval_batches(images, batch_size=100, mean=info.mean, std=info.std))


def held_out() -> list[Batch]:
    return batches(digits()[2])


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
    asked = {"epochs": epochs, "lr": lr, "backbone": base, "weights": weights}
    return trained_on_digits(method, config, **asked, images=pad_images(digits()[1], 0)).eval()


@functools.cache
def dense_weights() -> Mapping[str, Tensor]:
    """Return the weights of a ResNet-8 trained on the digits."""
    method = DenseResNet()
    net = trained(method, method.Config(), epochs=4, lr=0.1)
    return net.get_submodule("trunk").state_dict()


def judged(net: DynamicNet) -> tuple[float, float]:
    """Return mean MACs relative to the dense network, and accuracy, on the digits to judge by."""
    test = digits()[3]
    outcome = evaluate(net, batches(test), num_images=len(test))
    macs_n = macs_per_image(outcome.executed_nu, list(unit_macs(net).values()))
    return float(macs_n.mean()) / dense_macs(digits_backbone("resnet8")), outcome.accuracy
