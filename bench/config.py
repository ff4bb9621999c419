"""What a run is: the RunSpec, its canonical JSON and its hash.

A RunSpec holds everything that may change the numbers and nothing else, so that its hash finds
finished work again. Owns no defaults of methods or recipes: specs arrive resolved.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from bench.plain_text import slug
from bench.recipes import Budget, Precision

SPEC_VERSION = 1
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What every generator of random numbers, and every table, has room for."""


class Frozen(BaseModel):
    """Base of the documents on disk: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetSpec(Frozen):
    """Which images: the name, and the fingerprint of pixels and labels."""

    name: str
    fingerprint: str


class Keyed(Frozen):
    """Part of what a key is made from.

    Fields named in `younger` came later: with their default they are left out, so that the keys of
    runs made before there was a choice stay.
    """

    younger: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = serialise(self)
        for name in self.younger:
            if getattr(self, name) == type(self).model_fields[name].default:
                told.pop(name, None)
        return told


class BackboneSpec(Keyed):
    """Which trunk; `code` is the hash of a plugin's code, "" for those that come with skipbench."""

    younger: ClassVar[tuple[str, ...]] = ("code",)

    name: str
    shortcut: Literal["A", "B"] = "A"
    code: str = ""

    @property
    def label(self) -> str:
        """The name and, of a CIFAR ResNet, the kind of shortcut, as one word."""
        chosen = re.fullmatch(r"resnet\d+", self.name)
        return f"{self.name}-{self.shortcut}" if chosen else self.name

    @property
    def family(self) -> str:
        """What the backbones of one ladder share."""
        return ladder_of(self.name)


class InitialWeights(Keyed):
    """Where training starts from: a user's file, or a finished run of this harness.

    `identity` is the SHA-256 of the file, or the key of the run's spec. `zero_channels` says where
    shortcut A had them when a file was trained.
    """

    younger: ClassVar[tuple[str, ...]] = ("zero_channels",)

    kind: Literal["file", "run"]
    name: str
    identity: str
    zero_channels: Literal["both sides", "end"] = "both sides"


class RunSpec(Keyed):
    """One training of one method, fully resolved.

    `normalisation` is (mean, std) per channel, in units of the full pixel range. `held_out` is
    the number of training images kept out of training for choices made by looking at accuracy.
    `method_code` is the hash of a plugin's code; "" for the methods of skipbench, whose
    `method_version` stands for their code.
    """

    younger: ClassVar[tuple[str, ...]] = ("method_version", "method_code")

    version: int = SPEC_VERSION
    method: str
    method_version: Annotated[int, Field(ge=1)] = 1
    method_code: str = ""
    config: dict[str, Any]
    dataset: DatasetSpec
    backbone: BackboneSpec
    budget: Budget
    seed: Seed
    normalisation: tuple[tuple[FiniteFloat, ...], tuple[FiniteFloat, ...]]
    precision: Precision = "fp32"
    compiled: bool = False
    held_out: NonNegativeInt = 0
    initial: InitialWeights | None = None

    @property
    def key(self) -> str:
        """The first 12 hex digits of the hash of the canonical JSON."""
        text = canonical_json(self.model_dump(mode="json"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def run(self) -> str:
        """The name of the run's folder: readable first, the key last."""
        parts = [self.method, self.dataset.name, self.backbone.name, f"s{self.seed}", self.key]
        return "-".join(slug(part) for part in parts)


def ladder_of(backbone: str) -> str:
    """Return what the names of the backbones of one ladder share: the name without the number at
    its end, or what stands behind an @."""
    return re.sub(r"\d*$", "", backbone.partition("@")[0])


def without_seed(run: str) -> str:
    """Return the name of a run without its seed and key: what runs of other seeds share."""
    return re.sub(r"-s\d+-[0-9a-f]+$", "", run)


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, and no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
