"""Finished runs timed in this process: their networks rebuilt and measured beside dense ones.

Owns no record and no other process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from bench.engine.building import Workplace, dense_net, rebuild
from bench.errors import BenchError, PluginError
from bench.measure.latency.cells import MeasuredCell
from bench.measure.latency.profiles import Profile
from bench.measure.latency.protocol import Subject, measure_latency
from bench.measure.latency.rounds import Progress
from bench.method import DynamicNet
from bench.records.record import RunRecord
from bench.runtimes.contract import RUNTIMES


class Task(NamedTuple):
    """What is to be measured of each network, and how."""

    batch_sizes: tuple[int, ...]
    profile: Profile
    threads: int
    runtimes: tuple[str, ...] = ()
    seed: int = 0


def runtimes_for(
    names: Sequence[str], record: RunRecord, place: Workplace, *, threads: int
) -> tuple[str, ...]:
    """Return the runtimes named, or all that take the dense network of a record here.

    Raises:
        UnknownNameError: there is no runtime of that name.
    """
    if tuple(names) == ("all",):
        return tuple(RUNTIMES.names())
    if names:
        return tuple(dict.fromkeys(name for name in names if RUNTIMES.get(name)))
    net = dense_net(record.spec, place)
    found: list[str] = []
    for name in RUNTIMES.names():
        try:
            refused = RUNTIMES.get(name)().refuses(net, place.device, threads)
        except PluginError as error:
            place.reporter.note(error.message)
            continue
        if refused is None:
            found.append(name)
    return tuple(found)


def measure_here(
    records: Sequence[RunRecord],
    place: Workplace,
    images_nchw: Tensor,
    *,
    task: Task,
    progress: Progress,
) -> dict[str, list[MeasuredCell]]:
    """Return the cells by `subject_name`, those of dense networks by the label of their backbone.

    A run whose network cannot be rebuilt is noted and left out.
    """
    return measure_latency(
        _networks(records, place),
        _dense_nets(records, place),
        images_nchw=images_nchw,
        runtimes=[RUNTIMES.get(name)() for name in task.runtimes],
        batch_sizes=task.batch_sizes,
        profile=task.profile,
        device=place.device,
        threads=task.threads,
        seed=task.seed,
        progress=progress,
    )


def subject_name(record: RunRecord, point: str) -> str:
    """Return what an operating point is called while it is measured."""
    return f"{record.run}/{point}"


def _dense_nets(records: Sequence[RunRecord], place: Workplace) -> dict[str, DynamicNet]:
    specs = {record.spec.backbone.label: record.spec for record in reversed(records)}
    return {label: dense_net(specs[label], place) for label in sorted(specs)}


def _networks(records: Sequence[RunRecord], place: Workplace) -> dict[str, Subject]:
    nets: dict[str, Subject] = {}
    for record in records:
        try:
            points = rebuild(record, place)
        except BenchError as error:
            place.reporter.note(f"{record.run} is not timed: {error.message}")
            continue
        dead = [frozenset(point.dead_blocks) for point in record.points]
        for point, blocks in zip(points, dead, strict=True):
            net = point.net.inference_net(dead_blocks=blocks)
            name = subject_name(record, point.name)
            nets[name] = Subject(net, record.spec.backbone.label)
    return nets
