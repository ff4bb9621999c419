"""Networks replayed from tapes, as on a GPU, are the networks they were recorded from.

The tapes here are the stand-in for CUDA graphs in taped.py; tests/test_gpu.py has the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import exit_nets
import halting_nets
import pytest
import taped
import torch
from gated_nets import (
    BLOCKS,
    MERGES,
    backbone,
    images,
    lstm_gates,
    per_unit_net,
    perceptron_gates,
    season,
    seasoned,
)
from kernel_ways import allow
from torch import Tensor, nn

from bench.networks import replaying
from bench.networks.execution import GateOutput
from bench.networks.gated import GatedResNet
from bench.networks.inference import fast_copy, replayed
from bench.networks.policy import Policy, UpFront
from bench.networks.replaying import choice_of, rounded_up
from bench.networks.replaying_exits import ExitForm
from bench.networks.replaying_halting import HaltingForm
from bench.networks.resnet import Backbone, Shortcut
from bench.networks.unit import DynamicNet, Unit
from methods.sgad import BMNet, SgadConfig

SIZES = (1, 2, 33, 64)


@pytest.fixture(autouse=True)
def no_kernels_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    allow("plain", monkeypatch)


class ByPixels(Policy):
    """Gates that are known up front and differ between images; block 1 has none."""

    def __init__(self, groups: int) -> None:
        super().__init__([b == 1 for b in range(BLOCKS)])
        self.groups = groups
        self.register_buffer("masks_mg", torch.rand(groups, BLOCKS - 1).round())

    masks_mg: Tensor

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        group_n = (1000 * x_nchw[:, 0, 0, 0]).long() % self.groups
        return UpFront(self.spread(self.masks_mg[group_n]), always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return [Unit("nothing", nn.Identity(), (1,), True, "policy")]


def up_front(merge: str = "residual", shortcut: str = "A", *, groups: int = 12) -> GatedResNet:
    torch.manual_seed(1)
    return season(GatedResNet(backbone(shortcut), ByPixels(groups), merge=MERGES[merge]()))


def stays_the_same(
    net: DynamicNet, *, sizes: Sequence[int] = SIZES, made: Callable[..., Tensor] = images
) -> DynamicNet:
    """Compare with `execute`, twice at each size, on other images each time."""
    fast = fast_copy(net, made(2))
    tapes = replayed(fast, taped.record)
    assert tapes is not None
    with torch.inference_mode():
        for seed, size in enumerate([*sizes, *sizes]):
            x = made(size, seed=20 + seed)
            (logits, executed), expected = tapes(x), fast.execute(x)
            torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
            assert torch.equal(executed, expected.executed)
    return fast


@pytest.mark.parametrize("merge", sorted(MERGES))
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("make", [per_unit_net, up_front])
def test_a_gated_network_runs_the_same_blocks_for_the_same_images(
    make: Callable[[str, str], GatedResNet], merge: str, shortcut: str
) -> None:
    net = make(merge, shortcut)
    with torch.inference_mode():
        assert len({tuple(row) for row in net(images(64, seed=9)).executed.tolist()}) > 5
    stays_the_same(net)


@pytest.mark.parametrize("make", [per_unit_net, up_front])
def test_removed_blocks_stay_removed(make: Callable[[str, str], GatedResNet]) -> None:
    dead = frozenset({"block2", "block3"})
    stays_the_same(make("output", "B").inference_net(dead_blocks=dead))


def test_the_dense_network_is_one_tape() -> None:
    fast = stays_the_same(seasoned())
    made = []

    def counting(work: Callable[[], object], *, warm: object = None) -> object:
        made.append(work)
        return taped.record(work)

    tapes = replayed(fast, counting)  # type: ignore[arg-type]
    assert tapes is not None
    with torch.inference_mode():
        tapes(images(4))
        tapes(images(4, seed=2))
    assert len(made) == 1


def bmnet(base: Backbone) -> Policy:
    policy = BMNet(base, SgadConfig())
    last = [module for module in policy.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.normal_(last.weight, std=9)
    nn.init.zeros_(last.bias)
    return policy


@pytest.mark.parametrize("make", [lstm_gates, perceptron_gates, bmnet])
def test_the_gates_of_methods_can_be_recorded(make: Callable[[Backbone], Policy]) -> None:
    torch.manual_seed(5)
    base = backbone("B")
    net = season(GatedResNet(base, make(base), merge=GateOutput()))
    with torch.inference_mode():
        assert len({tuple(row) for row in net(images(64, seed=9)).executed.tolist()}) > 3
    stays_the_same(net)


def test_patterns_beyond_the_limit_run_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "_MAX_PATTERNS", 2)
    stays_the_same(up_front(groups=6), sizes=[1] * 12)


@pytest.mark.parametrize("groups", [1, 12])
def test_images_that_agree_need_no_tape_of_a_block(groups: int) -> None:
    fast = fast_copy(up_front(groups=groups), images(2))
    assert isinstance(fast, GatedResNet)
    with torch.inference_mode():
        form = replaying.gated_form(fast, images(64), taped.record)
        form(images(64, seed=3))
    assert isinstance(form, replaying.UpFrontForm)
    assert (len(form._patterns) == 1) == (groups == 1)
    assert (len(form._tapes) == 0) == (groups == 1)


@pytest.mark.parametrize("rule", sorted(exit_nets.RULES))
@pytest.mark.parametrize("head", ["pooled", "grid", "convolution"])
def test_a_network_with_exits_lets_the_same_images_leave(
    rule: str, head: exit_nets.HeadKind
) -> None:
    net = exit_nets.calibrated(rule, head)
    with torch.inference_mode():
        assert len(set(net(images(64, seed=9)).terms["way_n"].tolist())) == 3
    for point in range(net.rule.num_points):
        stays_the_same(net.at(point))


@pytest.mark.parametrize("dead", ["block2", "block4"])
def test_what_lies_behind_an_exit_for_all_is_not_on_the_tape(dead: str) -> None:
    stays_the_same(exit_nets.calibrated().inference_net(dead_blocks=frozenset({dead})))


@pytest.mark.parametrize("dead", [frozenset[str](), frozenset({"block2", "block4"})])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_network_that_halts_by_image_halts_the_same_images(
    dead: frozenset[str], shortcut: Shortcut
) -> None:
    net = halting_nets.seasoned("image", shortcut).inference_net(dead_blocks=dead)
    with torch.inference_mode():
        assert len({tuple(row) for row in net(halting_nets.images(64)).executed.tolist()}) > 1
    stays_the_same(net, made=halting_nets.images)


@pytest.mark.parametrize("bias", [-60.0, 60.0])
def test_all_images_may_halt_at_once_or_none(bias: float) -> None:
    net = halting_nets.with_bias(halting_nets.seasoned("image"), bias)
    stays_the_same(net, made=halting_nets.images)


@pytest.mark.parametrize("seed", range(6))
def test_padding_neither_leaves_nor_halts(seed: int) -> None:
    leaving, halting = exit_nets.calibrated(), halting_nets.seasoned("image")
    x, others = images(64, seed=seed), halting_nets.images(64, seed=seed)
    with torch.inference_mode():
        exits = ExitForm(leaving, x, taped.record)
        executed = exits(x)[1]
        for way, start in enumerate(leaving.starts):
            stay = int(executed[:, column_of(leaving, f"block{start}")].sum())
            assert [size for w, size in exits._tapes if w == way] == [rounded_up(stay, count=64)]
        halts = HaltingForm(halting, others, taped.record)
        executed = halts(others)[1]
        for b in range(halting.backbone.num_blocks):
            stay = int(executed[:, column_of(halting, f"block{b}")].sum())
            sizes = [size for block, size, what in halts._tapes if (block, what) == (b, "advance")]
            assert sizes == ([rounded_up(stay, count=64)] if stay else [])


def column_of(net: DynamicNet, name: str) -> int:
    return [unit.name for unit in net.units()].index(name)


def test_networks_whose_positions_halt_have_no_tapes() -> None:
    assert replayed(halting_nets.seasoned("position"), taped.record) is None


def test_a_policy_that_reads_from_the_host_cannot_be_recorded() -> None:
    class Impatient(ByPixels):
        def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
            if x_nchw.mean().item() > 5:
                raise AssertionError
            return super().begin(x_nchw, stem_nchw)

    torch.manual_seed(1)
    net = season(GatedResNet(backbone(), Impatient(3)))
    tapes = replayed(net, taped.record)
    assert tapes is not None
    with torch.inference_mode(), pytest.raises(RuntimeError, match="not permitted"):
        tapes(images(4))


def test_the_rows_of_a_choice_are_those_that_run_and_padding_repeats_the_first() -> None:
    open_nb = torch.tensor([[0, 1, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]]).bool()
    choice = choice_of(open_nb)
    assert choice.sizes_b.tolist() == [2, 4, 0]
    assert choice.rows_bn[:2].tolist() == [[1, 3, 1, 1], [0, 1, 2, 3]]


def test_groups_are_rounded_up_by_at_most_a_sixteenth_of_the_batch() -> None:
    for count in (1, 8, 16, 33, 512):
        sizes = [rounded_up(size, count=count) for size in range(1, count + 1)]
        assert len(set(sizes)) <= 2 * 16 + 1 and sizes[-1] == count
        assert all(
            size <= up <= max(size, min(count, size + count / 16))
            for size, up in enumerate(sizes, start=1)
        )
