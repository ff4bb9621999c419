"""Shuffled masks: the same masks in the same number, each on the image of another one."""

import pytest
import torch
from gated_nets import backbone, images, per_unit_net

from baselines.shuffled_masks import ShuffledMasks
from bench.errors import NotExecutable
from bench.measure.accuracy import evaluate, evaluate_permuted
from bench.method import Batch, MethodConfig, Source, SourcePoint
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.unit import DynamicNet, neighbours
from bench.runtimes.program import program_of

METHOD, CONFIG = ShuffledMasks(), MethodConfig()
COUNT = 24


def _source() -> Source:
    nets = [per_unit_net("residual", "A"), per_unit_net("output", "B")]
    names = ["first", "second"]
    return Source(
        "synthetic", [SourcePoint(n, net, {}, 0.5) for n, net in zip(names, nets, strict=True)]
    )


def _shuffled() -> list[tuple[str, DynamicNet]]:
    net = METHOD.derive(_source(), backbone(), CONFIG)
    return [(point.name, point.net.eval()) for point in METHOD.operating_points(net, CONFIG)]


@torch.no_grad()
def test_every_image_runs_the_blocks_of_the_image_before_it() -> None:
    x = images(COUNT)
    for (name, net), point in zip(_shuffled(), _source().points, strict=True):
        own, other = point.net(x), net(x)
        assert name == point.name
        assert torch.equal(other.executed, own.executed.roll(1, dims=0))
        assert len(own.executed.unique(dim=0)) > 2
        inner = point.net
        assert isinstance(inner, GatedResNet)
        gates_nb = own.executed[:, block_columns(inner.units())].roll(1, dims=0)
        assert torch.equal(other.logits, inner.forward_with(x, gates_nb).logits)


def test_it_is_what_each_record_says_of_its_own_method() -> None:
    labels_n = torch.arange(COUNT) % 10
    batches = [Batch(images(COUNT), labels_n, torch.arange(COUNT))]
    for (_, net), point in zip(_shuffled(), _source().points, strict=True):
        control = evaluate(net, batches, num_images=COUNT)
        noted = evaluate_permuted(point.net, batches, num_images=COUNT)
        assert torch.equal(control.correct_n, noted.correct_n)
        assert torch.equal(control.executed_nu, noted.executed_nu)


def test_neighbours_are_a_permutation_without_fixed_points() -> None:
    order_n = neighbours(images(7))
    assert sorted(order_n.tolist()) == list(range(7))
    assert not (order_n == torch.arange(7)).any()


def test_it_keeps_the_weights_once_and_has_nothing_to_time() -> None:
    net = METHOD.derive(_source(), backbone(), CONFIG)
    inner = _source().points[0].net
    assert set(net.state_dict()) == {f"inner.{name}" for name in inner.state_dict()}
    with pytest.raises(NotExecutable, match="that of its source"):
        net.execute(images(1))
    with pytest.raises(NotExecutable, match="that of its source"):
        program_of(net, images(1))


def test_nothing_is_trained() -> None:
    assert METHOD.trains is False
    assert METHOD.phases(CONFIG, budget=None) == ()  # type: ignore[arg-type]
