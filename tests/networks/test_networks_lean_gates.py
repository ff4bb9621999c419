"""Gates in few operations decide as those they were made from: alone, in a batch, as a graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gated_nets import backbone, images, lstm_gates, perceptron_gates, season
from torch import Tensor, nn

from bench.measure.equivalence import graph_agrees
from bench.networks.execution import GateOutput
from bench.networks.gated import GatedResNet
from bench.networks.inference import fast_copy, graph_of
from bench.networks.lean_gates import LeanPerceptrons, LeanRecurrent
from bench.networks.policy import ByMeans, EverythingRuns, Policy
from methods.convnet_aig import AigConfig, AigGates

WIDTH, COUNT = 16, 200
FULL = EverythingRuns([False] * 4)


def draws(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_an_lstm_gate_is_the_linear_layer_the_cell_and_the_last_layer() -> None:
    torch.manual_seed(1)
    embed = {b: nn.Linear(WIDTH, 10) for b in range(4)}
    cell, last = nn.LSTMCell(10, 10), nn.Linear(10, 1)
    decisions = LeanRecurrent(FULL, embed, cell, last).begin(torch.empty(0), torch.empty(0))
    state: Any = None
    for b in range(4):
        means = 3 * draws(COUNT, WIDTH, seed=b)
        state = cell(embed[b](means), state)
        z = last(state[0]).flatten()
        open_n = decisions.is_open(b, means)
        assert open_n is not None and 0 < open_n.sum() < COUNT
        sure = z.abs() > 1e-5
        assert torch.equal(open_n[sure], z[sure] >= 0) and sure.sum() > COUNT - 3


@torch.no_grad()
def test_a_gate_of_two_layers_is_open_where_its_second_logit_is_greater() -> None:
    torch.manual_seed(1)
    first, last = nn.Linear(WIDTH, 8), nn.Linear(8, 2)
    decisions = LeanPerceptrons(FULL, {2: (first, last)}).begin(torch.empty(0), torch.empty(0))
    means = draws(COUNT, WIDTH)
    logits = last(first(means).relu())
    open_n, gate_n = decisions.is_open(2, means), decisions.gate_of(2, means)
    assert open_n is not None and gate_n is not None
    assert 0 < open_n.sum() < COUNT and torch.equal(open_n, logits[:, 1] > logits[:, 0])
    assert torch.equal(gate_n, open_n.float())


@torch.no_grad()
def test_equal_logits_skip_and_log_odds_of_zero_run() -> None:
    first, last = nn.Linear(WIDTH, 8), nn.Linear(8, 2)
    cell, one = nn.LSTMCell(10, 10), nn.Linear(10, 1)
    for layer in (last, one):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    nowhere = torch.empty(0)
    pair = LeanPerceptrons(FULL, {0: (first, last)}).begin(nowhere, nowhere)
    lstm = LeanRecurrent(FULL, {0: nn.Linear(WIDTH, 10)}, cell, one).begin(nowhere, nowhere)
    means = draws(3, WIDTH)
    assert pair.is_open(0, means).tolist() == [False] * 3  # type: ignore[union-attr]
    assert lstm.is_open(0, means).tolist() == [True] * 3  # type: ignore[union-attr]


@torch.no_grad()
def test_a_gate_gets_the_same_answer_from_a_sum_and_from_its_mean() -> None:
    torch.manual_seed(1)
    nowhere, means = torch.empty(0), 3 * draws(COUNT, WIDTH)
    cell, one = nn.LSTMCell(10, 10), nn.Linear(10, 1)
    layers = nn.Linear(WIDTH, 8), nn.Linear(8, 2)
    full = AigGates(backbone(), AigConfig()).eval()
    nn.init.zeros_(full.gates["0"][-1].bias)  # type: ignore[index]
    for policy in (
        LeanPerceptrons(FULL, {0: layers}),
        LeanRecurrent(FULL, {0: nn.Linear(WIDTH, 10)}, cell, one),
        full,
    ):
        of_means, of_sums = (policy.begin(nowhere, nowhere) for _ in range(2))
        assert isinstance(of_means, ByMeans) and isinstance(of_sums, ByMeans)
        open_n, same_n = of_means.is_open(0, means), of_sums.is_open(0, 64 * means, 64)
        assert open_n is not None and same_n is not None
        assert 0 < open_n.sum() < COUNT and torch.equal(open_n, same_n)


@pytest.mark.parametrize(
    ("make", "kind"), [(perceptron_gates, LeanPerceptrons), (lstm_gates, LeanRecurrent)]
)
@pytest.mark.parametrize("dead", [frozenset[str](), frozenset({"block2", "block3"})])
def test_the_fast_copy_of_a_method_has_lean_gates_and_the_same_answers(
    make: Any, kind: type[Policy], dead: frozenset[str]
) -> None:
    torch.manual_seed(5)
    base, x = backbone("B"), images(48, seed=9)
    net = season(GatedResNet(base, make(base), merge=GateOutput()))
    shipped = net.inference_net(dead_blocks=dead)
    fast = fast_copy(shipped, x[:2])
    assert isinstance(fast, GatedResNet) and isinstance(fast.policy, kind)
    assert [unit.name for unit in fast.units()] == [unit.name for unit in shipped.units()]
    with torch.no_grad():
        expected = shipped(x)
        assert len({tuple(row) for row in expected.executed.tolist()}) > 1
        for output in (fast(x), fast.execute(x)):
            torch.testing.assert_close(output.logits, expected.logits, atol=1e-4, rtol=0)
            assert torch.equal(output.executed, expected.executed)
    graph = graph_of(shipped, x[:2])
    assert graph is not None and graph_agrees(graph, fast, x)


def test_gates_whose_norms_cannot_be_folded_stay_as_they_are() -> None:
    policy = AigGates(backbone(), AigConfig())
    assert policy.lean() is policy
