"""Batches that are split: every image goes its way, in its place."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.networks.splitting import split


def batch(count: int, seed: int = 0) -> Tensor:
    h = torch.rand(count, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    return h.contiguous(memory_format=torch.channels_last)


@given(
    st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n)))
)
@settings(deadline=None, max_examples=80, derandomize=True)
def test_each_image_goes_its_way(steps: list[list[bool]]) -> None:
    count = len(steps[0]) if steps else 3
    h, number = batch(count), torch.arange(float(count))
    expected, expected_number = h.clone(), number.clone()
    for chosen in steps:
        chosen_n = torch.tensor(chosen)
        h, number = split(chosen_n, lambda h, n: (h * 2 + 1, n + 1), lambda h, n: (h, n), h, number)
        expected[chosen_n] = expected[chosen_n] * 2 + 1
        expected_number[chosen_n] += 1
    assert torch.equal(h, expected) and torch.equal(number, expected_number)


def test_a_state_may_change_its_shape() -> None:
    h, chosen_n = batch(5), torch.tensor([True, False, False, True, False])
    (found,) = split(chosen_n, lambda h: (h[:, :, ::2],), lambda h: (-h[:, :, 1::2],), h)
    expected = torch.where(chosen_n.view(-1, 1, 1, 1), h[:, :, ::2], -h[:, :, 1::2])
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
