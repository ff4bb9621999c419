"""MACs: the table of the CIFAR ResNets, two counters that agree, trace == what really ran."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from deciding_nets import deciding_nets, images, small_backbone
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import flop_registry

from bench.errors import PluginError
from bench.measure.cost import (
    counted_macs,
    dense_macs,
    macs_per_image,
    unit_macs,
)
from bench.measure.modes import evaluating
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone
from bench.networks.unit import DynamicNet, Output, Unit

TABLE = {
    8: (12_239_488, 12.50),
    14: (26_395_264, 26.66),
    20: (40_551_040, 40.81),
    26: (54_706_816, 54.97),
    32: (68_862_592, 69.12),
    38: (83_018_368, 83.28),
    44: (97_174_144, 97.44),
    56: (125_485_696, 125.75),
    74: (167_953_024, 168.22),
    110: (252_887_680, 253.15),
}


class OneUnit(DynamicNet):
    """A network of a single unit, or of several of the same name."""

    def __init__(self, module: nn.Module, *, shape: tuple[int, ...], copies: int = 1) -> None:
        super().__init__()
        self.module, self.shape, self.copies = module, shape, copies

    def units(self) -> Sequence[Unit]:
        return [Unit("only", self.module, self.shape, True, "policy")] * self.copies

    def forward(self, x_nchw: Tensor) -> Output:
        raise AssertionError("counting runs units, not the network")

    execute = forward


@pytest.mark.parametrize("depth", TABLE)
def test_dense_macs_equal_the_table_of_the_cifar_resnets(depth: int) -> None:
    shape = (3, 32, 32)
    exact, in_millions = TABLE[depth]
    assert dense_macs(Backbone(f"resnet{depth}", 10, shape)) == exact
    by_projection = dense_macs(Backbone(f"resnet{depth}", 10, shape, "B"))
    assert by_projection == exact + 2 * 131_072
    assert by_projection / 1e6 == pytest.approx(in_millions, abs=0.01)


def test_a_hundred_classes_add_5760_macs() -> None:
    ten, hundred = (dense_macs(Backbone("resnet32", k, (3, 32, 32))) for k in (10, 100))
    assert hundred - ten == 5_760


def test_a_gated_network_lists_the_macs_of_the_same_trunk_plus_its_policy() -> None:
    for net in deciding_nets().values():
        macs = unit_macs(net)
        assert list(macs) == [unit.name for unit in net.units()]
        without_policy = sum(macs[unit.name] for unit in net.units() if unit.role != "policy")
        assert without_policy == dense_macs(net.backbone) < sum(macs.values())


@pytest.mark.parametrize("kind", ["up front", "per unit"])
def test_macs_of_the_trace_are_those_counted_on_the_executed_path(kind: str) -> None:
    net, x_nchw = deciding_nets()[kind], images(32, side=16)
    with evaluating(net):
        executed_nu = net.execute(x_nchw).executed
        counted = counted_macs(lambda: net.execute(x_nchw))
        one_by_one = counted_macs(lambda: [net.execute(x_nchw[i : i + 1]) for i in range(32)])
    gates = [u for u, unit in enumerate(net.units()) if not unit.always_on]
    assert 0.1 < executed_nu[:, gates].mean() < 0.9  # the policy really decides
    macs_n = macs_per_image(executed_nu, list(unit_macs(net).values()))
    assert macs_n.dtype == torch.float64
    assert macs_n.sum().item() == counted == one_by_one


def test_the_masked_path_costs_the_full_price() -> None:
    net = deciding_nets()["up front"]
    with evaluating(net):
        counted = counted_macs(lambda: net(images(4, side=16)))
    assert counted == 4 * sum(unit_macs(net).values())


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Linear(10, 7), (10,), 70),
        (nn.Linear(10, 7), (5, 10), 350),
        (nn.Conv2d(4, 8, 3, groups=2), (4, 8, 8), 6 * 6 * 8 * 9 * 2),
        (nn.LSTMCell(10, 10), (10,), 800),
        (nn.LSTM(10, 10, batch_first=True), (3, 10), 3 * 800),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)), (3, 4, 4), 0),
    ],
)
def test_biases_and_what_is_neither_convolution_nor_linear_count_nothing(
    module: nn.Module, shape: tuple[int, ...], macs: int
) -> None:
    assert unit_macs(OneUnit(module, shape=shape)) == {"only": macs}


def test_counting_gives_the_same_inside_inference_mode() -> None:
    net = OneUnit(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4, bias=False)), shape=(6,))
    with torch.inference_mode():
        assert unit_macs(net) == {"only": 50}


def test_counting_leaves_the_network_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    net = GatedResNet(small_backbone()).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    unit_macs(net)
    assert all(module.training for module in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert capsys.readouterr() == ("", "")


def test_a_unit_that_cannot_run_on_its_shape_is_refused_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(PluginError, match=r"Unit 'only' does not run .* \(1, 9\)"):
        unit_macs(OneUnit(nn.Linear(3, 4), shape=(9,)))
    assert capsys.readouterr() == ("", "")


class Function(nn.Module):
    """A unit that is one call of a function."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


