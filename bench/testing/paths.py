"""Checks of one network: what it computes, reports, costs and leaves behind, on two ways to run it.

Each takes a specimen and raises a Shortfall. A run holds its own network to those that need seconds
(engine/conforming.py).
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import ValidationError
from safetensors.torch import save
from torch import nn

from bench.errors import NotApplicable
from bench.measure.accuracy import Evaluation, point_record
from bench.measure.cost import counting, macs_per_image
from bench.measure.equivalence import check_execution
from bench.measure.modes import evaluating, in_eval_mode
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.unit import Output
from bench.runtimes.eager import Eager
from bench.seeding import random_fingerprint
from bench.testing.outcome import (
    LOGITS,
    Shortfall,
    Specimen,
    joined,
    require,
    require_same,
    runs_of,
)

_SINGLES = 4
_OTHERWISE = (
    "the skipping loop decides on other states than forward, as where a gate reads its input after"
    " it was overwritten; or a skipped block leaves another state than a masked one (the Merge"
    " rule)."
)
_BATCH = (
    "deciding uses statistics, a ranking or a quota over the batch; in eval mode an image may only"
    " look at itself."
)
_RANDOM = "noise or sampling that is not switched off where `self.training` is False."
_SOFT = (
    "a gate is soft in eval mode, or 0.9999999 or 1e-8 after rounding; there it must be exactly 0"
    " or 1: round it, in training with hard + (soft - soft.detach())."
)
_UNRECORDED = (
    "units of role 'block' are called block0, block1, ... in their order; names and numbers are"
    " what a record can hold."
)


def outputs(tried: Specimen) -> None:
    """Logits are finite; a trace has a share of each unit, all of those that always run."""
    net, where, x = tried.net, tried.where, tried.x_nchw[:6]
    units = net.units()
    names = [unit.name for unit in units]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"{where}: several units are called {', '.join(twice)}.")
    if isinstance(net, GatedResNet):
        listed = f"{len(block_columns(units))} of {len(net.blocks)} blocks"
        whole = len(block_columns(units)) == len(net.blocks)
        require(whole, f"{where}: units() lists {listed}.", "it leaves out what super() lists.")
    fixed = [column for column, unit in enumerate(units) if unit.always_on]
    with evaluating(net):
        for name, run in runs_of(net, tried.x_nchw).items():
            output, what = run(x), f"{where}: {name}"
            _require_output(output, (len(x), tried.classes), units=len(units), what=what)
            off = ", ".join(names[c] for c in fixed if bool((output.executed[:, c] != 1).any()))
            require(not off, f"{what} leaves out {off}, which units() says always runs.")
        if isinstance(net, GatedResNet):
            _require_hard(net, tried)
    with in_eval_mode(net), torch.enable_grad():
        gradient = net.forward(x[:2]).executed.requires_grad
    require(not gradient, f"{where}: `executed` carries gradient.", "a detach() is missing.")


def _require_output(output: object, shape: tuple[int, int], *, units: int, what: str) -> None:
    if not isinstance(output, Output):
        raise Shortfall(f"{what} returns a {type(output).__name__}, not an Output.")
    found, columns = tuple(output.logits.shape), tuple(output.executed.shape)
    require(found == shape, f"{what} gives logits of shape {found}, expected {shape}.")
    require(
        columns == (shape[0], units),
        f"{what} gives a trace of shape {columns} for {shape[0]} images and {units} units.",
        "units() and the columns of `executed` are not made by the same rule.",
    )
    require(torch.isfinite(output.logits).all(), f"{what} gives logits that are not finite.")
    low, high = float(output.executed.min()), float(output.executed.max())
    require(
        low >= 0 and high <= 1,
        f"{what} gives a trace from {low:.3g} to {high:.3g}; a share is from 0 to 1.",
        "soft gates or scores stand where the decision should.",
    )


def _require_hard(net: GatedResNet, tried: Specimen) -> None:
    """Check that the gates of a network that decides by block are 0 or 1."""
    for b, gate in enumerate(net.decided(tried.x_nchw[:6])):
        if gate is not None:
            away = (gate - gate.round()).abs()
            soft = float(gate.flatten()[int(away.argmax())])
            said = f"{tried.where}: forward runs {soft:.7g} of 'block{b}' for an image."
            require(not away.any(), said, _SOFT)


def execution(tried: Specimen) -> None:
    """Really skipping gives the logits and the trace of masking: whole batch, single image,
    uneven batch."""
    net, x, what = tried.net, tried.x_nchw, f"{tried.where}: execute and forward"
    with evaluating(net):
        for part in (x, x[:1], x[7:9]):
            require_same(net.execute(part), net(part), net=net, what=what, cause=_OTHERWISE)


def batch_independence(tried: Specimen) -> None:
    """The result of an image depends neither on its batch mates nor on the batch size."""
    net, x, count = tried.net, tried.x_nchw, len(tried.x_nchw)
    order_n = torch.randperm(count, generator=torch.Generator().manual_seed(1)).to(x.device)
    sizes = {1: order_n[:_SINGLES], count // 3 + 1: order_n, count: order_n}
    with evaluating(net):
        for name, run in runs_of(net, tried.x_nchw).items():
            whole = run(x)
            for size, chosen_n in sizes.items():
                parts = joined([run(part) for part in torch.split(x[chosen_n], size)])
                shuffled = Output(whole.logits[chosen_n], whole.executed[chosen_n], {})
                what = (
                    f"{tried.where}: {name} in shuffled batches of {size} and of {count} in order"
                )
                require_same(parts, shuffled, net=net, what=what, cause=_BATCH)


def repeatable(tried: Specimen) -> None:
    """Two evaluations of the same images agree bit for bit."""
    net, x = tried.net, tried.x_nchw[:8]
    # Sums of an accelerator may come in any order.
    tolerance = 0.0 if x.device.type == "cpu" else LOGITS
    with evaluating(net):
        for name, run in runs_of(net, tried.x_nchw).items():
            what = f"{tried.where}: two calls of {name}"
            require_same(run(x), run(x), net=net, what=what, cause=_RANDOM, tolerance=tolerance)


def side_effects(tried: Specimen) -> None:
    """Evaluating leaves images, weights, modes and global random numbers alone."""
    net, x = tried.net, tried.x_nchw[:9]
    images_before, state = x.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    net.eval()
    with torch.no_grad():
        for name, run in runs_of(net, tried.x_nchw).items():
            what, drawn = f"{tried.where}: {name}", random_fingerprint()
            run(x)
            same = drawn == random_fingerprint()
            require(same, f"{what} draws from the global generators.", _RANDOM)
            require(
                torch.equal(x, images_before),
                f"{what} changes the images it is given.",
                "an operation in place on the input of the stem.",
            )
            training = any(module.training for module in net.modules())
            require(not training, f"{what} puts parts of the net into training mode.")
            for key, value in net.state_dict().items():
                require(
                    key in state and torch.equal(value, state[key]),
                    f"{what} changes '{key}' in eval mode.",
                    "a running average or a counter that is updated outside of training.",
                )


def macs(tried: Specimen) -> None:
    """The MACs of the trace are the MACs that execution really spends."""
    net, x = tried.net, tried.x_nchw
    costs = [tried.costs()[unit.name] for unit in net.units()]
    with evaluating(net):
        for part in (x[:12], x[-1:]):
            counted, output = counting(partial(net.execute, part))
            # The trace of that very call: in another batch, rounding may turn a decision.
            traced = macs_per_image(output.executed, costs).sum().item()
            _require_same_macs(counted, traced, len(part), where=tried.where)


def _require_same_macs(counted: int, traced: float, count: int, *, where: str) -> None:
    gap = counted - traced
    # A share of a unit is kept in float32; whole units add up exactly.
    allowed = 1e-6 * traced * (traced != round(traced))
    if gap > 0:
        cause = "something runs that units() does not list: what deciding costs (Policy.units)."
    else:
        cause = "a listed unit ran on fewer images than the trace says, or its cost is too high."
    require(
        abs(gap) <= allowed,
        f"{where}: execution of {count} images spends {counted:,} MACs, the trace accounts for"
        f" {traced:,.0f}: {abs(gap) / count:,.0f} per image too {'few' if gap > 0 else 'many'}.",
        cause,
    )


def fast_copy(tried: Specimen) -> None:
    """The copy that is timed computes the same."""
    net, x = tried.net, tried.x_nchw
    if "execute" not in runs_of(net, x):
        raise NotApplicable("there is no path that really skips, so nothing is timed.")
    with evaluating(net):
        largest = float(net(x).logits.abs().max())
    check_execution(net, x, run=Eager().prepare(net, x[:2]), atol=LOGITS * max(1.0, largest))


def record(tried: Specimen) -> None:
    """Its record and its weights can be written."""
    net, x, costs = tried.net, tried.x_nchw, tried.costs()
    with evaluating(net):
        executed_nu = net.forward(x).executed.cpu()
    evaluation = Evaluation(torch.zeros(len(x)).bool(), executed_nu, torch.zeros(len(x)))
    dense = max(1, sum(costs.values()))
    try:
        point_record("", evaluation, net=net, unit_macs=costs, dense_macs=dense, arrays_file="")
    except ValidationError as error:
        found = error.errors()[0]
        field = ".".join(str(part) for part in found["loc"] if part != "[key]")
        said = f"{tried.where}: a record cannot hold {field}: {found['msg']}."
        raise Shortfall(said, _UNRECORDED) from error
    saved(net)


def saved(net: nn.Module) -> bytes:
    """Return the weights of `net` as a run keeps them.

    Raises:
        Shortfall: they cannot be saved.
    """
    try:
        return save({key: value.contiguous() for key, value in net.state_dict().items()})
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        cause = "two names in the state dict share one tensor."
        raise Shortfall(f"Its weights cannot be saved: {said}", cause) from error
