"""Checks of what a method says of itself, and of how it is trained.

Each takes the workbench and raises a Shortfall; what it proves is said in suite.py.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from bench.errors import BenchError, NotApplicable
from bench.method import (
    CONTRACT,
    DerivedMethod,
    DynamicNet,
    Method,
    MethodConfig,
    Phase,
    Reference,
    Tags,
)
from bench.recipes import RECIPES
from bench.registry import NAME, RESERVED_NAMES
from bench.seeding import seeded
from bench.testing import synthetic
from bench.testing.outcome import Shortfall
from bench.testing.perturbation import gated_columns
from bench.testing.workbench import TrainedNetwork, Workbench, require_descendable, state_of
from bench.training.loop import freeze_all_but


def metadata(bench: Workbench, known_checks: Iterable[str]) -> None:
    method = bench.method
    if not NAME.fullmatch(method.name) or method.name in RESERVED_NAMES:
        raise Shortfall(
            f"'{method.name}' cannot be a method's name.",
            f"letters, digits, - and _ only, and none of {', '.join(RESERVED_NAMES)}.",
        )
    if method.contract != CONTRACT:
        raise Shortfall(
            f"It was written for version {method.contract} of the contract; this is {CONTRACT}.",
            "CHANGELOG.md says what changed under *Contract*; adapt it, then set `contract`.",
        )
    _require_reference(method.reference)
    _require_tags(method.tags)
    fields = list(method.Config.model_fields)
    for name in method.tags.reconstructed:
        if name not in fields:
            raise Shortfall(
                f"Tags.reconstructed names '{name}', which is no setting.", _nearest(name, fields)
            )
    _require_exemptions(method.tags, list(known_checks))
    overrides = type(method).calibrate is not Method.calibrate
    if overrides is not method.tags.calibrates:
        raise Shortfall(
            f"It {'has' if overrides else 'lacks'} a calibrate of its own, and Tags.calibrates is"
            f" {method.tags.calibrates}.",
            "calibrate is called where the tag is set, and nowhere else.",
        )


def _require_reference(reference: Reference) -> None:
    for field in ("title", "authors"):
        if not getattr(reference, field).strip():
            raise Shortfall(f"The reference has no {field}.")
    if not 1950 < reference.year < 2100:
        raise Shortfall(f"The year of the reference is {reference.year}.")
    if reference.url and not reference.url.startswith(("https://", "http://")):
        raise Shortfall(f"The address of the reference, '{reference.url}', cannot be opened.")


def _require_tags(tags: Tags) -> None:
    hints = get_type_hints(Tags)
    for field in ("decision", "role"):
        given, known = getattr(tags, field), [str(choice) for choice in get_args(hints[field])]
        if given not in known:
            raise Shortfall(f"Tags.{field} is '{given}'.", f"it is one of {', '.join(known)}.")
    if tags.role == "dense" and tags.decision != "static":
        raise Shortfall(f"Its role is dense, and it decides {tags.decision}.")


def _require_exemptions(tags: Tags, known: list[str]) -> None:
    for name, reason in tags.exempt.items():
        if name == "metadata":
            raise Shortfall("No method is exempt from 'metadata'.")
        if name not in known:
            raise Shortfall(
                f"Tags.exempt names '{name}', which is no check.", _nearest(name, known)
            )
        if not reason.strip():
            raise Shortfall(f"Tags.exempt gives no reason why '{name}' does not apply.")


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"'{near[0]}' was meant." if near else f"known are {', '.join(known) or 'none'}."


def settings(bench: Workbench) -> None:
    """Settings that are unknown or not finite are refused; others come back from a record."""
    Config = bench.method.Config  # noqa: N806
    if not issubclass(Config, MethodConfig):
        raise Shortfall("Config is no subclass of MethodConfig, which refuses what is wrong.")
    for field, info in Config.model_fields.items():
        if info.annotation is float or float in get_args(info.annotation):
            for value in (math.inf, -math.inf, math.nan):
                _require_refused(Config, {field: value}, "not finite is not JSON")
    _require_refused(Config, {"no_such_setting": 1}, "a misspelt setting would be ignored")
    back = Config.model_validate(bench.config.model_dump(mode="json"))
    if back != bench.config:
        raise Shortfall(
            "The settings do not come back from their own JSON.",
            "a validator changes them each time, or a type has no JSON form.",
        )


def _require_refused(config: type[MethodConfig], given: dict[str, Any], why: str) -> None:
    try:
        config.model_validate(given)
    except (ValueError, BenchError):
        return
    (field, value), *_ = given.items()
    raise Shortfall(
        f"The setting {field}={value} is accepted; {why}.",
        "model_config is replaced, or a validator runs before the field's own check.",
    )


def decisions(bench: Workbench) -> None:
    """It decides by the image if its tags say so, and only then."""
    tags = bench.method.tags
    networks = bench.networks()
    for trained in networks:
        gated = gated_columns(trained.net)
        if tags.decision == "static" and gated:
            names = [trained.net.units()[column].name for column in gated]
            raise Shortfall(
                f"{trained.backbone.name}: {len(gated)} units have a gate, from '{names[0]}' on,"
                " and Tags.decision is static.",
                "say when it decides, or mark the units as always on.",
            )
    if tags.decision != "static":
        _require_decides(networks[0])


def _require_decides(trained: TrainedNetwork) -> None:
    where, gated = trained.backbone.name, gated_columns(trained.net)
    if not gated:
        raise Shortfall(
            f"{where}: every unit always runs, and Tags.decision is not static.",
            "Policy.always_on is True for all blocks, or units() says so.",
        )
    if not trained.spread.differs:
        raise Shortfall(
            f"{where}: the same units run for all of 32 images of different contrast and colour"
            f" ({trained.spread.share:.0%} of the gated ones), however the parameters are shaken.",
            "the decision does not depend on the image.",
        )


_EPOCHS = (0, 1, 2, 3, 8, 30, 160)
_SMALL = (3, 8, 8)


def trains(bench: Workbench) -> None:
    """It can be built, and a few steps of each phase go down a finite loss."""
    bench.train()


def gradient(bench: Workbench) -> None:
    """Every parameter receives gradient in some phase; a trunk trained before may stay frozen."""
    before = bench.method.starts_from_dense(bench.config)
    for trained in bench.networks():
        where = trained.backbone.name
        require_gradient(trained.net, trained.reached, where=where, trained_before=before)


def require_gradient(
    net: DynamicNet, reached: Collection[str], *, where: str, trained_before: bool = False
) -> None:
    """Check that the parameters named in `reached` are all that `net` has.

    Of a trunk that was trained before, all or none.

    Raises:
        Shortfall: they are not; it names the first of the others.
    """
    names = [name for name, _ in net.named_parameters()]
    trunk = {name for name in names if name.startswith("trunk.")}
    if trained_before and trunk.isdisjoint(reached):
        names = [name for name in names if name not in trunk]
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
    return (
        "no loss depends on it, Phase.groups leaves it out of every phase, or the gate of its block"
        " was closed for every image that was tried."
    )


def budget(bench: Workbench) -> None:
    """The epochs of its phases add up to the budget, for any recipe and number."""
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
    """Every choice of every setting trains."""
    backbone = bench.backbone(_SMALL)
    source = bench.source(backbone)
    bench.build(backbone, bench.config, source=source)  # a method may be for other backbones
    for given, config in variants(bench):
        # A choice may be for other backbones, and says so.
        with suppress(NotApplicable), seeded(0, "options"):
            net = bench.build(backbone, config, source=source)
            for phase in bench.phases(config):
                _require_loss(net, phase, given)


def _require_loss(net: DynamicNet, phase: Phase, given: str) -> None:
    freeze_all_but(phase, net)
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
        return [choice for part in get_args(annotation) for choice in choices_of(part)]
    return []


def calibration(bench: Workbench) -> None:
    """Calibrating twice chooses the same, and leaves the weights alone."""
    for trained in bench.networks():
        with seeded(6, "calibration"):
            net = bench.build(trained.backbone, bench.config, source=trained.source).eval()
        weights = {name: p.detach().clone() for name, p in net.named_parameters()}
        bench.method.calibrate(net, bench.config, synthetic.held_out())
        first = {key: value.clone() for key, value in net.state_dict().items()}
        bench.method.calibrate(net, bench.config, synthetic.held_out())
        where = f"{trained.backbone.name}: calibrate"
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
    """Making and training the control leaves the run it is made from alone."""
    for trained in bench.networks():
        now = state_of(trained.source)
        for key, before in trained.source_before.items():
            if not torch.equal(now[key], before):
                raise Shortfall(
                    f"{trained.backbone.name}: '{key}' of the source has changed.",
                    "derive() keeps the source's own modules; copy them (copy.deepcopy) or load"
                    " their state into a new network.",
                )
