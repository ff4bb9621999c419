"""How tests make a method that is broken in one thing, and what a check says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from toy_methods import CheapAndRight, Gates, PerUnit, Toy, made

from bench.method import Backbone, Budget, DynamicNet, Method, MethodConfig, Phase, Unit
from bench.networks.gated import GatedResNet
from bench.networks.policy import Policy
from bench.testing import CheckResult, checks_of


def outcome_of(method: type[Method], check: str, **settings: Any) -> CheckResult:
    checks = checks_of(method, config=method.Config.model_validate(settings))
    return next(found for found in checks if found.name == check).run()


def said_of(method: type[Method], check: str) -> str:
    """Return what a failed check says, on one line."""
    outcome = outcome_of(method, check)
    assert outcome.status == "failed", outcome
    return f"{outcome.detail} {outcome.cause}"


def with_policy(make: Callable[[Backbone], Policy], **changed: Any) -> type[Method]:
    """Return a method of gates per unit with another policy."""

    def build(self: Method, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        return GatedResNet(backbone, make(backbone))

    return made(PerUnit, build=build, **changed)


def with_net(make: Callable[[Backbone], DynamicNet], **changed: Any) -> type[Method]:
    def build(self: Method, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        return make(backbone)

    return made(Toy, name="own_net", build=build, **changed)


class FreeGates(Gates):
    def units(self) -> Sequence[Unit]:
        return ()


def one_phase(kind: type[CheapAndRight]) -> Any:
    def phases(self: Method, config: MethodConfig, budget: Budget) -> Sequence[Phase]:
        return [kind("main", **budget.schedule())]

    return phases
