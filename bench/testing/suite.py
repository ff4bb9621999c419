"""The list of all checks: their names, what each proves, which methods each is for.

Owns how a check is run and exempted; what it does lives beside its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from bench.errors import NotApplicable
from bench.measure.modes import using_threads
from bench.method import DerivedMethod, Method, MethodConfig
from bench.seeding import seeded
from bench.testing import claims, learning, paths, states
from bench.testing.outcome import DoesNotApply, NotTried, Outcome, Status, shortfall_of
from bench.testing.specimen import Check as NetworkCheck
from bench.testing.workbench import Workbench


def _always(method: Method) -> bool:
    return True


def _is_trained(method: Method) -> bool:
    return not isinstance(method, DerivedMethod) or method.trains


def _decides(method: Method) -> bool:
    return method.tags.decision != "static"


def _calibrates(method: Method) -> bool:
    return method.tags.calibrates


def _is_derived(method: Method) -> bool:
    return isinstance(method, DerivedMethod)


@dataclass(frozen=True, slots=True)
class Definition:
    """A check that is not yet bound to a method: its name, what it proves, whom it is for."""

    name: str
    proves: str
    attempt: Callable[[Workbench], None]
    concerns: Callable[[Method], bool] = _always


def _metadata(bench: Workbench) -> None:
    claims.metadata(bench, CHECKS)


def _on_each_network(check: NetworkCheck) -> Callable[[Workbench], None]:
    def attempt(bench: Workbench) -> None:
        for tried in bench.specimens():
            check(tried)

    return attempt


_DEFINITIONS = (
    Definition(
        "metadata",
        "It says where it comes from; what is reconstructed and what it is exempt from exists.",
        _metadata,
    ),
    Definition(
        "settings",
        "Settings that are unknown or not finite are refused; others come back from a record.",
        claims.settings,
    ),
    Definition(
        "budget",
        "The epochs of its phases add up to the budget, for any recipe and number.",
        learning.budget,
        _is_trained,
    ),
    Definition("options", "Every choice of every setting trains.", learning.options),
    Definition(
        "trains",
        "It can be built, and a few steps of each phase go down a finite loss.",
        learning.trains,
    ),
    Definition(
        "gradient",
        "Every parameter receives gradient in some phase.",
        learning.gradient,
        _is_trained,
    ),
    Definition(
        "decisions",
        "It decides by the image if its tags say so, and only then.",
        claims.decisions,
    ),
    Definition(
        "points",
        "Its operating points have names of their own and the same units.",
        states.points,
    ),
    Definition(
        "outputs",
        "Logits are finite; a trace has a share of each unit, all of those that always run.",
        _on_each_network(paths.outputs),
    ),
    Definition(
        "execution",
        "Really skipping gives the logits and the trace of masking: whole batch, single image,"
        " uneven batch.",
        _on_each_network(paths.execution),
    ),
    Definition(
        "macs",
        "The MACs of the trace are the MACs that execution really spends.",
        _on_each_network(paths.macs),
    ),
    Definition(
        "batch_independence",
        "The result of an image depends neither on its batch mates nor on the batch size.",
        _on_each_network(paths.batch_independence),
    ),
    Definition(
        "repeatable",
        "Two evaluations of the same images agree bit for bit.",
        _on_each_network(paths.repeatable),
    ),
    Definition(
        "record",
        "Its record and its weights can be written.",
        _on_each_network(paths.record),
    ),
    Definition(
        "side_effects",
        "Evaluating leaves images, weights, modes and global random numbers alone.",
        _on_each_network(paths.side_effects),
    ),
    Definition(
        "all_on",
        "With everything on it is its plain trunk, bit for bit.",
        states.all_on,
    ),
    Definition(
        "all_off",
        "With every gate closed it is stem, shortcuts and head.",
        states.all_off,
    ),
    Definition(
        "permuted",
        "By the decisions of each other's images a batch costs exactly the same.",
        states.permuted,
        _decides,
    ),
    Definition(
        "round_trip",
        "A newly built network with the saved weights computes the same at every operating point.",
        states.round_trip,
    ),
    Definition(
        "inference_net",
        "What is shipped computes the same, without what only training needs.",
        states.inference_net,
    ),
    Definition(
        "fast_copy",
        "The copy that is timed computes the same.",
        _on_each_network(paths.fast),
    ),
    Definition(
        "calibration",
        "Calibrating twice chooses the same, and leaves the weights alone.",
        learning.calibration,
        _calibrates,
    ),
    Definition(
        "derivation",
        "Making and training the control leaves the run it is made from alone.",
        learning.derivation,
        _is_derived,
    ),
)
CHECKS: tuple[str, ...] = tuple(definition.name for definition in _DEFINITIONS)


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """One check of one method or backbone, which share their networks."""

    method: str
    name: str
    proves: str
    exempt: str | None
    _attempt: Callable[[], None] = field(repr=False)

    def run(self) -> Outcome:
        """Try it and return what came of it; raises nothing that a method may raise."""
        if self.exempt is not None:
            return self._outcome("exempt", self.exempt)
        try:
            with seeded(0, "check", self.name), using_threads(1), torch.enable_grad():
                self._attempt()
        except (DoesNotApply, NotApplicable) as reason:
            return self._outcome("exempt", str(reason))
        except NotTried as reason:
            return self._outcome("not tried", str(reason))
        except Exception as error:
            found = shortfall_of(error)
            failed = self._outcome("failed", found.detail)
            return replace(failed, cause=found.cause, error=error)
        return self._outcome("passed")

    def _outcome(self, status: Status, detail: str = "") -> Outcome:
        return Outcome(self.method, self.name, self.proves, status, detail)

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
    return [
        Check(
            method.name,
            definition.name,
            definition.proves,
            _exemption(method, definition.name),
            partial(definition.attempt, bench),
        )
        for definition in _DEFINITIONS
        if definition.concerns(method)
    ]


def _exemption(method: Method, check: str) -> str | None:
    # What a method is exempt from is itself checked here, so nothing is exempt from this.
    return None if check == "metadata" else method.tags.exempt.get(check)


def check_method(
    method: Method | type[Method], *, config: MethodConfig | None = None
) -> list[Outcome]:
    """Run all checks that concern a method; return one outcome per check."""
    return [check.run() for check in checks_of(method, config=config)]
