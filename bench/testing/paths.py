"""Checks of the two ways to run a network: what they compute, report, cost and leave behind.

Each takes the workbench and raises a Shortfall; what it proves is said in suite.py.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bench.errors import NotExecutable
from bench.measure.cost import counted_macs, macs_per_image
from bench.measure.modes import evaluating
from bench.networks.unit import DynamicNet, Output
from bench.seeding import random_fingerprint
from bench.testing.comparing import (
    explained,
    joined,
    require_close,
    require_equal,
    require_same_trace,
    runs_of,
)
from bench.testing.made_up import CLASSES, images
from bench.testing.outcome import Shortfall
from bench.testing.workbench import Workbench

_OTHER_DECISION = (
    "the two paths decide on different states: a gate reads its input after it was overwritten,"
    " or a skipped block leaves another state than a masked one (the Merge rule)."
)
_OTHER_STATE = (
    "the skipping loop sees state that forward does not, such as batch statistics, or a block is"
    " left out that forward mixes in."
)
_BATCH = (
    "deciding uses statistics, a ranking or a quota over the batch; in eval mode an image may only"
    " look at itself."
)
_RANDOM = "noise or sampling that is not switched off where `self.training` is False."


def outputs(bench: Workbench) -> None:
    for where, net in bench.points():
        units = net.units()
        names = [unit.name for unit in units]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise Shortfall(f"{where}: several units are called {', '.join(twice)}.")
        fixed = [column for column, unit in enumerate(units) if unit.always_on]
        with evaluating(net):
            for name, run in runs_of(net).items():
                output = run(images(6, seed=3))
                what = f"{where}: {name}"
                _require_output(output, count=6, units=len(units), what=what)
                _require_fixed_on(output.executed[:, fixed], [names[c] for c in fixed], what)
        if net(images(2, seed=3)).executed.requires_grad:
            raise Shortfall(f"{where}: `executed` carries gradient.", "a detach() is missing.")


def _require_output(output: object, *, count: int, units: int, what: str) -> None:
    if not isinstance(output, Output):
        raise Shortfall(f"{what} returns a {type(output).__name__}, not an Output.")
    if tuple(output.logits.shape) != (count, CLASSES):
        shape = tuple(output.logits.shape)
        raise Shortfall(f"{what} gives logits of shape {shape}, expected {(count, CLASSES)}.")
    if tuple(output.executed.shape) != (count, units):
        raise Shortfall(
            f"{what} gives a trace of shape {tuple(output.executed.shape)} for {count} images and"
            f" {units} units.",
            "units() and the columns of `executed` are not made by the same rule.",
        )
    if not bool(torch.isfinite(output.logits).all()):
        raise Shortfall(f"{what} gives logits that are not finite.")
    low, high = float(output.executed.min()), float(output.executed.max())
    if not (low >= 0 and high <= 1):
        raise Shortfall(
            f"{what} gives a trace from {low:.3g} to {high:.3g}; a share is from 0 to 1.",
            "soft gates or scores stand where the decision should.",
        )


def _require_fixed_on(executed_nf: Tensor, names: list[str], what: str) -> None:
    off_f = (executed_nf != 1).any(dim=0)
    if bool(off_f.any()):
        name = names[int(off_f.nonzero()[0])]
        raise Shortfall(f"{what} leaves out '{name}', which units() says always runs.")


def execution(bench: Workbench) -> None:
    for where, net in bench.points():
        x, what = images(41, seed=5), f"{where}: execute and forward"
        with evaluating(net):
            _require_executable(net, x[:1])
            for part in (x, x[:1], x[7:9]):
                with explained(net, x):
                    masked, skipping = net(part), net.execute(part)
                    require_same_trace(skipping, masked, net=net, what=what, cause=_OTHER_DECISION)
                    require_close(skipping, masked, what=what, cause=_OTHER_STATE)


def _require_executable(net: DynamicNet, x_nchw: Tensor) -> None:
    try:
        net.execute(x_nchw)
    except NotExecutable as error:
        raise Shortfall(
            f"There is no path that really skips: {error.message}",
            "if that is so by nature, say so in Tags.exempt, under 'execution' and 'macs'.",
        ) from error


def batch_independence(bench: Workbench) -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    for where, net in bench.points():
        x = images(24, seed=6)
        with evaluating(net):
            for name, run in runs_of(net).items():
                whole = run(x)
                shuffled = Output(whole.logits[order], whole.executed[order], {})
                for size in (1, 5, 24):
                    parts = joined([run(part) for part in torch.split(x[order], size)])
                    what = f"{where}: {name} in shuffled batches of {size} and of 24 in order"
                    require_same_trace(parts, shuffled, net=net, what=what, cause=_BATCH)
                    require_close(parts, shuffled, what=what, cause=_BATCH)


def repeatable(bench: Workbench) -> None:
    for where, net in bench.points():
        x = images(16, seed=7)
        with evaluating(net):
            for name, run in runs_of(net).items():
                first, second = run(x), run(x)
                what = f"{where}: two calls of {name}"
                require_same_trace(second, first, net=net, what=what, cause=_RANDOM)
                require_equal(second, first, what=what, cause=_RANDOM)


def side_effects(bench: Workbench) -> None:
    for where, net in bench.points():
        x = images(9, seed=8)
        images_before, state = x.clone(), {k: v.clone() for k, v in net.state_dict().items()}
        net.eval()
        with torch.no_grad():
            for name, run in runs_of(net).items():
                drawn = random_fingerprint()
                run(x)
                if drawn != random_fingerprint():
                    raise Shortfall(f"{where}: {name} draws from the global generators.", _RANDOM)
                if not torch.equal(x, images_before):
                    raise Shortfall(
                        f"{where}: {name} changes the images it is given.",
                        "an operation in place on the input of the stem.",
                    )
                if any(module.training for module in net.modules()):
                    raise Shortfall(f"{where}: {name} puts parts of the net into training mode.")
                _require_same_state(net, state, what=f"{where}: {name}")


def _require_same_state(net: DynamicNet, before: dict[str, Tensor], *, what: str) -> None:
    for key, value in net.state_dict().items():
        if key not in before or not torch.equal(value, before[key]):
            raise Shortfall(
                f"{what} changes '{key}' in eval mode.",
                "a running average or a counter that is updated outside of training.",
            )


@torch.no_grad()
def macs(bench: Workbench) -> None:
    for subject in bench.subjects():
        costs = list(bench.costs[subject.backbone.name].values())
        for point in subject.points:
            net, x = point.net.eval(), images(12, seed=9)
            _require_executable(net, x[:1])
            from_trace_n = macs_per_image(net(x).executed, costs)
            for part in (slice(0, 12), slice(0, 1), slice(1, 2), slice(2, 3)):
                counted = counted_macs(partial(net.execute, x[part]))
                traced = from_trace_n[part].sum().item()
                with explained(net, x):
                    _require_same_macs(counted, traced, len(x[part]), where=subject.where(point))


def _require_same_macs(counted: int, traced: float, count: int, *, where: str) -> None:
    gap = counted - traced
    # A share of a unit is kept in float32; whole units add up exactly.
    if abs(gap) <= 1e-6 * traced * (traced != round(traced)):
        return
    per_image = f"{abs(gap) / count:,.0f} per image"
    if gap > 0:
        cause = "something runs that units() does not list: what deciding costs (Policy.units)."
    else:
        cause = "a listed unit ran on fewer images than the trace says, or its cost is too high."
    raise Shortfall(
        f"{where}: execution of {count} images spends {counted:,} MACs, the trace accounts for"
        f" {traced:,.0f}: {per_image} too {'few' if gap > 0 else 'many'}.",
        cause,
    )
