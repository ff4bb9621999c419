"""Checks of one network: what it computes, reports, costs and leaves behind, on two ways to run it.

Each takes a specimen and raises a Shortfall; what it proves is said in suite.py. A run holds its
own network to those that need seconds (engine/conforming.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor, nn

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
    NEARLY_ONE,
    ROUNDING,
    DoesNotApply,
    Shortfall,
    Specimen,
    explained,
    joined,
    require_close,
    require_equal,
    require_same_trace,
    runs_of,
)

_SINGLES = 4
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


_SOFT = (
    "a gate is soft in eval mode; there it must be exactly 0 or 1: round it, in training with"
    " hard + (soft - soft.detach())."
)
_UNSAVED = "two names in the state dict share one tensor."
_UNRECORDED = (
    "units of role 'block' are called block0, block1, ... in their order; names and numbers are"
    " what a record can hold."
)


def outputs(tried: Specimen) -> None:
    """Logits are finite; a trace has a share of each unit, all of those that always run."""
    net, where, x = tried.net, tried.where, tried.x_nchw[:6]
    units = net.units()
    names = [unit.name for unit in units]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise Shortfall(f"{where}: several units are called {', '.join(twice)}.")
    if isinstance(net, GatedResNet) and len(block_columns(units)) != len(net.blocks):
        listed = f"{len(block_columns(units))} of {len(net.blocks)} blocks"
        raise Shortfall(f"{where}: units() lists {listed}.", "it leaves out what super() lists.")
    fixed = [column for column, unit in enumerate(units) if unit.always_on]
    with evaluating(net):
        for name, run in runs_of(net, tried.x_nchw).items():
            output, what = run(x), f"{where}: {name}"
            _require_output(output, (len(x), tried.classes), units=len(units), what=what)
            off = [names[c] for c in fixed if bool((output.executed[:, c] != 1).any())]
            if off:
                raise Shortfall(f"{what} leaves out '{off[0]}', which units() says always runs.")
        if isinstance(net, GatedResNet):
            _require_hard(net.decided(x), where)
    with in_eval_mode(net), torch.enable_grad():
        if net.forward(x[:2]).executed.requires_grad:
            raise Shortfall(f"{where}: `executed` carries gradient.", "a detach() is missing.")


def _require_output(output: object, shape: tuple[int, int], *, units: int, what: str) -> None:
    if not isinstance(output, Output):
        raise Shortfall(f"{what} returns a {type(output).__name__}, not an Output.")
    if tuple(output.logits.shape) != shape:
        found = tuple(output.logits.shape)
        raise Shortfall(f"{what} gives logits of shape {found}, expected {shape}.")
    if tuple(output.executed.shape) != (shape[0], units):
        raise Shortfall(
            f"{what} gives a trace of shape {tuple(output.executed.shape)} for {shape[0]} images"
            f" and {units} units.",
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


def _require_hard(gates: Sequence[Tensor | None], where: str) -> None:
    """Check that the gates of a network that decides by block are 0 or 1."""
    for b, gate in enumerate(gates):
        if gate is None:
            continue
        away = (gate - gate.round()).abs()
        if bool(away.any()):
            soft = float(gate.flatten()[int(away.argmax())])
            raise Shortfall(
                f"{where}: forward runs {soft:.7g} of 'block{b}' for an image.",
                NEARLY_ONE if float(away.max()) < ROUNDING else _SOFT,
            )


def execution(tried: Specimen) -> None:
    """Really skipping gives the logits and the trace of masking: whole batch, single image,
    uneven batch."""
    net, x, what = tried.net, tried.x_nchw, f"{tried.where}: execute and forward"
    with evaluating(net):
        for part in (x, x[:1], x[7:9]):
            with explained(net, x):
                masked, skipping = net(part), net.execute(part)
                require_same_trace(skipping, masked, net=net, what=what, cause=_OTHER_DECISION)
                require_close(skipping, masked, what=what, cause=_OTHER_STATE)


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
                require_same_trace(parts, shuffled, net=net, what=what, cause=_BATCH)
                require_close(parts, shuffled, what=what, cause=_BATCH)


def repeatable(tried: Specimen) -> None:
    """Two evaluations of the same images agree bit for bit."""
    net, x = tried.net, tried.x_nchw[:8]
    # Sums of an accelerator may come in any order.
    require = require_equal if x.device.type == "cpu" else require_close
    with evaluating(net):
        for name, run in runs_of(net, tried.x_nchw).items():
            first, second = run(x), run(x)
            what = f"{tried.where}: two calls of {name}"
            require_same_trace(second, first, net=net, what=what, cause=_RANDOM)
            require(second, first, what=what, cause=_RANDOM)


def side_effects(tried: Specimen) -> None:
    """Evaluating leaves images, weights, modes and global random numbers alone."""
    net, where, x = tried.net, tried.where, tried.x_nchw[:9]
    images_before, state = x.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    net.eval()
    with torch.no_grad():
        for name, run in runs_of(net, tried.x_nchw).items():
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
            for key, value in net.state_dict().items():
                if key not in state or not torch.equal(value, state[key]):
                    raise Shortfall(
                        f"{where}: {name} changes '{key}' in eval mode.",
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


def fast_copy(tried: Specimen) -> None:
    """The copy that is timed computes the same."""
    net, x = tried.net, tried.x_nchw
    if "execute" not in runs_of(net, x):
        raise DoesNotApply("there is no path that really skips, so nothing is timed.")
    with evaluating(net):
        largest = float(net(x).logits.abs().max())
    check_execution(net, x, run=Eager().prepare(net, x[:2]), atol=LOGITS * max(1.0, largest))


def record(tried: Specimen) -> None:
    """Its record and its weights can be written."""
    net, x = tried.net, tried.x_nchw
    with evaluating(net):
        executed_nu = net.forward(x).executed.cpu()
    nothing_n = torch.zeros(len(x))
    evaluation = Evaluation(nothing_n.bool(), executed_nu, nothing_n)
    try:
        point_record(
            "",
            evaluation,
            net=net,
            unit_macs=tried.costs(),
            dense_macs=max(1, sum(tried.costs().values())),
            arrays_file="",
        )
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"] if part != "[key]")
        raise Shortfall(
            f"{tried.where}: a record cannot hold {where}: {found['msg']}.", _UNRECORDED
        ) from error
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
        raise Shortfall(f"Its weights cannot be saved: {said}", _UNSAVED) from error


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
