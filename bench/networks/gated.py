"""The gated network: the plain trunk, a policy, and both execution paths.

Every method that decides block by block or up front is an instance of this class with its own
policy; the loop itself lives in execution.py. Owns the list of units and the columns of the trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from bench.errors import NotApplicable
from bench.networks.execution import (
    BlockStep,
    GateResidual,
    Merge,
    branching,
    masked,
    per_image,
    run_blocks,
    skipping,
)
from bench.networks.local import LocalResidual
from bench.networks.policy import (
    Decisions,
    EverythingRuns,
    GivenGates,
    Policy,
    RecordedDecisions,
    among_ones,
)
from bench.networks.trunk import Backbone, Block, Trunk, blocks_of
from bench.networks.unit import Branch, DynamicNet, Output, RemovedResidual, Unit

Gates = Tensor | Sequence[Tensor | None]


class GatedResNet(DynamicNet):
    """A trunk whose blocks run where the policy says so.

    `Output.terms` of `forward` are those of the decisions, and `shares_nb` (N, B), with gradient:
    the share of each block's residual that ran, as the trace has it. Modules that only training
    needs go into `training_only`; `inference_net` drops them.
    """

    def __init__(
        self, backbone: Backbone, policy: Policy | None = None, *, merge: Merge | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.trunk: Trunk = backbone.build()
        self.policy = policy or EverythingRuns([True] * backbone.num_blocks)
        self.merge = merge or GateResidual()
        self.training_only = nn.ModuleDict()
        self._is_block: list[bool] | None = None

    @property
    def blocks(self) -> list[Block]:
        return blocks_of(self.trunk)

    def units(self) -> Sequence[Unit]:
        """Stem, then each block (shortcut and `then` where they have a cost), head, policy."""
        fixed = self.policy.always_on
        return [*trunk_units(self.trunk, self.backbone, always_on=fixed), *self.policy.units()]

    def forward(self, x_nchw: Tensor) -> Output:
        stem = self.trunk.stem(x_nchw)
        decisions = self.policy.begin(x_nchw, stem)
        state, shares_nb = self._blocks(stem, decisions, masked(self.merge))
        terms = {**decisions.terms(), "shares_nb": shares_nb}
        return Output(self.trunk.head(state), self._trace(shares_nb), terms)

    def forward_with(self, x_nchw: Tensor, gates: Gates) -> Output:
        """Run masked with the given gates in place of the policy's own: (N, B), or one for each
        block as `Decisions.gate` has it."""
        return self._with(x_nchw, gates, masked(self.merge))

    def forward_all_on(self, x_nchw: Tensor) -> Output:
        return self.forward_with(x_nchw, x_nchw.new_ones(len(x_nchw), len(self.blocks)))

    def forward_permuted(self, x_nchw: Tensor, order_n: Tensor) -> Output:
        own = self.decided(x_nchw)
        return self.forward_with(x_nchw, [gate if gate is None else gate[order_n] for gate in own])

    def execute(self, x_nchw: Tensor) -> Output:
        stem = self.trunk.stem(x_nchw)
        decisions = self.policy.begin(x_nchw, stem).on_host()
        return Output(*self._run(stem, decisions, skipping(self.merge)), decisions.terms())

    def execute_with(self, x_nchw: Tensor, gates: Gates) -> Output:
        """Run really skipping with the given gates in place of the policy's own."""
        on_host = gates.cpu() if isinstance(gates, Tensor) else gates
        return self._with(x_nchw, on_host, skipping(self.merge))

    def run(self, x_nchw: Tensor, branch: Branch) -> tuple[Tensor, Tensor]:
        stem = self.trunk.stem(x_nchw)
        return self._run(stem, self.policy.begin(x_nchw, stem), branching(self.merge, branch))

    @torch.no_grad()
    def position_costs(self, x_nchw: Tensor) -> Tensor | None:
        own, size = self.decided(x_nchw), x_nchw.shape[2:]
        if all(gate is None or gate.ndim == 1 for gate in own):
            return None
        total = x_nchw.new_zeros(len(x_nchw), 1, *size)
        for block, gate, state in zip(self.blocks, own, self.backbone.layout.states, strict=False):
            if block.is_removed:
                continue
            if gate is None or gate.ndim == 1:
                total += 1 if gate is None else per_image(gate, total)
            else:
                local = LocalResidual(block)
                total += local.coverage(local.needed(gate, state[1:]), state[1:], size)
        return total[:, 0]

    def inference_net(self, *, dead_blocks: frozenset[str] = frozenset()) -> DynamicNet:
        """Return a copy without training-only modules; dead blocks keep only their shortcut.

        A dead block stays skipped, whatever its gate says of an image not seen before.

        Raises:
            ValueError: a block that always runs is called dead.
        """
        for b, block in enumerate(self.blocks):
            runs = self.policy.always_on[b] and not block.is_removed
            if runs and f"block{b}" in dead_blocks:
                raise ValueError(f"block{b} runs for every image; it cannot be dead")
        net = super().inference_net()
        assert isinstance(net, GatedResNet)
        net.remove_blocks(dead_blocks)
        return net

    def remove_blocks(self, names: frozenset[str]) -> None:
        """Delete the residuals of the named blocks, for every image, permanently."""
        for b, block in enumerate(self.blocks):
            if f"block{b}" in names:
                block.remove()

    def decided(self, x_nchw: Tensor) -> list[Tensor | None]:
        """Return the gates of all blocks, (N,) or (N, 1, h, w), None for one that always runs."""
        stem = self.trunk.stem(x_nchw)
        noted = RecordedDecisions(self.policy.begin(x_nchw, stem))
        self._blocks(stem, noted, masked(self.merge))
        return noted.gates

    def _with(self, x_nchw: Tensor, gates: Gates, step: BlockStep) -> Output:
        decisions = GivenGates(gates.unbind(1) if isinstance(gates, Tensor) else gates)
        return Output(*self._run(self.trunk.stem(x_nchw), decisions, step), {})

    def _run(self, stem: Tensor, decisions: Decisions, step: BlockStep) -> tuple[Tensor, Tensor]:
        state, shares_nb = self._blocks(stem, decisions, step)
        return self.trunk.head(state), self._trace(shares_nb)

    def _blocks(self, stem: Tensor, decisions: Decisions, step: BlockStep) -> tuple[Tensor, Tensor]:
        return run_blocks(self.blocks, stem, decisions=decisions, merge=self.merge, step=step)

    def _trace(self, shares_nb: Tensor) -> Tensor:
        if self._is_block is None:
            # Kept: describing the units of a ResNet-110 takes longer than skipping all of them.
            self._is_block = [unit.role == "block" for unit in self.units()]
        return among_ones(shares_nb.detach(), self._is_block)


