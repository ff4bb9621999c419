"""Trials timed in one runtime when they are trained: costs for searches that look at time.

Owns what is a trial's point on the axis of time; how time is taken is bench.engine.latency's.
"""

from __future__ import annotations

from bench.analysis.pareto import Point
from bench.engine.building import Workplace, backbone_of
from bench.engine.latency.timing import time_records
from bench.errors import ConfigError
from bench.networks.gated import GatedResNet
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.runtimes.contract import RUNTIMES
from bench.sweep.trials import Trial

_PROFILE = "smoke"


class Clock:
    """Times trials at batch 1, each beside the dense network: of trials at different hours only
    these ratios can be compared. Images are test images, whose labels are not read."""

    def __init__(self, runtime: str, place: Workplace, *, threads: int) -> None:
        self._runtime, self._place, self._threads = runtime, place, threads

    def check(self, trial: Trial) -> None:
        """Refuse a runtime that does not run the dense network here.

        Raises:
            UnknownNameError: there is no such runtime.
            ConfigError: it does not; the reason is said.
        """
        net = GatedResNet(backbone_of(trial.spec, self._place, None)).to(self._place.device).eval()
        refused = RUNTIMES.get(self._runtime)().refuses(net, self._place.device, self._threads)
        if refused is not None:
            raise ConfigError(
                f"Nothing can be timed in '{self._runtime}' here: {refused}",
                hint="See bench list runtimes, or use --objectives accuracy,nflops.",
            )

    def points(self, record: RunRecord) -> tuple[list[Point], str]:
        """Return (time / dense time, held-out accuracy) of each operating point that could be
        timed, and why others could not."""
        if not all(self._cells(point) for point in record.points):
            timed = time_records(
                [record],
                self._place,
                profile=_PROFILE,
                threads=self._threads,
                runtimes=[self._runtime],
            )
            record = timed.get(record.run, record)
        found, reason = list[Point](), ""
        for point in record.points:
            cells = self._cells(point)
            speedup = cells[-1].speedup if cells else None
            if speedup and point.accuracy_held_out is not None:
                found.append((1 / speedup, point.accuracy_held_out))
            else:
                reason = f"not timed in {self._runtime}: {cells[-1].reason if cells else '?'}"
        return found, reason

    def _cells(self, point: PointRecord) -> list[LatencyCell]:
        return [
            cell
            for cell in point.latency
            if (cell.runtime, cell.batch_size) == (self._runtime, 1)
            and cell.threads == self._threads
        ]
