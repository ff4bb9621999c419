"""The device that a user names. Owns nothing else."""

from __future__ import annotations

import torch

from bench.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Return the torch device called auto, cpu, cuda or cuda:N.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"'{name}' is not a device.", hint="Use auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("There is no CUDA device on this machine.", hint="Use --device cpu.")
    return device
