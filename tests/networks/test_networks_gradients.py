"""The gradient at each block where images halt, positions halt, or images leave early."""

from __future__ import annotations

import pytest
import torch
from exit_nets import calibrated
from gated_nets import images as small_images
from halting_nets import KINDS, images, seasoned, with_bias
from torch import Tensor

from bench.data.augment import Batch
from bench.measure.gradients import block_gradients


def labelled(x_nchw: Tensor) -> list[Batch]:
    count = len(x_nchw)
    return [Batch(x_nchw, torch.arange(count) % 10, torch.arange(count))]


def running(gradients: dict[str, float]) -> set[str]:
    return {name for name, value in gradients.items() if value > 0}


@pytest.mark.parametrize("kind", KINDS)
def test_where_everybody_halts_at_once_only_the_first_block_of_a_stage_has_one(kind: str) -> None:
    net = with_bias(seasoned(kind), 30.0)  # each score is 1: nothing is left behind it
    assert running(block_gradients(net, labelled(images(8)))) == {"block0", "block3", "block6"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_that_somebody_runs_has_one(kind: str) -> None:
    assert len(running(block_gradients(seasoned(kind), labelled(images(16))))) == 9


def test_behind_the_exit_that_all_images_take_there_is_none() -> None:
    net = calibrated("entropy")
    x_nchw = small_images(32)
    exit_n = net(x_nchw).terms["exit_n"]
    assert set(exit_n.tolist()) == {0, 1, 2}
    early = block_gradients(net, labelled(x_nchw[exit_n == 0]))
    later = block_gradients(net, labelled(x_nchw[exit_n <= 1]))
    assert running(early) == {"block0", "block1"}
    assert running(later) == {"block0", "block1", "block2", "block3"}
    assert len(running(block_gradients(net, labelled(x_nchw)))) == 6
