"""One network at one batch size while it is being timed, and the rounds they all take turns in.

A failure ends its own lane and nothing else. Owns no statistics but the stop rule, and no record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor

from bench.errors import BenchError
from bench.measure.break_even import use_break_even
from bench.measure.contention import ContentionMeter
from bench.measure.modes import evaluating
from bench.measure.profiles import Profile
from bench.measure.speed import Ms, has_converged
from bench.measure.timing import (
    Index,
    Query,
    RoundSamples,
    faster,
    fastest_portion,
    queries,
    time_round,
    warm_up,
)
from bench.networks.gated import GatedResNet
from bench.networks.inference import Call, GraphCall, in_portions
from bench.networks.policy import EverythingRuns
from bench.networks.unit import DynamicNet
from bench.records.record import Environment
from bench.seeding import derive

Progress = Callable[[str, float], None]
_MAX_ROUNDS = 1000
_TRIED = 32  # images for which two forms of a network are compared


class Setup(NamedTuple):
    """What all cells of one measurement share."""

    images_nchw: Tensor
    profile: Profile
    device: torch.device
    threads: int
    seed: int
    environment: Environment


@dataclass(frozen=True, slots=True)
class Proof:
    """A network and what came of its equivalence check: a sentence, or why there is none.

    `graph` is the same network as a graph, if there is one; on a CPU it takes single images only.
    """

    name: str
    net: DynamicNet
    sentence: str = ""
    failure: str = ""
    graph: GraphCall | None = None


@dataclass(slots=True)
class Lane:
    """One network at one batch size while it is being measured.

    `portion` is how many images of a batch it runs at a time, and `in_graph` whether it runs as a
    graph, once that was tried out.
    """

    proof: Proof
    batch_size: int
    setup: Setup
    failure: str = ""
    portion: int = 0
    in_graph: bool = False
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
        """Run `step` unless this lane has failed; a failure ends the lane and nothing else."""
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
        """Find the form that is fastest, then run until lazy work is over."""
        setup, net = self.setup, self.proof.net
        inputs = queries(setup.images_nchw, self._order("warm-up"), batch_size=self.batch_size)
        with evaluating(net):
            if self.batch_size == 1:
                use_break_even(net, 1, setup.device)
                self.in_graph = self._graph_is_faster(inputs)
            else:
                first = next(inputs).x_nchw
                self.portion = fastest_portion(timed_call(net), first, device=setup.device)
                use_break_even(net, self.portion, setup.device)
                if setup.device.type == "cuda":
                    self.in_graph = self._graph_is_faster(inputs)
            warm_up(self._traced, inputs, profile=setup.profile, device=setup.device)

    def run_round(self) -> None:
        """Time one round, on an order of the images that only round and batch size determine."""
        order = self._order(len(self.rounds))
        inputs = queries(self.setup.images_nchw, order, batch_size=self.batch_size)
        with evaluating(self.proof.net), self.meter:
            samples = time_round(
                self._timed, inputs, profile=self.setup.profile, device=self.setup.device
            )
        self.rounds.append(samples)

    def _graph_is_faster(self, inputs: Iterator[Query]) -> bool:
        graph = self.proof.graph
        if graph is None:
            return False
        eager, few = timed_call(self.proof.net), [next(inputs).x_nchw for _ in range(_TRIED)]
        return faster(lambda x_nchw: graph(x_nchw)[0], eager, few, device=self.setup.device)

    @property
    def _timed(self) -> Call:
        """The call that gives logits, in the form found fastest."""
        return self._in_form(timed_call(self.proof.net), 0)

    @property
    def _traced(self) -> Call:
        """The same call, giving the trace."""
        return self._in_form(traced_call(self.proof.net), 1)

    def _in_form(self, call: Call, output: int) -> Call:
        """Return `call`, or the graph in its place; `output` is which of the graph's it gives."""
        graph = self.proof.graph
        if self.in_graph and graph is not None:
            return lambda x_nchw: graph(x_nchw)[output]
        return in_portions(call, self.portion) if self.portion else call

    def _order(self, round_: int | str) -> Index:
        rng = np.random.default_rng(derive(self.setup.seed, "latency", self.batch_size, round_))
        return rng.permutation(len(self.setup.images_nchw)).astype(np.int32)


def timed_call(net: DynamicNet) -> Call:
    """Return what is timed, giving logits: the plain trunk where nothing is decided, else
    `execute`."""
    return net.trunk if _decides_nothing(net) else lambda x_nchw: net.execute(x_nchw).logits


def traced_call(net: DynamicNet) -> Call:
    """Return the same call, giving its trace (N, U); all ones where nothing is decided."""
    if _decides_nothing(net):
        trunk = net.trunk
        return lambda x_nchw: torch.ones_like(trunk(x_nchw))
    return lambda x_nchw: net.execute(x_nchw).executed


def _decides_nothing(net: DynamicNet) -> TypeGuard[GatedResNet]:
    return isinstance(net, GatedResNet) and isinstance(net.policy, EverythingRuns)


def run_rounds(lanes: Sequence[Lane], profile: Profile, *, tell: Progress) -> None:
    """Let the lanes that have not failed take turns, until the profile's stop rule is met."""
    for number in range(_MAX_ROUNDS):
        running = [lane for lane in lanes if not lane.failure]
        settled = all(has_converged(lane.ms_n) for lane in running)
        late = any(lane.spent_s >= profile.max_time_s for lane in running)
        if not running or (number >= profile.rounds and (settled or late)):
            return
        for lane in running:
            share = min(1.0, number / profile.rounds)
            tell(f"{lane.proof.name}, batch {lane.batch_size}: round {number + 1}", share)
            lane.guarded(lane.run_round)


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
