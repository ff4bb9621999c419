"""What a check is given, how outputs are compared, and what came of it, as data.

Owns the tolerances; owns no check and no terminal.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bench.errors import BenchError, NotExecutable, Unsupported
from bench.measure.modes import evaluating
from bench.networks.unit import DynamicNet, Output

Status = Literal["passed", "failed", "exempt", "not tried"]
_ROOM = Path(__file__).parent
_UNABLE = "implement it, or say in Tags.exempt, under the name of this check, why there is no way."


class Shortfall(Exception):
    """A check failed: `detail` gives the numbers, `cause` what is likely behind them."""

    def __init__(self, detail: str, cause: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.cause = cause


class NotTried(Exception):
    """A check needs what another one failed to make; the message says which."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came of one check of one method.

    `detail` holds the numbers of a failure, or the reason why it was exempt or not tried. `error`
    is the exception behind a failure, for a traceback.
    """

    method: str
    check: str
    proves: str
    status: Status
    detail: str = ""
    cause: str = ""
    error: Exception | None = field(default=None, repr=False, compare=False)

    def require(self) -> None:
        """Do nothing if the check passed or is exempt.

        Raises:
            AssertionError: it failed or was not tried; the message has the numbers and the likely
                cause.
        """
        if self.status in ("failed", "not tried"):
            raise AssertionError(str(self))

    def __str__(self) -> str:
        lines = [f"{self.method}: '{self.check}' {self.status}. {self.proves}"]
        if self.detail:
            lines.append(self.detail)
        if self.cause:
            lines.append(f"Likely cause: {self.cause}")
        return "\n".join(lines)


def shortfall_of(error: Exception) -> Shortfall:
    """Return what an exception that a method raised says of it, and where it was raised."""
    if isinstance(error, Shortfall):
        return error
    if isinstance(error, BenchError):
        unable = _UNABLE if isinstance(error, NotExecutable | Unsupported) else ""
        found = Shortfall(f"{type(error).__name__}: {error.message}", error.hint or unable)
    else:
        said = (str(error).strip() or "no message").splitlines()[0]
        found = Shortfall(f"It raised {type(error).__name__}: {said}{_place_of(error)}")
    found.__cause__ = error
    return found


def _place_of(error: Exception) -> str:
    """Name the last line outside of this room and of libraries."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if "site-packages" not in path.parts and _ROOM not in path.parents and path.is_file():
            return f" ({path.name}, line {frame.lineno})"
    return ""


LOGITS = 1e-4
"""By how much logits may differ, of the largest or of 1."""


def require(holds: object, detail: str, cause: str = "") -> None:
    """Do nothing if something holds.

    Raises:
        Shortfall: it does not.
    """
    if not holds:
        raise Shortfall(detail, cause)


def require_same_trace(
    found: Output, expected: Output, *, net: DynamicNet, what: str, cause: str
) -> None:
    """Check that two traces (N, U) agree exactly.

    Raises:
        Shortfall: they do not; it names the first unit and counts the images.
    """
    ran_nu, expected_nu = found.executed, expected.executed
    shapes = f"{tuple(ran_nu.shape)} and {tuple(expected_nu.shape)}"
    require(ran_nu.shape == expected_nu.shape, f"{what} give traces of shape {shapes}.", cause)
    wrong_nu = ran_nu != expected_nu
    if bool(wrong_nu.any()):
        name = net.units()[int(wrong_nu.any(dim=0).nonzero()[0])].name
        raise Shortfall(
            f"{what} run other units for {int(wrong_nu.any(dim=1).sum())} of {len(wrong_nu)}"
            f" images, first at '{name}'.",
            cause,
        )


def require_close(
    found: Output, expected: Output, *, what: str, cause: str, tolerance: float = LOGITS
) -> None:
    """Check that logits (N, K) agree within `tolerance` of the largest, or of 1 if that is smaller.

    Raises:
        Shortfall: they do not; it says by how much and for how many images.
    """
    found_nk, expected_nk = found.logits, expected.logits
    shapes = f"{tuple(found_nk.shape)} and {tuple(expected_nk.shape)}"
    require(found_nk.shape == expected_nk.shape, f"{what} give logits of shape {shapes}.", cause)
    allowed = tolerance * max(1.0, float(expected_nk.abs().max()))
    difference_n = (found_nk.float() - expected_nk.float()).abs().amax(dim=1)
    wrong_n = ~(difference_n <= allowed)  # so that NaN is wrong too
    limit = f"allowed is {allowed:.0e}" if allowed else "they must be equal bit for bit"
    require(
        not bool(wrong_n.any()),
        f"{what} differ by up to {float(difference_n.max()):.1e} in logits on"
        f" {int(wrong_n.sum())} of {len(wrong_n)} images; {limit}.",
        cause,
    )


def require_same(
    found: Output,
    expected: Output,
    *,
    net: DynamicNet,
    what: str,
    cause: str,
    tolerance: float = LOGITS,
) -> None:
    """Check that traces agree exactly and logits within `tolerance`.

    Raises:
        Shortfall: they do not.
    """
    require_same_trace(found, expected, net=net, what=what, cause=cause)
    require_close(found, expected, what=what, cause=cause, tolerance=tolerance)


def joined(outputs: Sequence[Output]) -> Output:
    """Return the outputs of parts of a batch as one."""
    logits_nk = torch.cat([output.logits for output in outputs])
    return Output(logits_nk, torch.cat([output.executed for output in outputs]), {})


Run = Callable[[Tensor], Output]


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """One network to check on images (N, C, H, W) of `classes` classes.

    `where` names it for messages; `costs` returns the MACs of each unit by name.
    """

    where: str
    net: DynamicNet
    x_nchw: Tensor
    classes: int
    costs: Callable[[], Mapping[str, int]]

    def in_double(self) -> Specimen:
        """Return a copy in float64, in which rounding turns no decision."""
        net = copy.deepcopy(self.net).double()
        return replace(self, net=net, x_nchw=self.x_nchw.double())


NetworkCheck = Callable[[Specimen], None]


def runs_of(net: DynamicNet, x_nchw: Tensor) -> dict[str, Run]:
    """Return the ways to run `net`: forward, and execute where there is a path that skips."""
    # Not a call of the network: one that is compiled would be compiled for each size of a batch.
    runs: dict[str, Run] = {"forward": net.forward}
    try:
        with evaluating(net):
            net.execute(x_nchw[:1])
    except NotExecutable:
        return runs
    return {**runs, "execute": net.execute}
