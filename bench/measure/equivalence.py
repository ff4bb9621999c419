"""The proof that the skipping path computes what the masked path computes.

No latency is reported for a network that fails it. Owns no clock.

A position of a feature map halts where one float exceeds another. The two paths compute that float
in different orders, so an image may have a position on which they differ though both are right. A
whole unit that ran on one path only is never excused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.errors import EquivalenceError
from bench.measure.modes import evaluating, full_fp32
from bench.networks.unit import DynamicNet, Output

MIN_IMAGES = 256
_BATCH = 128
_SINGLES = 8
_IMAGES_PER_EXCUSE = 256
# One position moved over its threshold changed the logits of a trained ResNet-32 by 0.003 in the
# median and by 0.08 at most, on 48 of 1024 images made to do so.
_EXCUSED_ATOL = 0.3


@dataclass(slots=True)
class _Seen:
    """What has come of the comparison so far; images by their place among those given."""

    excused: set[int] = field(default_factory=set)
    largest: float = 0.0
    largest_excused: float = 0.0


def check_execution(net: DynamicNet, x_nchw: Tensor, *, atol: float = 1e-4) -> str:
    """Compare `execute` with `forward` in eval mode on all images (N, C, H, W) given.

    In batches, and the first few images one by one; both paths see the same batch. One image in
    256 may differ in a unit of which at least one path ran only a part, and then by more in its
    logits; the sentence returned for the record says so.

    Raises:
        EquivalenceError: the logits differ by more than `atol`, or other units ran.
        NotExecutable: the network has no path that really skips.
        ValueError: fewer than MIN_IMAGES images were given.
    """
    if len(x_nchw) < MIN_IMAGES:
        raise ValueError(f"{len(x_nchw)} images prove nothing; at least {MIN_IMAGES} are needed")
    seen = _Seen()
    with evaluating(net), full_fp32():
        for first, batch_nchw in _portions(x_nchw):
            skipping, masked = net.execute(batch_nchw), net(batch_nchw)
            excused_n = _partly_different(net, skipping, masked)
            seen.excused |= {first + n for n in excused_n.nonzero().flatten().tolist()}
            _compare_logits(skipping, masked, excused_n, seen, atol=atol)
    allowed = len(x_nchw) // _IMAGES_PER_EXCUSE
    if len(seen.excused) > allowed:
        raise EquivalenceError(
            f"The skipping path ran other parts of units than the masked path for"
            f" {len(seen.excused)} of {len(x_nchw)} images; rounding excuses {allowed}."
        )
    return _sentence(seen, len(x_nchw))


def _sentence(seen: _Seen, count: int) -> str:
    same = f"execute == forward on {count} images: max |difference| {seen.largest:.1e}"
    if not seen.excused:
        return f"{same}, identical masks"
    images = f"{len(seen.excused)} image" + "s" * (len(seen.excused) > 1)
    return (
        f"{same}, identical masks but for {images} with a position within rounding of its"
        f" threshold: there {seen.largest_excused:.1e}"
    )


def _portions(x_nchw: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(x_nchw), _BATCH):
        yield start, x_nchw[start : start + _BATCH]
    for single in range(_SINGLES):
        yield single, x_nchw[single : single + 1]


def _partly_different(net: DynamicNet, skipping: Output, masked: Output) -> Tensor:
    """Return which images (N,) differ in units that ran in part; refuse any other difference.

    A whole unit of the policy may differ where such a unit does: the last position of a map takes
    along what is decided once per map.
    """
    executed_nu, expected_nu = skipping.executed, masked.executed
    if executed_nu.shape != expected_nu.shape:
        raise EquivalenceError(
            f"The skipping path reports a trace of shape {tuple(executed_nu.shape)},"
            f" the masked path {tuple(expected_nu.shape)}."
        )
    differs_nu = executed_nu != expected_nu
    if not differs_nu.any():
        return differs_nu.any(dim=1)
    units = net.units()
    partly_nu = differs_nu & (_in_part(executed_nu) | _in_part(expected_nu))
    excused_n = partly_nu.any(dim=1)
    policy_u = torch.tensor([unit.role == "policy" for unit in units], device=excused_n.device)
    wrong_nu = differs_nu & ~partly_nu & ~(excused_n[:, None] & policy_u)
    if wrong_nu.any():
        first = units[int(wrong_nu.any(dim=0).nonzero()[0])].name
        raise EquivalenceError(
            f"The skipping path ran other units than the masked path for"
            f" {int(wrong_nu.any(dim=1).sum())} of {len(wrong_nu)} images, first at '{first}'."
        )
    return excused_n


def _in_part(executed_nu: Tensor) -> Tensor:
    return (executed_nu > 0) & (executed_nu < 1)


def _compare_logits(
    skipping: Output, masked: Output, excused_n: Tensor, seen: _Seen, *, atol: float
) -> None:
    difference_n = (skipping.logits.float() - masked.logits.float()).abs().amax(dim=1)
    held = _largest(difference_n[~excused_n], atol=atol)
    seen.largest = max(seen.largest, held)
    excused = _largest(difference_n[excused_n], atol=_EXCUSED_ATOL)
    seen.largest_excused = max(seen.largest_excused, excused)


def _largest(difference_n: Tensor, *, atol: float) -> float:
    difference = difference_n.max().item() if len(difference_n) else 0.0
    if not difference <= atol:  # so that NaN fails too
        raise EquivalenceError(
            f"The logits of the skipping path and the masked path differ by up to"
            f" {difference:.1e}; allowed is {atol:.0e}.",
            hint="Until both paths agree, no latency of this network is reported.",
        )
    return difference
