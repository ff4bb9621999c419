"""The clock: networks proved, warmed up and timed in turns, in one process.

All networks take turns in rounds in one runtime, the dense ones first, on the same real images in
the same order: both sides of a speed-up run in the same way. A network is timed once what the
runtime made of it was proved equal to the masked path of the network as it was trained. Timed is a
call from the input on the device to the logits ready, synchronised on both sides. A failure ends
its own measurement and nothing else. Owns no statistics but the stop rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.errors import BenchError
from bench.machine import keep_freed_memory
from bench.measure.environment import ContentionMeter
from bench.measure.equivalence import IMAGES, check_execution
from bench.measure.latency.profiles import Profile
from bench.measure.latency.statistics import Ms, has_converged
from bench.measure.modes import using_threads
from bench.networks.unit import DynamicNet
from bench.runtimes.contract import Run, Runtime
from bench.seeding import derive

Index = npt.NDArray[np.int32]
Progress = Callable[[float], None]
"""Hears which share of the current step is done, in [0, 1]."""

_MS = 1e-6  # milliseconds in a nanosecond
_MAX_ROUNDS = 1000
_EXAMPLE_IMAGES = 2


class NetworkToTime(NamedTuple):
    """A network on the device, and the name of the dense network that its speed-up is relative to:
    of a dense one its own."""

    net: DynamicNet
    dense: str


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """How networks are timed, whatever the runtime.

    `images_nchw` are real, normalised test images, 1,024 or more where the data set has as many.
    """

    images_nchw: Tensor
    profile: Profile
    device: torch.device
    batch_sizes: tuple[int, ...] = (1, 256)
    threads: int = 1
    seed: int = 0


class Query(NamedTuple):
    """One input: images (B, C, H, W) and their positions (B,) among all."""

    x_nchw: Tensor
    image_b: Index


class RoundSamples(NamedTuple):
    """One round of one network: ms per image (n,) and which images each call saw (n, B)."""

    ms_n: Ms
    image_nb: Index


@dataclass(slots=True)
class NetworkTiming:
    """What one process measures of one network at one batch size; without rounds it has failed."""

    failure: str = ""
    rounds: list[RoundSamples] = field(default_factory=list)
    meter: ContentionMeter = field(default_factory=ContentionMeter)

    @property
    def ms_n(self) -> Ms:
        """Milliseconds per image of all calls so far."""
        return np.concatenate([samples.ms_n for samples in self.rounds] or [np.empty(0)])


Timings = dict[str, NetworkTiming]
"""Networks by name in the same rounds at one batch size; the dense ones twice, also as `again`."""


def again(dense: str) -> str:
    """Return what the second timing of a dense network is called."""
    return f"{dense}, again"


def time_networks(
    networks: Mapping[str, NetworkToTime], runtime: Runtime, setup: Setup, *, progress: Progress
) -> list[Timings]:
    """Time all networks in a runtime, in this process; return what was found at each batch size.

    The number of CPU threads is restored.
    """
    keep_freed_memory()
    images_nchw = setup.images_nchw.to(setup.device, memory_format=torch.channels_last)
    setup = replace(setup, images_nchw=images_nchw)
    runs: dict[str, Run | str] = {}
    with using_threads(setup.threads):
        for name in sorted(networks, key=lambda name: networks[name].dense != name):
            progress(len(runs) / len(networks))
            runs[name] = _prepared(networks[name].net, runtime, setup)
        runs |= {again(name): runs[name] for name in networks if networks[name].dense == name}
        return [_timed(runs, size, setup, progress) for size in setup.batch_sizes]


def _prepared(net: DynamicNet, runtime: Runtime, setup: Setup) -> Run | str:
    """Return the network in a runtime, proved, or why there is nothing to be timed."""
    try:
        refused = runtime.refuses(net, setup.device, setup.threads)
        if refused is not None:
            return refused
        x_nchw = setup.images_nchw[:IMAGES]
        run = runtime.prepare(net, x_nchw[:_EXAMPLE_IMAGES])
        check_execution(net, x_nchw, run=run)
        return run
    except Exception as error:
        return _reason_of(error)


def _timed(
    runs: Mapping[str, Run | str], batch_size: int, setup: Setup, progress: Progress
) -> Timings:
    timings, running = dict[str, NetworkTiming](), list[tuple[Run, NetworkTiming]]()
    few = len(setup.images_nchw)
    for name, run in runs.items():
        if isinstance(run, str):
            timings[name] = NetworkTiming(run)
        elif batch_size > few:
            said = f"batches of {batch_size} need as many images; there are {few}"
            timings[name] = NetworkTiming(said)
        else:
            timings[name] = NetworkTiming()
            running.append((run, timings[name]))
    inputs = partial(_inputs, setup, batch_size)
    for done, (run, timing) in enumerate(running):
        progress(done / len(running))
        with _noting_failure(timing, batch_size):
            warm_up(run, inputs("warm-up"), profile=setup.profile, device=setup.device)
    _run_rounds(running, inputs, batch_size, setup, progress)
    return timings


def _run_rounds(
    running: Sequence[tuple[Run, NetworkTiming]],
    inputs: Callable[[int], Iterator[Query]],
    batch_size: int,
    setup: Setup,
    progress: Progress,
) -> None:
    """Let the networks that have not failed take turns, until the profile's stop rule is met."""
    profile = setup.profile
    for number in range(_MAX_ROUNDS):
        running = [(run, timing) for run, timing in running if not timing.failure]
        found = [timing.ms_n for _, timing in running]
        late = any(ms_n.sum() * batch_size >= 1e3 * profile.max_time_s for ms_n in found)
        if not running or (number >= profile.rounds and (late or all(map(has_converged, found)))):
            return
        for run, timing in running:
            progress(min(1.0, number / profile.rounds))
            with _noting_failure(timing, batch_size), timing.meter:
                samples = time_round(run, inputs(number), profile=profile, device=setup.device)
                timing.rounds.append(samples)


