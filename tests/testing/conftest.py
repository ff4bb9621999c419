"""Broken methods are tried on one backbone: a fault that is there shows on the first."""

from __future__ import annotations

import pytest

from bench.testing import workbench


@pytest.fixture(autouse=True)
def one_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "_BACKBONES", (("resnet14", "B"),))
