"""Every network in every runtime computes what its masked path computes, or is refused in words."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from export_nets import REFUSED, described_net, images, names
from gated_nets import MERGES, backbone, per_unit_net, season
from gated_nets import images as small_images
from halting_nets import every_kind, every_shortcut, seasoned
from halting_nets import images as halting_images
from position_nets import images_for, position_net
from torch import Tensor, nn

from bench.errors import Unsupported
from bench.measure.equivalence import check_execution
from bench.measure.modes import evaluating
from bench.networks.gated import GatedResNet
from bench.networks.policy import BlockByBlock, Decisions, Policy
from bench.networks.trunk import Backbone, pool
from bench.networks.unit import DynamicNet, Output, Unit
from bench.runtimes.contract import RUNTIMES, Runtime
from bench.runtimes.eager import folded_copy
from bench.runtimes.instructions import walk
from bench.runtimes.native import Native
from bench.runtimes.native.build import library
from bench.runtimes.native.fusing import fused
from bench.runtimes.program import program_of

CPU = torch.device("cpu")
NAMES = ("eager", "native", "onnxruntime")


def runtime(name: str) -> Runtime:
    found = RUNTIMES.get(name)()
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    if name == "native" and library().loaded is None:
        pytest.skip(library().reason)
    return found


def test_the_built_in_runtimes_are_found_like_any_other() -> None:
    assert set(RUNTIMES.names()) >= set(NAMES)
    assert all(RUNTIMES.get(name).summary for name in NAMES)


@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize("name", names())
def test_every_method_runs_in_every_runtime_as_its_masked_path(name: str, where: str) -> None:
    net, _ = described_net(name)
    if (name, where) in REFUSED:
        with pytest.raises(Unsupported, match=REFUSED[name, where]):
            runtime(where).prepare(net, images()[:2])
        return
    run = runtime(where).prepare(net, images()[:2])
    said = check_execution(net, images(), run=run, atol=1e-4 + 2 * rounding(net, images()))
    assert said.startswith("execute == forward on 256 images")


@torch.no_grad()
def rounding(net: DynamicNet, x_nchw: Tensor) -> float:
    """Return by how much float32 moves the logits: a perturbed network may be ill-conditioned."""
    with evaluating(net):
        exact = copy.deepcopy(net).double()(x_nchw.double())
        return float((net(x_nchw).logits - exact.logits).abs().max())


@pytest.mark.parametrize("where", NAMES)
@every_kind
@every_shortcut
def test_what_halts_halts_in_every_runtime(kind: str, shortcut: Any, where: str) -> None:
    net, x = seasoned(kind, shortcut), halting_images(256)
    # Sums of 256 large numbers in another order: of logits around 16 the sixth digit.
    assert check_execution(net, x, run=runtime(where).prepare(net, x[:2]), atol=1e-3)


@pytest.mark.parametrize("where", ["eager", "native"])
@pytest.mark.parametrize("merge", sorted(MERGES))
@pytest.mark.parametrize(
    ("name", "side", "shortcut"),
    [
        *(("resnet14", (8, 8), "A"), ("resnet14", (8, 8), "B"), ("resnet8", (5, 9), "A")),
        *(("resnet8", (17, 6), "B"), ("torchvision/resnet10", (32, 32), "A")),
    ],
)
def test_masks_of_a_stranger_run_at_their_positions(
    name: str, side: Any, shortcut: Any, merge: str, where: str
) -> None:
    net = position_net(name, side, shortcut, merge)
    x = images_for(net, 64)
    assert check_execution(net, x, run=runtime(where).prepare(net, x[:2]))
    if where == "native":
        code = fused(program_of(folded_copy(net, x[:2]), x[:2])).code
        blocks = [one for one in walk(code) if one.op == "sparse_block"]
        assert len(blocks) == len(net.blocks) - 2  # one without a gate, one gated whole


def test_positions_that_a_runtime_cannot_run_alone_are_refused_with_the_reason() -> None:
    deep = position_net("torchvision/resnet50", (32, 32))
    with pytest.raises(Unsupported, match="other than two 3x3 convolutions"):
        runtime("native").prepare(deep, images_for(deep, 2))
    with pytest.raises(Unsupported, match="ONNX has no branch for some positions"):
        runtime("onnxruntime").prepare(position_net(), images_for(position_net(), 2))


@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize("merge", sorted(MERGES))
@every_shortcut
def test_gates_of_a_stranger_with_dead_blocks_run_everywhere(
    merge: str, shortcut: str, where: str
) -> None:
    net = per_unit_net(merge, shortcut).inference_net(dead_blocks=frozenset({"block2", "block4"}))
    x = small_images(256)
    assert check_execution(net, x, run=runtime(where).prepare(net, x[:2]))


class Mixed(Policy):
    """A stranger's gates of many operators, each with a state of its own."""

    def __init__(self, base: Backbone) -> None:
        super().__init__([False] * base.num_blocks)
        self.widths = [channels for channels, _, _ in base.input_shapes]
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 4, 5, padding=2, stride=3, groups=2), nn.GELU())
            for width in self.widths
        )
        self.cell, self.last = nn.LSTMCell(4, 6), nn.Linear(12, 2)

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> Decisions:
        return _MixedDecisions(self)

    def units(self) -> Sequence[Unit]:
        return ()