class Attending(nn.Module):
    """Multi-head self-attention over tokens (N, S, E), with what is asked for beside it."""

    def __init__(self, **asked: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(E, 2, batch_first=True)
        self.asked = asked

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attention(x, x, x, **self.asked)[0]
        return attended


class VitBlock(nn.Module):
    """A block of a vision transformer: attention and a perceptron, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(192), nn.LayerNorm(192)
        self.qkv, self.proj = nn.Linear(192, 3 * 192), nn.Linear(192, 192)
        self.mlp = nn.Sequential(nn.Linear(192, 768), nn.GELU(), nn.Linear(768, 192))

    def forward(self, x_ntc: Tensor) -> Tensor:
        n, t, c = x_ntc.shape
        qkv = self.qkv(self.norm1(x_ntc)).reshape(n, t, 3, 3, c // 3).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv.unbind(0))
        x_ntc = x_ntc + self.proj(attended.transpose(1, 2).reshape(n, t, c))
        y_ntc: Tensor = x_ntc + self.mlp(self.norm2(x_ntc))
        return y_ntc


def in_one_kernel(x: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(x, x, x)


S, E, H = 5, 8, 32  # tokens, width, hidden width
HEADS_OF_4 = 2 * 2 * S * S * 4  # queries with keys, weights with values
ATTENTION = 4 * S * E * E + 2 * S * S * E  # three projections in, one out
ENCODER = ATTENTION + 2 * S * E * H
VIT = 197 * 192 * (3 * 192 + 192 + 2 * 768) + 2 * 197 * 197 * 192


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (Function(lambda x: F.scaled_dot_product_attention(x, x, x)), (2, S, 4), HEADS_OF_4),
        (Function(in_one_kernel), (2, S, 4), HEADS_OF_4),
        (Attending(need_weights=False), (S, E), ATTENTION),
        (Attending(), (S, E), ATTENTION),
        (Attending(attn_mask=torch.zeros(S, S)), (S, E), ATTENTION),
        (nn.TransformerEncoderLayer(E, 2, H, batch_first=True), (S, E), ENCODER),
        (VitBlock(), (197, 192), VIT),
        (Function(lambda x: torch.einsum("nij,nkj->nik", x, x)), (4, 6), 4 * 4 * 6),
        (Function(lambda x: torch.bmm(x, x)), (4, 4), 64),
        (Function(lambda x: torch.baddbmm(x, x, x)), (4, 4), 64),
        (Function(lambda x: torch.addbmm(x[0], x, x)), (4, 4), 64),
        (Function(lambda x: torch.addmv(x[0, 0], x[0], x[0, 0])), (4, 4), 16),
        (Function(lambda x: x[0] @ x[0, 0]), (4, 6), 24),
        (Function(lambda x: x[0] @ x[0]), (6,), 6),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 5 * 5 * 4 * 6 * 9),
        (nn.Conv1d(4, 6, 3), (4, 10), 8 * 4 * 6 * 3),
        (nn.Conv3d(2, 3, 3), (2, 5, 5, 5), 27 * 2 * 3 * 27),
    ],
)
def test_matrix_products_count_in_all_their_forms(
    module: nn.Module, shape: tuple[int, ...], macs: int
) -> None:
    assert unit_macs(OneUnit(module, shape=shape)) == {"only": macs}
    with torch.inference_mode():
        assert counted_macs(lambda: module.eval()(torch.ones(1, *shape))) == macs


@pytest.mark.parametrize(
    ("call", "shape", "operator"),
    [
        (lambda x: torch.fft.fft(x).real, (6,), "aten._fft_r2c"),
        (torch.linalg.svdvals, (6, 6), "aten._linalg_svd"),
        (lambda x: F.bilinear(x, x, torch.ones(3, 4, 4)), (4,), "aten._trilinear"),
        (lambda x: torch.cdist(x, x), (4, 6), "aten._cdist_forward"),
        (lambda x: torchvision.ops.nms(x[0], x[0, :, 0], 0.5)[None], (3, 4), "torchvision.nms"),
    ],
)
def test_work_that_nobody_counts_is_refused_by_name(
    call: Callable[[Tensor], Tensor], shape: tuple[int, ...], operator: str
) -> None:
    with pytest.raises(PluginError, match=rf"Unit 'only': .*{operator}.*register_flop_formula"):
        unit_macs(OneUnit(Function(call), shape=shape))
    with pytest.raises(PluginError, match=operator):
        counted_macs(lambda: call(torch.ones(1, *shape)))


def test_an_operator_that_a_plugin_gives_a_formula_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(flop_registry, torch.ops.aten._fft_r2c, lambda *_, **__: 2 * 30)
    unit = Function(lambda x: torch.fft.rfft(x).real @ torch.ones(4, 3))
    assert unit_macs(OneUnit(unit, shape=(6,))) == {"only": 30 + 4 * 3}


def test_counting_leaves_the_kernels_of_torch_as_they_were() -> None:
    def switches() -> tuple[object, ...]:
        backends: Any = torch.backends
        cuda, mha = backends.cuda, backends.mha.get_fastpath_enabled()
        return backends.mkldnn.enabled, mha, cuda.flash_sdp_enabled(), backends.cudnn.enabled

    before = switches()
    counted_macs(lambda: None)
    assert switches() == before


def test_two_counters_that_disagree_on_what_both_know_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(flop_registry, torch.ops.aten.addmm, lambda *_, **__: 2 * 5)
    with pytest.raises(PluginError, match="in doubt: ptflops gives 12 MACs, torch's own counter 5"):
        unit_macs(OneUnit(nn.Linear(3, 4), shape=(3,)))


class FailsTheSecondTime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("only once")
        return x


def test_a_count_that_ptflops_gives_up_is_refused_in_silence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(PluginError, match="no count"):
        unit_macs(OneUnit(FailsTheSecondTime(), shape=(4,)))
    assert capsys.readouterr() == ("", "")


def test_two_units_of_one_name_are_refused() -> None:
    with pytest.raises(PluginError, match="share the name only"):
        unit_macs(OneUnit(nn.Linear(2, 2), shape=(2,), copies=2))


def test_the_deepest_network_is_counted_within_five_seconds() -> None:
    begin = time.process_time()
    dense_macs(Backbone("resnet110", 10, (3, 32, 32)))
    assert time.process_time() - begin < 5


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=20),
    st.integers(1, 8),
    st.integers(0, 2**31),
)
def test_macs_lie_between_nothing_and_everything_and_grow_with_what_runs(
    macs: list[int], images: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    some_nu = torch.randint(2, (images, len(macs)), generator=generator).float()
    more_nu = torch.maximum(
        some_nu, torch.randint(2, (images, len(macs)), generator=generator).float()
    )
    some_n, more_n = macs_per_image(some_nu, macs), macs_per_image(more_nu, macs)
    assert (some_n >= 0).all() and (some_n <= more_n).all() and (more_n <= sum(macs)).all()
    expected = [sum(m for m, ran in zip(macs, row, strict=True) if ran) for row in some_nu]
    assert some_n.tolist() == expected
