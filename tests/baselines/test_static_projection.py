"""The static projection: which blocks stay, what they compute, and that the rest is gone."""

from dataclasses import replace

import pytest
import torch
from gated_nets import BLOCKS, backbone, images, seasoned
from hypothesis import given
from hypothesis import strategies as st

from baselines.static_projection import StaticProjection, StaticProjectionConfig, most_used
from bench.errors import ConfigError, NotApplicable
from bench.measure.cost import macs_per_image, unit_macs
from bench.method import Source, SourcePoint
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.unit import Unit

RATES = {f"block{b}": rate for b, rate in enumerate([1.0, 0.9, 0.2, 0.7, 0.2, 1.0])}
METHOD = StaticProjection()


def _source(**points: dict[str, float]) -> Source:
    chosen = points or {"": RATES}
    return Source(
        "synthetic", [SourcePoint(name, seasoned(), rates, 0.6) for name, rates in chosen.items()]
    )


def test_the_most_used_blocks_stay_as_many_as_run_on_average() -> None:
    assert most_used(RATES) == {"block0", "block1", "block3", "block5"}
    assert most_used({"block0": 1.0, "block1": 0.5, "block2": 0.5}) == {"block0", "block1"}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_no_block_left_out_was_used_more_than_one_that_stays(rates: list[float]) -> None:
    named = {f"block{b}": rate for b, rate in enumerate(rates)}
    kept = most_used(named)
    assert len(kept) == round(sum(rates))
    out = [rate for name, rate in named.items() if name not in kept]
    assert max(out, default=0.0) <= min((named[name] for name in kept), default=1.0)


@torch.no_grad()
def test_it_computes_what_the_source_computes_with_that_mask_for_everyone() -> None:
    source = _source()
    net = METHOD.derive(source, backbone(), StaticProjectionConfig()).eval()
    mask_b = torch.tensor([float(f"block{b}" in most_used(RATES)) for b in range(BLOCKS)])
    x, inner = images(5), source.points[0].net
    assert isinstance(inner, GatedResNet)
    expected = inner.forward_with(x, mask_b.expand(5, -1))
    for output in (net(x), net.execute(x)):
        torch.testing.assert_close(output.logits, expected.logits)
        assert torch.equal(output.executed[:, block_columns(net.units())], mask_b.expand(5, -1))


class FromTheEnd(GatedResNet):
    """Gated blocks whose units count from the end: block0 is the last one."""

    def units(self) -> list[Unit]:
        units = list(super().units())
        blocks = [unit for unit in units if unit.role == "block"]
        names = {unit.name: other.name for unit, other in zip(blocks, blocks[::-1], strict=True)}
        return [unit._replace(name=names.get(unit.name, unit.name)) for unit in units]


class Fewer(GatedResNet):
    """Only every other block is a unit."""

    def units(self) -> list[Unit]:
        return [u for u in super().units() if u.name not in ("block1", "block3", "block5")]


@pytest.mark.parametrize("form", [FromTheEnd, Fewer])
def test_names_that_mean_something_else_are_not_projected(form: type[GatedResNet]) -> None:
    source = Source("stranger", [SourcePoint("", form(backbone()), RATES, 0.6)])
    with pytest.raises(NotApplicable, match=f"runs units of its own .* {BLOCKS} blocks of"):
        METHOD.derive(source, backbone(), StaticProjectionConfig())


def test_another_backbone_inside_is_not_projected() -> None:
    smaller = GatedResNet(replace(backbone(), name="resnet8"))
    source = Source("stranger", [SourcePoint("", smaller, RATES, 0.6)])
    with pytest.raises(NotApplicable, match=r"units of its own \(block0, block1, block2\)"):
        METHOD.derive(source, backbone(), StaticProjectionConfig())


@torch.no_grad()
def test_its_cost_is_that_of_the_blocks_that_stay() -> None:
    net = METHOD.derive(_source(), backbone(), StaticProjectionConfig()).eval()
    whole = unit_macs(seasoned())
    kept = most_used(RATES)
    expected = sum(m for name, m in whole.items() if name in kept or name in ("stem", "head"))
    costs = list(unit_macs(net).values())
    assert macs_per_image(net(images(2)).executed, costs).tolist() == [expected] * 2
    fixed = {unit.name for unit in net.units() if unit.role == "block" and unit.always_on}
    assert fixed == kept


def test_it_owns_its_weights_and_nothing_of_the_blocks_left_out() -> None:
    source = _source()
    net = METHOD.derive(source, backbone(), StaticProjectionConfig())
    inner = source.points[0].net
    assert {p.data_ptr() for p in net.parameters()}.isdisjoint(
        p.data_ptr() for p in inner.parameters()
    )
    assert not any("blocks.2.residual" in name for name in net.state_dict())


def test_one_of_several_points_can_be_chosen_by_name() -> None:
    few = dict.fromkeys(RATES, 1 / 6)
    source = _source(cheap=few, dear=RATES)
    first = METHOD.derive(source, backbone(), StaticProjectionConfig())
    named = METHOD.derive(source, backbone(), StaticProjectionConfig(point="dear"))
    assert len(first.state_dict()) < len(named.state_dict())
    with pytest.raises(ConfigError, match="no operating point 'dearest'") as caught:
        METHOD.derive(source, backbone(), StaticProjectionConfig(point="dearest"))
    assert "cheap, dear" in str(caught.value.hint)


def test_it_cannot_be_built_from_nothing() -> None:
    with pytest.raises(ConfigError, match="made from a finished run"):
        METHOD.build(backbone(), StaticProjectionConfig())
