"""Checks of how a method is trained: phases, losses, settings, what is chosen after training.

Each takes the workbench and raises a Shortfall; what it proves is said in suite.py.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator
from typing import Any, Literal, Union, get_args, get_origin

import torch

from bench.errors import BenchError, NotApplicable
from bench.method import DerivedMethod, DynamicNet, MethodConfig, Phase
from bench.recipes import RECIPES
from bench.seeding import seeded
from bench.testing import synthetic
from bench.testing.outcome import Shortfall
from bench.testing.workbench import Workbench, require_descendable, state_of

_EPOCHS = (0, 1, 2, 3, 8, 30, 160)
_SMALL = (3, 8, 8)


def trains(bench: Workbench) -> None:
    bench.train()


def gradient(bench: Workbench) -> None:
    for subject in bench.subjects():
        require_gradient(subject.net, subject.reached, where=subject.backbone.name)


def require_gradient(net: DynamicNet, reached: Collection[str], *, where: str) -> None:
    """Check that the parameters named in `reached` are all that `net` has.

    Raises:
        Shortfall: they are not; it names the first of the others.
    """
    names = [name for name, _ in net.named_parameters()]
    missing = [name for name in names if name not in reached]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise Shortfall(
            f"{where}: {len(missing)} of {len(names)} parameters receive no gradient in any phase:"
            f" {shown}",
            _cause_of_no_gradient(missing[0]),
        )


def _cause_of_no_gradient(name: str) -> str:
    if name.startswith("policy."):
        return (
            "the gate is rounded without a straight-through estimator, was detached, or no loss"
            " depends on it."
        )
    return "no loss depends on it, or Phase.groups leaves it out of every phase."


def budget(bench: Workbench) -> None:
    for given, config in variants(bench):
        published = bench.method.published_epochs(config)
        if published < 1 and not isinstance(bench.method, DerivedMethod):
            raise Shortfall(
                f"published_epochs is {published}{given}.",
                "it is the length that --recipe paper trains for.",
            )
        for recipe in RECIPES:
            for epochs in (*_EPOCHS, published):
                asked = bench.budget(epochs, config, recipe=recipe)
                _require_budget(
                    list(bench.method.phases(config, asked)), asked.epochs, recipe, given
                )


def _require_budget(phases: list[Phase], epochs: int, recipe: str, given: str) -> None:
    shares = ", ".join(f"{phase.name} {phase.epochs}" for phase in phases) or "no phases"
    where = f"With recipe '{recipe}' and {epochs} epochs{given}"
    total = sum(phase.epochs for phase in phases)
    if total != epochs:
        raise Shortfall(
            f"{where} the phases add up to {total}: {shares}.",
            "shares are rounded one by one; give the last phase what is left.",
        )
    if any(phase.epochs < 0 or phase.batch_size < 1 for phase in phases):
        raise Shortfall(f"{where} a phase has less than 0 epochs or no batch: {shares}.")
    if len({phase.name for phase in phases}) != len(phases):
        raise Shortfall(f"{where} two phases share a name: {shares}.")


def options(bench: Workbench) -> None:
    backbone = bench.backbone(_SMALL)
    source = bench.source(backbone)
    bench.build(backbone, bench.config, source=source)  # a method may be for other backbones
    for given, config in variants(bench):
        with seeded(0, "options"):
            try:
                net = bench.build(backbone, config, source=source)
            except NotApplicable:
                continue  # this choice is for other backbones, and says so
            for phase in bench.phases(config):
                _require_loss(net, phase, given)


def _require_loss(net: DynamicNet, phase: Phase, given: str) -> None:
    chosen = {id(p) for group in phase.groups(net) for p in group.parameters}
    for parameter in net.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    phase.set_modes(net)
    terms = phase.loss(net, synthetic.batch(4, seed=0, shape=_SMALL), 0.5)
    require_descendable(terms.total, phase)
    terms.total.backward()  # type: ignore[no-untyped-call]
    for name, parameter in net.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            raise Shortfall(f"Phase '{phase.name}'{given}: the gradient of {name} is not finite.")
    for name, value in terms.parts.items():
        if value.ndim != 0 or not bool(torch.isfinite(value)):
            raise Shortfall(
                f"Phase '{phase.name}'{given}: the part '{name}' of the loss has shape"
                f" {tuple(value.shape)} and is {value.detach().flatten()[:3].tolist()}.",
                "parts are finite means over the batch.",
            )


def variants(bench: Workbench) -> Iterator[tuple[str, MethodConfig]]:
    """Yield the settings, and those with each other choice of each field; named for messages."""
    yield "", bench.config
    Config = bench.method.Config  # noqa: N806
    for field, info in Config.model_fields.items():
        for choice in choices_of(info.annotation):
            if choice != getattr(bench.config, field):
                given = f" and {field}={choice}"
                yield given, _with(bench, field, choice)


def _with(bench: Workbench, field: str, choice: Any) -> MethodConfig:
    changed = bench.config.model_dump(exclude_unset=True)
    try:
        return bench.method.Config.model_validate({**changed, field: choice})
    except (ValueError, BenchError) as error:
        raise Shortfall(
            f"{field}={choice} is refused together with the other settings: {error}",
            "a choice that needs another setting should bring it.",
        ) from error


def choices_of(annotation: Any) -> list[Any]:
    """Return the values a field can take, if its type lists them; else none."""
    if annotation is bool:
        return [False, True]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        found = [choice for part in get_args(annotation) for choice in choices_of(part)]
        return found if found else []
    return []


def calibration(bench: Workbench) -> None:
    for subject in bench.subjects():
        with seeded(6, "calibration"):
            net = bench.build(subject.backbone, bench.config, source=subject.source).eval()
        weights = {name: p.detach().clone() for name, p in net.named_parameters()}
        bench.method.calibrate(net, bench.config, synthetic.held_out())
        first = {key: value.clone() for key, value in net.state_dict().items()}
        bench.method.calibrate(net, bench.config, synthetic.held_out())
        where = f"{subject.backbone.name}: calibrate"
        if any(module.training for module in net.modules()):
            raise Shortfall(f"{where} leaves the network in training mode.")
        for key, value in net.state_dict().items():
            if key in weights and not torch.equal(value, weights[key]):
                raise Shortfall(f"{where} changes the weights, at '{key}'.", "it trains.")
            if not torch.equal(value, first[key]):
                raise Shortfall(
                    f"{where} chooses otherwise a second time on the same images, at '{key}'.",
                    "it draws random numbers, or starts from what it chose before.",
                )


def derivation(bench: Workbench) -> None:
    for subject in bench.subjects():
        now = state_of(subject.source)
        for key, before in subject.source_before.items():
            if not torch.equal(now[key], before):
                raise Shortfall(
                    f"{subject.backbone.name}: '{key}' of the source has changed.",
                    "derive() keeps the source's own modules; copy them (copy.deepcopy) or load"
                    " their state into a new network.",
                )
