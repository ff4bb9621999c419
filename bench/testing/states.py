"""Checks of the states a network can be put into: all on, all off, permuted, saved, shipped.

Each takes the workbench and raises a Shortfall; what it proves is said in suite.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

import torch
from safetensors.torch import load
from torch import Tensor

from bench.errors import NotApplicable
from bench.measure.cost import macs_per_image
from bench.measure.modes import evaluating
from bench.method import Point
from bench.networks.execution import skipped
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.trunk import Trunk
from bench.networks.unit import DynamicNet, Output
from bench.seeding import seeded
from bench.testing.outcome import (
    Shortfall,
    require,
    require_close,
    require_same,
    require_same_trace,
    runs_of,
)
from bench.testing.paths import saved
from bench.testing.synthetic import images
from bench.testing.workbench import Workbench

_SCALED = "a unit is scaled, normalised or replaced even where it runs."
_LEFT = "a skipped block leaves something behind: see the Merge rule."
_OTHERS = "what image n is told is not what image order_n[n] would decide."
_SHIPPED = "inference_net drops or changes something that inference needs."
_LOST = (
    "something set in training or calibration is a plain attribute; make it a buffer"
    " (register_buffer), so that it travels with the weights."
)


def all_on(bench: Workbench) -> None:
    """With everything on it is its plain trunk, bit for bit."""
    for trained in bench.networks():
        net, x, where = trained.net, images(9, seed=10), trained.backbone.name
        with evaluating(net):
            plain = _dense(net, x)
            ways = {"forward_all_on": net.forward_all_on(x)}
            if isinstance(net, GatedResNet):
                ones_nb = torch.ones(len(x), len(net.blocks))
                ways["execute_with all on"] = net.execute_with(x, ones_nb)
            for name, found in ways.items():
                what = f"{where}: {name} and the plain trunk"
                require_close(found, plain, what=what, cause=_SCALED, tolerance=0)
                share = found.executed[:, block_columns(net.units())].mean().item()
                require(share == 1, f"{what}: the trace says that {share:.1%} of the blocks ran.")


def _dense(net: DynamicNet, x_nchw: Tensor) -> Output:
    trunk = getattr(net, "trunk", None)
    if not isinstance(trunk, Trunk):
        raise Shortfall(
            f"{type(net).__name__} has no `trunk`, so there is no dense network to compare with.",
            "build on GatedResNet or keep the trunk of backbone.build() as `trunk`; or say in"
            " Tags.exempt, under 'all_on', why there is none.",
        )
    return Output(trunk(x_nchw), torch.ones(len(x_nchw), 0), {})


def all_off(bench: Workbench) -> None:
    """With every gate closed it is stem, shortcuts and head."""
    for trained in bench.networks():
        net, x = trained.net, images(9, seed=12)
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
                what = f"{trained.backbone.name}: {run.__name__} all off and stem, shortcuts, head"
                require_close(output, expected, what=what, cause=_LEFT, tolerance=0)
                ran = output.executed[:, block_columns(net.units())].any()
                require(not ran, f"{what}: the trace says that blocks ran.")


def permuted(bench: Workbench) -> None:
    """By the decisions of each other's images a batch costs exactly the same."""
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    x = images(24, seed=13)
    for trained in bench.networks():
        costs = list(trained.costs.values())
        for point in trained.points:
            net, where = point.net, trained.where(point)
            with evaluating(net):
                own = net(x)
                shuffled = net.forward_permuted(x, order)
                unmoved = net.forward_permuted(x, torch.arange(24))
            _require_same_cost(shuffled, own, costs, where)
            followed = Output(own.logits, own.executed[order], {})
            what = f"{where}: forward_permuted and the images whose decisions it follows"
            blocks = [_blocks_of(output, net) for output in (shuffled, followed)]
            require_same_trace(*blocks, net=net, what=what, cause=_OTHERS)
            what = f"{where}: forward_permuted with every image in its place and forward"
            require_same(unmoved, own, net=net, what=what, cause=_OTHERS)


