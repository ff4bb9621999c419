"""Where tokens halt: what runs, what it costs, and that nobody reads them any more."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial

import pytest
import torch
from halting_nets import EPS, SHAPE, images, with_bias
from token_nets import BACKBONE, LAYERS, TOKENS, WIDTH, First, live_counts, net_of
from torch import Tensor, nn

from bench.errors import NotApplicable, Unsupported
from bench.measure.cost import counted_macs, dense_macs, macs_per_image, unit_macs
from bench.measure.equivalence import check_execution
from bench.networks.halting import HaltingResNet
from bench.networks.halting_policy import Needed
from bench.networks.residuals import TokenResidual
from bench.networks.splitting import split
from bench.networks.tokens import TokenHalting
from bench.networks.trunk import Backbone, Block
from bench.runtimes.contract import RUNTIMES

every_score = pytest.mark.parametrize("kind", ["learned", "first"])


def by_hand(net: HaltingResNet, x_chw: Tensor) -> tuple[Tensor, list[int]]:
    """Return logits and live counts of one image: a list of tokens, from which they are taken."""
    states = net.trunk.stem(x_chw[None])[0]
    totals, given = torch.zeros_like(states), torch.zeros(TOKENS)
    live, counts = list(range(TOKENS)), []
    for layer in range(LAYERS):
        counts.append(len(live))
        for block in net.blocks[2 * layer : 2 * layer + 2]:
            states[live] += block.residual(states[live][None])[0]
        for token in list(live):
            h = 1.0
            if layer < LAYERS - 1:
                score = net.policy.scores[str(2 * layer + 1)]
                h = float(torch.sigmoid(score(states[token][None, None]) + net.policy.bias))
            halts = float(given[token]) + h >= 1 - EPS
            weight = 1 - float(given[token]) if halts else h
            totals[token] += weight * states[token]
            given[token] += weight
            if halts:
                live.remove(token)
        if not live:
            break
    assert torch.allclose(given, torch.ones(TOKENS))
    return net.trunk.head(totals[None])[0], counts + [0] * (LAYERS - len(counts))


@every_score
@torch.no_grad()
def test_tokens_that_are_taken_out_of_a_list_give_the_same(kind: str) -> None:
    net, x = net_of(kind), images(8)
    found = live_counts(net, x)
    for output in (net(x), net.execute(x)):
        for n in range(len(x)):
            logits, counts = by_hand(net, x[n])
            torch.testing.assert_close(output.logits[n], logits, atol=1e-5, rtol=1e-5)
            assert found[n].tolist() == counts
    assert (found.diff(dim=1) <= 0).all()
    assert len(found[:, 1:].unique()) > 3  # images of a batch differ in how many are left


@every_score
@torch.no_grad()
def test_both_ways_to_run_agree_whoever_is_in_the_batch(kind: str) -> None:
    net, x = net_of(kind), images(33, seed=8)
    assert "identical masks" in check_execution(net, x)
    whole = net.execute(x)
    for n in (0, 7, 32):
        alone = net.execute(x[n : n + 1])
        assert torch.equal(alone.executed[0], whole.executed[n])
        torch.testing.assert_close(alone.logits[0], whole.logits[n], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_net_that_never_halts_is_the_dense_net() -> None:
    net, x = with_bias(net_of(), -1e4), images(5)
    plain = net.trunk(x)
    assert torch.equal(net_of().forward_all_on(x).logits, plain)
    assert torch.equal(net.execute(x).logits, plain)
    # Masked attention may take another kernel, although the mask leaves all in.
    torch.testing.assert_close(net(x).logits, plain, atol=1e-5, rtol=1e-5)
    for output in (net(x), net.execute(x), net.forward_all_on(x)):
        assert torch.equal(output.executed, torch.ones(5, len(net.units())))


@torch.no_grad()
def test_a_net_that_halts_at_once_runs_one_layer() -> None:
    net, x = with_bias(net_of(), 1e4), images(4)
    state = net.blocks[1](net.blocks[0](net.trunk.stem(x)))
    for output in (net(x), net.execute(x)):
        torch.testing.assert_close(output.logits, net.trunk.head(state), atol=1e-5, rtol=1e-5)
        ran = [u.name for u, n in zip(net.units(), output.executed[0], strict=True) if n]
        assert ran == ["stem", "block0", "block1", "head", "score1"]
    assert [unit.name for unit in net.units() if unit.always_on] == ran


@every_score
@torch.no_grad()
def test_a_layer_with_n_tokens_costs_12ndd_and_2nnd(kind: str) -> None:
    net, x = net_of(kind), images(6, seed=12)
    macs = unit_macs(net)
    around = macs["stem"] + macs["head"]
    full = LAYERS * (12 * TOKENS * WIDTH**2 + 2 * TOKENS**2 * WIDTH)
    assert dense_macs(BACKBONE) == around + full
    counts = live_counts(net, x)
    costs_n = macs_per_image(net(x).executed, list(macs.values()))
    for n in range(len(x)):
        expected = around + sum(12 * k * WIDTH**2 + 2 * k**2 * WIDTH for k in map(int, counts[n]))
        if kind == "learned":
            expected += WIDTH * int(counts[n, :-1].sum())
        assert costs_n[n].item() == pytest.approx(expected, rel=1e-7)
        assert counted_macs(partial(net.execute, x[n : n + 1])) == expected
    assert costs_n.std() > 0


@torch.no_grad()
def test_a_score_without_weights_is_no_unit_and_one_with_weights_runs_for_who_is_live() -> None:
    assert not [unit for unit in net_of("first").units() if unit.role == "policy"]
    net, x = net_of(), images(4)
    names = [unit.name for unit in net.units()]
    assert [name for name in names if "score" in name] == ["score1", "score3", "score5", "score7"]
    shares = net(x).executed[:, [names.index(f"score{b}") for b in (1, 3, 5, 7)]]
    torch.testing.assert_close(shares, live_counts(net, x)[:, :-1] / TOKENS)


@torch.no_grad()
def test_halted_tokens_are_dropped_and_images_of_as_many_go_together() -> None:
    net, x = copy.deepcopy(net_of()), images(24, seed=9)
    counts = live_counts(net, x)
    rows: dict[int, list[torch.Size]] = {b: [] for b in range(2 * LAYERS)}
    for b, block in enumerate(net.blocks):
        block.residual.register_forward_pre_hook(
            lambda _, given, b=b: rows[b].append(given[0].shape[:2])
        )
    net.execute(x)
    for layer in range(LAYERS):
        lives = Counter(int(k) for k in counts[:, layer] if k)
        assert Counter(dict((t, n) for n, t in rows[2 * layer])) == lives
        assert sum(n * t for n, t in rows[2 * layer + 1]) == counts[:, layer].sum()
        assert len(rows[2 * layer + 1]) == 1


@every_score
@torch.no_grad()
def test_what_becomes_of_a_halted_token_never_reaches_the_logits(kind: str) -> None:
    net, x = net_of(kind), images(8)
    plain = net(x)
    original = net.policy.advance

    def spoiling(block: Block, state: Tensor, needed: Needed) -> Tensor:
        spoilt = torch.where(needed[-1], state, 40 * torch.randn_like(state))
        return original(block, spoilt, needed)

    net.policy.advance = spoiling  # type: ignore[method-assign]
    spoilt = net(x)
    assert torch.equal(spoilt.logits, plain.logits)
    assert torch.equal(spoilt.executed, plain.executed)


@torch.no_grad()
def test_the_terms_of_a_loss_are_the_ponder_cost_and_the_scores_of_who_was_live() -> None:
    net, x = net_of(), images(5)
    terms, counts = net(x).terms, live_counts(net, x)
    torch.testing.assert_close(terms["units_ns"][:, 0], counts.float().sum(dim=1) / TOKENS)
    assert ((terms["ponder_ns"] - terms["units_ns"]) > 0).all()
    assert terms["scores_nl"].shape == (5, LAYERS - 1)
    # What each token gives to a layer at most is its score there; where nobody is live, 0.
    first = torch.sigmoid(
        net.policy.scores["1"](net.blocks[1](net.blocks[0](net.trunk.stem(x)))) + net.policy.bias
    )
    torch.testing.assert_close(terms["scores_nl"][:, 0], first.mean(dim=(1, 2)))
    assert torch.equal(terms["scores_nl"] == 0, counts[:, :-1] == 0)


def test_scores_and_trunk_learn_through_weights_and_ponder_cost() -> None:
    net = net_of().train()
    net(images(4)).terms["ponder_ns"].mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.policy.parameters())
    net.zero_grad()
    net(images(4)).logits.square().sum().backward()
    grads = {name: p.grad for name, p in net.named_parameters()}
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads.values())
    assert all(grad.any() for grad in grads.values() if grad is not None)


def test_where_no_token_of_an_image_is_left_gradients_stay_finite() -> None:
    net = with_bias(net_of(), 6.0).train()
    output = net(images(6))
    assert (output.executed == 0).any()
    output.logits.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@torch.no_grad()
def test_a_map_says_at_each_patch_how_many_blocks_run() -> None:
    net, x = net_of(), images(3)
    map_nhw = net.position_costs(x)
    assert map_nhw is not None and map_nhw.shape == (3, *SHAPE[1:])
    live = []
    original = net.policy.shares

    def spy(block: int, needed: Needed) -> object:
        live.append(needed[-1][:, 1:, 0].float())
        return original(block, needed)

    net.policy.shares = spy  # type: ignore[method-assign, assignment]
    net(x)
    del net.policy.shares
    patches = (2 + torch.stack(live).sum(dim=0)).view(3, 4, 4)
    assert torch.equal(map_nhw, patches.repeat_interleave(4, 1).repeat_interleave(4, 2))


@torch.no_grad()
def test_images_can_follow_each_other_s_decisions_token_by_token() -> None:
    net, x = net_of(), images(7)
    order = torch.tensor([3, 0, 1, 2, 6, 4, 5])
    own, shuffled = net(x), net.forward_permuted(x, order)
    assert torch.equal(shuffled.executed, own.executed[order])
    assert not torch.allclose(shuffled.logits, own.logits)


@pytest.mark.parametrize("name", ["native", "onnxruntime"])
def test_a_runtime_of_fixed_shapes_refuses_with_the_reason(name: str) -> None:
    net, runtime = net_of(), RUNTIMES.get(name)()
    with pytest.raises(Unsupported, match="how many are left depends on the image"):
        net.run(images(2), split)
    if reason := runtime.refuses(net, torch.device("cpu"), 1):
        pytest.skip(reason)
    with pytest.raises(Unsupported, match="how many are left depends on the image"):
        runtime.prepare(net, images(2))


@torch.no_grad()
def test_the_eager_runtime_really_drops_tokens() -> None:
    net, x = net_of(), images(5)
    run = RUNTIMES.get("eager")().prepare(net, x)
    assert counted_macs(lambda: run(x)) == counted_macs(lambda: net.execute(x))
    assert counted_macs(lambda: run(x)) < 5 * dense_macs(BACKBONE)


class Mixed(nn.Module):
    def forward(self, h_ntc: Tensor) -> Tensor:
        return h_ntc.mean(dim=1, keepdim=True) + h_ntc


def test_a_trunk_that_cannot_drop_tokens_is_refused_with_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = partial(TokenHalting, make=lambda width: First(), eps=EPS, bias=0.0)
    with pytest.raises(NotApplicable, match="block0 of resnet8 is none"):
        policy(Backbone("resnet8", 10, SHAPE))
    original = Backbone.without_memory

    def mixed(self: Backbone) -> nn.Module:
        trunk = original(self)
        trunk.blocks[3] = Block(Mixed())
        return trunk

    monkeypatch.setattr(Backbone, "without_memory", mixed)
    with pytest.raises(NotApplicable, match=r"TokenResidual .* block3 of by-hand/5 is none"):
        policy(BACKBONE)


def test_a_residual_of_tokens_keeps_the_names_of_its_weights() -> None:
    names = list(TokenResidual(nn.LayerNorm(2), nn.Linear(2, 2)).state_dict())
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias"]
