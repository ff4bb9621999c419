"""The proof that the skipping path computes what the masked path computes.

No latency is reported for a network that fails it. Owns no clock.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from bench.errors import EquivalenceError
from bench.measure.modes import evaluating, full_fp32
from bench.networks.unit import DynamicNet, Output

MIN_IMAGES = 256
_BATCH = 128
_SINGLES = 8


def check_execution(net: DynamicNet, x_nchw: Tensor, *, atol: float = 1e-4) -> str:
    """Compare `execute` with `forward` in eval mode on all images (N, C, H, W) given.

    In batches, and the first few images one by one; both paths see the same batch. Returns a
    sentence for the record.

    Raises:
        EquivalenceError: the logits differ by more than `atol`, or other units ran.
        NotExecutable: the network has no path that really skips.
        ValueError: fewer than MIN_IMAGES images were given.
    """
    if len(x_nchw) < MIN_IMAGES:
        raise ValueError(f"{len(x_nchw)} images prove nothing; at least {MIN_IMAGES} are needed")
    largest = 0.0
    with evaluating(net), full_fp32():
        for batch_nchw in _portions(x_nchw):
            skipping, masked = net.execute(batch_nchw), net(batch_nchw)
            _require_same_units(net, skipping, masked)
            largest = max(largest, _difference(skipping, masked, atol=atol))
    return (
        f"execute == forward on {len(x_nchw)} images: max |difference| {largest:.1e},"
        " identical masks"
    )


def _portions(x_nchw: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(x_nchw), _BATCH):
        yield x_nchw[start : start + _BATCH]
    for single in range(_SINGLES):
        yield x_nchw[single : single + 1]


def _require_same_units(net: DynamicNet, skipping: Output, masked: Output) -> None:
    executed_nu, expected_nu = skipping.executed, masked.executed
    if executed_nu.shape != expected_nu.shape:
        raise EquivalenceError(
            f"The skipping path reports a trace of shape {tuple(executed_nu.shape)},"
            f" the masked path {tuple(expected_nu.shape)}."
        )
    wrong_nu = executed_nu != expected_nu
    if wrong_nu.any():
        names = [unit.name for unit in net.units()]
        first = names[int(wrong_nu.any(dim=0).nonzero()[0])]
        raise EquivalenceError(
            f"The skipping path ran other units than the masked path for"
            f" {int(wrong_nu.any(dim=1).sum())} of {len(wrong_nu)} images, first at '{first}'."
        )


def _difference(skipping: Output, masked: Output, *, atol: float) -> float:
    difference = (skipping.logits.float() - masked.logits.float()).abs().max().item()
    if not difference <= atol:  # so that NaN fails too
        raise EquivalenceError(
            f"The logits of the skipping path and the masked path differ by up to"
            f" {difference:.1e}; allowed is {atol:.0e}.",
            hint="Until both paths agree, no latency of this network is reported.",
        )
    return difference
