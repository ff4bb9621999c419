"""safetensors: the weights of the inference network, and all that rebuilds it around them.

Batch norm is kept as it is: the file then holds the very numbers of the run, computes the same
bit for bit, and does not hang on how some version folds. Never unpickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from bench.errors import WeightsError
from bench.export.checking import Answer
from bench.export.description import KEY, Description, SourceNote, read_description
from bench.method import METHODS, Backbone, DerivedMethod, DynamicNet, Point, Source, SourcePoint
from bench.plugins import MethodCode, code_of, method_config


@dataclass(frozen=True, slots=True)
class Shipped:
    """A network read from a file, in eval mode, and what the file says of it."""

    net: DynamicNet
    description: Description


def load_exported(path: Path | str) -> Shipped:
    """Read a safetensors file of `bench export`: a network that is ready for `execute`.

    Its method is looked up by name: a plugin must be installed or registered.

    Raises:
        WeightsError: the file is missing, broken or none of these.
        UnknownNameError: its method is not known here.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}.") from error
    return restored(read_description(text, str(path)), state)


def restored(description: Description, state: Mapping[str, Tensor]) -> Shipped:
    """Return the network that the description is of, with these weights.

    Raises:
        WeightsError: the weights are those of another network, or of other code of its method.
    """
    _check_code(description)
    backbone = Backbone(
        description.backbone,
        description.num_classes,
        description.image_shape,
        description.shortcut,
    )
    points = _points(description, backbone)
    found = [point.net for point in points if point.name == description.point]
    if not found:
        raise WeightsError(
            f"'{description.method}' has no operating point '{description.point}' here.",
            hint="The file was written by another version of this method.",
        )
    net = found[0].inference_net(dead_blocks=frozenset(description.dead_blocks))
    try:
        net.load_state_dict(dict(state))
    except RuntimeError as error:
        raise WeightsError(
            f"The weights of {description.run} do not fit '{description.method}': {error}"
        ) from error
    return Shipped(net.eval(), description)


def _check_code(description: Description) -> None:
    given = MethodCode(description.method, description.method_version, description.method_code)
    today = code_of(description.method)
    unknown = not description.method_code and description.method_version == today.method_version
    if given != today and not unknown:
        raise WeightsError(
            f"The network of {description.run} was exported with other code of "
            f"'{description.method}' than is here.",
            hint="Export the run again: that asks first whether today's code decides the same.",
        )


def weights_bytes(net: DynamicNet, described: Description) -> bytes:
    """Return the file of an inference network."""
    state = {key: value.cpu().contiguous() for key, value in net.state_dict().items()}
    return save(state, metadata={KEY: described.model_dump_json()})


def weights_answer(data: bytes, described: Description) -> Answer:
    """Return what a network answers that is rebuilt from the bytes as they would be written."""
    net = restored(described, load(data)).net

    def answer(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        output = net.execute(x_nchw)
        return output.logits, output.executed

    return answer


def _points(note: Description | SourceNote, backbone: Backbone) -> list[Point]:
    """Return the operating points of a network with weights of no meaning yet."""
    kind = METHODS.get(note.method)
    method, config = kind(), method_config(kind, note.settings)
    if isinstance(method, DerivedMethod) and note.source is not None:
        net = method.derive(_source(note.source, backbone), backbone, config)
    else:
        net = method.build(backbone, config)
    net = net.to(memory_format=torch.channels_last)
    return list(method.operating_points(net, config))


def _source(note: SourceNote, backbone: Backbone) -> Source:
    pairs = zip(_points(note, backbone), note.points, strict=True)
    points = [SourcePoint(p.name, p.net, noted.block_rates, noted.nflops) for p, noted in pairs]
    return Source(note.method, points)
