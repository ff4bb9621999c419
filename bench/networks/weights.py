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
from bench.networks.trunk import OWN, Backbone, Shape, split_name
from bench.networks.weight_files import LARGEST_BYTES, READABLE, read_tensors
from bench.plain_text import one_line
from bench.storage import read_limited, reason_of

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
ZeroChannels = Literal["both sides", "end"]

_OF_A_HEAD = 2  # weight and bias
_FORMAT = "skipbench.trunk.v1"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model)\.)*")
_OURS = {
    "conv1": "stem.conv",
    "bn1": "stem.bn",
    "linear": "head.linear",
    "fc": "head.linear",
    "shortcut.0": "shortcut.conv",
    "downsample.0": "shortcut.conv",
    "shortcut.1": "shortcut.bn",
    "downsample.1": "shortcut.bn",
}


@dataclass(frozen=True, slots=True)
class Weights:
    """The trunk's weights, under this project's names, and what they expect.

    `normalisation` is None where the file does not name the constants of its images.
    `zero_channels` says where shortcut A had them in training; `state` is for zeros on both sides
    in either case. `by_order`: no name of a tensor was known, they were matched by order and shape.
    """

    state: Mapping[str, Tensor]
    normalisation: Normalisation | None
    sha256: str
    name: str
    zero_channels: ZeroChannels = "both sides"
    by_order: bool = False

    @property
    def depth(self) -> int:
        """Depth of the ResNet these weights belong to."""
        blocks = {key.split(".")[1] for key in self.state if key.startswith("blocks.")}
        return 2 * len(blocks) + 2

    @property
    def projects(self) -> bool:
        """Whether the shortcuts have weights of their own: they are of kind B."""
        return any(".shortcut." in key for key in self.state)


def read_weights(path: Path, *, backbone: str = OWN) -> Weights:
    """Read the weights of a trunk; `backbone` says whose names of layers a file may have that is
    not ours: those of CIFAR ResNets are known here, all others wait for `fitted_to`.

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
        of_cifar = split_name(backbone)[0] == OWN
        state = _renamed(state, path) if of_cifar else _unwrapped(state, path)
    checked = {key: _checked(key, value, path) for key, value in state.items()}
    return Weights(checked, normalisation, hashlib.sha256(data).hexdigest(), path.name)


def with_zeros_at_end(weights: Weights) -> Weights:
    """Return the weights, trained with the zero channels of shortcut A behind the others, for zeros
    on both sides: the same network, its channels in another order."""
    order = torch.arange(WIDTHS[0])
    state = dict(weights.state)
    per_stage = (weights.depth - 2) // 6
    for block in range(3 * per_stage):
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

    A state dict of the library that the trunk comes from is read by its own names; one in which
    every tensor has another name, by the order of its tensors, if all kinds and shapes agree.

    Raises:
        WeightsError: they are of another network, shortcut or number of classes.
    """
    cifar = isinstance(backbone.family, CifarResNets)
    if cifar and weights.depth != depth_of(backbone.member):
        raise WeightsError(
            f"{weights.name} holds a ResNet-{weights.depth}, the backbone is {backbone.name}.",
            hint=f"Use --backbone resnet{weights.depth} or other weights.",
        )
    wanted = backbone.without_memory()
    shapes = {key: tuple(value.shape) for key, value in wanted.state_dict().items()}
    theirs = {name: own for own, name in wanted.library_names.items()}
    if theirs and not weights.state.keys() & shapes.keys():
        state: Mapping[str, Tensor] = {
            theirs.get(key, key): value for key, value in weights.state.items()
        }
        strange = not state.keys() & shapes.keys()
        state = _by_order(weights.state, shapes) if strange else state
        weights = replace(weights, state=state, by_order=strange)
    _require_fit(weights, backbone, shapes, wanted.library_names)
    twin = backbone.family.twin(backbone.member) if weights.by_order else ""
    if twin:
        twin = f"{backbone.family.name}/{twin}"
        raise WeightsError(
            f"{weights.name} fits {backbone.name} and {twin} alike: its layers have other names"
            " than theirs, and the two pad differently.",
            hint=f"Weights from TensorFlow are of {twin}; others need the names of the library.",
        )
    return weights


def _by_order(state: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> Mapping[str, Tensor]:
    """Return the state under the names of `shapes`, matched by order; as it is where that fails."""
    pairs = list(zip(_counted(shapes), _counted(state), strict=False))
    fits = len(_counted(shapes)) == len(_counted(state)) and all(
        own.rpartition(".")[2] == key.rpartition(".")[2] and shapes[own] == tuple(state[key].shape)
        for own, key in pairs
    )
    return {own: state[key] for own, key in pairs} if fits else state


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
    theirs = "B" if weights.projects else "A"
    hint = "Check the number of classes that they were trained with."
    if cifar and theirs != backbone.shortcut:
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


def _renamed(state: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    plain = _unwrapped(state, path)
    found = [re.match(r"layer([123])\.(\d{1,4})\.", name) for name in plain]
    pairs = {(int(m[1]), int(m[2])) for m in found if m is not None}
    blocks_before = [sum(1 for stage, _ in pairs if stage < s) for s in (1, 2, 3)]
    renamed = {_our_name(name, blocks_before, path): value for name, value in plain.items()}
    if len(renamed) < len(state):
        raise WeightsError(f"{path} names a layer twice.", hint=READABLE)
    return renamed


def _our_name(name: str, blocks_before: list[int], path: Path) -> str:
    block = re.match(r"layer([123])\.(\d{1,4})\.(.+)$", name)
    layer, _, tensor = (name if block is None else block[3]).rpartition(".")
    if block is not None:
        number = blocks_before[int(block[1]) - 1] + int(block[2])
        inner = _OURS[layer] if layer in _OURS and "." in layer else f"residual.{layer}"
        return f"blocks.{number}.{inner}.{tensor}"
    if layer in _OURS and "." not in layer:
        return f"{_OURS[layer]}.{tensor}"
    raise WeightsError(
        f"{path} has a layer '{one_line(name, longest=100)}' that no CIFAR ResNet of depth 6n+2"
        " has.",
        hint=READABLE,
    )
