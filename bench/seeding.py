"""Derived seeds and the only place that touches global random state; owns nothing else.

One run has one user-facing seed. Every consumer (data order, initialisation, the noise of an
epoch) derives its own from it by name, so adding a consumer never shifts the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *scope: str | int) -> int:
    """Return a 63-bit seed for `scope` under the run's `seed`."""
    text = "/".join([str(seed), *map(str, scope)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *scope: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator on `device`, seeded for `scope`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *scope))


def seed_globally(seed: int, *scope: str | int) -> None:
    """Seed the global generators of random, numpy and torch (all devices) for `scope`.

    Called where an epoch or a build begins, so that a continued run draws what an
    uninterrupted one would have drawn.
    """
    import random

    import numpy as np
    import torch

    value = derive(seed, *scope)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


@contextmanager
def seeded(seed: int, *scope: str | int) -> Iterator[None]:
    """Seed globally for `scope`, and give the caller's own random state back afterwards."""
    import random

    import numpy as np
    import torch

    before = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        try:
            seed_globally(seed, *scope)
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def random_fingerprint() -> str:
    """Return a hash of the state of all global generators: the same until one of them is used."""
    import pickle
    import random

    import numpy as np
    import torch

    on_devices = [state.numpy() for state in torch.cuda.get_rng_state_all()]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state().numpy(), on_devices
    return hashlib.sha256(pickle.dumps(states)).hexdigest()
