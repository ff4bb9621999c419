"""The contract a plugin fulfils: Method, Phase and what they exchange.

A method builds a network on the given backbone, says in which phases it is trained and at which
operating points it is judged. It never trains, counts or times itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, get_args

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from typing_extensions import TypeVar, get_original_bases

from bench.data.augment import Batch
from bench.errors import ConfigError, NotApplicable, NotExecutable
from bench.networks.trunk import Backbone
from bench.networks.unit import DynamicNet, Output, Unit
from bench.recipes import Budget, OptimizerSpec
from bench.registry import Registry
from bench.spaces import Choice, Integers, LogUniform, Uniform

__all__ = [
    "Backbone",
    "Batch",
    "Budget",
    "Choice",
    "ConfigError",
    "DerivedMethod",
    "DynamicNet",
    "Integers",
    "LogUniform",
    "LossTerms",
    "Method",
    "MethodConfig",
    "NotApplicable",
    "NotExecutable",
    "OptimizerSpec",
    "Output",
    "ParameterGroup",
    "Phase",
    "Point",
    "Reference",
    "Source",
    "SourcePoint",
    "Tags",
    "Uniform",
    "Unit",
]

CONTRACT = 1
"""The version of what a plugin may rely on, raised when a change breaks plugins that were right."""


class MethodConfig(BaseModel):
    """Base of every method's settings: frozen, finite, unknown keys refused.

    A range beside a setting says where `bench sweep` looks for it by default:
    `tau: Annotated[float, LogUniform(0.001, 0.1)] = 0.01`.
    """

    # Not finite is not JSON: the settings would come back from a record as null.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Reference:
    """The publication a method comes from."""

    title: str
    authors: str
    year: int
    url: str


@dataclass(frozen=True, slots=True)
class Tags:
    """What the harness has to know of a method without running it.

    `decision` is when it decides. `starts_from_dense`: training begins from a trained dense
    network. `extra_share`: what is trained on top of it is cheap (heads on a frozen trunk), so the
    dense network gets a whole budget, and the method this share of it more. `samples`: decisions
    are drawn or disturbed in training, so batch-norm statistics are estimated again at its end.
    `calibrates`: thresholds are chosen after training, on training images that are held
    out for it. `reconstructed` lists the settings that no publication states. `exempt` maps the
    name of a conformance check to the reason why it does not apply.
    """

    decision: Literal["static", "up front", "per unit", "halting", "exit"]
    role: Literal["dense", "dynamic", "control"] = "dynamic"
    starts_from_dense: bool = False
    extra_share: float = 0.0
    samples: bool = False
    calibrates: bool = False
    reconstructed: tuple[str, ...] = ()
    exempt: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LossTerms:
    """A loss to descend and its parts for the log, all means over the batch.

    `logits`, if given, (N, K), is what the training accuracy is read from.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One operating point of a trained network: a name and the network set to it."""

    name: str
    net: DynamicNet


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that share a learning rate: `lr_scale` times the phase's."""

    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0


class Phase(ABC):
    """One stretch of training: what is trained, by which optimizer, and its loss.

    `config` is for the phase alone: settings of the method that its loss reads. Of the rest,
    `**budget.schedule()` is what the recipe says.
    """

    def __init__(
        self,
        name: str,
        config: Any = None,
        *,
        epochs: int,
        batch_size: int,
        optimizer: OptimizerSpec,
    ) -> None:
        self.name = name
        self.config = config
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer

    def groups(self, net: DynamicNet) -> Sequence[ParameterGroup]:
        """Return the parameters this phase changes; all others are frozen meanwhile."""
        return [ParameterGroup(tuple(net.parameters()))]

    def set_modes(self, net: DynamicNet) -> None:
        """Put the parts of the network into training or eval mode, before each epoch."""
        net.train()

    @abstractmethod
    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        """Return the loss on one batch; `progress` runs from 0 to 1 over the phase."""


C = TypeVar("C", bound=MethodConfig, default=MethodConfig)


class Method(ABC, Generic[C]):
    """A plugin: one method of dynamic inference, a static baseline or a control.

    Generic in its settings: `class Sgad(Method[SgadConfig])` makes `Sgad.Config` that class.
    `contract` is the version of this contract that the class was written for.
    `version` is raised when the code changes in a way that changes numbers: finished runs of other
    versions are not found again.
    """

    name: ClassVar[str]
    contract: ClassVar[int] = 1
    version: ClassVar[int] = 1
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    reference: ClassVar[Reference]
    tags: ClassVar[Tags]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for base in get_original_bases(cls):
            for settings in get_args(base):
                if isinstance(settings, type) and issubclass(settings, MethodConfig):
                    cls.Config = settings

    def variant(self, config: C) -> str:
        """Return a short label of what `config` sets apart from the default, or ''."""
        return ""

    def starts_from_dense(self, config: C) -> bool:
        """Return whether training begins from a trained dense network: as its tags say, unless a
        setting decides."""
        return self.tags.starts_from_dense

    @abstractmethod
    def published_epochs(self, config: C) -> int:
        """Return the epochs of the published schedule, all phases, without the dense net that
        the method may start from."""

    @abstractmethod
    def build(self, backbone: Backbone, config: C) -> DynamicNet:
        """Return the untrained network; the trunk takes the backbone's weights if it has any."""

    @abstractmethod
    def phases(self, config: C, budget: Budget) -> Sequence[Phase]:
        """Return the phases of training whose epochs add up to `budget.epochs`."""

    def calibrate(self, net: DynamicNet, config: C, held_out: Iterable[Batch]) -> None:
        """Choose after training what is chosen by looking at accuracy, and keep it in buffers.

        Called once, in eval mode, if `tags.calibrates`; `held_out` are training images that no
        phase has seen, not augmented, read anew each time they are gone through. What is chosen
        must travel in the state dict.
        """
        del net, config, held_out

    def operating_points(self, net: DynamicNet, config: C) -> Sequence[Point]:
        """Return the points at which the trained network is judged; they share its weights."""
        return [Point("", net)]


@dataclass(frozen=True, slots=True)
class SourcePoint:
    """One operating point of a finished run: its network and what was measured of it.

    `block_rates` maps each block to the share of images that ran it, `nflops` includes the policy.
    """

    name: str
    net: DynamicNet
    block_rates: Mapping[str, float]
    nflops: float


@dataclass(frozen=True, slots=True)
class Source:
    """A finished run that a control is made from; networks carry the trained weights."""

    method: str
    points: Sequence[SourcePoint]


class DerivedMethod(Method[C]):
    """A control made from a finished run: of a dense network, or of a dynamic method.

    With `trains` it is trained, by default for as long as its source was, else not at all.
    """

    source_role: ClassVar[Literal["dense", "dynamic"]] = "dynamic"
    trains: ClassVar[bool] = True

    def own_epochs(self, source_epochs: int, config: C) -> int:
        """Return how long it is trained after a source of `source_epochs`."""
        return source_epochs if self.trains else 0

    @abstractmethod
    def derive(self, source: Source, backbone: Backbone, config: C) -> DynamicNet:
        """Return the network that is trained and measured; its weights come from the source.

        Raises:
            NotApplicable: it cannot be made of this source; never built from names that mean
                something else there.
        """

    def build(self, backbone: Backbone, config: C) -> DynamicNet:
        raise ConfigError(
            f"'{self.name}' is made from a finished run.", hint="Give one with --source RUN."
        )

    def published_epochs(self, config: C) -> int:
        """Return 0: how long it trains depends on its source."""
        return 0


METHODS: Registry[Method] = Registry(Method, kind="method", group="bench.methods")
