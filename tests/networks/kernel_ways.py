"""The ways in which a copy for inference may run on a CPU, best first."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from bench.networks import kernels, native
from bench.networks.kernels import kernels_available

Way = Literal["operators", "onednn", "plain"]
every_way = pytest.mark.parametrize("way", ["operators", "onednn", "plain"])


def allow(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away all that is better than `way`; skip where `way` itself is not to be had."""
    if way == "operators":
        if native.library().path is None:
            pytest.skip(f"no operators of our own: {native.library().reason}")
        return
    monkeypatch.setattr(native, "available", lambda: False)
    if way == "plain":
        monkeypatch.setattr(kernels, "kernels_available", lambda tensor: False)
    elif not kernels_available(torch.zeros(1)):
        pytest.skip("this build of torch has no fused oneDNN kernels")
