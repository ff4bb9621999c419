"""A results folder filled with synthetic runs, for the tests of verdicts, fronts and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_records import make_cell, make_point, make_record

from bench.records.arrays import save_arrays
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.records.store import RunStore
from bench.report.data.study import Study
from bench.report.verdicts.verdicts import MethodVerdict, verdicts_of

IMAGES = 2000


class ResultsFolder:
    """A results folder that is filled with synthetic runs."""

    def __init__(self, folder: Path) -> None:
        self.store = RunStore(folder)
        self.rng = np.random.default_rng(0)
        self.ease_n = self.rng.random(IMAGES)

    def run(
        self,
        method: str,
        *points: tuple[float, float],
        speedups: tuple[float, ...] = (),
        held_out: tuple[float, ...] = (),
        **extra: Any,
    ) -> RunRecord:
        """Add a run with points of (accuracy, nFLOPs), and of each the speed-up where timed and the
        accuracy on held-out images where there are some."""
        backbone = extra.get("backbone", "resnet32")
        made = []
        for number, (accuracy, nflops) in enumerate(points):
            latency: tuple[LatencyCell, ...] = ()
            if speedups:
                latency = (make_cell(latency_ms=2 / speedups[number], speedup=speedups[number]),)
            name = f"p={number}" if len(points) > 1 else ""
            one: PointRecord = make_point(
                name,
                accuracy=accuracy,
                nflops=nflops,
                backbone=backbone,
                latency=latency,
                test_images=IMAGES,
                arrays_file=f"point{number}.npz",
                accuracy_held_out=held_out[number] if held_out else None,
            )
            made.append(one)
        record: RunRecord = make_record(
            method, points=tuple(made), test_images=IMAGES, epochs=extra.pop("epochs", 30), **extra
        )
        self.save(record)
        return record

    def save(self, record: RunRecord) -> None:
        for point in record.points:
            hard_n = self.ease_n + 0.02 * self.rng.standard_normal(IMAGES)
            right_n = hard_n < np.quantile(hard_n, point.accuracy)
            spread = 0.1 if point.gated_blocks else 0.0
            macs_n = point.macs * (1 + spread * self.rng.standard_normal(IMAGES))
            folder = self.store.folder(record.spec)
            arrays = {"correct_bits": np.packbits(right_n), "macs_n": macs_n}
            save_arrays(folder, point.arrays_file, arrays)
        self.store.save(record)

    def save_timed(self, record: RunRecord, *cells: LatencyCell) -> None:
        """Save the record with these cells at its only point."""
        (point,) = record.points
        timed = point.model_copy(update={"latency": cells})
        self.store.save(record.model_copy(update={"points": (timed,)}))

    def judged(self) -> dict[str, MethodVerdict]:
        return {found.method: found for found in verdicts_of(self.study())}

    def study(self, records: Sequence[RunRecord] | None = None) -> Study:
        """Return what is under study: all runs, or these."""
        return Study(self.store.load_all().records if records is None else records, self.store)
