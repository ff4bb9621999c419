"""Latency of networks that really skip, beside dense networks, by the rules in docs/latency.md.

All networks take turns in rounds in one runtime, the dense ones first, on the same real images in
the same order: both sides of a speed-up run in the same way. A network is timed once what the
runtime made of it was proved equal to the masked path of the network as it was trained. What fails
becomes a cell with a reason. The clock is rounds.py, the numbers are statistics.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.machine import keep_freed_memory
from bench.measure.environment import describe_environment
from bench.measure.equivalence import IMAGES, check_execution
from bench.measure.latency.cells import MeasuredCell, cell_of
from bench.measure.latency.profiles import Profile
from bench.measure.latency.rounds import (
    NetworkTiming,
    Prepared,
    Progress,
    Setup,
    reason_of,
    run_rounds,
)
from bench.measure.modes import using_threads
from bench.networks.unit import DynamicNet
from bench.runtimes.contract import Runtime

_EXAMPLE_IMAGES = 2


class NetworkToTime(NamedTuple):
    """A network to time, and the name of the dense network that its speed-up is relative to."""

    net: DynamicNet
    dense: str


def measure_latency(
    subjects: Mapping[str, NetworkToTime],
    dense: Mapping[str, DynamicNet],
    *,
    images_nchw: Tensor,
    runtime: Runtime,
    batch_sizes: Sequence[int] = (1, 256),
    profile: Profile,
    device: torch.device | str,
    threads: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, list[MeasuredCell]]:
    """Time all of `dense` and `subjects` in a runtime at each batch size, in this process.

    The networks are on `device` already; `images_nchw` are real, normalised test images, 1,024 or
    more where the data set has as many. Returns the cells by name in the order of `batch_sizes`,
    those of the dense networks too; a cell that could not be measured has no latency and a reason.
    Each also has its ratios to the other dense networks. The number of CPU threads is restored.
    """
    keep_freed_memory()
    where = torch.device(device)
    images_nchw = images_nchw.to(where, memory_format=torch.channels_last)
    tell = progress or (lambda share: None)
    beside = {name: name for name in dense} | {name: s.dense for name, s in subjects.items()}
    nets = {**dense, **{name: subject.net for name, subject in subjects.items()}}
    cells: dict[str, list[MeasuredCell]] = {name: [] for name in nets}
    with using_threads(threads):
        setup = Setup(images_nchw, profile, where, threads, seed, describe_environment(where))
        prepared: list[Prepared] = []
        for name, net in nets.items():
            tell(len(prepared) / len(nets))
            prepared.append(_prepared(name, net, runtime, setup))
        for size in batch_sizes:
            timings, again = _timed(prepared, size, setup=setup, dense=dense, tell=tell)
            baselines = {name: timings[name] for name in dense}
            for name, timing in timings.items():
                own = beside[name]
                cells[name].append(cell_of(timing, baselines, dense=own, again=again[own]))
    return cells


def _prepared(name: str, net: DynamicNet, runtime: Runtime, setup: Setup) -> Prepared:
    try:
        refused = runtime.refuses(net, setup.device, setup.threads)
        if refused is not None:
            return Prepared(name, runtime.name, failure=refused)
        x_nchw = setup.images_nchw[:IMAGES]
        run = runtime.prepare(net, x_nchw[:_EXAMPLE_IMAGES])
        check_execution(net, x_nchw, run=run)
        return Prepared(name, runtime.name, run)
    except Exception as error:
        return Prepared(name, runtime.name, failure=reason_of(error))


def _timed(
    prepared: Sequence[Prepared],
    batch_size: int,
    *,
    setup: Setup,
    dense: Collection[str],
    tell: Progress,
) -> tuple[dict[str, NetworkTiming], dict[str, NetworkTiming]]:
    """Return the networks, and the dense ones a second time, measured in the same rounds."""
    few = len(setup.images_nchw)
    said = f"batches of {batch_size} need as many images; there are {few}"
    first, again = {}, {}
    for one in prepared:
        failure = one.failure or said * (batch_size > few)
        first[one.name] = NetworkTiming(one, batch_size, setup, failure)
        if one.name in dense:
            again[one.name] = NetworkTiming(one, batch_size, setup, failure)
    timings = [*first.values(), *again.values()]
    for done, timing in enumerate(timings):
        tell(done / len(timings))
        timing.guarded(timing.warm_up)
    run_rounds(timings, setup.profile, tell=tell)
    return first, again