class _MixedDecisions(Decisions):
    def __init__(self, policy: Mixed) -> None:
        self.policy, self.state = policy, None

    def gate(self, index: int, h_nchw: Tensor) -> Tensor:
        features = self.policy.nets[index](h_nchw)
        pooled = F.max_pool2d(features, 2, ceil_mode=True).amax(dim=(2, 3)).clamp(-1, 2)
        self.state: Any = self.policy.cell(pooled, self.state)
        hidden, memory = self.state
        both = torch.cat([hidden, torch.tanh(memory).abs() ** 2], dim=1)
        return self.policy.last(both).softmax(dim=1).argmax(dim=1).float()


@pytest.mark.parametrize("where", NAMES)
def test_any_policy_of_known_operators_is_lowered(where: str) -> None:
    base = backbone("B")
    net = season(GatedResNet(base, Mixed(base)))
    nn.init.normal_(net.policy.last.weight, std=4)  # type: ignore[arg-type, union-attr]
    x = small_images(256)
    assert float(1 - net(x).executed.mean()) > 0.02
    assert check_execution(net, x, run=runtime(where).prepare(net, x[:2]))


@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize(
    "name",
    [
        *("torchvision/resnet10", "torchvision/mobilenet_v2@0.35", "timm/efficientnet_lite0"),
        *("timm/vit_tiny_patch4_32@2", "timm/deit_tiny_distilled_patch16_224@2"),
    ],
)
def test_backbones_of_libraries_run_in_every_runtime(name: str, where: str) -> None:
    pytest.importorskip("timm")
    base = Backbone(name, 7, (3, 32, 32))
    x = torch.randn(16, *base.image_shape, generator=torch.Generator().manual_seed(3))
    for policy in (None, _At(base, lambda h: (pool(h).std(dim=1) > pool(h)[:, 0] + 1).float())):
        torch.manual_seed(4)
        net = GatedResNet(base, policy).train()
        net(2 * x)
        net.eval()
        assert (policy is None) == bool(net(x).executed.all())
        assert check_execution(net, x, run=runtime(where).prepare(net, x[:2]))


@pytest.mark.parametrize("side", [(5, 9), (7, 4), (33, 17)])
@pytest.mark.parametrize("where", NAMES)
def test_odd_sizes_of_images_are_computed(side: tuple[int, int], where: str) -> None:
    net = season(GatedResNet(Backbone("resnet8", 7, (1, *side), "B")), (1, *side))
    x = torch.randn(256, 1, *side).contiguous(memory_format=torch.channels_last)
    assert check_execution(net, x, run=runtime(where).prepare(net, x[:2]))


def in_every_layout(x: Tensor) -> Iterator[Tensor]:
    """The same images, differently in memory: strided, reversed in it, a view that repeats."""
    yield x.contiguous()
    wide = torch.zeros(*x.shape[:3], 2 * x.shape[3])
    wide[..., ::2] = x
    yield wide[..., ::2]
    yield x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    yield torch.cat([x, x])[: len(x)].requires_grad_()


@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize("merge", [*sorted(MERGES), "dense"])
def test_any_number_of_images_in_any_layout_gets_the_right_answer(merge: str, where: str) -> None:
    net = season(GatedResNet(backbone())) if merge == "dense" else per_unit_net(merge, "A")
    run, x = runtime(where).prepare(net, small_images(2)), small_images(64)
    with torch.no_grad():
        expected = net(x)
    for given in in_every_layout(x):
        logits, executed = run(given)
        torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
        assert torch.equal(executed, expected.executed)
    logits, executed = run(x[:1])
    torch.testing.assert_close(logits, expected.logits[:1], atol=1e-4, rtol=0)
    many, _ = run(x[:50].repeat(200, 1, 1, 1))
    torch.testing.assert_close(many[-50:], expected.logits[:50], atol=1e-4, rtol=0)
    logits, executed = run(x[:0])
    assert logits.shape == (0, 10) and executed.shape == (0, len(net.units()))


