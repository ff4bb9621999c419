"""The two ways to keep the states of a batch: the same contents, whatever runs in between."""

from __future__ import annotations

import pytest
import torch
from gated_nets import BLOCKS, MERGES, images, per_unit_net, seasoned
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.networks import execution
from bench.networks.states import IndexedStates, ListedStates, States

KINDS: list[type[States]] = [ListedStates, IndexedStates]


def batch(count: int, seed: int = 0, *, channels: int = 2, side: int = 4) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    h = torch.rand(count, channels, side, side, generator=draws)
    return h.contiguous(memory_format=torch.channels_last)


@given(
    count=st.integers(1, 6),
    steps=st.lists(st.sets(st.integers(0, 5)), max_size=5),
    kind=st.sampled_from(KINDS),
)
@settings(deadline=None, max_examples=80, derandomize=True)
def test_what_is_put_is_found_again_and_nothing_else_changes(
    count: int, steps: list[set[int]], kind: type[States]
) -> None:
    expected, states = batch(count), kind(batch(count))
    for number, chosen in enumerate(steps):
        rows = sorted(chosen & set(range(count)))
        if not rows:
            continue
        torch.testing.assert_close(states.means(), expected.mean(dim=(2, 3)))
        assert torch.equal(states.of(rows), expected[rows])
        values = batch(len(rows), seed=number + 1)
        states.put((rows, values))
        expected[rows] = values
    assert torch.equal(states.all(), expected)
    torch.testing.assert_close(states.means(), expected.mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_all_states_may_change_their_shape_in_two_parts(kind: type[States]) -> None:
    states = kind(batch(5))
    states.means()
    new = batch(5, 1, channels=4, side=2)
    states.put(([0, 3], new[[0, 3]]), ([1, 2, 4], new[[1, 2, 4]]))
    assert torch.equal(states.all(), new)
    torch.testing.assert_close(states.means(), new.mean(dim=(2, 3)))


@pytest.mark.parametrize("merge", sorted(MERGES))
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("count", [1, 2, 33])
@torch.no_grad()
def test_skipping_by_index_as_on_an_accelerator_equals_masking(
    merge: str, shortcut: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "states_of", IndexedStates)
    draws = torch.Generator().manual_seed(count)
    gates_nb = torch.randint(2, (count, BLOCKS), generator=draws).float()
    net, x = seasoned(merge, shortcut), images(count)
    masked, skipping = net.forward_with(x, gates_nb), net.execute_with(x, gates_nb)
    torch.testing.assert_close(skipping.logits, masked.logits, atol=1e-4, rtol=0)
    assert torch.equal(skipping.executed, masked.executed)
    net = per_unit_net(merge, shortcut)
    masked, skipping = net(x), net.execute(x)
    torch.testing.assert_close(skipping.logits, masked.logits, atol=1e-4, rtol=0)
    assert torch.equal(skipping.executed, masked.executed)
