"""Checks of the states a network can be put into: all on, all off, permuted, shipped.

Each takes a specimen and raises a Shortfall.
"""

from __future__ import annotations

from math import fsum

import torch

from bench.errors import NotApplicable
from bench.measure.cost import macs_per_image
from bench.measure.modes import evaluating
from bench.networks.execution import skipped
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.trunk import Trunk
from bench.networks.unit import DynamicNet, Output
from bench.testing.outcome import (
    Shortfall,
    Specimen,
    require,
    require_close,
    require_same,
    require_same_trace,
    runs_of,
)

_SCALED = (
    "a unit is scaled, normalised or replaced even where it runs, or Trunk.forward or Block.forward"
    " is overridden."
)
_LEFT = "a skipped block leaves something behind: see the Merge rule."
_OTHERS = "what image n is told is not what image order_n[n] would decide."
_SHIPPED = "inference_net drops or changes something that inference needs."


def all_on(tried: Specimen) -> None:
    """With everything on it is its plain trunk, bit for bit."""
    net, x = tried.net, tried.x_nchw[:9]
    with evaluating(net):
        plain = Output(_trunk_of(net)(x), torch.ones(len(x), 0), {})
        ways = {"forward_all_on": net.forward_all_on(x)}
        if isinstance(net, GatedResNet):
            ways["execute_with all on"] = net.execute_with(x, torch.ones(len(x), len(net.blocks)))
        for name, found in ways.items():
            what = f"{tried.where}: {name} and the plain trunk"
            require_close(found, plain, what=what, cause=_SCALED, tolerance=0)
            share = found.executed[:, block_columns(net.units())].mean().item()
            require(share == 1, f"{what}: the trace says that {share:.1%} of the blocks ran.")


def _trunk_of(net: DynamicNet) -> Trunk:
    trunk = getattr(net, "trunk", None)
    if not isinstance(trunk, Trunk):
        raise Shortfall(
            f"{type(net).__name__} has no `trunk`, so there is no dense network to compare with.",
            "build on GatedResNet or keep the trunk of backbone.build() as `trunk`; or say in"
            " Tags.exempt, under 'all_on', why there is none.",
        )
    return trunk


def all_off(tried: Specimen) -> None:
    """With every gate closed it is stem, shortcuts and head."""
    net, x = tried.net, tried.x_nchw[:9]
    if not isinstance(net, GatedResNet):
        raise NotApplicable(f"{type(net).__name__} has no way to run no block.")
    zeros_nb = torch.zeros(len(x), len(net.blocks))
    with evaluating(net):
        state = net.trunk.stem(x)
        for block in net.blocks:
            state = skipped(block, state, net.merge)
        expected = Output(net.trunk.head(state), torch.zeros(len(x), 0), {})
        for run in (net.forward_with, net.execute_with):
            output = run(x, zeros_nb)
            what = f"{tried.where}: {run.__name__} all off and stem, shortcuts, head"
            require_close(output, expected, what=what, cause=_LEFT, tolerance=0)
            ran = output.executed[:, block_columns(net.units())].any()
            require(not ran, f"{what}: the trace says that blocks ran.")


def permuted(tried: Specimen) -> None:
    """By the decisions of each other's images a batch costs exactly the same."""
    net, x, where = tried.net, tried.x_nchw, tried.where
    order_n = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    with evaluating(net):
        own = net(x)
        shuffled = net.forward_permuted(x, order_n)
        unmoved = net.forward_permuted(x, torch.arange(len(x)))
    # Summed exactly: shares of units are no whole numbers, and the images stand in another order.
    costs = [tried.costs()[unit.name] for unit in net.units()]
    spent, expected = (fsum(macs_per_image(o.executed, costs).tolist()) for o in (shuffled, own))
    require(
        spent == expected,
        f"{where}: by the decisions of others a batch costs {spent:,.0f} MACs, by its own"
        f" {expected:,.0f}; they must be the same.",
        "some units follow the image and not the decision that it was given.",
    )
    followed = Output(own.logits, own.executed[order_n], {})
    what = f"{where}: forward_permuted and the images whose decisions it follows"
    blocks = [_blocks_of(output, net) for output in (shuffled, followed)]
    require_same_trace(*blocks, net=net, what=what, cause=_OTHERS)
    what = f"{where}: forward_permuted with every image in its place and forward"
    require_same(unmoved, own, net=net, what=what, cause=_OTHERS)


def _blocks_of(output: Output, net: DynamicNet) -> Output:
    # In place of the other columns stand ones, so that a message can name the unit.
    executed_nu = torch.ones_like(output.executed)
    columns = block_columns(net.units())
    executed_nu[:, columns] = output.executed[:, columns]
    return Output(output.logits, executed_nu, {})


def inference_net(tried: Specimen) -> None:
    """What is shipped computes the same, without what only training needs."""
    where, net, x = tried.where, tried.net, tried.x_nchw
    with evaluating(net):
        own, units = net(x), net.units()
        ran = dict(zip((unit.name for unit in units), own.executed.any(dim=0), strict=True))
        dead = frozenset(u.name for u in units if u.role == "block" and not ran[u.name])
        shipped = net.inference_net(dead_blocks=dead)
        for name, run in runs_of(shipped, x).items():
            what = f"{where}: {name} of inference_net without {len(dead)} dead blocks and forward"
            require_same(run(x), own, net=net, what=what, cause=_SHIPPED)
    known = net.state_dict()
    extra = [k for k in shipped.state_dict() if k not in known or k.startswith("training_only.")]
    require(not extra, f"{where}: what is shipped holds {extra[:1]}, which it should not.")
