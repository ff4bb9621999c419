"""The load of this machine while runs are done, as MLflow measures it, where that is asked for.

The request is MLflow's own: MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true. Owns the sampling; which
run a sample belongs to is a matter of time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

_ASKED = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
_INTERVAL = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
_EVERY_S = 10.0


class Sample(NamedTuple):
    """One number about the machine: "cpu_utilization_percentage" and the like."""

    at_ms: int
    name: str
    value: float


@contextmanager
def machine_load(note: Callable[[str], None]) -> Iterator[list[Sample]]:
    """Give the samples taken so far, if asked for; a note says why where they cannot be taken."""
    samples: list[Sample] = []
    if os.environ.get(_ASKED, "").lower() not in {"true", "1"}:
        yield samples
        return
    try:
        monitors = _monitors()
    except ImportError as error:
        note(f"No system metrics: {error}. They need MLflow and psutil.")
        monitors = []
    over = threading.Event()
    threading.Thread(target=_sample, args=(monitors, samples, over), daemon=True).start()
    try:
        yield samples
    finally:
        over.set()


def _sample(monitors: Sequence[Any], samples: list[Sample], over: threading.Event) -> None:
    every_s = float(os.environ.get(_INTERVAL) or _EVERY_S)
    while monitors and not over.is_set():
        at_ms = int(time.time() * 1000)
        for monitor in monitors:
            monitor.collect_metrics()
            found: dict[str, float] = monitor.aggregate_metrics()
            monitor.clear_metrics()
            samples += [Sample(at_ms, name, float(value)) for name, value in found.items()]
        over.wait(every_s)


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    kinds: list[Any] = [CPUMonitor, DiskMonitor, NetworkMonitor]
    found = [kind() for kind in kinds]
    with suppress(Exception):  # no GPU, or no way to ask it: each in its own words
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        kinds = [GPUMonitor]
        found.append(kinds[0]())
    return found
