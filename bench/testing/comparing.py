"""Compares two outputs and says in numbers where they differ, and what is likely behind it.

Owns the tolerances; runs no training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from bench.networks.unit import DynamicNet, Output
from bench.testing.outcome import Shortfall

LOGITS = 1e-4
ROUNDING = 1e-3
NEARLY_ONE = (
    "a straight-through gate is 0.9999999 or 1e-8 after rounding; write it as"
    " hard + (soft - soft.detach()), which is exactly 0 or 1."
)
_NOT_REPEATABLE = "deciding draws random numbers in eval mode; see 'repeatable'."


def require_same_trace(
    found: Output, expected: Output, *, net: DynamicNet, what: str, cause: str
) -> None:
    """Check that two traces (N, U) agree exactly.

    Raises:
        Shortfall: they do not; it names the first unit and counts the images.
    """
    ran_nu, expected_nu = found.executed, expected.executed
    if ran_nu.shape != expected_nu.shape:
        shapes = f"{tuple(ran_nu.shape)} and {tuple(expected_nu.shape)}"
        raise Shortfall(f"{what} give traces of shape {shapes}.", cause)
    wrong_nu = ran_nu != expected_nu
    if bool(wrong_nu.any()):
        if float((ran_nu - expected_nu).abs().max()) < ROUNDING:
            cause = NEARLY_ONE
        first = int(wrong_nu.any(dim=0).nonzero()[0])
        count = int(wrong_nu.any(dim=1).sum())
        name = net.units()[first].name
        raise Shortfall(
            f"{what} run other units for {count} of {len(wrong_nu)} images, first at '{name}'.",
            cause,
        )


def require_close(found: Output, expected: Output, *, what: str, cause: str) -> None:
    """Check that logits (N, K) agree within 1e-4 of the largest, or of 1 if that is smaller.

    Raises:
        Shortfall: they do not; it says by how much and for how many images.
    """
    allowed = LOGITS * max(1.0, float(expected.logits.abs().max()))
    _require_within(found.logits, expected.logits, allowed=allowed, what=what, cause=cause)


def require_equal(found: Output, expected: Output, *, what: str, cause: str) -> None:
    """Check that logits (N, K) agree bit for bit.

    Raises:
        Shortfall: they do not; it says by how much and for how many images.
    """
    _require_within(found.logits, expected.logits, allowed=0.0, what=what, cause=cause)


def _require_within(
    found_nk: Tensor, expected_nk: Tensor, *, allowed: float, what: str, cause: str
) -> None:
    if found_nk.shape != expected_nk.shape:
        shapes = f"{tuple(found_nk.shape)} and {tuple(expected_nk.shape)}"
        raise Shortfall(f"{what} give logits of shape {shapes}.", cause)
    difference_n = (found_nk.float() - expected_nk.float()).abs().amax(dim=1)
    wrong_n = ~(difference_n <= allowed)  # so that NaN is wrong too
    if bool(wrong_n.any()):
        limit = f"allowed is {allowed:.0e}" if allowed else "they must be equal bit for bit"
        raise Shortfall(
            f"{what} differ by up to {float(difference_n.max()):.1e} in logits on"
            f" {int(wrong_n.sum())} of {len(wrong_n)} images; {limit}.",
            cause,
        )


@contextmanager
def explained(net: DynamicNet, x_nchw: Tensor) -> Iterator[None]:
    """Give a Shortfall that is raised inside another cause where random numbers are behind it."""
    try:
        yield
    except Shortfall as found:
        random = found.cause != NEARLY_ONE and not _repeats(net, x_nchw)
        raise Shortfall(found.detail, _NOT_REPEATABLE if random else found.cause) from None


def _repeats(net: DynamicNet, x_nchw: Tensor) -> bool:
    first, second = net(x_nchw), net(x_nchw)
    same = torch.equal(first.executed, second.executed)
    return same and torch.equal(first.logits, second.logits)


def joined(outputs: Sequence[Output]) -> Output:
    """Return the outputs of parts of a batch as one."""
    logits_nk = torch.cat([output.logits for output in outputs])
    return Output(logits_nk, torch.cat([output.executed for output in outputs]), {})
