"""Whether skipping positions saves time: SACT at a known share of active positions, real images.

The first score of a stage ends a share of the positions at once and the others never, so that the
mask is the same in all blocks behind it; where it lies is decided by the image. Run on a quiet
machine with `tox -e perf`; the aim, break-even with the dense network at half of the positions, is
printed beside what is reached.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_realised_speed import _settled_trunk, nflops, real_images
from torch import Tensor, nn

from bench.data.images import Dataset
from bench.measure.latency import Subject, measure_latency
from bench.measure.profiles import Profile
from bench.networks.gated import GatedResNet
from bench.networks.halting import HaltingResNet
from bench.networks.native import library
from bench.networks.position_scores import LocalScore, PositionScore
from bench.networks.positions import PositionHalting
from bench.networks.resnet import Backbone
from methods.sact import position_score

pytestmark = pytest.mark.perf

SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
BATCH_SIZES = (1, 256)
IMAGES = 1024
PROFILE = Profile("perf", round_s=0.5, max_time_s=5.0)
_CERTAIN = 50.0  # a score this far from 0 is 0 or 1


def halting_at(share: float, backbone: Backbone, x_nchw: Tensor) -> HaltingResNet:
    """Return a network of whose positions, behind the first score of a stage, that share stays."""
    policy = PositionHalting(backbone, position_score, eps=0.01, bias=0.0)
    net = HaltingResNet(backbone, policy).eval()
    h_nchw = net.trunk.stem(x_nchw)
    for stage in policy.stages:
        first, *later = (_local(policy, b) for b in stage.blocks[:-1])
        for local in later:
            nn.init.zeros_(local.conv.weight)
            _set_bias(local, -_CERTAIN)
        # The sum around a position over all channels: bright, dark and flat parts of an image.
        nn.init.ones_(first.conv.weight)
        _set_bias(first, 0.0)
        z_p = first(net.blocks[stage.blocks[0]](h_nchw)).flatten()
        border = float(z_p.kthvalue(max(1, round(share * len(z_p)))).values)
        steepness = _CERTAIN / float(z_p.std())
        first.conv.weight *= steepness
        _set_bias(first, -steepness * border if share < 1 else -1e3)
        trace = net._new_trace(h_nchw)
        h_nchw, _ = net._stage_masked(stage, h_nchw, policy.score, trace)
    return net


def _local(policy: PositionHalting, block: int) -> LocalScore:
    score = policy.scores[str(block)]
    assert isinstance(score, PositionScore) and isinstance(score.local, LocalScore)
    for parameter in score.whole.parameters():
        nn.init.zeros_(parameter)
    return score.local


def _set_bias(local: LocalScore, value: float) -> None:
    assert local.conv.bias is not None
    nn.init.constant_(local.conv.bias, value)


@torch.no_grad()
def test_half_of_the_positions_take_no_longer_than_all(cifar10: Dataset) -> None:
    torch.manual_seed(0)
    x_nchw = real_images(cifar10, IMAGES)
    backbone = Backbone("resnet32", 10, (3, 32, 32))
    backbone = replace(backbone, weights=_settled_trunk(backbone, x_nchw))
    nets = {f"{share:.0%} active": halting_at(share, backbone, x_nchw[:64]) for share in SHARES}
    cells = measure_latency(
        {name: Subject(net, "dense") for name, net in nets.items()},
        {"dense": GatedResNet(backbone)},
        images_nchw=x_nchw,
        batch_sizes=BATCH_SIZES,
        profile=PROFILE,
        device="cpu",
    )
    print("\nSACT, ResNet-32, 1 thread: speed-up over the dense network")
    for name, net in nets.items():
        cost = nflops(net, x_nchw)
        for cell in cells[name]:
            record = cell.record
            assert record.speedup and record.speedup_interval, record.reason
            low, high = record.speedup_interval.low, record.speedup_interval.high
            print(
                f"  {name:12} batch {record.batch_size:3}: {record.speedup:.2f} ({low:.2f}-"
                f"{high:.2f}), {record.latency_ms:.3f} ms at {cost:.3f} of the MACs"
                f"{', contended' if record.contended else ''}"
            )
    half = next(cell.record.speedup for cell in cells["50% active"])
    aim = 1.0 if library().path else 0.3  # without operators of our own: docs/performance.md
    assert half is not None and half > aim
