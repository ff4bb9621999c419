"""The device that a user names. Owns nothing else."""

from __future__ import annotations

import torch

from bench.errors import ConfigError
from bench.plain_text import shown

_KINDS = ("cpu", "cuda")


def pick_device(name: str) -> torch.device:
    """Return the torch device called auto, cpu, cuda or cuda:N.

    Raises:
        ConfigError: there is no such device on this machine, or it is of another kind.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"{shown(name)} is not a device.", hint="Use auto, cpu or cuda."
        ) from error
    if device.type not in _KINDS:
        raise ConfigError(
            f"Nothing here runs on devices of the kind {device.type}.",
            hint="Use auto, cpu or cuda.",
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("There is no CUDA device on this machine.", hint="Use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"There is no CUDA device {device.index} on this machine.",
            hint=f"There are {torch.cuda.device_count()}, counted from 0.",
        )
    return device