@contextmanager
def _noting_failure(timing: NetworkTiming, batch_size: int) -> Iterator[None]:
    """Let an error end the measurement of one network and nothing else."""
    try:
        with torch.inference_mode():
            yield
    except Exception as error:
        timing.failure = _reason_of(error, f" at batch size {batch_size}")
        timing.rounds.clear()
        torch.cuda.empty_cache()


def _reason_of(error: Exception, tried: str = "") -> str:
    """Say in one line why there is no number."""
    text = str(error)
    if isinstance(error, BenchError):
        return error.message
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return f"oom{tried}"
    first_line = text.partition("\n")[0]
    return f"failed{tried}: {type(error).__name__}: {first_line}"


def _inputs(setup: Setup, batch_size: int, round_: int | str) -> Iterator[Query]:
    """Yield the images in an order that only seed, batch size and round determine."""
    rng = np.random.default_rng(derive(setup.seed, "latency", batch_size, round_))
    order = rng.permutation(len(setup.images_nchw)).astype(np.int32)
    return queries(setup.images_nchw, order, batch_size=batch_size)


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


def warm_up(run: Run, inputs: Iterator[Query], *, profile: Profile, device: torch.device) -> None:
    """Call until enough calls and time are spent and every unit has run, or images run out."""
    begin_ns, images = time.perf_counter_ns(), 0
    covered_u: Tensor | None = None
    for calls, query in enumerate(inputs, start=1):
        _, executed_nu = run(query.x_nchw)
        synchronise(device)
        images += len(query.image_b)
        ran_u = (executed_nu > 0).any(dim=0)
        covered_u = ran_u if covered_u is None else covered_u | ran_u
        waited = time.perf_counter_ns() - begin_ns >= profile.warmup_s * 1e9
        covered = images >= profile.coverage_images or bool(covered_u.all())
        if calls >= profile.warmup_calls and waited and covered:
            return


def time_round(
    run: Run, inputs: Iterator[Query], *, profile: Profile, device: torch.device
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
