"""The contract of a runtime: whether it takes a network, and the network made ready to be called.

Runtimes are found like methods: entry points of the group `bench.runtimes`. Owns no way of running.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from bench.networks.unit import DynamicNet
from bench.registry import Registry

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From images (N, C, H, W) on the device to logits (N, K) and what was executed (N, U).

One that works in memory of its own, taken once, says how much: an attribute `work_bytes`, or None
where it cannot, and the cell then shows no memory.
"""


class Runtime(ABC):
    """One way of running networks in inference; `summary` says in a line which.

    A latency cell belongs to one runtime, and so do the dense network and the controls beside it.
    A network that a runtime cannot run has no number there, but a reason.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def refuses(self, net: DynamicNet, device: torch.device, threads: int) -> str | None:
        """Return why this runtime does not run `net` here, as far as that can be said at once."""

    def delay(self) -> str:
        """Return what the first use on this machine waits for, to be told to the user; or ""."""
        return ""

    @abstractmethod
    def prepare(self, net: DynamicNet, example_nchw: Tensor) -> Run:
        """Return `net` ready to be called with batches of any size; `net` itself is left alone.

        `example_nchw` are a few images like those to come, on the device. What is returned runs in
        eval mode without autograd, and only what was decided.

        Raises:
            Unsupported: this runtime has no way to run the network; the message says why.
            NotExecutable: the network has no path that really skips.
        """


RUNTIMES: Registry[Runtime] = Registry(Runtime, kind="runtime", group="bench.runtimes")
