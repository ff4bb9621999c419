"""The proof that the skipping path computes what the masked path computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.errors import EquivalenceError, NotExecutable
from bench.measure.equivalence import check_execution
from bench.networks.gated import GatedResNet
from bench.networks.unit import Output


@pytest.mark.parametrize("kind", ["up front", "per unit"])
def test_equal_paths_are_stated_in_a_sentence(
    kind: str, deciding_nets: dict[str, GatedResNet], images: Callable[..., Tensor]
) -> None:
    net = deciding_nets[kind].train()
    said = check_execution(net, images(300, side=16))
    assert said.startswith("execute == forward on 300 images: max |difference| ")
    assert said.endswith(", identical masks") and net.training


def test_wrong_logits_are_refused_with_the_difference(
    disagreeing_net: GatedResNet, images: Callable[..., Tensor]
) -> None:
    with pytest.raises(EquivalenceError, match=r"differ by up to 5\.0e-01; allowed is 1e-04"):
        check_execution(disagreeing_net, images(256))


def test_a_difference_that_is_not_a_number_is_refused(
    disagreeing_net: GatedResNet, images: Callable[..., Tensor]
) -> None:
    torch.nn.init.constant_(disagreeing_net.trunk.head.linear.bias, float("nan"))
    with pytest.raises(EquivalenceError, match="differ by up to nan"):
        check_execution(disagreeing_net, images(256))


class OtherUnits(GatedResNet):
    """Reports that block 2 did not run for the first image of each batch."""

    def execute(self, x_nchw: Tensor) -> Output:
        output = super().execute(x_nchw)
        executed_nu = output.executed.clone()
        executed_nu[0, 3] = 0
        return Output(output.logits, executed_nu, output.terms)


def test_other_units_are_refused_by_name(
    deciding_nets: dict[str, GatedResNet], images: Callable[..., Tensor]
) -> None:
    net = OtherUnits(deciding_nets["up front"].backbone)
    with pytest.raises(EquivalenceError, match="1 of 128 images, first at 'block2'"):
        check_execution(net, images(256, side=16))


def test_a_network_without_a_skipping_path_says_why(
    masked_only_net: GatedResNet, images: Callable[..., Tensor]
) -> None:
    with pytest.raises(NotExecutable, match="positions cannot be skipped"):
        check_execution(masked_only_net, images(256))


def test_too_few_images_prove_nothing(
    masked_only_net: GatedResNet, images: Callable[..., Tensor]
) -> None:
    with pytest.raises(ValueError, match="255 images prove nothing"):
        check_execution(masked_only_net, images(255))
