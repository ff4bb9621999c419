"""What the tests of the report share."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_results import Make, ResultsFolder

from bench.records.sweep import SweepRecord, TrialRow


@pytest.fixture
def results(tmp_path: Path, make_record: Make, make_point: Make, make_cell: Make) -> ResultsFolder:
    """An empty results folder to put synthetic runs into."""
    return ResultsFolder(tmp_path, make_record, make_point, make_cell)


@pytest.fixture
def make_sweep() -> Make:
    """Make a sweep that has ended, of these trials, the first of which was chosen."""

    def make(*trials: TrialRow) -> SweepRecord:
        return SweepRecord(
            name="first",
            options={},
            criterion="hypervolume",
            held_out=40,
            created="2026-11-01T09:00:00+00:00",
            ended=True,
            trials=trials,
            chosen={trials[0].method: (trials[0].run,)},
        )

    return make
