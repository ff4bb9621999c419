"""First call, memory and energy of what was timed, each network and batch size in a fresh process.

Never together with the passes that take time. Starts the processes; what one does is
resource_process.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from bench.engine.building import Workplace
from bench.engine.measuring import Task, subject_name
from bench.engine.processes import answered, job_of
from bench.errors import RunFailed
from bench.measure.cells import MeasuredCell
from bench.measure.lanes import Progress
from bench.records.record import RunRecord

RESULT_FILE = "resources.json"
# Every larger tensor gets pages of its own, given back when it is freed: the resident set is then
# what is alive, not what the C library kept.
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def with_resources(
    cells: dict[str, list[MeasuredCell]],
    records: Sequence[RunRecord],
    place: Workplace,
    images_nchw: Tensor,
    *,
    task: Task,
    progress: Progress,
) -> dict[str, list[MeasuredCell]]:
    """Return the cells with memory and energy, or why there is none; others stay as they are."""
    found = dict(cells)
    subjects = [(record, number) for record in records for number in range(len(record.points))]
    for done, (record, number) in enumerate(subjects):
        name = subject_name(record, record.points[number].name)
        progress(f"{name}: memory and energy", done / len(subjects))
        found[name] = [
            _measured(cell, record, number, place, images_nchw, task=task)
            for cell in cells.get(name, [])
        ]
    return found


def _measured(
    cell: MeasuredCell,
    record: RunRecord,
    number: int,
    place: Workplace,
    images_nchw: Tensor,
    *,
    task: Task,
) -> MeasuredCell:
    if cell.record.latency_ms is None:
        values: dict[str, Any] = dict.fromkeys(("memory_reason", "energy_reason"), "not timed")
    else:
        own = task._replace(batch_sizes=(cell.record.batch_size,), runtimes=(cell.record.runtime,))
        job = job_of([record], place, own)
        try:
            values = _in_a_process(job | {"point": number}, place, images_nchw)
        except RunFailed as error:
            values = dict.fromkeys(("memory_reason", "energy_reason"), error.message)
    updated = cell.record.model_copy(update=values)
    return dataclasses.replace(cell, record=updated)


def _in_a_process(
    job: Mapping[str, object], place: Workplace, images_nchw: Tensor
) -> dict[str, Any]:
    with answered(
        "resource_process",
        job,
        images_nchw,
        place,
        progress=_say_nothing,
        variables=_ALLOCATION,
    ) as folder:
        values: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text())
        return values


def _say_nothing(what: str, share: float) -> None:
    del what, share
