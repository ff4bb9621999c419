"""The states of a batch: the same contents, whatever runs in between."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.networks.states import States


def batch(count: int, seed: int = 0, *, channels: int = 2, side: int = 4) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    h = torch.rand(count, channels, side, side, generator=draws)
    return h.contiguous(memory_format=torch.channels_last)


@given(
    count=st.integers(1, 6),
    steps=st.lists(st.sets(st.integers(0, 5)), max_size=5),
)
@settings(deadline=None, max_examples=80, derandomize=True)
def test_what_is_put_is_found_again_and_nothing_else_changes(
    count: int, steps: list[set[int]]
) -> None:
    expected, states = batch(count), States(batch(count))
    for number, chosen in enumerate(steps):
        rows = sorted(chosen & set(range(count)))
        if not rows:
            continue
        torch.testing.assert_close(states.means(), expected.mean(dim=(2, 3)))
        assert torch.equal(states.of(rows), expected[rows])
        values = batch(len(rows), seed=number + 1)
        if len(rows) == count:
            states.put_all(values)
        else:
            states.put((rows, values))
        expected[rows] = values
    assert torch.equal(states.all(), expected)
    torch.testing.assert_close(states.means(), expected.mean(dim=(2, 3)))


def test_all_states_may_change_their_shape_in_two_parts() -> None:
    states = States(batch(5))
    states.means()
    new = batch(5, 1, channels=4, side=2)
    states.put(([0, 3], new[[0, 3]]), ([1, 2, 4], new[[1, 2, 4]]))
    assert torch.equal(states.all(), new)
    torch.testing.assert_close(states.means(), new.mean(dim=(2, 3)))
