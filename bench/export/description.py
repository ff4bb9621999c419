"""What every exported file says of itself: one JSON document, the same in all formats.

Owns the words for the forms that a network can take in a file; builds none of them.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any, Literal

from pydantic import ValidationError

from bench.config import Frozen, RunSpec
from bench.data.images import DatasetInfo
from bench.engine.building import Workplace, parent_of
from bench.errors import WeightsError
from bench.method import METHODS, DerivedMethod
from bench.plugins import code_of
from bench.records.record import Conformance, RunRecord

FORMAT_VERSION: Literal[1] = 1
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


class SourcePointNote(Frozen):
    """One operating point of a source: what a control may choose by."""

    name: str
    block_rates: dict[str, float]
    nflops: float


class SourceNote(Frozen):
    """The run that a control was derived from, as far as its network depends on it."""

    method: str
    settings: dict[str, Any]
    points: tuple[SourcePointNote, ...]
    source: SourceNote | None = None


class Description(Frozen):
    """What a file holds, what it expects and where it comes from.

    Images (N, *image_shape) are float32: pixels in 0...1, minus `mean`, divided by `std`, per
    channel. The outputs are logits (N, num_classes) and executed (N, len(units)), the share of each
    unit that an image ran; `unit_macs` and `dense_macs` turn it into nFLOPs. `method_version` and
    `method_code` say which code rebuilds it, as in the spec of a run; "" in older files.
    `conformance` says which checks the run passed; None where it is older than them.
    """

    format_version: Literal[1] = FORMAT_VERSION
    skipbench: str
    run: str
    method: str
    method_version: int = 1
    method_code: str = ""
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
    source: SourceNote | None = None

    def sentence(self) -> str:
        """Say in which form the network lies in the file."""
        folded = {True: "batch norm folded", False: "batch norm not folded"}[self.folded]
        return f"{_FORMS[self.form]}; {_BATCHES[self.batch]}; {folded}"


def describe(record: RunRecord, number: int, place: Workplace, units: list[str]) -> Description:
    """Return the description of operating point `number` of a run, as weights."""
    spec, point, info = record.spec, record.points[number], place.dataset.info
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
        image_shape=_image_shape(info),
        mean=mean,
        std=std,
        units=tuple(units),
        unit_macs=record.unit_macs,
        dense_macs=record.dense_macs,
        dead_blocks=point.dead_blocks,
        conformance=record.conformance,
        source=_source_of(spec, place),
    )


def read_description(text: str | None, name: str) -> Description:
    """Read the document of the file called `name`.

    Raises:
        WeightsError: there is none, or none that this version understands.
    """
    if text is None:
        raise WeightsError(f"{name} was not written by bench export.")
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        wrong = ".".join(map(str, error.errors()[0]["loc"])) or "not a document"
        raise WeightsError(
            f"{name} does not describe itself in a way that is understood: {wrong}.",
            hint="It may come from a newer skipbench.",
        ) from error


def _image_shape(info: DatasetInfo) -> tuple[int, int, int]:
    return info.channels, info.height, info.width


def _source_of(spec: RunSpec, place: Workplace) -> SourceNote | None:
    if not issubclass(METHODS.get(spec.method), DerivedMethod):
        return None
    parent = parent_of(spec, place)
    points = tuple(
        SourcePointNote(name=p.name, block_rates=p.block_rates, nflops=p.nflops)
        for p in parent.points
    )
    return SourceNote(
        method=parent.spec.method,
        settings=parent.spec.config,
        points=points,
        source=_source_of(parent.spec, place),
    )
