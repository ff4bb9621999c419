"""`--precision auto`: bf16 where training steps on this machine are faster with it.

Owns the trial and the choice; what a precision means is the training step's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
import torch.nn.functional as F

from bench.config import RunSpec
from bench.engine.plan import DENSE, Planned
from bench.measure.modes import using_threads
from bench.method import METHODS
from bench.networks.trunk import Backbone
from bench.plugins import method_config
from bench.recipes import Precision

_WARM_UP, _STEPS = 2, 5
# A batch of 128 images of 32 x 32 pixels, or as many pixels: a second or two in all.
_PIXELS = 128 * 32 * 32
_WORTH = 1.2
_chosen: dict[tuple[str, tuple[int, int, int], torch.device], Precision] = {}


def faster_precision(
    backbone: Backbone, device: torch.device, *, note: Callable[[str], None]
) -> Precision:
    """Return bf16 if it trains the dense network at least 1.2 times as fast as fp32, else fp32.

    Both take turns on blank images, on one CPU thread or the device. Tried once in a process;
    `note` says what came out.
    """
    key = (backbone.name, backbone.image_shape, device)
    if key not in _chosen:
        with using_threads(1), torch.random.fork_rng():
            ratio = _speed_of_bf16(backbone, device)
        _chosen[key] = "bf16" if ratio >= _WORTH else "fp32"
        note(
            f"Precision {_chosen[key]}: in bf16 {backbone.name} trains at {ratio:.2f}x the speed of"
            " fp32 on this machine"
        )
    return _chosen[key]


def with_finished(
    plan: Sequence[Planned], other: Sequence[Planned], *, finished: Callable[[RunSpec], bool]
) -> list[Planned]:
    """Return `plan`, with the runs that are finished in the other precision, and what needs them,
    taken from `other`: the same request, so that it continues on a machine that chooses otherwise.
    """
    taken: set[str] = set()
    chosen: list[Planned] = []
    for mine, theirs in zip(plan, other, strict=True):
        follows = theirs.needs is not None and theirs.needs.run in taken
        if follows or (not finished(mine.spec) and finished(theirs.spec)):
            taken.add(theirs.spec.run)
            chosen.append(theirs)
        else:
            chosen.append(mine)
    return chosen


def _speed_of_bf16(backbone: Backbone, device: torch.device) -> float:
    method = METHODS.get(DENSE)()
    net = method.build(backbone, method_config(METHODS.get(DENSE), {})).to(device)
    net = net.to(memory_format=torch.channels_last)
    _, height, width = backbone.image_shape
    count = max(2, min(128, _PIXELS // (height * width)))
    x_nchw = torch.zeros(count, *backbone.image_shape, device=device)
    x_nchw = x_nchw.contiguous(memory_format=torch.channels_last)
    labels_n = torch.zeros(count, dtype=torch.long, device=device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)

    def step(precision: Precision) -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(net(x_nchw).logits, labels_n)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - started

    turns = [(step("fp32"), step("bf16")) for _ in range(_WARM_UP + _STEPS)][_WARM_UP:]
    return median(fp32 for fp32, _ in turns) / median(bf16 for _, bf16 in turns)
