"""Nothing is remembered from one image to the next: the order of images does not change their time.

Gates open and close as the image says, so a processor may guess the next branch better where
images alike follow each other, and a cache may still hold what the last one used. If that mattered,
a measurement on shuffled images would not hold for sorted ones. Run on a quiet machine with
`tox -e perf`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_realised_speed import _settled_trunk, real_images, subjects
from torch import Tensor

from bench.allocator import keep_freed_memory
from bench.data.images import Dataset
from bench.measure.modes import evaluating, using_threads
from bench.networks.inference import graph_of
from bench.networks.resnet import Backbone

pytestmark = pytest.mark.perf

IMAGES, ROUNDS = 512, 15
_WITHIN = 0.05


@pytest.mark.filterwarnings("ignore:torch.searchsorted")
@pytest.mark.parametrize("name", ["up front, 50% kept", "ConvNet-AIG's gates, 50% kept"])
def test_shuffled_sorted_and_repeated_images_take_the_same_time(
    cifar10: Dataset, name: str
) -> None:
    torch.manual_seed(0)
    x_nchw = real_images(cifar10, IMAGES)
    backbone = Backbone("resnet32", 10, (3, 32, 32))
    net = subjects(replace(backbone, weights=_settled_trunk(backbone, x_nchw)))[name].net.eval()
    keep_freed_memory()
    with using_threads(1), evaluating(net):
        graph = graph_of(net, x_nchw[:2])
        assert graph is not None
        executed_nu = net.execute(x_nchw).executed
        assert len(executed_nu.unique(dim=0)) > IMAGES // 8
        by_cost = executed_nu.sum(dim=1).argsort()
        orders = {
            "shuffled": torch.randperm(IMAGES),
            "by cost": by_cost,
            "each eight times": by_cost[torch.randperm(IMAGES)[: IMAGES // 8].repeat_interleave(8)],
        }
        took_ms = _medians(orders, x_nchw, graph)
    print(f"\n{name}: " + ", ".join(f"{order} {ms:.3f} ms" for order, ms in took_ms.items()))
    for ms in took_ms.values():
        assert abs(ms / took_ms["shuffled"] - 1) < _WITHIN


def _medians(
    orders: dict[str, Tensor], x_nchw: Tensor, call: Callable[[Tensor], object]
) -> dict[str, float]:
    """Return ms per image of each order, the median of rounds that take turns."""
    rounds: dict[str, list[float]] = {order: [] for order in orders}
    for _ in range(ROUNDS):
        for name, order in orders.items():
            images = [x_nchw[number : number + 1] for number in order.tolist()]
            begin_s = time.perf_counter()
            for image_nchw in images:
                call(image_nchw)
            rounds[name].append((time.perf_counter() - begin_s) / len(images) * 1e3)
    return {name: sorted(taken)[ROUNDS // 2] for name, taken in rounds.items()}