def _require_same_cost(found: Output, own: Output, costs: list[int], where: str) -> None:
    # Summed exactly: shares of units are no whole numbers, and the images stand in another order.
    spent, expected = (fsum(macs_per_image(o.executed, costs).tolist()) for o in (found, own))
    require(
        spent == expected,
        f"{where}: by the decisions of others a batch costs {spent:,.0f} MACs, by its own"
        f" {expected:,.0f}; they must be the same.",
        "some units follow the image and not the decision that it was given.",
    )


def _blocks_of(output: Output, net: DynamicNet) -> Output:
    # In place of the other columns stand ones, so that a message can name the unit.
    executed_nu = torch.ones_like(output.executed)
    columns = block_columns(net.units())
    executed_nu[:, columns] = output.executed[:, columns]
    return Output(output.logits, executed_nu, {})


def round_trip(bench: Workbench) -> None:
    """A newly built network with the saved weights computes the same at every operating point."""
    x = images(24, seed=8)
    for trained in bench.networks():
        where, weights = trained.backbone.name, load(saved(trained.net))
        with seeded(5, "twin"):
            twin = bench.build(trained.backbone, bench.config, source=trained.source).eval()
        unlike = sorted(weights.keys() ^ twin.state_dict().keys())
        require(
            not unlike,
            f"{where}: a newly built network does not take the weights back: {unlike[:3]}",
            "modules or buffers appear or disappear after build().",
        )
        twin.load_state_dict(weights)
        points = list(bench.method.operating_points(twin, bench.config))
        same = [p.name for p in points] == [p.name for p in trained.points]
        require(same, f"{where}: other operating points come back.", _LOST)
        for point, theirs in zip(trained.points, points, strict=True):
            with evaluating(point.net), evaluating(theirs.net):
                again = runs_of(theirs.net, x)
                for name, run in runs_of(point.net, x).items():
                    back, what = again[name](x), f"{trained.where(point)}: {name} before and after"
                    what += " saving"
                    require_same(back, run(x), net=point.net, what=what, cause=_LOST, tolerance=0)


def inference_net(bench: Workbench) -> None:
    """What is shipped computes the same, without what only training needs."""
    for tried in bench.specimens():
        where, net, x = tried.where, tried.net, tried.x_nchw
        with evaluating(net):
            own, units = net(x), net.units()
            ran = dict(zip((unit.name for unit in units), own.executed.any(dim=0), strict=True))
            dead = frozenset(u.name for u in units if u.role == "block" and not ran[u.name])
            shipped = net.inference_net(dead_blocks=dead)
            for name, run in runs_of(shipped, x).items():
                what = f"{where}: {name} of inference_net without {len(dead)} dead blocks"
                what += " and forward"
                require_same(run(x), own, net=net, what=what, cause=_SHIPPED)
        kept = set(shipped.state_dict())
        extra = [
            key for key in kept if key not in net.state_dict() or key.startswith("training_only.")
        ]
        require(not extra, f"{where}: what is shipped holds {extra[:1]}, which it should not.")


def points(bench: Workbench) -> None:
    """Its operating points have names of their own and the same units."""
    for trained in bench.networks():
        require_points(trained.points, trained.net)


def require_points(points: Sequence[Point], net: DynamicNet) -> None:
    """Check that operating points have names of their own and the units of `net`.

    Raises:
        Shortfall: they do not.
    """
    names = [point.name for point in points]
    require(names, "operating_points returns none.", "a network has at least one.")
    unique = len(set(names)) == len(names)
    require(unique, f"Two operating points have the same name: {', '.join(names)}.")
    own = [unit.name for unit in net.units()]
    for point in points:
        require(
            [unit.name for unit in point.net.units()] == own,
            f"The units of operating point '{point.name}' are not those of the network.",
            "points share one network and differ in thresholds only.",
        )
