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


_MARK = 9.0  # pixel 0 of an image that has a position on its threshold


class OnTheThreshold(GatedResNet):
    """Runs block 1 in part; of marked images `execute` runs a little more than `forward`."""

    def __init__(self, net: GatedResNet, *, unit: str = "block1", difference: float = 0.03) -> None:
        super().__init__(net.backbone, net.policy)
        self.column = [u.name for u in net.units()].index(unit)
        self.difference = difference

    def forward(self, x_nchw: Tensor) -> Output:
        output = super().forward(x_nchw)
        output.executed[:, 2] = 0.5
        return output

    def execute(self, x_nchw: Tensor) -> Output:
        output, marked_n = self(x_nchw), x_nchw[:, 0, 0, 0] == _MARK
        output.logits[marked_n] += self.difference
        output.executed[marked_n, 2] += 2**-6
        if self.column != 2:
            before_n = output.executed[marked_n, self.column]
            output.executed[marked_n, self.column] = 1 - before_n
        return output


def test_one_image_in_256_may_have_a_position_on_its_threshold_and_the_sentence_says_so(
    deciding_nets: dict[str, GatedResNet], images: Callable[..., Tensor]
) -> None:
    net, x = OnTheThreshold(deciding_nets["up front"]), images(512, side=16)
    assert check_execution(net, x).endswith(", identical masks")
    x[3, 0, 0, 0] = _MARK  # seen in its batch, and once more alone
    said = check_execution(net, x)
    assert said.startswith("execute == forward on 512 images: max |difference| 0.0e+00,")
    assert said.endswith(
        "masks but for 1 image with a position within rounding of its threshold: there 3.0e-02"
    )
    x[200, 0, 0, 0] = _MARK
    assert "identical masks but for 2 images" in check_execution(net, x)
    x[201, 0, 0, 0] = _MARK
    with pytest.raises(EquivalenceError, match="for 3 of 512 images; rounding excuses 2"):
        check_execution(net, x)


@pytest.mark.parametrize("difference", [0.5, float("nan")])
def test_rounding_excuses_no_large_difference_of_the_logits(
    difference: float, deciding_nets: dict[str, GatedResNet], images: Callable[..., Tensor]
) -> None:
    net, x = OnTheThreshold(deciding_nets["up front"], difference=difference), images(256, side=16)
    x[0, 0, 0, 0] = _MARK
    with pytest.raises(EquivalenceError, match=r"differ by up to .*; allowed is 3e-01"):
        check_execution(net, x)


def test_what_is_decided_once_per_map_may_go_with_its_last_position_but_no_whole_block(
    deciding_nets: dict[str, GatedResNet], images: Callable[..., Tensor]
) -> None:
    base, x = deciding_nets["up front"], images(256, side=16)
    x[0, 0, 0, 0] = _MARK
    assert "but for 1 image" in check_execution(OnTheThreshold(base, unit="decider"), x)
    with pytest.raises(EquivalenceError, match="1 of 128 images, first at 'block2'"):
        check_execution(OnTheThreshold(base, unit="block2"), x)


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
