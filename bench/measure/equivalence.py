"""The proof that the skipping path computes what the masked path computes.

No latency is reported for a network that fails it. Owns no clock.

A block or a position runs where one float exceeds another. Two paths compute that float in
different orders, so an image may be decided otherwise though both are right. Such an image is
excused if the paths agree on it in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from bench.errors import EquivalenceError
from bench.measure.modes import evaluating, full_fp32
from bench.networks.unit import DynamicNet, Output
from bench.runtimes.contract import Run

IMAGES = 256
"""How many images a proof looks at, where there are as many."""

_BATCH = 128
_SINGLES = 8
_IMAGES_PER_EXCUSE = 256
# Of the largest logit: what float32 can hold after some thirty layers.
_RTOL = 1e-5
# In float64 some numbers are still rounded to float32, as the weights that halting gives.
_RTOL_DOUBLE = 1e-6


@dataclass(slots=True)
class _Seen:
    """What has come of the comparison so far; images by their place among those given.

    `other` maps images on which other units ran to the first of these.
    """

    other: dict[int, str] = field(default_factory=dict)
    largest: float = 0.0


def check_execution(
    net: DynamicNet, x_nchw: Tensor, *, run: Run | None = None, atol: float = 1e-4
) -> str:
    """Compare `execute` with `forward` in eval mode on all images (N, C, H, W) given.

    `run` is what takes the place of `execute`: the network as a runtime has prepared it. In
    batches, and the first few images one by one; both paths see the same batch. Logits may differ
    by `atol`, or by 1e-5 of the largest where that is more. On one image, and one in 256 of many,
    other units may run if in float64 they do not; the sentence returned for the record says so.

    Raises:
        EquivalenceError: the logits differ by more, or other units ran.
        NotExecutable: the network has no path that really skips.
    """
    seen, skipping = _Seen(), run or partial(executed, net)
    with evaluating(net), full_fp32():
        for first, batch_nchw in _portions(x_nchw):
            _compare(skipping(batch_nchw), net(batch_nchw), net, first, seen, atol=atol)
    allowed = max(1, len(x_nchw) // _IMAGES_PER_EXCUSE)
    if len(seen.other) > allowed:
        raise EquivalenceError(
            f"The skipping path ran other units than the masked path for {len(seen.other)} of"
            f" {len(x_nchw)} images, first at '{next(iter(seen.other.values()))}'; rounding"
            f" could excuse {allowed}."
        )
    if seen.other:
        _prove_in_double(net, x_nchw[sorted(seen.other)])
    images = f"{len(seen.other)} image" + "s" * (len(seen.other) > 1)
    but = f" but for {images} within rounding of a threshold" * bool(seen.other)
    same = f"execute == forward on {len(x_nchw)} images: max |difference| {seen.largest:.1e}"
    return f"{same}, identical masks{but}"


def executed(net: DynamicNet, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits and the trace of the skipping path, as a runtime's run does."""
    output = net.execute(x_nchw)
    return output.logits, output.executed


def _portions(x_nchw: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(x_nchw), _BATCH):
        yield start, x_nchw[start : start + _BATCH]
    for single in range(min(_SINGLES, len(x_nchw))):
        yield single, x_nchw[single : single + 1]


def _compare(
    skipping: tuple[Tensor, Tensor],
    masked: Output,
    net: DynamicNet,
    first: int,
    seen: _Seen,
    *,
    atol: float,
) -> None:
    (logits_nk, executed_nu), expected_nu = skipping, masked.executed
    if executed_nu.shape != expected_nu.shape:
        raise EquivalenceError(
            f"The skipping path reports a trace of shape {tuple(executed_nu.shape)},"
            f" the masked path {tuple(expected_nu.shape)}."
        )
    differs_nu = executed_nu != expected_nu
    other_n = differs_nu.any(dim=1)
    for n in other_n.nonzero().flatten().tolist():
        seen.other[first + n] = net.units()[int(differs_nu[n].nonzero()[0])].name
    same_n = ~other_n
    difference = _largest_difference(logits_nk[same_n], masked.logits[same_n])
    allowed = max(atol, _RTOL * float(masked.logits.abs().max()))
    if not difference <= allowed:  # so that NaN fails too
        raise EquivalenceError(
            f"The logits of the skipping path and the masked path differ by up to"
            f" {difference:.1e}; allowed is {allowed:.0e}.",
            hint="Until both paths agree, no latency of this network is reported.",
        )
    seen.largest = max(seen.largest, difference)


def _prove_in_double(net: DynamicNet, x_nchw: Tensor) -> None:
    """Require that in float64 both paths agree on these images, which rounding is to excuse."""
    exact, x_nchw = copy.deepcopy(net).double(), x_nchw.double()
    with evaluating(exact):
        ran, expected = exact.execute(x_nchw), exact(x_nchw)
    differs_nu = ran.executed != expected.executed
    if differs_nu.any():
        unit = net.units()[int(differs_nu.any(dim=0).nonzero()[0])].name
        raise EquivalenceError(
            f"The skipping path ran other units than the masked path for"
            f" {int(differs_nu.any(dim=1).sum())} of {len(x_nchw)} images that rounding was to"
            f" excuse, first at '{unit}': in float64 too."
        )
    difference = _largest_difference(ran.logits, expected.logits)
    if not difference <= _RTOL_DOUBLE * max(1.0, float(expected.logits.abs().max())):
        raise EquivalenceError(
            f"In float64 the logits of the two paths differ by up to {difference:.1e}."
        )


def _largest_difference(a_nk: Tensor, b_nk: Tensor) -> float:
    return (a_nk - b_nk).abs().max().item() if len(a_nk) else 0.0
