"""The gated network: the plain trunk, a policy, and both execution paths.

Every method that decides block by block or up front is an instance of this class with its own
policy; the loop itself lives in execution.py. Owns the list of units and the columns of the trace.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from bench.errors import NotApplicable
from bench.networks.execution import GateResidual, Merge, Step, branching, masked, run_blocks
from bench.networks.policy import Decisions, EverythingRuns, Policy, UpFront, among_ones
from bench.networks.splitting import split
from bench.networks.trunk import Backbone, Block, Trunk, blocks_of
from bench.networks.unit import Branch, DynamicNet, Output, RemovedResidual, Unit


class GatedResNet(DynamicNet):
    """A trunk whose blocks run where the policy says so.

    Modules that only training needs go into `training_only`; `inference_net` drops them.
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
        return Output(*self._run(stem, decisions, masked(self.merge)), decisions.terms())

    def forward_with(self, x_nchw: Tensor, gates_nb: Tensor) -> Output:
        """Run masked with the given gates (N, B) in place of the policy's own."""
        return self._with(x_nchw, gates_nb, masked(self.merge))

    def forward_all_on(self, x_nchw: Tensor) -> Output:
        return self.forward_with(x_nchw, x_nchw.new_ones(len(x_nchw), len(self.blocks)))

    def forward_permuted(self, x_nchw: Tensor, order_n: Tensor) -> Output:
        own = self(x_nchw).executed[:, block_columns(self.units())]
        return self.forward_with(x_nchw, own[order_n])

    def execute(self, x_nchw: Tensor) -> Output:
        stem = self.trunk.stem(x_nchw)
        decisions = self.policy.begin(x_nchw, stem).on_host()
        return Output(*self._run(stem, decisions, branching(self.merge, split)), decisions.terms())

    def execute_with(self, x_nchw: Tensor, gates_nb: Tensor) -> Output:
        """Run really skipping with the given gates (N, B) in place of the policy's own."""
        return self._with(x_nchw, gates_nb.cpu(), branching(self.merge, split))

    def run(self, x_nchw: Tensor, branch: Branch) -> tuple[Tensor, Tensor]:
        stem = self.trunk.stem(x_nchw)
        return self._run(stem, self.policy.begin(x_nchw, stem), branching(self.merge, branch))

    def inference_net(self, *, dead_blocks: frozenset[str] = frozenset()) -> DynamicNet:
        """Return a copy without training-only modules; dead blocks keep only their shortcut.

        A dead block stays skipped, whatever its gate says of an image not seen before.

        Raises:
            ValueError: a block that always runs is called dead.
        """
        for b, block in enumerate(self.blocks):
            runs = self.policy.always_on[b] and not isinstance(block.residual, RemovedResidual)
            if runs and f"block{b}" in dead_blocks:
                raise ValueError(f"block{b} runs for every image; it cannot be dead")
        net = copy.deepcopy(self)
        net.training_only = nn.ModuleDict()
        net.remove_blocks(dead_blocks)
        return net

    def remove_blocks(self, names: frozenset[str]) -> None:
        """Delete the residuals of the named blocks, for every image and for good."""
        for b, block in enumerate(self.blocks):
            if f"block{b}" in names:
                block.register_module("residual", RemovedResidual())

    def _with(self, x_nchw: Tensor, gates_nb: Tensor, step: Step) -> Output:
        decisions = UpFront(gates_nb, always_on=[False] * len(self.blocks))
        return Output(*self._run(self.trunk.stem(x_nchw), decisions, step), {})

    def _run(self, stem: Tensor, decisions: Decisions, step: Step) -> tuple[Tensor, Tensor]:
        state, gates_nb = run_blocks(
            self.blocks, stem, decisions=decisions, merge=self.merge, step=step
        )
        return self.trunk.head(state), self._trace(gates_nb)

    def _trace(self, gates_nb: Tensor) -> Tensor:
        if self._is_block is None:
            # Kept: describing the units of a ResNet-110 takes longer than skipping all of them.
            self._is_block = [unit.role == "block" for unit in self.units()]
        return among_ones(gates_nb, self._is_block)


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
        fixed = always_on is None or always_on[b]
        runs = fixed and not isinstance(block.residual, RemovedResidual)
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
