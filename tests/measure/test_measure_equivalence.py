"""The proof that the skipping path computes what the masked path computes."""

from __future__ import annotations

import copy

import pytest
import torch
from deciding_nets import deciding_nets, disagreeing_net, images, masked_only_net
from torch import Tensor

from bench.errors import EquivalenceError, NotExecutable
from bench.measure.equivalence import check_execution
from bench.networks.gated import GatedResNet
from bench.networks.unit import Output
from bench.runtimes.eager import Eager


@pytest.mark.parametrize("kind", ["up front", "per unit"])
def test_equal_paths_are_stated_in_a_sentence(kind: str) -> None:
    net = deciding_nets()[kind].train()
    said = check_execution(net, images(300, side=16))
    assert said.startswith("execute == forward on 300 images: max |difference| ")
    assert said.endswith(", identical masks") and net.training


def test_wrong_logits_are_refused_with_the_difference() -> None:
    with pytest.raises(EquivalenceError, match=r"differ by up to 5\.0e-01; allowed is 1e-04"):
        check_execution(disagreeing_net(), images(256))


def test_a_difference_that_is_not_a_number_is_refused() -> None:
    net = disagreeing_net()
    torch.nn.init.constant_(net.trunk.head.linear.bias, float("nan"))
    with pytest.raises(EquivalenceError, match="differ by up to nan"):
        check_execution(net, images(256))


_MARK = 9.0  # pixel 0 of an image on which the two paths differ


class OnTheThreshold(GatedResNet):
    """`execute` runs half of block 2, and other logits come of it, for marked images: in float32
    alone, as rounding does, or whatever the precision."""

    def __init__(self, net: GatedResNet, *, always: bool = False) -> None:
        super().__init__(net.backbone, net.policy)
        self.always = always

    def execute(self, x_nchw: Tensor) -> Output:
        output, marked_n = self(x_nchw), x_nchw[:, 0, 0, 0] == _MARK
        if self.always or x_nchw.dtype == torch.float32:
            output.logits[marked_n] += 0.3
            output.executed[marked_n, 3] = 0.5
        return output


def test_one_image_in_256_may_be_decided_by_rounding_and_the_sentence_says_so() -> None:
    net, x = OnTheThreshold(deciding_nets()["up front"]), images(512, side=16)
    assert check_execution(net, x).endswith(", identical masks")
    x[3, 0, 0, 0] = _MARK  # seen in its batch, and once more alone
    said = check_execution(net, x)
    assert said.startswith("execute == forward on 512 images: max |difference| 0.0e+00,")
    assert said.endswith("masks but for 1 image within rounding of a threshold")
    x[200, 0, 0, 0] = _MARK
    assert "identical masks but for 2 images" in check_execution(net, x)
    x[201, 0, 0, 0] = _MARK
    said_too_many = "for 3 of 512 images, first at 'block2'; rounding could excuse 2"
    with pytest.raises(EquivalenceError, match=said_too_many):
        check_execution(net, x)


def test_what_differs_in_float64_too_is_no_rounding() -> None:
    net, x = OnTheThreshold(deciding_nets()["up front"], always=True), images(256, side=16)
    x[0, 0, 0, 0] = _MARK
    with pytest.raises(EquivalenceError, match="first at 'block2': in float64 too"):
        check_execution(net, x)


class WrongInDouble(OnTheThreshold):
    """The same units run in float64, but other logits come of them."""

    def execute(self, x_nchw: Tensor) -> Output:
        output = super().execute(x_nchw)
        if x_nchw.dtype == torch.float64:
            return Output(output.logits + 1e-3, output.executed, output.terms)
        return output


def test_an_excused_image_must_have_the_same_logits_in_float64() -> None:
    net, x = WrongInDouble(deciding_nets()["up front"]), images(256, side=16)
    x[0, 0, 0, 0] = _MARK
    with pytest.raises(EquivalenceError, match=r"In float64 the logits .* by up to 1\.0e-03"):
        check_execution(net, x)


@pytest.mark.parametrize("kind", ["up front", "per unit"])
def test_what_a_runtime_prepared_is_compared_with_the_network_it_was_made_from(kind: str) -> None:
    net, x = deciding_nets()[kind].eval(), images(256, side=16)
    assert "identical masks" in check_execution(net, x, run=Eager().prepare(net, x[:2]))
    other = copy.deepcopy(net)
    other.trunk.head.linear.bias.data[0] += 1
    with pytest.raises(EquivalenceError, match=r"differ by up to 1\.0e"):
        check_execution(net, x, run=Eager().prepare(other, x[:2]))


def test_a_network_without_a_skipping_path_says_why() -> None:
    with pytest.raises(NotExecutable, match="positions cannot be skipped"):
        check_execution(masked_only_net(), images(256))


def test_few_images_prove_what_they_can() -> None:
    assert "on 3 images" in check_execution(deciding_nets()["per unit"], images(3, side=16))
    with pytest.raises(EquivalenceError):
        check_execution(disagreeing_net(), images(3))
