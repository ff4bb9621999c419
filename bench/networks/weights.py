"""Weights on disk: our own safetensors, and the widespread files of CIFAR ResNets.

Reads `{"state_dict": ...}` checkpoints whose layers are named conv1, bn1, layer1.0.conv1, ...,
linear (with or without a `module.` prefix) with torch's weights-only reader. Never unpickles code,
and hands on nothing but plain, finite tensors that are as large as they say.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from bench.errors import WeightsError
from bench.networks.resnet import Backbone
from bench.plain_text import one_line
from bench.reading import read_limited, reason_of

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

# The trainers that write the {"state_dict": ...} layout normalise CIFAR with ImageNet's constants.
IMAGENET_NORMALISATION: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FORMAT = "skipbench.trunk.v1"
LARGEST_BYTES = 1 << 30
"""The largest CIFAR ResNet has some megabytes."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
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
    try:
        data = read_limited(path, limit_bytes=LARGEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(f"There is no weights file {path}.", hint=_READABLE) from None
    except OSError as error:
        raise WeightsError(
            f"The weights file {path} cannot be read: {reason_of(error)}.", hint=_READABLE
        ) from None
    normalisation: Normalisation | None = IMAGENET_NORMALISATION
    if path.suffix == ".safetensors":
        state, normalisation = _read_safetensors(data, path)
    else:
        state = _read_state_dict(data, path)
    checked = {key: _checked(key, value, path) for key, value in state.items()}
    return Weights(checked, normalisation, hashlib.sha256(data).hexdigest(), path.name)


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
            f"{backbone.num_classes} classes): '{one_line(key, longest=100)}' is "
            f"{given.get(key, 'missing')}, expected {shapes.get(key, 'nothing')}.",
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


def _read_safetensors(data: bytes, path: Path) -> tuple[dict[str, Tensor], Normalisation | None]:
    try:
        state = load(data)
        metadata = _metadata(data)
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(
            f"{path} is not a readable safetensors file: {_first_line(error)}.", hint=_READABLE
        ) from None
    if metadata.get("format") != _FORMAT:
        raise WeightsError(f"{path} was not written by bench as a trunk.", hint=_READABLE)
    try:
        mean, std = json.loads(metadata["normalisation"])
        normalisation = (tuple(map(float, mean)), tuple(map(float, std)))
    except (KeyError, ValueError, TypeError, RecursionError, OverflowError):
        normalisation = ((), ())
    values = [*normalisation[0], *normalisation[1]]
    if not values or not all(map(math.isfinite, values)) or min(normalisation[1]) <= 0:
        raise WeightsError(f"{path} does not say how its images are normalised.")
    return state, normalisation


def _metadata(data: bytes) -> dict[str, str]:
    """Return what a safetensors file, whose header was found valid, says of itself."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    return found


def _read_state_dict(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        _check_unpacked(data)
        with warnings.catch_warnings():
            # torch remarks on old layouts and sparse tensors; here they are read or refused.
            warnings.simplefilter("ignore")
            loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path} cannot be read as weights: {_first_line(error)}",
            hint=f"It is broken, or holds code, which is never run. {_READABLE}",
        ) from None
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    tensors = isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values())
    if not tensors or not state:
        raise WeightsError(f"{path} holds no state dict.", hint=_READABLE)
    names = {str(key).removeprefix("module."): value for key, value in state.items()}
    stages = _blocks_per_stage(names)
    renamed = {_our_name(key, stages, path): value for key, value in names.items()}
    if len(renamed) < len(state):
        raise WeightsError(f"{path} names a layer twice.", hint=_READABLE)
    return renamed


def _check_unpacked(data: bytes) -> None:
    """Refuse an archive that would unpack to more than a file may have.

    Raises:
        ValueError: it would.
    """
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.filelist) > LARGEST_BYTES:
                raise ValueError(f"it unpacks to more than {LARGEST_BYTES >> 20} MiB")


def _checked(key: str, value: Tensor, path: Path) -> Tensor:
    """Return the tensor as float32 (counters as they are), after making sure that it is plain.

    Raises:
        WeightsError: it has no values of its own, is of another kind, or holds NaN or infinity.
    """
    name = f"{path}: '{one_line(key, longest=100)}'"
    if not _is_plain(value):
        raise WeightsError(f"{name} is not a plain tensor.", hint=_READABLE)
    if value.dtype == torch.int64 and key.endswith("num_batches_tracked"):
        return value.detach()
    if value.dtype not in _FLOATS:
        raise WeightsError(
            f"{name} holds values of the kind {value.dtype}, expected floating-point numbers."
        )
    weights = value.detach().float()
    if not bool(torch.isfinite(weights).all()):
        raise WeightsError(
            f"{name} holds values that are not finite numbers.",
            hint="The training that wrote this file diverged, or the file is damaged.",
        )
    return weights


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor lies in memory, value by value, and does not repeat what is stored once."""
    if type(value) not in (Tensor, torch.nn.Parameter) or value.device.type != "cpu":
        return False
    if value.layout != torch.strided or value.is_nested or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return one_line(lines[0], longest=200)


def _blocks_per_stage(names: Mapping[str, Tensor]) -> list[int]:
    found = [re.match(r"layer([123])\.(\d{1,4})\.", key) for key in names]
    pairs = {(int(m[1]), int(m[2])) for m in found if m is not None}
    return [sum(1 for stage, _ in pairs if stage == s) for s in (1, 2, 3)]


def _our_name(key: str, stages: list[int], path: Path) -> str:
    fixed = {"conv1": "stem.conv", "bn1": "stem.bn", "linear": "head.linear", "fc": "head.linear"}
    first, _, rest = key.partition(".")
    if first in fixed:
        return f"{fixed[first]}.{rest}"
    match = re.match(r"layer([123])\.(\d{1,4})\.(.+)$", key)
    if match is None:
        raise WeightsError(
            f"{path} has a layer '{one_line(key, longest=100)}' that no CIFAR ResNet of depth 6n+2"
            " has.",
            hint=_READABLE,
        )
    block = sum(stages[: int(match[1]) - 1]) + int(match[2])
    part = match[3]
    for theirs, ours in (("shortcut.0.", "shortcut.conv."), ("shortcut.1.", "shortcut.bn.")):
        if part.startswith(theirs):
            return f"blocks.{block}.{ours}{part.removeprefix(theirs)}"
    return f"blocks.{block}.residual.{part}"
