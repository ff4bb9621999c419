"""The list of all checks, and which methods each is for.

Owns how a check is run and exempted; what it does lives beside its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.errors import NotApplicable
from bench.measure.modes import using_threads
from bench.method import DerivedMethod, Method, MethodConfig
from bench.seeding import seeded
from bench.testing import learning, paths, states
from bench.testing.outcome import CheckResult, NetworkCheck, NotTried, Status, shortfall_of
from bench.testing.workbench import Workbench


def metadata(bench: Workbench) -> None:
    """It says where it comes from; what is reconstructed and what it is exempt from exists."""
    learning.metadata(bench, CHECKS)


def _is_trained(method: Method) -> bool:
    return not isinstance(method, DerivedMethod) or method.trains


_CONCERNS: dict[str, Callable[[Method], bool]] = {
    "budget": _is_trained,
    "gradient": _is_trained,
    "permuted": lambda method: method.tags.decision != "static",
    "calibration": lambda method: method.tags.calibrates,
}
"""Checks that are not for all methods."""


OF_NETWORKS: tuple[NetworkCheck, ...] = (
    *(paths.outputs, paths.execution, paths.macs, paths.batch_independence, paths.repeatable),
    *(paths.record, paths.side_effects, states.all_on, states.all_off, states.permuted),
    *(states.inference_net, paths.fast_copy),
)
"""The checks of any network, of a method or of a gated backbone."""

_OF_METHODS: tuple[Callable[[Workbench], None], ...] = (
    *(metadata, learning.settings, learning.budget, learning.options, learning.trains),
    *(learning.gradient, learning.decisions, learning.points, learning.round_trip),
    learning.calibration,
)
CHECKS: tuple[str, ...] = tuple(check.__name__ for check in (*_OF_METHODS, *OF_NETWORKS))


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """One check of one method or backbone, tried on each of the subjects that are made for it.

    `exempt` is the reason why it is not tried, if any.
    """

    method: str
    check: Callable[[Any], None]
    subjects: Callable[[], Iterable[Any]]
    exempt: str | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.check.__name__

    @property
    def proves(self) -> str:
        """What it proves: its docstring, on one line."""
        return " ".join(str(self.check.__doc__).split())

    def run(self) -> CheckResult:
        """Try it and return what came of it; raises nothing that a method may raise."""
        if self.exempt is not None:
            return self._outcome("exempt", self.exempt)
        try:
            with seeded(0, "check", self.name), using_threads(1), torch.enable_grad():
                for subject in self.subjects():
                    self.check(subject)
        except NotApplicable as reason:
            return self._outcome("exempt", reason.message)
        except NotTried as reason:
            return self._outcome("not tried", str(reason))
        except Exception as error:
            found = shortfall_of(error)
            failed = self._outcome("failed", found.detail)
            return replace(failed, cause=found.cause, error=error)
        return self._outcome("passed")

    def _outcome(self, status: Status, detail: str = "") -> CheckResult:
        return CheckResult(self.method, self.name, self.proves, status, detail)

    def __str__(self) -> str:
        return f"{self.method}-{self.name}"


def checks_of(
    method: Method | type[Method], *, config: MethodConfig | None = None, backbone: str = ""
) -> list[Check]:
    """Return the checks that concern a method, at its default settings or at `config`.

    They are tried on CIFAR ResNets, or on the backbone named, with images of 16 x 16 pixels.
    Nothing is built or trained before the first check runs.
    """
    method = method() if isinstance(method, type) else method
    bench = Workbench(method, config, backbone=backbone)
    # What a method is exempt from is itself checked by 'metadata', so nothing is exempt from that.
    exempt = {check: why for check, why in method.tags.exempt.items() if check != "metadata"}
    found = [Check(method.name, check, lambda: [bench]) for check in _OF_METHODS]
    found += [Check(method.name, check, bench.specimens) for check in OF_NETWORKS]
    return [
        replace(check, exempt=exempt.get(check.name))
        for check in found
        if check.name not in _CONCERNS or _CONCERNS[check.name](method)
    ]


def check_method(
    method: Method | type[Method], *, config: MethodConfig | None = None
) -> list[CheckResult]:
    """Run all checks that concern a method; return one outcome per check."""
    return [check.run() for check in checks_of(method, config=config)]