@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize("merge", sorted(MERGES))
def test_what_is_no_number_stays_so_and_disturbs_no_other_image(merge: str, where: str) -> None:
    net = per_unit_net(merge, "B")
    run, x = runtime(where).prepare(net, small_images(2)), small_images(3)
    x[1] = float("nan")
    logits, executed = run(x)
    assert logits[1].isnan().all() and logits[[0, 2]].isfinite().all()
    assert torch.equal(executed, net(x).executed)


def test_the_network_that_is_prepared_is_left_alone() -> None:
    net = per_unit_net("residual", "B")
    before = copy.deepcopy(net.state_dict())
    for name in NAMES:
        runtime(name).prepare(net, small_images(2))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


class _At(Policy):
    """A policy whose decisions are computed by a function of the input of the block."""

    def __init__(self, base: Backbone, ask: Any) -> None:
        super().__init__([False] * base.num_blocks)
        self.ask = ask

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> Decisions:
        return BlockByBlock(self, lambda _, h_nchw: self.ask(h_nchw))

    def units(self) -> Sequence[Unit]:
        return ()


def _decomposed(h_nchw: Tensor) -> Tensor:
    """Ask by operators of which torch knows what they are made of."""
    h_nchw = F.group_norm(h_nchw, 2) + F.group_norm(h_nchw, 4, *h_nchw.new_ones(2, h_nchw.shape[1]))
    m = 3 * h_nchw.clamp(min=-1).mean(dim=(2, 3))[:, :8] - 1
    m = m + (4 * m).floor() / 8 + (1 + m / 4).prod(dim=1, keepdim=True)
    m = F.hardswish(m) + F.silu(m) - F.elu(m) + F.softplus(m) + F.glu(torch.cat([m, m], dim=1))
    m = F.layer_norm(torch.addcmul(m, m, m, value=0.5), m.shape[1:])
    share = torch.stack([m, -m], dim=1).softmax(dim=2)[:, 0, 0]
    return (share > m.log_softmax(dim=1).std(dim=1) / 8).float()


@pytest.mark.parametrize("where", NAMES)
def test_operators_that_torch_decomposes_are_lowered(where: str) -> None:
    base, x = backbone("B"), small_images(256)
    net = season(GatedResNet(base, _At(base, _decomposed)))
    assert 0.1 < float(net(x).executed[:, 1:7].mean()) < 0.9
    assert check_execution(net, x, run=runtime(where).prepare(net, x[:2]))


def _by_item(h_nchw: Tensor) -> Tensor:
    return h_nchw.new_ones(len(h_nchw)) * float(h_nchw.mean().item() > 0)


def _overwritten(h_nchw: Tensor) -> Tensor:
    mean_nc = h_nchw.mean(dim=(2, 3))
    part = mean_nc[:, :2]
    part.mul_(2)
    return (mean_nc.sum(dim=1) > 0).float()


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda h: torch.rand(len(h)) * h.mean(), "draws at random"),
        (_by_item, "aten._local_scalar_dense"),
        (lambda h: h.mean(dim=(2, 3)).round()[:, 0], "round"),
        (_overwritten, "writing into a part"),
        (lambda h: h.sort(dim=1).values.mean(dim=(1, 2, 3)), "aten.sort"),
    ],
)
def test_what_has_no_instruction_is_refused_by_its_name(ask: Any, words: str) -> None:
    base = backbone()
    with pytest.raises(Unsupported, match=words):
        program_of(season(GatedResNet(base, _At(base, ask))), small_images(1))


class Silent(DynamicNet):
    """A network that decides and does not say so branch by branch."""

    def __init__(self, inner: GatedResNet) -> None:
        super().__init__()
        self.inner = inner

    def units(self) -> Sequence[Unit]:
        return self.inner.units()

    def forward(self, x_nchw: Tensor) -> Output:
        return self.inner(x_nchw)  # type: ignore[no-any-return]

    def execute(self, x_nchw: Tensor) -> Output:
        return self.inner.execute(x_nchw)


def test_a_network_of_any_class_that_decides_nothing_is_lowered() -> None:
    inner, x = season(GatedResNet(backbone())), small_images(256)
    net = Silent(inner)
    assert check_execution(net, x, run=runtime("native").prepare(net, x[:2]))
    with pytest.raises(Unsupported, match="Silent does not tell its decisions"):
        runtime("native").prepare(Silent(per_unit_net("output", "A")), x[:2])


def test_the_native_runtime_refuses_other_devices_and_more_threads() -> None:
    net = season(GatedResNet(backbone()))
    assert Native().refuses(net, CPU, 1) is None
    assert "one thread, not 2" in (Native().refuses(net, CPU, 2) or "")
    assert "not on cuda" in (Native().refuses(net, torch.device("cuda"), 1) or "")
