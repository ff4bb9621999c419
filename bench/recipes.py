"""Training budgets by name: how long, with which optimizer, from which start.

A budget is what a method's phases share out. Owns no loop; imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from bench.errors import UnknownNameError

Precision = Literal["fp32", "bf16"]
Start = Literal["scratch", "pretrained"]


class OptimizerSpec(BaseModel):
    """An optimizer and its learning-rate schedule over one phase.

    `milestones` are fractions of the phase at which a step schedule multiplies by `decay`;
    the warm-up rises linearly from `warmup_from` x lr over the first `warmup_steps` steps.
    For Adam, `momentum` is beta 1; in AdamW weights decay by themselves, not through the gradient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: NonNegativeFloat = 0.1
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 1e-4
    schedule: Literal["constant", "step", "cosine"] = "cosine"
    milestones: tuple[float, ...] = ()
    decay: float = Field(0.1, gt=0, le=1)
    warmup_steps: NonNegativeInt = 0
    warmup_from: float = Field(0.0, ge=0, le=1)


class Schedule(TypedDict):
    """What a phase is given of a budget."""

    epochs: int
    batch_size: int
    optimizer: OptimizerSpec


class Budget(BaseModel):
    """What one training may spend: epochs over the training images, in all phases together.

    `published` asks the method for the schedule of its paper, stretched or shortened to `epochs`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    epochs: NonNegativeInt
    batch_size: PositiveInt
    optimizer: OptimizerSpec
    published: bool = False

    def share(self, fraction: float) -> int:
        """Return `fraction` of the epochs, at least one if there are any."""
        return min(self.epochs, max(1, round(self.epochs * fraction)))

    def schedule(
        self,
        epochs: int | None = None,
        *,
        published: OptimizerSpec | None = None,
        published_batch: int | None = None,
    ) -> Schedule:
        """Return what a phase of `epochs`, by default all, is given: by the recipe, or as it was
        published, where that is asked for and is another."""
        optimizer, batch_size = self.optimizer, self.batch_size
        if self.published:
            optimizer, batch_size = published or optimizer, published_batch or batch_size
        length = self.epochs if epochs is None else epochs
        return Schedule(epochs=length, batch_size=batch_size, optimizer=optimizer)


class Recipe(BaseModel):
    """A named budget before it meets a data set and a method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    epochs: PositiveInt | None
    batch_size: PositiveInt = 128
    optimizer: OptimizerSpec = OptimizerSpec(warmup_steps=100, warmup_from=0.1)
    start: Start = "scratch"
    dense_share: float = Field(1.0, ge=0, le=1)

    def budget(
        self, *, train_size: int, published_epochs: int, epochs: int | None = None
    ) -> Budget:
        """Return the budget of one method on `train_size` images; `epochs` overrides the length.

        A small data set gets smaller batches, so that an epoch has about forty steps.
        """
        length = self.epochs if self.epochs is not None else published_epochs
        return Budget(
            recipe=self.name,
            epochs=length if epochs is None else epochs,
            batch_size=min(self.batch_size, 1 << (max(train_size // 40, 8).bit_length() - 1)),
            optimizer=self.optimizer,
            published=self.epochs is None,
        )


_SHORT_SGD = OptimizerSpec(weight_decay=5e-4, warmup_steps=390, warmup_from=0.1)
_ADAMW = OptimizerSpec(kind="adamw", lr=1e-3, weight_decay=0.05, warmup_steps=1755)
_LIST = (
    Recipe(name="smoke", summary="1 epoch: does it run at all", epochs=1),
    Recipe(
        name="quick", summary="30 epochs, cosine: a first look, minutes on small data", epochs=30
    ),
    Recipe(
        name="scratch",
        summary="30 epochs in all from scratch, weight decay 5e-4: the reference runs",
        epochs=30,
        optimizer=_SHORT_SGD,
        dense_share=0.5,
    ),
    Recipe(
        name="transformer",
        summary="30 epochs in all from scratch, AdamW: for vision transformers",
        epochs=30,
        optimizer=_ADAMW,
        dense_share=0.5,
    ),
    Recipe(
        name="finetune",
        summary="8 epochs from --pretrained weights, small learning rate",
        epochs=8,
        optimizer=OptimizerSpec(lr=0.02),
        start="pretrained",
    ),
    Recipe(
        name="fair",
        summary="160 epochs in all for every method, dense pretraining included",
        epochs=160,
        dense_share=0.5,
    ),
    Recipe(
        name="paper",
        summary="each method's published schedule; budgets differ, and the tables say so",
        epochs=None,
    ),
)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _LIST}


def recipe_named(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]
