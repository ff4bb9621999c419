"""The clock: warm-up by coverage, and timed calls.

Wall time of one call from the input on the device to the logits ready, synchronised on both
sides. Owns no networks, no statistics and no record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.measure.latency.profiles import Profile
from bench.measure.latency.statistics import Ms
from bench.runtimes.contract import Run

Index = npt.NDArray[np.int32]
_MS = 1e-6  # milliseconds in a nanosecond


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


def warm_up(
    run: Run,
    inputs: Iterator[Query],
    *,
    profile: Profile,
    device: torch.device,
) -> None:
    """Call until enough calls and time are spent and every unit has run, or images run out."""
    begin_ns, calls, images = time.perf_counter_ns(), 0, 0
    covered_u: Tensor | None = None
    while True:
        query = next(inputs)
        _, executed_nu = run(query.x_nchw)
        synchronise(device)
        calls, images = calls + 1, images + len(query.image_b)
        ran_u = (executed_nu > 0).any(dim=0)
        covered_u = ran_u if covered_u is None else covered_u | ran_u
        covered = bool(covered_u.all())
        waited = time.perf_counter_ns() - begin_ns >= profile.warmup_s * 1e9
        enough = calls >= profile.warmup_calls and waited
        if enough and (covered or images >= profile.coverage_images):
            return


def time_round(
    run: Run,
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
        run(query.x_nchw)
        synchronise(device)
        took_ns.append(time.perf_counter_ns() - begin_ns)
        spent_ns += took_ns[-1]
        images.append(query.image_b)
    image_nb = np.stack(images)
    return RoundSamples(np.array(took_ns) * _MS / image_nb.shape[1], image_nb)
