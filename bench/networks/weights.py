"""Weights on disk under this project's names of layers: our own safetensors, and other trainers'.

Owns which names of layers are known and what they become; hands on nothing but plain, finite
tensors that are as large as they say. What a file is and how it is opened is weight_files.py's.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from bench.errors import WeightsError
from bench.networks.cifar_resnet import WIDTHS, CifarResNets, depth_of
from bench.networks.trunk import Backbone, Shape
from bench.networks.weight_files import LARGEST_BYTES, READABLE, read_tensors
from bench.plain_text import one_line
from bench.storage import read_limited, reason_of

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
ZeroChannels = Literal["both sides", "end"]

_OF_A_HEAD = 2  # weight and bias
_FORMAT = "skipbench.trunk.v1"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model)\.)*")
_BEGINS_BLOCK = re.compile(r"(blocks\.\d+\.residual|layer\d+\.\d+)\.conv1\.weight")
_ALIASES = (("linear.", "fc."), (".shortcut.", ".downsample."))
"""Names that trainers of CIFAR ResNets use for the same layers."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The trunk's weights, under this project's names, and what they expect.

    `normalisation` is None where the file does not name the constants of its images.
    `zero_channels` says where shortcut A had them in training; `state` is for zeros on both sides
    in either case.
    """

    state: Mapping[str, Tensor]
    normalisation: Normalisation | None
    sha256: str
    name: str
    zero_channels: ZeroChannels = "both sides"


def read_weights(path: Path) -> Weights:
    """Read the weights of a trunk, under this project's names of layers or a library's, which
    `fitted_to` knows.

    Raises:
        WeightsError: the file is missing, broken, of an unknown layout, or would run code.
    """
    try:
        data = read_limited(path, limit_bytes=LARGEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(f"There is no weights file {path}.", hint=READABLE) from None
    except OSError as error:
        raise WeightsError(
            f"The weights file {path} cannot be read: {reason_of(error)}.", hint=READABLE
        ) from None
    state, metadata = read_tensors(data, path)
    normalisation: Normalisation | None = None
    if metadata.get("format") == _FORMAT:
        normalisation = _normalisation(metadata, path)
    else:
        state = _unwrapped(state, path)
    checked = {key: _checked(key, value, path) for key, value in state.items()}
    return Weights(checked, normalisation, hashlib.sha256(data).hexdigest(), path.name)


def with_zeros_at_end(weights: Weights) -> Weights:
    """Return the weights, trained with the zero channels of shortcut A behind the others, for zeros
    on both sides: the same network, its channels in another order."""
    order = torch.arange(WIDTHS[0])
    state = dict(weights.state)
    count = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    per_stage = count // 3
    for block in range(count):
        before = order
        if block and block % per_stage == 0:
            pad = len(order) // 2
            fresh = torch.arange(len(order), 2 * len(order))
            order = torch.cat([fresh[:pad], order, fresh[pad:]])
        residual = f"blocks.{block}.residual."
        state[residual + "conv1.weight"] = state[residual + "conv1.weight"][:, before]
        for key in (key for key in state if key.startswith((residual + "conv2", residual + "bn2"))):
            state[key] = state[key][order] if state[key].ndim else state[key]
    state["head.linear.weight"] = state["head.linear.weight"][:, order]
    return replace(weights, state=state, zero_channels="end")


def fitted_to(weights: Weights, backbone: Backbone) -> Weights:
    """Return the weights under the names of the backbone's trunk, name by name and shape by shape.

    A state dict of the library that the trunk comes from is read by its own names.

    Raises:
        WeightsError: they are of another network, shortcut or number of classes.
    """
    wanted = backbone.without_memory()
    shapes = {key: tuple(value.shape) for key, value in wanted.state_dict().items()}
    theirs = {name: own for own, name in wanted.library_names.items()}
    if theirs and not weights.state.keys() & shapes.keys():
        theirs |= {name.replace(*pair): theirs[name] for name in theirs for pair in _ALIASES}
        state = {theirs.get(key, key): value for key, value in weights.state.items()}
        if len(state) < len(weights.state):
            raise WeightsError(f"{weights.name} names a layer twice.", hint=READABLE)
        weights = replace(weights, state=state)
    _require_fit(weights, backbone, shapes, wanted.library_names)
    return weights


def _counted(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith("num_batches_tracked")]


def _require_fit(
    weights: Weights,
    backbone: Backbone,
    shapes: Mapping[str, Shape],
    library_names: Mapping[str, str],
) -> None:
    given = {key: tuple(value.shape) for key, value in weights.state.items()}
    names = sorted({*_counted(shapes), *_counted(given)})
    wrong = [key for key in names if shapes.get(key) != given.get(key)]
    if not wrong:
        return
    key, others = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    cifar = isinstance(backbone.family, CifarResNets)
    theirs = "B" if any(".shortcut." in key or ".downsample." in key for key in given) else "A"
    depth = 2 * sum(1 for key in given if _BEGINS_BLOCK.fullmatch(key)) + 2
    hint = "Check the number of classes that they were trained with."
    if cifar and depth != depth_of(backbone.member):
        hint = f"They are of a ResNet-{depth}: --backbone resnet{depth}"
    elif cifar and theirs != backbone.shortcut:
        hint = f"They were trained with shortcuts of the kind {theirs}: --shortcut {theirs}"
    elif len(wrong) > _OF_A_HEAD:
        hint = f"They are of another network than {backbone.name}, or of another version of it."
    kind = f"shortcut {backbone.shortcut}, " if cifar else ""
    shown = one_line(library_names.get(key, key), longest=100)
    raise WeightsError(
        f"{weights.name} does not fit {backbone.name} ({kind}"
        f"{backbone.num_classes} classes): '{shown}' is "
        f"{given.get(key, 'missing')}, expected {shapes.get(key, 'nothing')}{others}.",
        hint=hint,
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


def _normalisation(metadata: Mapping[str, str], path: Path) -> Normalisation:
    try:
        mean, std = json.loads(metadata["normalisation"])
        normalisation = (tuple(map(float, mean)), tuple(map(float, std)))
    except (KeyError, ValueError, TypeError, RecursionError, OverflowError):
        normalisation = ((), ())
    values = [*normalisation[0], *normalisation[1]]
    if not values or not all(map(math.isfinite, values)) or min(normalisation[1]) <= 0:
        raise WeightsError(f"{path} does not say how its images are normalised.")
    return normalisation


def _checked(key: str, value: Tensor, path: Path) -> Tensor:
    """Return the tensor as float32 (counters as they are), after making sure that it is plain.

    Raises:
        WeightsError: it has no values of its own, is of another kind, or holds NaN or infinity.
    """
    name = f"{path}: '{one_line(key, longest=100)}'"
    if not _is_plain(value):
        raise WeightsError(f"{name} is not a plain tensor.", hint=READABLE)
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


def _unwrapped(state: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """Return the state without what trainers put before names."""
    names = {_WRAPPERS.sub("", str(key), count=1): value for key, value in state.items()}
    if len(names) < len(state):
        raise WeightsError(f"{path} names a layer twice.", hint=READABLE)
    return names
