"""Latency of networks that really skip, beside dense networks, by the rules in docs/latency.md.

All networks take turns in rounds, the dense ones first, on the same real images in the same order.
What is timed is a fast copy of each, dense or not, after its skipping path was proved equal to the
masked path of the network as it was trained. What fails
becomes a cell with a reason. Owns the protocol; the clock is timing.py, the numbers are speed.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from bench.allocator import keep_freed_memory
from bench.measure.cells import MeasuredCell, cell_of
from bench.measure.environment import describe_environment
from bench.measure.equivalence import IMAGES, check_execution, graph_agrees
from bench.measure.lanes import Lane, Progress, Proof, Setup, reason_of, run_rounds
from bench.measure.modes import using_threads
from bench.measure.profiles import Profile
from bench.networks.inference import fast_copy, graph_of
from bench.networks.unit import DynamicNet

_PROBE_IMAGES = 2


class Subject(NamedTuple):
    """A network to time, and the name of the dense network that its speed-up is relative to."""

    net: DynamicNet
    dense: str


def measure_latency(
    subjects: Mapping[str, Subject],
    dense: Mapping[str, DynamicNet],
    *,
    images_nchw: Tensor,
    batch_sizes: Sequence[int] = (1, 256),
    profile: Profile,
    device: torch.device | str,
    threads: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, list[MeasuredCell]]:
    """Time all of `dense` and `subjects` at each batch size, on this process and `device`.

    The networks are on `device` already; `images_nchw` are real, normalised test images, 1,024 or
    more where the data set has as many. A network without any decision runs its plain trunk, so
    that gating weighs on nobody's baseline. Returns the cells by name in the order of
    `batch_sizes`, those of the dense networks too; a cell that could not be measured has no latency
    and a reason. Each also has its ratios to the other dense networks. The number of CPU threads is
    restored.

    Raises:
        ValueError: a subject is named like a dense network, or names one that is not there.
    """
    _check_names(subjects, dense)
    keep_freed_memory()
    where = torch.device(device)
    images_nchw = images_nchw.to(where, memory_format=torch.channels_last)
    tell = progress or _say_nothing
    with using_threads(threads):
        setup = Setup(images_nchw, profile, where, threads, seed, describe_environment(where))
        graphs = profile.graphs and (1 in batch_sizes or where.type == "cuda")
        prove = _prove_with_graph if graphs else _prove
        beside = {name: name for name in dense} | {name: s.dense for name, s in subjects.items()}
        nets = {**dense, **{name: subject.net for name, subject in subjects.items()}}
        proofs = _prove_all(nets, images_nchw, prove, tell=tell)
        cells: dict[str, list[MeasuredCell]] = {name: [] for name in proofs}
        for size in batch_sizes:
            lanes = _measure_batch_size(list(proofs.values()), size, setup=setup, tell=tell)
            baselines = {lane.proof.name: lane for lane in lanes if lane.proof.name in dense}
            for lane in lanes:
                name = lane.proof.name
                cells[name].append(cell_of(lane, baselines, dense=beside[name]))
    return cells


def _check_names(subjects: Mapping[str, Subject], dense: Mapping[str, DynamicNet]) -> None:
    for name, subject in subjects.items():
        if name in dense:
            raise ValueError(f"no subject may be named '{name}': that is a baseline")
        if subject.dense not in dense:
            raise ValueError(f"there is no dense network '{subject.dense}' beside '{name}'")


def _prove_all(
    nets: Mapping[str, DynamicNet],
    images_nchw: Tensor,
    prove: Callable[[str, DynamicNet, Tensor], Proof],
    *,
    tell: Progress,
) -> dict[str, Proof]:
    proofs: dict[str, Proof] = {}
    for done, (name, net) in enumerate(nets.items()):
        tell(f"{name}: execute == forward?", done / len(nets))
        try:
            proofs[name] = prove(name, net, images_nchw[:IMAGES])
        except Exception as error:
            proofs[name] = Proof(name, net, failure=reason_of(error))
    return proofs


def _prove(name: str, net: DynamicNet, x_nchw: Tensor) -> Proof:
    fast = fast_copy(net, x_nchw[:_PROBE_IMAGES])
    return Proof(name, fast, check_execution(fast, x_nchw, masked=net))


def _prove_with_graph(name: str, net: DynamicNet, x_nchw: Tensor) -> Proof:
    proof = _prove(name, net, x_nchw)
    try:
        graph = graph_of(net, x_nchw[:_PROBE_IMAGES])
        agrees = graph is not None and graph_agrees(graph, proof.net, x_nchw)
    except Exception:
        # A policy that cannot be recorded: the network runs as it is.
        return proof
    return replace(proof, graph=graph) if agrees else proof


def _measure_batch_size(
    proofs: Sequence[Proof], batch_size: int, *, setup: Setup, tell: Progress
) -> list[Lane]:
    lanes = [Lane(proof, batch_size, setup, failure=proof.failure) for proof in proofs]
    available = len(setup.images_nchw)
    for lane in lanes:
        if batch_size > available and not lane.failure:
            lane.failure = f"batches of {batch_size} need as many images; there are {available}"
    for done, lane in enumerate(lanes):
        tell(f"{lane.proof.name}, batch {batch_size}: warm-up", done / len(lanes))
        lane.guarded(lane.warm_up)
    run_rounds(lanes, setup.profile, tell=tell)
    return lanes


def _say_nothing(what: str, share: float) -> None:
    del what, share
