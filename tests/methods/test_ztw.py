"""Zero Time Waste against its conformance points: cascade, ensembles, a frozen trunk, the cost."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from exit_training import dense_weights, trained
from method_nets import BACKBONE, batch_of, built
from torch import Tensor, nn

from bench.errors import NotApplicable
from bench.measure.cost import counted_macs, dense_macs, macs_per_image, unit_macs
from bench.method import Budget, OptimizerSpec, Phase
from bench.networks.exits import ExitResNet
from bench.networks.trunk import Backbone
from methods.ztw import Ztw, ZtwConfig

EXITS = 6
BUDGET = Budget(recipe="test", epochs=5, batch_size=16, optimizer=OptimizerSpec())


def build(**settings: object) -> ExitResNet:
    net: ExitResNet = built(Ztw(), BACKBONE, **settings).eval()
    return net


def phases() -> tuple[Phase, Phase]:
    heads, ensembles = Ztw().phases(ZtwConfig(), BUDGET)
    return heads, ensembles


def plain(net: ExitResNet) -> ExitResNet:
    """Give every classifier the same weight and no bias."""
    for parameter in net.rule.parameters():
        parameter.data.zero_()
    return net


def set_threshold(net: ExitResNet, threshold: float) -> ExitResNet:
    net.get_buffer("rule.thresholds_pe").fill_(threshold)
    return net


@torch.no_grad()
def test_without_weights_of_its_own_an_exit_answers_with_the_geometric_mean() -> None:
    net, x = plain(build()), batch_of().x_nchw
    logits_wnk = net.exit_logits(x)
    answers = net.answers(logits_wnk).softmax(dim=2)
    p_wnk = logits_wnk.softmax(dim=2)
    for m in range(EXITS + 1):
        mean_nk = p_wnk[: m + 1].prod(dim=0) ** (1 / (m + 1))
        torch.testing.assert_close(answers[m], mean_nk / mean_nk.sum(dim=1, keepdim=True))
    torch.testing.assert_close(answers[0], p_wnk[0])


@torch.no_grad()
def test_weights_are_exponents_and_the_bias_is_added() -> None:
    net, x = plain(build()), batch_of().x_nchw
    rule, logits_wnk = net.rule, net.exit_logits(x)
    third = rule.ensembles[2]
    third.get_parameter("log_weights_m").copy_(torch.tensor([0.5, -1.0, 0.2]))
    third.get_parameter("bias_k").copy_(torch.arange(10.0))
    factors = torch.tensor([0.5, -1.0, 0.2]).exp() / 3
    log_p_wnk = logits_wnk.log_softmax(dim=2)
    expected = torch.einsum("w,wnk->nk", factors, log_p_wnk[:3]) + torch.arange(10.0)
    torch.testing.assert_close(net.answers(logits_wnk)[2], expected)


@pytest.mark.parametrize("last", ["ensemble", "trunk"])
def test_the_ensemble_of_exit_m_has_m_weights(last: str) -> None:
    rule = build(last=last).rule
    sizes = [len(e.get_parameter("log_weights_m")) for e in rule.ensembles]
    assert sizes == list(range(1, EXITS + 1 + (last == "ensemble")))


def test_exits_lie_behind_every_block_and_read_the_one_before() -> None:
    big = Backbone("resnet56", 10, (3, 32, 32))
    costs = unit_macs(Ztw().build(big, ZtwConfig()))
    heads = [costs[f"exit{e + 1}"] for e in range(27)]
    assert heads[:2] == [2560, 2560 + 100] and "exit28" not in costs
    assert sum(heads) / dense_macs(big) < 0.002
    with_conv = unit_macs(Ztw().build(big, ZtwConfig(head="convolution")))
    added = sum(with_conv[f"exit{e + 1}"] for e in range(27)) - sum(heads)
    assert added == 27 * 2_359_296
    assert added / dense_macs(big) == pytest.approx(0.51, abs=0.005)
    assert [costs[f"exit{m}.rule"] for m in (1, 2, 27)] == [10, 20, 270]
    assert costs["head.rule"] == 280


def test_no_gradient_reaches_the_classifier_before() -> None:
    net = build()
    net.side_logits(batch_of().x_nchw)[3].square().sum().backward()
    taught = [name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()]
    reached = {name.split(".")[1] for name in taught}
    assert reached == {"3"}
    read = net.exits[3].get_submodule("linear").get_parameter("weight")
    assert read.grad is not None and bool(read.grad[:, -10:].any()), "it does read them"


@torch.no_grad()
def test_a_classifier_reads_the_raw_logits_before_it() -> None:
    net, x = build(), batch_of().x_nchw
    states, logits_wnk = list(net.states(x)), net.exit_logits(x)
    for e in range(1, EXITS):
        expected = net.exits[e](states[e], logits_wnk[e - 1])
        torch.testing.assert_close(logits_wnk[e], expected)
        without = net.exits[e](states[e])
        assert not torch.allclose(without, expected)
    assert torch.equal(logits_wnk[-1], net.trunk(x)), "the trunk's own classifier reads none"


def test_the_trunk_stays_as_it_was_and_each_phase_teaches_its_part() -> None:
    weights, config = dense_weights(), ZtwConfig()
    net = trained(Ztw(), config, epochs=2, lr=0.1, weights=weights)
    trunk = net.get_submodule("trunk").state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in trunk.items())
    assert any("running_mean" in key for key in trunk)
    for phase, part in zip(phases(), ("exits", "rule"), strict=True):
        fresh = build().requires_grad_(False)
        (group,) = phase.groups(fresh)
        for parameter in group.parameters:
            parameter.requires_grad_(True)
        phase.set_modes(fresh)
        assert not any(module.training for module in fresh.trunk.modules())
        phase.loss(fresh, batch_of(), 0.5).total.backward()
        taught = {name.split(".")[0] for name, p in fresh.named_parameters() if p.grad is not None}
        assert taught == {part}
        assert all(p.grad is not None and p.grad.any() for p in group.parameters)


@pytest.mark.parametrize("last", ["ensemble", "trunk"])
@torch.no_grad()
def test_above_1_all_go_to_the_end_and_pay_for_every_head(last: str) -> None:
    net, x = set_threshold(build(last=last), 1.001), batch_of().x_nchw
    output = net(x)
    assert bool(output.executed.all())
    assert torch.equal(output.logits, net.trunk(x)) is (last == "trunk")
    assert counted_macs(partial(net.execute, x[:1])) == sum(unit_macs(net).values())


@pytest.mark.parametrize("settings", [{}, {"head": "convolution"}, {"last": "trunk"}])
@torch.no_grad()
def test_execution_is_the_masked_path_and_its_cost_the_traced(settings: dict[str, str]) -> None:
    net, x = build(**settings), batch_of(40).x_nchw
    confidence = net.answers(net.exit_logits(x)).double().softmax(dim=2).amax(dim=2)
    set_threshold(net, confidence[0].quantile(0.7).item())
    masked, executed = net(x), net.execute(x)
    assert len(set(masked.terms["exit_n"].tolist())) > 1
    assert torch.equal(masked.executed, executed.executed)
    torch.testing.assert_close(masked.logits, executed.logits, atol=1e-5, rtol=1e-5)
    costs = list(unit_macs(net).values())
    for n in range(0, 40, 8):
        spent = counted_macs(partial(net.execute, x[n : n + 1]))
        assert spent == macs_per_image(masked.executed, costs)[n]


def test_normalised_logits_are_read_behind_a_layer_norm() -> None:
    net = build(cascade="normalised logits")
    assert [isinstance(head.get_submodule("norm"), nn.LayerNorm) for head in net.exits] == [
        False,
        *[True] * (EXITS - 1),
    ]


def test_heads_with_a_convolution_need_maps() -> None:
    pytest.importorskip("timm")
    tokens = Backbone("timm/vit_tiny_patch4_32@2", 10, (3, 32, 32))
    with pytest.raises(NotApplicable, match="tokens"):
        Ztw().build(tokens, ZtwConfig(head="convolution"))
    images: Tensor = torch.randn(2, 3, 32, 32)
    assert Ztw().build(tokens, ZtwConfig()).eval()(images).logits.shape == (2, 10)


@pytest.mark.parametrize(("epochs", "rest", "lr"), [(62, 12, 5e-3), (15, 3, 0.02), (3, 1, 0.06)])
def test_fewer_epochs_of_the_ensembles_keep_rate_times_epochs(
    epochs: int, rest: int, lr: float
) -> None:
    budget = BUDGET.model_copy(update={"epochs": epochs})
    _, ensembles = Ztw().phases(ZtwConfig(), budget)
    assert (ensembles.epochs, ensembles.optimizer.lr) == (rest, pytest.approx(lr))
