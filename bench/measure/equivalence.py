"""The proof that the skipping path computes what the masked path computes.

No latency is reported for a network that fails it. Owns no clock.

A block or a position runs where one float exceeds another. Two paths compute that float in
different orders, so an image may be decided otherwise though both are right. Such an image is
excused if the paths agree on it in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

from torch import Tensor

from bench.errors import EquivalenceError
from bench.measure.modes import evaluating, full_fp32
from bench.networks.unit import DynamicNet, Output
from bench.plain_text import counted
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
    other: dict[int, str] = {}
    largest, skipping = 0.0, run or partial(executed, net)
    with evaluating(net), full_fp32():
        for first, batch_nchw in _portions(x_nchw):
            ran = skipping(batch_nchw)
            differing, difference = _compared(ran, net(batch_nchw), net, atol=atol, rtol=_RTOL)
            other |= {first + n: unit for n, unit in differing.items()}
            largest = max(largest, difference)
    allowed = max(1, len(x_nchw) // _IMAGES_PER_EXCUSE)
    if len(other) > allowed:
        raise EquivalenceError(
            f"The skipping path ran other units than the masked path for {len(other)} of"
            f" {len(x_nchw)} images, first at '{next(iter(other.values()))}'; rounding"
            f" could excuse {allowed}."
        )
    if other:
        _prove_in_double(net, x_nchw[sorted(other)])
    but = f" but for {counted(len(other), 'image')} within rounding of a threshold" * bool(other)
    same = f"execute == forward on {len(x_nchw)} images: max |difference| {largest:.1e}"
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


def _compared(
    skipping: tuple[Tensor, Tensor],
    masked: Output,
    net: DynamicNet,
    *,
    atol: float,
    rtol: float,
    subject: str = "The logits",
) -> tuple[dict[int, str], float]:
    """Return the images of a batch on which other units ran, each with the first of these, and the
    largest difference of the logits of the others, once it is found small enough."""
    (logits_nk, executed_nu), expected_nu = skipping, masked.executed
    if executed_nu.shape != expected_nu.shape:
        raise EquivalenceError(
            f"The skipping path reports a trace of shape {tuple(executed_nu.shape)},"
            f" the masked path {tuple(expected_nu.shape)}."
        )
    differs_nu = executed_nu != expected_nu
    other_n = differs_nu.any(dim=1)
    same_nk = (logits_nk - masked.logits)[~other_n]
    difference = same_nk.abs().max().item() if len(same_nk) else 0.0
    allowed = max(atol, rtol * float(masked.logits.abs().max()))
    if not difference <= allowed:  # so that NaN fails too
        raise EquivalenceError(
            f"{subject} of the skipping path and the masked path differ by up to"
            f" {difference:.1e}; allowed is {allowed:.0e}.",
            hint="Until both paths agree, no latency of this network is reported.",
        )
    units = net.units()
    first = {n: int(differs_nu[n].nonzero()[0]) for n in other_n.nonzero().flatten().tolist()}
    return {n: units[u].name for n, u in first.items()}, difference


def _prove_in_double(net: DynamicNet, x_nchw: Tensor) -> None:
    """Require that in float64 both paths agree on these images, which rounding is to excuse."""
    exact, x_nchw = copy.deepcopy(net).double(), x_nchw.double()
    both = {"atol": _RTOL_DOUBLE, "rtol": _RTOL_DOUBLE}
    with evaluating(exact):
        ran, expected = executed(exact, x_nchw), exact(x_nchw)
        other, _ = _compared(ran, expected, net, **both, subject="In float64 the logits")
    if other:
        raise EquivalenceError(
            f"The skipping path ran other units than the masked path for {len(other)} of"
            f" {len(x_nchw)} images that rounding was to excuse, first at"
            f" '{next(iter(other.values()))}': in float64 too."
        )
