"""What the tests of methods share: a small backbone, random images, budgets; no tests here."""

from __future__ import annotations

from typing import Any

import torch

from bench.data.augment import Batch
from bench.method import Backbone, Budget, Method, MethodConfig, OptimizerSpec

BACKBONE = Backbone("resnet14", 10, (3, 16, 16))
BUDGET = Budget(recipe="test", epochs=3, batch_size=16, optimizer=OptimizerSpec(lr=0.05))


def built(method: Method, backbone: Backbone = BACKBONE, /, **settings: object) -> Any:
    """Return the network of a method at these settings, with the same weights each time."""
    torch.manual_seed(0)
    return method.build(backbone, method.Config.model_validate(settings))


def batch_of(count: int = 16, side: int = 16, *, seed: int = 1) -> Batch:
    """Return random images (N, 3, side, side), labelled 0 to 9 in turn."""
    draws = torch.Generator().manual_seed(seed)
    x_nchw = torch.randn(count, 3, side, side, generator=draws)
    return Batch(x_nchw, torch.arange(count) % 10, torch.arange(count))


def published(method: Method, config: MethodConfig) -> Budget:
    """Return what `--recipe paper` gives a method."""
    epochs = method.published_epochs(config)
    return Budget(
        recipe="paper", epochs=epochs, batch_size=128, optimizer=OptimizerSpec(), published=True
    )
