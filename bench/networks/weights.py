"""Weights on disk: our own safetensors, and the widespread files of CIFAR ResNets.

Reads `{"state_dict": ...}` checkpoints whose layers are named conv1, bn1, layer1.0.conv1, ...,
linear (with or without a `module.` prefix) with torch's weights-only reader. Never unpickles code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bench.errors import WeightsError
from bench.networks.resnet import Backbone

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

# The trainers that write the {"state_dict": ...} layout normalise CIFAR with ImageNet's constants.
IMAGENET_NORMALISATION: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FORMAT = "skipbench.trunk.v1"
_READABLE = "Readable: .safetensors written by bench, and {'state_dict': ...} files (.th .pt .pth)."


@dataclass(frozen=True, slots=True)
class Weights:
    """The trunk's weights, under this project's names, and what they expect of the images."""

    state: Mapping[str, Tensor]
    normalisation: Normalisation | None
    sha256: str
    name: str

    @property
    def depth(self) -> int:
        """Depth of the ResNet these weights belong to."""
        blocks = {key.split(".")[1] for key in self.state if key.startswith("blocks.")}
        return 2 * len(blocks) + 2


def read_weights(path: Path) -> Weights:
    """Read the weights of a trunk.

    Raises:
        WeightsError: the file is missing, broken, of an unknown layout, or would run code.
    """
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}.")
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        state, normalisation = _read_safetensors(path)
    else:
        state, normalisation = _read_state_dict(path), IMAGENET_NORMALISATION
    return Weights(state, normalisation, hashlib.sha256(data).hexdigest(), path.name)


def check_fit(weights: Weights, backbone: Backbone) -> None:
    """Check that the weights fit the backbone, name by name and shape by shape.

    Raises:
        WeightsError: they are of another depth, width, shortcut or number of classes.
    """
    if weights.depth != backbone.depth:
        raise WeightsError(
            f"{weights.name} holds a ResNet-{weights.depth}, the backbone is {backbone.name}.",
            hint=f"Use --backbone resnet{weights.depth} or other weights.",
        )
    with torch.device("meta"):
        wanted = Backbone(
            backbone.name, backbone.num_classes, backbone.image_shape, backbone.shortcut
        ).build()
    shapes = {key: tuple(value.shape) for key, value in wanted.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.state.items()}
    counters = {key for key in shapes if key.endswith("num_batches_tracked")}
    wrong = [
        key for key in sorted({*shapes, *given} - counters) if shapes.get(key) != given.get(key)
    ]
    if wrong:
        key = wrong[0]
        raise WeightsError(
            f"{weights.name} does not fit {backbone.name} (shortcut {backbone.shortcut}, "
            f"{backbone.num_classes} classes): '{key}' is {given.get(key, 'missing')}, "
            f"expected {shapes.get(key, 'nothing')}.",
            hint="Check the number of classes and the shortcut (A or B) they were trained with.",
        )


def trunk_bytes(
    state: Mapping[str, Tensor], *, backbone: str, normalisation: Normalisation
) -> bytes:
    """Return a safetensors file of a trunk that `read_weights` reads back."""
    return save(
        {key: value.detach().cpu().contiguous() for key, value in state.items()},
        metadata={
            "format": _FORMAT,
            "backbone": backbone,
            "normalisation": json.dumps(normalisation),
        },
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Normalisation | None]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}.") from error
    if metadata.get("format") != _FORMAT:
        raise WeightsError(f"{path} was not written by bench as a trunk.", hint=_READABLE)
    try:
        mean, std = json.loads(metadata["normalisation"])
        normalisation = (tuple(map(float, mean)), tuple(map(float, std)))
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} does not say how its images are normalised.") from error
    return state, normalisation


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise WeightsError(
            f"{path} cannot be read as weights: {reason}",
            hint=f"It is broken, or holds code, which is never run. {_READABLE}",
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    tensors = isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values())
    if not tensors or not state:
        raise WeightsError(f"{path} holds no state dict.", hint=_READABLE)
    names = {str(key).removeprefix("module."): value for key, value in state.items()}
    stages = _blocks_per_stage(names)
    renamed: dict[str, Tensor] = {}
    for key, value in names.items():
        renamed[_our_name(key, stages, path)] = (
            value.float() if value.is_floating_point() else value
        )
    return renamed


def _blocks_per_stage(names: Mapping[str, Tensor]) -> list[int]:
    found = [re.match(r"layer([123])\.(\d+)\.", key) for key in names]
    pairs = {(int(m[1]), int(m[2])) for m in found if m is not None}
    return [sum(1 for stage, _ in pairs if stage == s) for s in (1, 2, 3)]


def _our_name(key: str, stages: list[int], path: Path) -> str:
    fixed = {"conv1": "stem.conv", "bn1": "stem.bn", "linear": "head.linear", "fc": "head.linear"}
    first, _, rest = key.partition(".")
    if first in fixed:
        return f"{fixed[first]}.{rest}"
    match = re.match(r"layer([123])\.(\d+)\.(.+)$", key)
    if match is None:
        raise WeightsError(
            f"{path} has a layer '{key}' that no CIFAR ResNet of depth 6n+2 has.", hint=_READABLE
        )
    block = sum(stages[: int(match[1]) - 1]) + int(match[2])
    part = match[3]
    for theirs, ours in (("shortcut.0.", "shortcut.conv."), ("shortcut.1.", "shortcut.bn.")):
        if part.startswith(theirs):
            return f"blocks.{block}.{ours}{part.removeprefix(theirs)}"
    return f"blocks.{block}.residual.{part}"
