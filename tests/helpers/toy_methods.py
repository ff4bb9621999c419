"""Small healthy methods of each kind: per unit, up front, exit, derived; tests lie elsewhere.

The broken ones in the tests differ from these in one thing each.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.method import (
    Backbone,
    Batch,
    Budget,
    DerivedMethod,
    DynamicNet,
    LossTerms,
    Method,
    MethodConfig,
    Output,
    Phase,
    Point,
    Reference,
    Source,
    Tags,
    Unit,
)
from bench.networks.gated import GatedResNet
from bench.networks.policy import BlockByBlock, Policy, UpFront, straight_through

NOWHERE = Reference(title="A toy", authors="Nobody", year=2026, url="")


class Gates(Policy):
    """One gate per block, read from the block's input; the first block always runs."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__([b == 0 for b in range(backbone.num_blocks)])
        self.widths = [channels for channels, _, _ in backbone.input_shapes]
        self.nets = nn.ModuleDict({str(b): nn.Linear(self.widths[b], 1) for b in self.gated})

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> BlockByBlock:
        return BlockByBlock(self, self.decide)

    def decide(self, index: int, h_nchw: Tensor) -> Tensor:
        z_n = self.score(index, h_nchw)
        return straight_through(z_n > 0, torch.sigmoid(z_n))

    def score(self, index: int, h_nchw: Tensor) -> Tensor:
        z_n1: Tensor = self.nets[str(index)](h_nchw.mean(dim=(2, 3)))
        return z_n1.flatten()

    def units(self) -> Sequence[Unit]:
        return [
            Unit(f"gate{b}", self.nets[str(b)], (self.widths[b],), True, "policy")
            for b in self.gated
        ]


class CheapAndRight(Phase):
    """Cross-entropy, plus the share of blocks run if the network says it."""

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        output = net(batch.x_nchw)
        total = F.cross_entropy(output.logits, batch.labels_n)
        if "gates_ng" in output.terms:
            total = total + 0.1 * output.terms["gates_ng"].mean()
        for logits in output.terms.get("exit_logits_enk", ()):
            total = total + F.cross_entropy(logits, batch.labels_n)
        return LossTerms(total, {"loss": total}, output.logits)


class Toy(Method):
    """Base of the toys: one phase; not registered anywhere."""

    reference = NOWHERE
    tags = Tags(decision="per unit")

    def published_epochs(self, config: MethodConfig) -> int:
        return 10

    def phases(self, config: MethodConfig, budget: Budget) -> Sequence[Phase]:
        return [CheapAndRight("main", **budget.schedule())]


class PerUnitConfig(MethodConfig):
    strength: float = Field(0.5, gt=0, lt=1)
    flavour: Literal["plain", "fancy"] = "plain"


