"""Derived seeds: stable for ever, independent by scope, and alone in touching global state."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.seeding import derive, generator, random_fingerprint, seed_globally, seeded


@pytest.fixture(autouse=True)
def global_state_restored() -> Iterator[None]:
    torch_state, numpy_state, python_state = (
        torch.get_rng_state(),
        np.random.get_state(),
        random.getstate(),
    )
    yield
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)
    random.setstate(python_state)


def global_draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_derived_seed_is_the_same_in_every_version_and_on_every_machine() -> None:
    assert derive(0, "train", 1, 2) == 4359563225916841325
    assert derive(7) == 4359823973405836615


@given(seed=st.integers(0, 2**64), scope=st.lists(st.integers(0, 9) | st.sampled_from("abc")))
def test_a_derived_seed_fits_into_63_bits(seed: int, scope: list[int | str]) -> None:
    assert 0 <= derive(seed, *scope) < 2**63
    assert derive(seed, *scope) == derive(seed, *scope)


def test_every_part_of_the_scope_and_its_order_matter() -> None:
    seeds = [
        *(derive(0), derive(1), derive(0, "train"), derive(0, "build"), derive(0, "train", 0)),
        *(derive(0, "train", 0, 1), derive(0, "train", 1, 0), derive(0, "train", 10)),
        derive(10, "train"),
    ]
    assert len(set(seeds)) == len(seeds)


def test_a_generator_draws_by_seed_and_scope() -> None:
    def draws(seed: int, *scope: str) -> list[int]:
        return torch.randint(2**31, (4,), generator=generator(seed, *scope)).tolist()

    assert draws(3, "order") == draws(3, "order")
    assert draws(3, "order") != draws(3, "noise")
    assert draws(3, "order") != draws(4, "order")


def test_a_generator_leaves_global_random_state_alone() -> None:
    seed_globally(0, "here")
    undisturbed = global_draws()
    seed_globally(0, "here")
    torch.rand(3, generator=generator(5, "elsewhere"))
    assert global_draws() == undisturbed


def test_seeding_globally_reaches_random_numpy_and_torch() -> None:
    seed_globally(1, "build")
    first = global_draws()
    assert global_draws() != first
    seed_globally(1, "build")
    assert global_draws() == first
    seed_globally(1, "train")
    assert all(a != b for a, b in zip(global_draws(), first, strict=True))


def test_seeding_for_a_while_gives_the_callers_random_state_back() -> None:
    seed_globally(2, "outside")
    expected = global_draws()
    seed_globally(2, "outside")
    with seeded(7, "inside"):
        inside = global_draws()
    assert global_draws() == expected
    with seeded(7, "inside"):
        assert global_draws() == inside


@pytest.mark.parametrize("use", [random.random, np.random.rand, lambda: torch.rand(1)])
def test_the_fingerprint_changes_when_a_global_generator_is_used(use: Callable[[], object]) -> None:
    before = random_fingerprint()
    assert random_fingerprint() == before
    use()
    assert random_fingerprint() != before
