"""The clock, one network at one batch size while it is timed, and the rounds all take turns in.

Timed is a call from the input on the device to the logits ready, synchronised on both sides. A
failure ends its own measurement and nothing else. Owns no statistics but the stop rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.errors import BenchError
from bench.measure.environment import ContentionMeter
from bench.measure.latency.profiles import Profile
from bench.measure.latency.statistics import Ms, has_converged
from bench.records.record import Environment
from bench.runtimes.contract import Run
from bench.seeding import derive

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


Progress = Callable[[float], None]
"""Hears which share of the current step is done, in [0, 1]."""

_MAX_ROUNDS = 1000


class Setup(NamedTuple):
    """What all cells of one measurement share."""

    images_nchw: Tensor
    profile: Profile
    device: torch.device
    threads: int
    seed: int
    environment: Environment


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network in a runtime, or why there is nothing to be timed."""

    name: str
    runtime: str
    run: Run | None = None
    failure: str = ""


@dataclass(slots=True)
class NetworkTiming:
    """A prepared network at one batch size while it is being measured."""

    prepared: Prepared
    batch_size: int
    setup: Setup
    failure: str = ""
    rounds: list[RoundSamples] = field(default_factory=list)
    meter: ContentionMeter = field(default_factory=ContentionMeter)

    @property
    def ms_n(self) -> Ms:
        """Milliseconds per image of all calls so far."""
        return np.concatenate([samples.ms_n for samples in self.rounds] or [np.empty(0)])

    @property
    def spent_s(self) -> float:
        """Seconds of timed work so far."""
        return float(self.ms_n.sum()) * self.batch_size / 1e3

    def guarded(self, step: Callable[[], None]) -> None:
        """Run `step` unless this network has failed; a failure ends its timing and nothing else."""
        if self.failure:
            return
        try:
            step()
        except Exception as error:
            self.failure = reason_of(error, batch_size=self.batch_size)
            self.rounds.clear()
            if self.setup.device.type == "cuda":
                torch.cuda.empty_cache()

    def warm_up(self) -> None:
        """Run until lazy work is over."""
        inputs, setup = self._inputs("warm-up"), self.setup
        with torch.inference_mode():
            warm_up(self._run, inputs, profile=setup.profile, device=setup.device)

    def run_round(self) -> None:
        """Time one round, on an order of the images that only round and batch size determine."""
        inputs, setup = self._inputs(len(self.rounds)), self.setup
        with torch.inference_mode(), self.meter:
            samples = time_round(self._run, inputs, profile=setup.profile, device=setup.device)
        self.rounds.append(samples)

    @property
    def _run(self) -> Run:
        assert self.prepared.run is not None
        return self.prepared.run

    def _inputs(self, round_: int | str) -> Iterator[Query]:
        images_nchw = self.setup.images_nchw
        rng = np.random.default_rng(derive(self.setup.seed, "latency", self.batch_size, round_))
        order = rng.permutation(len(images_nchw)).astype(np.int32)
        return queries(images_nchw, order, batch_size=self.batch_size)


def run_rounds(timings: Sequence[NetworkTiming], profile: Profile, *, tell: Progress) -> None:
    """Let the networks that have not failed take turns, until the profile's stop rule is met."""
    for number in range(_MAX_ROUNDS):
        running = [timing for timing in timings if not timing.failure]
        settled = all(has_converged(timing.ms_n) for timing in running)
        late = any(timing.spent_s >= profile.max_time_s for timing in running)
        if not running or (number >= profile.rounds and (settled or late)):
            return
        for timing in running:
            tell(min(1.0, number / profile.rounds))
            timing.guarded(timing.run_round)


def reason_of(error: Exception, *, batch_size: int | None = None) -> str:
    """Say in one line why there is no number."""
    tried = "" if batch_size is None else f" at batch size {batch_size}"
    text = str(error)
    if isinstance(error, BenchError):
        return error.message
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return f"oom{tried}"
    first_line = text.partition("\n")[0]
    return f"failed{tried}: {type(error).__name__}: {first_line}"