class PerUnit(Toy):
    name = "per_unit"
    Config = PerUnitConfig
    tags = Tags(decision="per unit", reconstructed=("strength",))

    def build(self, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        return GatedResNet(backbone, Gates(backbone))


class ByContrast(Policy):
    """No parameter at all: images of little contrast skip every second block."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__([block % 2 == 0 for block in range(num_blocks)])

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        runs_n = (x_nchw.std(dim=(1, 2, 3)) >= 1.0).float()
        gates_ng = runs_n[:, None].expand(-1, len(self.gated))
        return UpFront(self.spread(gates_ng), always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return ()


class WithoutParameters(Toy):
    name = "without_parameters"
    tags = Tags(decision="up front")

    def build(self, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        return GatedResNet(backbone, ByContrast(backbone.num_blocks))


class ExitNet(DynamicNet):
    """One exit after the first stage, taken where its top probability exceeds a threshold."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        plain = GatedResNet(backbone)
        self.trunk = plain.trunk
        self.plain_units = plain.units()
        self.border = backbone.num_blocks // 3
        self.exit = nn.Linear(16, backbone.num_classes)
        self.register_buffer("thresholds", torch.full((2,), 0.5))
        self.chosen = 0

    def units(self) -> Sequence[Unit]:
        found = []
        for unit in self.plain_units:
            late = unit.name == "head" or (
                unit.name.startswith("block")
                and int(unit.name.removeprefix("block").partition(".")[0]) >= self.border
            )
            found.append(unit._replace(always_on=not late))
        return [*found, Unit("exit", self.exit, (16,), True, "policy")]

    def _early(self, x_nchw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = self.trunk.stem(x_nchw)
        for block in self.trunk.blocks[: self.border]:
            state = block(state)
        logits = self.exit(state.mean(dim=(2, 3)))
        top_n = logits.softmax(dim=1).amax(dim=1)
        return state, logits, top_n > self.thresholds[self.chosen]

    def _late(self, state: Tensor) -> Tensor:
        for block in self.trunk.blocks[self.border :]:
            state = block(state)
        logits: Tensor = self.trunk.head(state)
        return logits

    def _trace(self, leaves_n: Tensor) -> Tensor:
        stays_n = 1 - leaves_n.float()
        columns = [torch.ones_like(stays_n) if u.always_on else stays_n for u in self.units()]
        return torch.stack(columns, dim=1)

    def forward(self, x_nchw: Tensor) -> Output:
        state, early, leaves_n = self._early(x_nchw)
        late = self._late(state)
        terms = {"exit_logits_enk": early[None]}
        return Output(torch.where(leaves_n[:, None], early, late), self._trace(leaves_n), terms)

    def execute(self, x_nchw: Tensor) -> Output:
        state, logits, leaves_n = self._early(x_nchw)
        if not bool(leaves_n.all()):
            logits = logits.clone()
            logits[~leaves_n] = self._late(state[~leaves_n])
        return Output(logits, self._trace(leaves_n), {})

    def forward_all_on(self, x_nchw: Tensor) -> Output:
        state, _, leaves_n = self._early(x_nchw)
        return Output(self._late(state), self._trace(torch.zeros_like(leaves_n)), {})

    def forward_permuted(self, x_nchw: Tensor, order_n: Tensor) -> Output:
        state, early, leaves_n = self._early(x_nchw)
        leaves_n = leaves_n[order_n]
        logits = torch.where(leaves_n[:, None], early, self._late(state))
        return Output(logits, self._trace(leaves_n), {})


class Exit(Toy):
    name = "exit"
    tags = Tags(decision="exit", calibrates=True)

    def build(self, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        return ExitNet(backbone)

    @torch.no_grad()
    def calibrate(self, net: DynamicNet, config: MethodConfig, held_out: Iterable[Batch]) -> None:
        logits = [net(batch.x_nchw).terms["exit_logits_enk"][0] for batch in held_out]
        top_n = torch.cat(logits).softmax(dim=1).amax(dim=1)
        net.thresholds.copy_(top_n.quantile(torch.tensor([0.3, 0.7])))

    def operating_points(self, net: DynamicNet, config: MethodConfig) -> Sequence[Point]:
        return [Point(f"exit {n}", self._at(net, n)) for n in range(2)]

    @staticmethod
    def _at(net: ExitNet, chosen: int) -> ExitNet:
        point = copy.copy(net)
        point.chosen = chosen
        return point


class FixedThreshold(Exit):
    """Does not calibrate: an exit whose threshold no image reaches before it is shaken."""

    name = "fixed_threshold"
    tags = Tags(decision="exit")
    calibrate = Method.calibrate


class StaticHalf(DerivedMethod, Toy):
    """Keeps the blocks that most images ran, for everyone."""

    name = "static_half"
    tags = Tags(
        decision="static",
        role="control",
        exempt={
            "gradient": "blocks that nobody runs are not trained",
            "all_on": "blocks that nobody runs are no longer there",
        },
    )

    def published_epochs(self, config: MethodConfig) -> int:
        return DerivedMethod.published_epochs(self, config)

    def derive(self, source: Source, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        point = source.points[0]
        assert isinstance(point.net, GatedResNet)
        net = GatedResNet(backbone, Kept([rate >= 0.5 for rate in point.block_rates.values()]))
        net.trunk.load_state_dict(point.net.trunk.state_dict())
        return net


class Kept(Policy):
    """The same blocks for every image."""

    def __init__(self, kept: Sequence[bool]) -> None:
        super().__init__([True] * len(kept))

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        return UpFront(x_nchw.new_ones(len(x_nchw), len(self.always_on)), always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return ()


class Untrained(DerivedMethod, Toy):
    """A dense network whose blocks are dropped by the brightness of the image, never trained."""

    name = "untrained"
    tags = Tags(decision="up front", role="control")
    source_role: ClassVar[Literal["dense", "dynamic"]] = "dense"
    trains = False

    def derive(self, source: Source, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        point = source.points[0]
        assert isinstance(point.net, GatedResNet) and point.nflops == 1
        net = GatedResNet(backbone, ByContrast(backbone.num_blocks))
        net.trunk.load_state_dict(point.net.trunk.state_dict())
        return net


HEALTHY: tuple[type[Method], ...] = (
    PerUnit,
    WithoutParameters,
    Exit,
    FixedThreshold,
    StaticHalf,
    Untrained,
)


def made(method: type[Method], **changed: Any) -> type[Method]:
    """Return a method that differs from `method` in some of its attributes."""
    return type(f"Other{method.__name__}", (method,), changed)
