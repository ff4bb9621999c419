"""Patience-based early exit against its conformance points: counting, both ends, the weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.augment import Batch
from bench.errors import NotApplicable
from bench.method import Budget, OptimizerSpec
from bench.networks.exits import ExitResNet
from bench.networks.trunk import Backbone
from methods.pbee import Patience, Pbee, PbeeConfig

BACKBONE = Backbone("resnet20", 10, (3, 16, 16))
EXITS = 6


def build(*patience: int, base: Backbone = BACKBONE) -> ExitResNet:
    torch.manual_seed(0)
    net = Pbee().build(base, PbeeConfig(patience=patience))
    return net.eval()


def images(count: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 16, generator=generator)


def stops(labels_wn: Tensor, patience: int) -> list[int]:
    """Return at which classifier, counted from 1, each image stops; the last lets all go."""
    rule, carried = Patience([patience], len(labels_wn) - 1), ()  # type: tuple[Patience, Carried]
    stop_n = torch.zeros(labels_wn.shape[1], dtype=torch.int64)
    for e, label_n in enumerate(labels_wn[:-1]):
        answer, carried = rule.answer(F.one_hot(label_n, 9).float(), carried, exit_index=e)
        leaves_n = rule.leaves(answer, carried, exit_index=e, point=0)
        stop_n = torch.where(leaves_n & (stop_n == 0), e + 1, stop_n)
    return torch.where(stop_n == 0, len(labels_wn), stop_n).tolist()


@pytest.mark.parametrize(("patience", "stop"), [(1, 2), (2, 5), (3, 6), (4, 7)])
def test_the_labels_335555_stop_where_the_authors_stop(patience: int, stop: int) -> None:
    assert stops(torch.tensor([[3, 3, 5, 5, 5, 5, 5]]).T, patience) == [stop]


def test_the_number_of_equal_answers_is_kept() -> None:
    net = build()
    assert net.get_buffer("rule.equal_answers_p").tolist() == [2, 3, 4, 5, 6]
    assert "rule.equal_answers_p" in net.state_dict()
    points = Pbee().operating_points(net, PbeeConfig())
    assert [p.name for p in points] == [f"patience={n}" for n in (3, 1, 2, 4, 5)]


def test_each_image_stops_later_or_equally_late_with_more_patience() -> None:
    labels_wn = torch.randint(3, (8, 200), generator=torch.Generator().manual_seed(2))
    found = torch.tensor([stops(labels_wn, patience) for patience in range(1, 9)])
    assert bool((found.diff(dim=0) >= 0).all())
    assert found[0].min() == 2, "nobody stops before the second classifier"
    assert set(found[6].tolist()) == {8} == set(found[7].tolist()), "as many as there are, or more"
    assert len(set(found[1].tolist())) > 4


@torch.no_grad()
def test_too_much_patience_is_the_plain_trunk() -> None:
    net, x = build(EXITS, EXITS + 1), images()
    for point in (0, 1):
        output = net.at(point)(x)
        assert torch.equal(output.logits, net.trunk(x))
        assert bool(output.executed.all())


@torch.no_grad()
def test_how_sure_a_classifier_is_plays_no_role() -> None:
    net, x = build(1), images()
    before = net(x).executed
    for name, parameter in net.exits.named_parameters():
        if "linear" in name:
            parameter.mul_(0.1)
    assert torch.equal(net(x).executed, before)


def test_a_classifier_weighs_as_its_depth() -> None:
    net, x, labels_n = build().train(), images(8), torch.arange(8)
    budget = Budget(recipe="test", epochs=3, batch_size=8, optimizer=OptimizerSpec())
    (phase,) = Pbee().phases(PbeeConfig(), budget)
    terms = phase.loss(net, Batch(x, labels_n, labels_n), 0.5)
    losses = [F.cross_entropy(z, labels_n).item() for z in net.exit_logits(x)]
    expected = sum((j + 1) * loss for j, loss in enumerate(losses)) / 28
    assert terms.total.item() == pytest.approx(expected, rel=1e-5)
    terms.total.backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_a_network_with_room_for_one_exit_is_refused() -> None:
    with pytest.raises(NotApplicable, match="two exits"):
        Pbee().build(BACKBONE, PbeeConfig(positions=(0.5,)))
