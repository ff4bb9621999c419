"""Devices by name: what is absent, or nothing here runs on, is refused before any work."""

from __future__ import annotations

import pytest
import torch

from bench.engine.building import pick_device
from bench.errors import ConfigError


def test_auto_and_cpu_are_always_there() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize(
    "name", ["mps", "xpu", "meta", "mps:0", "tpu", "", "cuda:9999", "\x1b[31m"]
)
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pick_device(name)
    assert "\x1b" not in str(caught.value)
    assert caught.value.hint