def has_cost(module: nn.Module) -> bool:
    """Whether a shortcut or a `then` is a unit: whether it has weights, or had."""
    return isinstance(module, RemovedResidual) or any(True for _ in module.parameters())


def trunk_units(
    trunk: Trunk, backbone: Backbone, *, always_on: Sequence[bool] | None = None
) -> list[Unit]:
    """Return the units of a trunk: stem, each block (shortcut and `then` where they cost), head.

    `always_on` says which blocks run for every image, by default all; a removed block never runs.
    """
    units = [Unit("stem", trunk.stem, backbone.image_shape, True, "stem")]
    layout = backbone.layout
    for b, block in enumerate(blocks_of(trunk)):
        shape = layout.states[b]
        runs = (always_on is None or always_on[b]) and not block.is_removed
        units.append(Unit(f"block{b}", block.residual, shape, runs, "block"))
        if has_cost(block.shortcut):
            units.append(Unit(f"block{b}.shortcut", block.shortcut, shape, True, "shortcut"))
        if has_cost(block.then):
            units.append(Unit(f"block{b}.then", block.then, layout.sums[b], True, "shortcut"))
    units.append(Unit("head", trunk.head, layout.states[-1], True, "head"))
    return units


def whole_trunk(net: DynamicNet, backbone: Backbone, *, of: str) -> Trunk:
    """Return the trunk inside `net`, the network of the method `of`, if what its units called
    block0, block1 ... name are the blocks of that trunk, all of them.

    Raises:
        NotApplicable: there is none, or its units are something else.
    """
    trunk = getattr(net, "trunk", None)
    if not isinstance(trunk, Trunk) or not trunk.is_complete:
        raise NotApplicable(f"'{of}' has no whole trunk inside.")
    own = {f"block{b}": block.residual for b, block in enumerate(blocks_of(trunk))}
    found = {unit.name: unit.module for unit in net.units() if unit.role == "block"}
    strange = [name for name, module in found.items() if own.get(name) is not module]
    if strange or own.keys() != found.keys() or len(own) != backbone.num_blocks:
        named = ", ".join(strange or list(found))
        raise NotApplicable(
            f"'{of}' runs units of its own ({named}), which are not the {backbone.num_blocks} "
            f"blocks of {backbone.name}."
        )
    return trunk


def block_columns(units: Iterable[Unit]) -> list[int]:
    """Return the columns of the trace that belong to blocks, in order."""
    return [column for column, unit in enumerate(units) if unit.role == "block"]
