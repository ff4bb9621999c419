"""How much of the saving in MACs becomes time: realised over ideal, on real images and one thread.

Ideal is a speed-up of 1 / nFLOPs. Masks are random, the same for an image at every visit, so that
hardly two images of a batch agree. Run on a quiet machine with `tox -e perf`; what is reached is
printed beside the aims. Where there is a GPU it is timed instead of the CPU, at more batch sizes,
and the share of the time in which it runs kernels is printed too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bench.data.augment import eval_batches
from bench.data.images import Dataset
from bench.measure.cost import dense_macs, macs_per_image, unit_macs
from bench.measure.latency import Subject, measure_latency
from bench.measure.modes import evaluating
from bench.measure.profiles import Profile
from bench.networks.execution import GateOutput, GateResidual
from bench.networks.gated import GatedResNet
from bench.networks.halting import HaltingResNet
from bench.networks.inference import graph_of
from bench.networks.native import library
from bench.networks.policy import ByMeans, Policy, UpFront
from bench.networks.resnet import Backbone
from bench.networks.unit import Unit
from methods.convnet_aig import AigConfig, AigGates
from methods.skipnet import RecurrentGates

pytestmark = pytest.mark.perf

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH_SIZES = (1, 8, 32, 128, 512, 2048) if DEVICE == "cuda" else (1, 256)
IMAGES = max(1024, *BATCH_SIZES)
PROFILE = Profile("perf", round_s=0.5, max_time_s=5.0)
UP_FRONT, PER_UNIT, ALL_KEPT, NO_AIM = 0.90, 0.80, 1 / 1.03, 0.0  # the aims
# A miss by more than a machine's mood is a fault; what misses an aim by less is printed.
_FLOORS = {UP_FRONT: 0.82, PER_UNIT: 0.70, ALL_KEPT: 0.93, NO_AIM: 0.0}
_FLOORS_OF_TORCH = {UP_FRONT: 0.65, PER_UNIT: 0.40, ALL_KEPT: 0.90, NO_AIM: 0.0}
_MASKS = 4096
_CERTAIN = 1e4  # log-odds


class TableGates(Policy):
    """Random masks from a table; the image says which row. No MACs, and next to no time."""

    def __init__(self, backbone: Backbone, share: float) -> None:
        super().__init__([False] * backbone.num_blocks)
        draws = torch.Generator().manual_seed(1)
        gates_mb = (torch.rand(_MASKS, backbone.num_blocks, generator=draws) < share).float()
        self.register_buffer("gates_mb", gates_mb)
        self.register_buffer("levels_m", torch.linspace(-3, 3, _MASKS - 1))

    gates_mb: Tensor
    levels_m: Tensor

    def rows(self, x_nchw: Tensor) -> Tensor:
        # As few operations as can be: what they take is taken for time of the network.
        pixel_n = x_nchw.select(1, 0).select(1, 5).select(1, 5)
        return self.gates_mb.index_select(0, torch.bucketize(pixel_n, self.levels_m))

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        return UpFront(self.rows(x_nchw), always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return ()


class Overruled(TableGates):
    """A real per-unit policy does all its work and opens every gate; then the table decides."""

    def __init__(self, policy: Policy, backbone: Backbone, share: float) -> None:
        super().__init__(backbone, share)
        self.always_on, self.policy = policy.always_on, policy

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> ByMeans:  # type: ignore[override]
        decisions = self.policy.begin(x_nchw, stem_nchw)
        assert isinstance(decisions, ByMeans)
        return _OverruledDecisions(decisions, self.rows(x_nchw))

    def units(self) -> Sequence[Unit]:
        return self.policy.units()

    def lean(self) -> Policy:
        self.policy = self.policy.lean()
        return self


class _OverruledDecisions(ByMeans):
    def __init__(self, decisions: ByMeans, gates_nb: Tensor) -> None:
        self.decisions = decisions
        self.columns = (gates_nb > 0.5).unbind(dim=1)

    def gate_of(self, index: int, mean_nc: Tensor) -> Tensor | None:
        open_n = self.is_open(index, mean_nc)
        return None if open_n is None else open_n.float()

    def is_open(self, index: int, sum_nc: Tensor, positions: int = 1) -> Tensor | None:
        own_n = self.decisions.is_open(index, sum_nc, positions)
        if own_n is None:
            return None
        # Asked, though always open: a graph leaves out what no result depends on.
        return own_n & self.columns[index]


class Case(NamedTuple):
    net: GatedResNet
    aim: float


def subjects(backbone: Backbone) -> dict[str, Case]:
    made: dict[str, Case] = {}
    for share in (1.0, 0.5, 0.25, 0.0):
        table = TableGates(backbone, share)
        aim = {1.0: ALL_KEPT, 0.0: NO_AIM}.get(share, UP_FRONT)
        made[f"up front, {share:.0%} kept"] = Case(GatedResNet(backbone, table), aim)
    for share in (0.5, 0.25):
        gates = AigGates(backbone, AigConfig())
        for gate in gates.gates.values():
            _open_always(gate[3], torch.tensor([-_CERTAIN, _CERTAIN]))
        aig = Overruled(gates, backbone, share)
        net = GatedResNet(backbone, aig, merge=GateResidual())
        made[f"ConvNet-AIG's gates, {share:.0%} kept"] = Case(net, PER_UNIT)
        recurrent = RecurrentGates(backbone, 1.0)
        _open_always(recurrent.last, torch.tensor([_CERTAIN]))
        rnn = Overruled(recurrent, backbone, share)
        net = GatedResNet(backbone, rnn, merge=GateOutput())
        made[f"SkipNet's LSTM, {share:.0%} kept"] = Case(net, PER_UNIT)
    return made


def _open_always(layer: nn.Module, bias: Tensor) -> None:
    assert isinstance(layer, nn.Linear)
    layer.bias.data.copy_(bias)


def real_images(cifar10: Dataset, count: int) -> Tensor:
    few = cifar10.test.take(torch.arange(count))
    batches = eval_batches(few, batch_size=count, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    return next(batches).x_nchw


def nflops(net: GatedResNet | HaltingResNet, x_nchw: Tensor) -> float:
    with evaluating(net):
        executed_nu = torch.cat([net.execute(part).executed for part in x_nchw.split(128)])
    macs_n = macs_per_image(executed_nu, list(unit_macs(net).values()))
    return float(macs_n.mean()) / dense_macs(net.backbone)


@pytest.mark.filterwarnings("ignore:torch.searchsorted")
@pytest.mark.parametrize("depth", [32, 110])
def test_skipped_blocks_become_saved_time(cifar10: Dataset, depth: int) -> None:
    torch.manual_seed(0)
    x_nchw = real_images(cifar10, IMAGES).to(DEVICE)
    backbone = Backbone(f"resnet{depth}", 10, (3, 32, 32))
    trunk = _settled_trunk(backbone, x_nchw)
    made = subjects(replace(backbone, weights=trunk))
    cells = measure_latency(
        {name: Subject(subject.net.to(DEVICE), "dense") for name, subject in made.items()},
        {"dense": GatedResNet(replace(backbone, weights=trunk)).to(DEVICE)},
        images_nchw=x_nchw,
        batch_sizes=BATCH_SIZES,
        profile=PROFILE,
        device=DEVICE,
    )
    floors = _FLOORS if DEVICE == "cpu" and library().path else _FLOORS_OF_TORCH
    missed: list[str] = []
    took_ms: dict[tuple[str, int], float] = {}
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else "1 thread"
    print(f"\nResNet-{depth}, {where}: realised / ideal, with the interval of the speed-up")
    for name, subject in made.items():
        ideal = 1 / nflops(subject.net, x_nchw)
        for cell in cells[name]:
            record = cell.record
            assert record.speedup and record.speedup_interval, record.reason
            realised, interval = record.speedup / ideal, record.speedup_interval
            print(
                f"  {name:32} batch {record.batch_size:3}: {realised:.2f}"
                f" ({interval.low / ideal:.2f}-{interval.high / ideal:.2f}), aim"
                f" {subject.aim:.2f}; {record.speedup:.2f}x of {ideal:.2f}x,"
                f" {record.latency_ms:.3f} ms{', contended' if record.contended else ''}"
            )
            took_ms[name, record.batch_size] = record.latency_ms or 0.0
            if realised < floors[subject.aim]:
                missed.append(f"{name}, batch {record.batch_size}: {realised:.2f}")
    for size in BATCH_SIZES:
        _print_profile(took_ms, size)
    if DEVICE == "cuda":
        for name, subject in made.items():
            shares = [f"{_busy_share(subject.net, x_nchw[:size]):.2f}" for size in BATCH_SIZES]
            print(f"  {name:32} kernels busy: {', '.join(shares)}")
    assert not missed


def _print_profile(took_ms: Mapping[tuple[str, int], float], size: int) -> None:
    """Say where the time of a skipping network goes that its MACs do not explain."""
    none_ms, all_ms = (took_ms[f"up front, {share} kept", size] for share in ("0%", "100%"))
    print(f"  batch {size}: ms per image that run whatever is decided {none_ms:.3f}; all blocks on")
    print(f"    top {all_ms - none_ms:.3f}")
    for name in ("50%", "25%"):
        rest_ms = took_ms[f"up front, {name} kept", size] - none_ms
        share = float(name.rstrip("%")) / 100
        print(
            f"    {name} kept: blocks {rest_ms:.3f}, where their share of all would be"
            f" {share * (all_ms - none_ms):.3f}"
        )


def _busy_share(net: GatedResNet, x_nchw: Tensor) -> float:
    """Return the share of the time of calls as CUDA graphs in which the GPU runs kernels."""
    graph = graph_of(net.eval(), x_nchw)
    assert graph is not None
    with evaluating(net):
        graph(x_nchw)
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            torch.cuda.synchronize()
            begin_s = time.perf_counter()
            for _ in range(20):
                graph(x_nchw)
                torch.cuda.synchronize()
            took_s = time.perf_counter() - begin_s
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6 / took_s


def _settled_trunk(backbone: Backbone, x_nchw: Tensor) -> Mapping[str, Tensor]:
    """Return weights whose batch norms have seen images: what no training has scaled explodes."""
    trunk = backbone.build().to(x_nchw.device).train()
    with torch.no_grad():
        for part in x_nchw[:512].split(64):
            trunk(part)
    return {name: tensor.cpu() for name, tensor in trunk.state_dict().items()}
