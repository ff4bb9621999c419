"""Checks of what a method says of itself, of how it is trained, and of what is kept of that.

Each takes the workbench and raises a Shortfall.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from safetensors.torch import load

from bench.errors import BenchError, NotApplicable
from bench.measure.modes import evaluating
from bench.method import (
    CONTRACT,
    DerivedMethod,
    DynamicNet,
    Method,
    MethodConfig,
    Phase,
    Point,
    Tags,
)
from bench.recipes import RECIPES
from bench.registry import NAME, RESERVED_NAMES
from bench.seeding import seeded
from bench.testing import synthetic
from bench.testing.outcome import Shortfall, require, require_same, runs_of
from bench.testing.paths import saved
from bench.testing.perturbation import gated_columns
from bench.testing.workbench import TrainedNetwork, Workbench, require_descendable
from bench.training.loop import freeze_all_but


def metadata(bench: Workbench, known_checks: Sequence[str]) -> None:
    method, tags = bench.method, bench.method.tags
    require(
        NAME.fullmatch(method.name) and method.name not in RESERVED_NAMES,
        f"'{method.name}' cannot be a method's name.",
        f"letters, digits, - and _ only, and none of {', '.join(RESERVED_NAMES)}.",
    )
    require(
        method.contract == CONTRACT,
        f"It was written for version {method.contract} of the contract; this is {CONTRACT}.",
        "CHANGELOG.md says what changed under *Contract*; adapt it, then set `contract`.",
    )
    named = method.reference.title.strip() and method.reference.authors.strip()
    require(named, "The reference has no title or no authors.")
    for field in ("decision", "role"):
        given, known = getattr(tags, field), get_args(get_type_hints(Tags)[field])
        cause = f"it is one of {', '.join(known)}."
        require(given in known, f"Tags.{field} is '{given}'.", cause)
    static = tags.role != "dense" or tags.decision == "static"
    require(static, f"Its role is dense, and it decides {tags.decision}.")
    _require_known("reconstructed", tags.reconstructed, list(method.Config.model_fields), "setting")
    _require_known("exempt", tags.exempt, known_checks, "check")
    for name, reason in tags.exempt.items():
        require(name != "metadata", "No method is exempt from 'metadata'.")
        said = f"Tags.exempt gives no reason why '{name}' does not apply."
        require(reason.strip(), said)
    overrides = type(method).calibrate is not Method.calibrate
    require(
        overrides is method.tags.calibrates,
        f"It {'has' if overrides else 'lacks'} a calibrate of its own, and Tags.calibrates is"
        f" {method.tags.calibrates}.",
        "calibrate is called where the tag is set, and nowhere else.",
    )


def _require_known(tag: str, names: Iterable[str], known: Sequence[str], kind: str) -> None:
    for name in names:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        cause = f"'{near[0]}' was meant." if near else f"known are {', '.join(known) or 'none'}."
        require(name in known, f"Tags.{tag} names '{name}', which is no {kind}.", cause)


def settings(bench: Workbench) -> None:
    """Settings that are unknown or not finite are refused; others come back from a record."""
    Config = bench.method.Config  # noqa: N806
    if not issubclass(Config, MethodConfig):
        raise Shortfall("Config is no subclass of MethodConfig, which refuses what is wrong.")
    for field, info in Config.model_fields.items():
        if info.annotation is float or float in get_args(info.annotation):
            for value in (math.inf, -math.inf, math.nan):
                _require_refused(Config, field, value, "not finite is not JSON")
    _require_refused(Config, "no_such_setting", 1, "a misspelt setting would be ignored")
    require(
        Config.model_validate(bench.config.model_dump(mode="json")) == bench.config,
        "The settings do not come back from their own JSON.",
        "a validator changes them each time, or a type has no JSON form.",
    )


def _require_refused(config: type[MethodConfig], field: str, value: float, why: str) -> None:
    with suppress(ValueError, BenchError):
        config.model_validate({field: value})
        raise Shortfall(
            f"The setting {field}={value} is accepted; {why}.",
            "model_config is replaced, or a validator runs before the field's own check.",
        )


def decisions(bench: Workbench) -> None:
    """It decides by the image if its tags say so, and only then."""
    decision, networks = bench.method.tags.decision, bench.networks()
    if decision != "static":
        return _require_decides(networks[0])
    for trained in networks:
        gated = [trained.net.units()[column].name for column in gated_columns(trained.net)]
        first = gated[0] if gated else ""
        require(
            not gated,
            f"{trained.backbone.name}: {len(gated)} units have a gate, from '{first}' on,"
            " and Tags.decision is static.",
            "say when it decides, or mark the units as always on.",
        )


def _require_decides(trained: TrainedNetwork) -> None:
    where = trained.backbone.name
    require(
        gated_columns(trained.net),
        f"{where}: every unit always runs, and Tags.decision is not static.",
        "Policy.always_on is True for all blocks, or units() says so.",
    )
    require(
        trained.spread.differs,
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
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    require(
        not missing,
        f"{where}: {len(missing)} of {len(names)} parameters receive no gradient in any phase:"
        f" {shown}",
        "no loss depends on it, Phase.groups leaves it out of every phase, the gate of its block"
        " was closed for every image that was tried, or a gate was detached or is rounded without a"
        " straight-through estimator.",
    )


def budget(bench: Workbench) -> None:
    """The epochs of its phases add up to the budget, for any recipe and number."""
    for given, config in variants(bench):
        published = bench.method.published_epochs(config)
        require(
            published >= 1 or isinstance(bench.method, DerivedMethod),
            f"published_epochs is {published}{given}.",
            "it is the length that --recipe paper trains for.",
        )
        for recipe in RECIPES:
            for epochs in (*_EPOCHS, published):
                asked = bench.budget(epochs, config, recipe=recipe)
                phases = list(bench.method.phases(config, asked))
                where = f"With recipe '{recipe}' and {asked.epochs} epochs{given}"
                _require_budget(phases, asked.epochs, where)


def _require_budget(phases: list[Phase], epochs: int, where: str) -> None:
    shares = ", ".join(f"{phase.name} {phase.epochs}" for phase in phases) or "no phases"
    total = sum(phase.epochs for phase in phases)
    require(
        total == epochs,
        f"{where} the phases add up to {total}: {shares}.",
        "shares are rounded one by one; give the last phase what is left.",
    )
    possible = all(phase.epochs >= 0 and phase.batch_size >= 1 for phase in phases)
    require(possible, f"{where} a phase has less than 0 epochs or no batch: {shares}.")
    unique = len({phase.name for phase in phases}) == len(phases)
    require(unique, f"{where} two phases share a name: {shares}.")


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
    where = f"Phase '{phase.name}'{given}"
    for name, parameter in net.named_parameters():
        finite = parameter.grad is None or torch.isfinite(parameter.grad).all()
        require(finite, f"{where}: the gradient of {name} is not finite.")
    for name, value in terms.parts.items():
        require(
            value.ndim == 0 and torch.isfinite(value),
            f"{where}: the part '{name}' of the loss has shape {tuple(value.shape)} and is"
            f" {value.detach().flatten()[:3].tolist()}.",
            "parts are finite means over the batch.",
        )


def variants(bench: Workbench) -> Iterator[tuple[str, MethodConfig]]:
    """Yield the settings, and those with each other choice of each field; named for messages."""
    yield "", bench.config
    Config = bench.method.Config  # noqa: N806
    own = bench.config.model_dump(exclude_unset=True)
    for field, info in Config.model_fields.items():
        for choice in choices_of(info.annotation):
            if choice != getattr(bench.config, field):
                yield f" and {field}={choice}", Config.model_validate({**own, field: choice})


def choices_of(annotation: Any) -> list[Any]:
    """Return the values a field can take, if its type lists them; else none."""
    if annotation is bool:
        return [False, True]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return [choice for part in get_args(annotation) for choice in choices_of(part)]
    return []


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


_LOST = (
    "something set in training or calibration is a plain attribute; make it a buffer"
    " (register_buffer), so that it travels with the weights."
)


def round_trip(bench: Workbench) -> None:
    """A newly built network with the saved weights computes the same at every operating point."""
    x = synthetic.images(24, seed=8)
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
        training = any(module.training for module in net.modules())
        require(not training, f"{where} leaves the network in training mode.")
        for key, value in net.state_dict().items():
            same = key not in weights or torch.equal(value, weights[key])
            require(same, f"{where} changes the weights, at '{key}'.", "it trains.")
            require(
                torch.equal(value, first[key]),
                f"{where} chooses otherwise a second time on the same images, at '{key}'.",
                "it draws random numbers, or starts from what it chose before.",
            )
