"""Recipes and budgets: lengths, batch sizes, and shares that never lose an epoch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.errors import UnknownNameError
from bench.recipes import RECIPES, Budget, OptimizerSpec, recipe_named


def budget_of(epochs: int) -> Budget:
    return Budget(recipe="quick", epochs=epochs, batch_size=32, optimizer=OptimizerSpec())


@given(epochs=st.integers(1, 10_000), fraction=st.floats(0, 1))
def test_a_share_of_some_epochs_is_at_least_one_and_at_most_all(
    epochs: int, fraction: float
) -> None:
    share = budget_of(epochs).share(fraction)
    assert 1 <= share <= epochs
    assert share == 1 or abs(share - epochs * fraction) <= 0.5


@given(fraction=st.floats(0, 1))
def test_a_share_of_no_epochs_is_none(fraction: float) -> None:
    assert budget_of(0).share(fraction) == 0


@given(train_size=st.integers(1, 2_000_000), name=st.sampled_from(sorted(RECIPES)))
def test_a_batch_size_is_a_power_of_two_that_leaves_forty_steps_to_an_epoch(
    train_size: int, name: str
) -> None:
    recipe = RECIPES[name]
    size = recipe.budget(train_size=train_size, published_epochs=10).batch_size
    assert size & (size - 1) == 0
    assert 8 <= size <= recipe.batch_size
    assert size == 8 or train_size // size >= 40
    assert size == recipe.batch_size or size * 2 > train_size // 40


@pytest.mark.parametrize("name", RECIPES)
def test_only_the_paper_recipe_takes_the_length_of_the_method(name: str) -> None:
    budget = RECIPES[name].budget(train_size=50_000, published_epochs=7000)
    assert budget.recipe == name == RECIPES[name].name
    assert (budget.epochs == 7000) is budget.published is (name == "paper")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("epochs", [0, 3])
def test_given_epochs_override_the_length_and_nothing_else(name: str, epochs: int) -> None:
    recipe = RECIPES[name]
    plain = recipe.budget(train_size=50_000, published_epochs=9)
    given_ = recipe.budget(train_size=50_000, published_epochs=9, epochs=epochs)
    assert given_.epochs == epochs
    assert given_ == plain.model_copy(update={"epochs": epochs})


def test_a_recipe_is_found_by_name_and_a_wrong_name_gets_near_ones() -> None:
    assert recipe_named("fair") is RECIPES["fair"]
    with pytest.raises(UnknownNameError, match="Unknown recipe 'quik'") as caught:
        recipe_named("quik")
    assert "'quick'" in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"lr": -0.1}, {"lr": float("inf")}, {"weight_decay": float("nan")}, {"momentum": 1.0}),
        *({"weight_decay": -1e-4}, {"decay": 0}, {"warmup_from": 2}, {"warmup_steps": -1}),
        *({"kind": "lamb"}, {"schedule": "linear"}, {"learning_rate": 0.1}),
    ],
)
def test_an_optimizer_refuses_values_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OptimizerSpec.model_validate(wrong)
