"""What an exported file says of itself, and safetensors: weights, and all that rebuilds them.

Batch norm is kept as it is: the file then holds the very numbers of the run, computes the same
bit for bit, and does not depend on how a version folds. Never unpickles.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.config import Frozen
from bench.data.images import DatasetInfo
from bench.errors import WeightsError
from bench.method import METHODS, Backbone, DynamicNet
from bench.plugins import MethodCode, code_of, method_config
from bench.records.record import Conformance, RunRecord

KEY = "skipbench"
"""Where the document lies in the metadata of a file."""

Form = Literal["weights", "plain", "branches"]
Batch = Literal["any", "one"]

_FORMS: dict[Form, str] = {
    "weights": "weights, to be loaded and executed by skipbench",
    "plain": "plain graph, nothing is decided",
    "branches": "real branches, what an image skips is not computed",
}
_BATCHES: dict[Batch, str] = {"any": "batches of any size", "one": "one image at a time"}


class Description(Frozen):
    """What a file holds, what it expects and where it comes from.

    Images (N, *image_shape) are float32: pixels in 0...1, minus `mean`, divided by `std`, per
    channel. The outputs are logits (N, num_classes) and executed (N, len(units)), the share of each
    unit that an image ran; `unit_macs` and `dense_macs` turn it into nFLOPs. `method_version` and
    `method_code` say which code rebuilds it, as in the spec of a run; `conformance` which checks
    the run passed.
    """

    format_version: Literal[1] = 1
    skipbench: str
    run: str
    method: str
    method_version: int
    method_code: str
    settings: dict[str, Any]
    variant: str
    point: str
    backbone: str
    shortcut: Literal["A", "B"]
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    units: tuple[str, ...]
    unit_macs: dict[str, int]
    dense_macs: int
    dead_blocks: tuple[str, ...]
    form: Form = "weights"
    batch: Batch = "any"
    folded: bool = False
    conformance: Conformance | None = None

    def sentence(self) -> str:
        """Say in which form the network lies in the file."""
        folded = "batch norm folded" if self.folded else "batch norm not folded"
        return f"{_FORMS[self.form]}; {_BATCHES[self.batch]}; {folded}"


def describe(record: RunRecord, number: int, info: DatasetInfo, units: list[str]) -> Description:
    """Return the description of operating point `number` of a run, as weights."""
    spec, point = record.spec, record.points[number]
    mean, std = spec.normalisation
    return Description(
        skipbench=importlib.metadata.version("skipbench"),
        run=record.run,
        **code_of(spec.method)._asdict(),
        settings=spec.config,
        variant=record.variant,
        point=point.name,
        backbone=spec.backbone.name,
        shortcut=spec.backbone.shortcut,
        num_classes=info.num_classes,
        class_names=info.class_names,
        image_shape=(info.channels, info.height, info.width),
        mean=mean,
        std=std,
        units=tuple(units),
        unit_macs=record.unit_macs,
        dense_macs=record.dense_macs,
        dead_blocks=point.dead_blocks,
        conformance=record.conformance,
    )


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
    if text is None:
        raise WeightsError(f"{path} was not written by bench export.")
    try:
        description = Description.model_validate_json(text)
    except ValidationError as error:
        wrong = ".".join(map(str, error.errors()[0]["loc"])) or "not a document"
        raise WeightsError(
            f"{path} does not describe itself in a way that is understood: {wrong}.",
            hint="It may come from a newer skipbench.",
        ) from error
    return restored(description, state)


def restored(description: Description, state: Mapping[str, Tensor]) -> Shipped:
    """Return the network that the description is of, with these weights.

    Raises:
        WeightsError: the weights are those of another network, or of other code of its method.
        ConfigError: it is a control that is made from a finished run.
    """
    code = MethodCode(description.method, description.method_version, description.method_code)
    if code != code_of(description.method):
        raise WeightsError(
            f"The network of {description.run} was exported with other code of "
            f"'{description.method}' than is here.",
            hint="Export the run again: that asks first whether today's code decides the same.",
        )
    backbone = Backbone(
        description.backbone, description.num_classes, description.image_shape, description.shortcut
    )
    method = METHODS.get(description.method)()
    config = method_config(type(method), description.settings)
    built = method.build(backbone, config).to(memory_format=torch.channels_last)
    points = {point.name: point.net for point in method.operating_points(built, config)}
    if description.point not in points:
        raise WeightsError(
            f"'{description.method}' has no operating point '{description.point}' here.",
            hint="The file was written by another version of this method.",
        )
    net = points[description.point].inference_net(dead_blocks=frozenset(description.dead_blocks))
    try:
        net.load_state_dict(dict(state))
    except RuntimeError as error:
        raise WeightsError(
            f"The weights of {description.run} do not fit '{description.method}': {error}"
        ) from error
    return Shipped(net.eval(), description)
