"""The clock: warm-up by coverage, and timed calls.

Wall time of one call from the input on the device to the logits ready, synchronised on both
sides. Owns no networks, no statistics and no record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.measure.profiles import Profile
from bench.measure.speed import Ms
from bench.networks.inference import Call, in_portions

Index = npt.NDArray[np.int32]
_MS = 1e-6  # milliseconds in a nanosecond
PORTIONS = (32, 64, 128)
_TRIES = 2


class Query(NamedTuple):
    """One input: images (B, C, H, W) and their positions (B,) among all."""

    x_nchw: Tensor
    image_b: Index


class RoundSamples(NamedTuple):
    """One round of one network: ms per image (n,) and which images each call saw (n, B)."""

    ms_n: Ms
    image_nb: Index


def queries(images_nchw: Tensor, order: Index, *, batch_size: int) -> Iterator[Query]:
    """Yield full batches of `images_nchw` in the given order, over and over."""
    full = len(order) // batch_size * batch_size
    batches = order[:full].reshape(-1, batch_size)
    while True:
        for image_b in batches:
            chosen = images_nchw[torch.from_numpy(image_b.astype(np.int64))]
            yield Query(chosen.contiguous(memory_format=torch.channels_last), image_b)


def synchronise(device: torch.device) -> None:
    """Wait until `device` has done all its work."""
    if device.type != "cpu" and torch.accelerator.is_available():
        torch.accelerator.synchronize()


def fastest_portion(call: Call, x_nchw: Tensor, *, device: torch.device) -> int:
    """Return how many images of a batch (B, C, H, W) are best run at a time, by trying.

    Small portions stay in the caches of a CPU; an accelerator gets the batch whole.
    """
    whole = len(x_nchw)
    if device.type != "cpu":
        return whole
    took_ns: dict[int, int] = {}
    for size in (*(size for size in PORTIONS if size < whole), whole):
        portioned = in_portions(call, size)
        portioned(x_nchw)
        took_ns[size] = min(_nanoseconds(portioned, x_nchw, device) for _ in range(_TRIES))
    return min(took_ns, key=took_ns.__getitem__)


def faster(one: Call, other: Call, inputs: Sequence[Tensor], *, device: torch.device) -> bool:
    """Whether `one` is faster than `other` on these inputs, taking turns, by the median."""
    took_ns: dict[Call, list[int]] = {one: [], other: []}
    for x_nchw in (*inputs, *inputs):
        for call in took_ns:
            took_ns[call].append(_nanoseconds(call, x_nchw, device))
    # The first half is warm-up.
    half = len(inputs)
    return bool(np.median(took_ns[one][half:]) < np.median(took_ns[other][half:]))


def _nanoseconds(call: Call, x_nchw: Tensor, device: torch.device) -> int:
    synchronise(device)
    begin_ns = time.perf_counter_ns()
    call(x_nchw)
    synchronise(device)
    return time.perf_counter_ns() - begin_ns


def warm_up(
    call: Callable[[Tensor], Tensor | None],
    inputs: Iterator[Query],
    *,
    profile: Profile,
    device: torch.device,
) -> None:
    """Call until enough calls and time are spent and every unit has run, or images run out.

    `call` returns the trace (N, U), or None where every unit always runs.
    """
    begin_ns, calls, images = time.perf_counter_ns(), 0, 0
    covered_u: Tensor | None = None
    while True:
        query = next(inputs)
        executed_nu = call(query.x_nchw)
        synchronise(device)
        calls, images = calls + 1, images + len(query.image_b)
        covered = executed_nu is None
        if executed_nu is not None:
            ran_u = (executed_nu > 0).any(dim=0)
            covered_u = ran_u if covered_u is None else covered_u | ran_u
            covered = bool(covered_u.all())
        waited = time.perf_counter_ns() - begin_ns >= profile.warmup_s * 1e9
        enough = calls >= profile.warmup_calls and waited
        if enough and (covered or images >= profile.coverage_images):
            return


def time_round(
    call: Callable[[Tensor], object],
    inputs: Iterator[Query],
    *,
    profile: Profile,
    device: torch.device,
) -> RoundSamples:
    """Time calls, one query after the other, for one round; preparing inputs is not timed."""
    spent_ns = 0
    took_ns: list[int] = []
    images: list[Index] = []
    while spent_ns < profile.round_s * 1e9 or len(took_ns) < profile.round_calls:
        query = next(inputs)
        synchronise(device)
        begin_ns = time.perf_counter_ns()
        call(query.x_nchw)
        synchronise(device)
        took_ns.append(time.perf_counter_ns() - begin_ns)
        spent_ns += took_ns[-1]
        images.append(query.image_b)
    image_nb = np.stack(images)
    return RoundSamples(np.array(took_ns) * _MS / image_nb.shape[1], image_nb)
