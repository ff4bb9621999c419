"""Checks of the states a network can be put into: all on, all off, permuted, saved, shipped.

Each takes the workbench and raises a Shortfall; what it proves is said in suite.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

import torch
from safetensors.torch import load
from torch import Tensor

from bench.measure.cost import macs_per_image
from bench.measure.modes import evaluating
from bench.method import Point
from bench.networks.execution import skipped
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.trunk import Trunk
from bench.networks.unit import DynamicNet, Output
from bench.seeding import seeded
from bench.testing.outcome import (
    DoesNotApply,
    Shortfall,
    explained,
    require_close,
    require_equal,
    require_same_trace,
    runs_of,
)
from bench.testing.paths import saved
from bench.testing.synthetic import images
from bench.testing.workbench import TrainedNetwork, Workbench

_OTHERS = "what image n is told is not what image order_n[n] would decide."
_LOST = (
    "something set in training or calibration is a plain attribute; make it a buffer"
    " (register_buffer), so that it travels with the weights."
)


def all_on(bench: Workbench) -> None:
    """With everything on it is its plain trunk, bit for bit."""
    for trained in bench.networks():
        net, x = trained.net, images(9, seed=10)
        with evaluating(net):
            plain = _dense(net, x)
            everything = net.forward_all_on(x)
            what = f"{trained.backbone.name}: forward_all_on and the plain trunk"
            cause = "a unit is scaled, normalised or replaced even where it runs."
            require_equal(everything, plain, what=what, cause=cause)
            share = everything.executed[:, block_columns(net.units())].mean().item()
            if share != 1:
                raise Shortfall(f"{what}: the trace says that {share:.1%} of the blocks ran.")
            if isinstance(net, GatedResNet):
                ones_nb = torch.ones(len(x), len(net.blocks))
                what = f"{trained.backbone.name}: execute_with all on and the plain trunk"
                require_equal(net.execute_with(x, ones_nb), plain, what=what, cause=cause)


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
            raise DoesNotApply(f"{type(net).__name__} has no way to run no block.")
        with evaluating(net):
            state = net.trunk.stem(x)
            for block in net.blocks:
                state = skipped(block, state, net.merge)
            expected = Output(net.trunk.head(state), torch.zeros(len(x), 0), {})
            zeros_nb = torch.zeros(len(x), len(net.blocks))
            for name, run in (
                ("forward_with", net.forward_with),
                ("execute_with", net.execute_with),
            ):
                output = run(x, zeros_nb)
                what = f"{trained.backbone.name}: {name} all off and stem, shortcuts, head"
                cause = "a skipped block leaves something behind: see the Merge rule."
                require_equal(output, expected, what=what, cause=cause)
                if bool(output.executed[:, block_columns(net.units())].any()):
                    raise Shortfall(f"{what}: the trace says that blocks ran.")


def permuted(bench: Workbench) -> None:
    """By the decisions of each other's images a batch costs exactly the same."""
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    same = torch.arange(24)
    for trained in bench.networks():
        costs = list(trained.costs.values())
        for point in trained.points:
            net, x, where = point.net, images(24, seed=13), trained.where(point)
            with evaluating(net), explained(net, x):
                own = net(x)
                shuffled, unmoved = net.forward_permuted(x, order), net.forward_permuted(x, same)
                _require_same_cost(shuffled, own, costs, where)
                followed = Output(own.logits, own.executed[order], {})
                require_same_trace(
                    _blocks_of(shuffled, net),
                    _blocks_of(followed, net),
                    net=net,
                    what=f"{where}: forward_permuted and the images whose decisions it follows",
                    cause=_OTHERS,
                )
                what = f"{where}: forward_permuted with every image in its place and forward"
                require_same_trace(unmoved, own, net=net, what=what, cause=_OTHERS)
                require_close(unmoved, own, what=what, cause=_OTHERS)


def _require_same_cost(found: Output, own: Output, costs: list[int], where: str) -> None:
    # Summed exactly: shares of units are no whole numbers, and the images stand in another order.
    spent, expected = (fsum(macs_per_image(o.executed, costs).tolist()) for o in (found, own))
    if spent != expected:
        raise Shortfall(
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
    for trained in bench.networks():
        twin = _twin(bench, trained)
        points = list(bench.method.operating_points(twin, bench.config))
        if [p.name for p in points] != [p.name for p in trained.points]:
            raise Shortfall(f"{trained.backbone.name}: other operating points come back.", _LOST)
        x = images(24, seed=8)
        for point, theirs in zip(trained.points, points, strict=True):
            with evaluating(point.net), evaluating(theirs.net), explained(point.net, x):
                again = runs_of(theirs.net, x)
                for name, run in runs_of(point.net, x).items():
                    ours, back = run(x), again[name](x)
                    what = f"{trained.where(point)}: {name} before and after saving"
                    require_same_trace(back, ours, net=point.net, what=what, cause=_LOST)
                    require_equal(back, ours, what=what, cause=_LOST)


def _twin(bench: Workbench, trained: TrainedNetwork) -> DynamicNet:
    weights = saved(trained.net)
    with seeded(5, "twin"):
        twin = bench.build(trained.backbone, bench.config, source=trained.source).eval()
    try:
        twin.load_state_dict(load(weights))
    except RuntimeError as error:
        said = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise Shortfall(
            f"A newly built network does not take the weights back: {said}",
            "modules or buffers appear or change shape after build().",
        ) from error
    return twin


def inference_net(bench: Workbench) -> None:
    """What is shipped computes the same, without what only training needs."""
    for tried in bench.specimens():
        where, net, x = tried.where, tried.net, tried.x_nchw
        with evaluating(net), explained(net, x):
            own = net(x)
            dead = frozenset(
                unit.name
                for column, unit in enumerate(net.units())
                if unit.role == "block" and not bool(own.executed[:, column].any())
            )
            shipped = net.inference_net(dead_blocks=dead)
            what = f"{where}: {{}} of inference_net without {len(dead)} dead blocks and forward"
            cause = "inference_net drops or changes something that inference needs."
            for name, run in runs_of(shipped, x).items():
                output = run(x)
                require_same_trace(output, own, net=net, what=what.format(name), cause=cause)
                require_close(output, own, what=what.format(name), cause=cause)
        extra = set(shipped.state_dict()) - set(net.state_dict())
        left = {key for key in shipped.state_dict() if key.startswith("training_only.")}
        if extra or left:
            name = min(extra or left)
            raise Shortfall(f"{where}: what is shipped holds '{name}', which it should not.")


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
    if not names:
        raise Shortfall("operating_points returns none.", "a network has at least one.")
    if len(set(names)) != len(names):
        raise Shortfall(f"Two operating points have the same name: {', '.join(names)}.")
    own = [unit.name for unit in net.units()]
    for point in points:
        if [unit.name for unit in point.net.units()] != own:
            raise Shortfall(
                f"The units of operating point '{point.name}' are not those of the network.",
                "points share one network and differ in thresholds only.",
            )
