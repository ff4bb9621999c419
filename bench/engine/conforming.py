"""The checks of the conformance suite that every run makes of its own network, on its own images.

They need seconds at most. What fails ends the run: before training it costs nothing, after it no
number of a broken network reaches a record. Owns which checks these are and on how many images.
"""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from bench.data.augment import Batch
from bench.data.images import Images
from bench.engine.building import method_of
from bench.engine.evaluating import RunContext, few_images
from bench.errors import ConformanceError
from bench.method import DynamicNet, Point
from bench.records.record import Conformance
from bench.seeding import generator, seeded
from bench.testing import paths
from bench.testing.learning import require_gradient, require_points
from bench.testing.outcome import NetworkCheck, Shortfall, Specimen, shortfall_of
from bench.testing.workbench import train_briefly

_CHECKS = (paths.outputs, paths.repeatable, paths.batch_independence, paths.macs, paths.record)
_OF_NETWORKS: Mapping[str, NetworkCheck] = {check.__name__: check for check in _CHECKS}
IN_RUNS = ("gradient", "points", *_OF_NETWORKS)
"""The names of these checks; what each proves is said by the suite."""

_FEWEST, _MOST = 4, 24
_MACS = 2_000_000_000
_TRAINED_ON = 8
_LR = 1e-3


def check_untrained(net: DynamicNet, context: RunContext) -> None:
    """Try the checks on `net` before its training; it and all random numbers stay as they are.

    Of several operating points the first: their thresholds are not chosen yet.

    Raises:
        ConformanceError: one failed.
    """
    # A copy: what a broken network does to itself while it is looked at shall not be trained.
    _check_points(copy.deepcopy(net), context, most=1, when="before training")
    _attempt("gradient", partial(_check_gradient, net, context), context, when="before training")


def check_trained(net: DynamicNet, context: RunContext) -> Conformance:
    """Try them again after training, but for the gradient: a trained gate may well be closed.

    Raises:
        ConformanceError: one failed.
    """
    _check_points(net, context, most=None, when="after training")
    exempt = method_of(context.spec)[0].tags.exempt
    return Conformance(
        skipbench=importlib.metadata.version("skipbench"),
        passed=tuple(name for name in IN_RUNS if name not in exempt),
        exempt={name: reason for name, reason in exempt.items() if name in IN_RUNS},
    )


def _check_points(net: DynamicNet, context: RunContext, *, most: int | None, when: str) -> None:
    method, config = method_of(context.spec)
    points = list(method.operating_points(net, config))
    _attempt("points", partial(require_points, points, net), context, when=when)
    for tried in _specimens(points[:most], context):
        for name, check in _OF_NETWORKS.items():
            _attempt(name, partial(_but_for_rounding, check, tried), context, when=when)


def _attempt(name: str, check: Callable[[], None], context: RunContext, *, when: str) -> None:
    if name in method_of(context.spec)[0].tags.exempt:
        return
    try:
        with seeded(context.spec.seed, "check", name):
            check()
    except Exception as error:
        found, method = shortfall_of(error), context.spec.method
        cause = f" Likely cause: {found.cause}" if found.cause else ""
        raise ConformanceError(
            f"{method} fails the check '{name}' {when}: {found.detail}{cause}"
            f" (All checks: bench method check {method})"
        ) from error


def _but_for_rounding(check: NetworkCheck, tried: Specimen) -> None:
    """Do a check; where it fails, ask once more in float64, where rounding turns no decision."""
    try:
        check(tried)
    except Shortfall as found:
        try:
            check(tried.in_double())
        except Exception:
            raise found from None


def _specimens(points: Sequence[Point], context: RunContext) -> list[Specimen]:
    spec, place = context.spec, context.place
    count = _MACS // max(1, context.dense_macs * len(points))
    count = min(_MOST, max(_FEWEST, count))
    x_nchw = _drawn(place.dataset.test, context, count).x_nchw
    classes, name = place.dataset.info.num_classes, spec.backbone.name
    named = [(f"{name} {point.name}".strip(), point.net) for point in points]
    return [
        Specimen(where, net, x_nchw, classes, lambda: context.unit_macs) for where, net in named
    ]


def _check_gradient(net: DynamicNet, context: RunContext) -> None:
    method, config = method_of(context.spec)
    twin, reached = copy.deepcopy(net), set[str]()
    batch_of = partial(_drawn, context.train, context, _TRAINED_ON)
    # Phases of its own: one may keep count. Also those that this budget gives no epoch.
    phases = method.phases(config, context.spec.budget)
    for phase in phases:
        # A rate that makes training diverge is the training's to tell.
        lr = min(_LR, phase.optimizer.lr)
        phase.optimizer = phase.optimizer.model_copy(update={"lr": lr})
        reached |= train_briefly(twin, phase, batch_of=batch_of)
    if phases:
        where, before = context.spec.backbone.name, method.starts_from_dense(config)
        require_gradient(net, reached, where=where, trained_before=before)


def _drawn(images: Images, context: RunContext, count: int, draw: int = 0) -> Batch:
    order_n = torch.randperm(len(images), generator=generator(draw, "checks"))[:count]
    return few_images(images, order_n, context.spec, context.place.device)
