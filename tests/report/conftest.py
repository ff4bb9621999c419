"""What the tests of the report share."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_results import Make, ResultsFolder


@pytest.fixture
def results(tmp_path: Path, make_record: Make, make_point: Make, make_cell: Make) -> ResultsFolder:
    """An empty results folder to put synthetic runs into."""
    return ResultsFolder(tmp_path, make_record, make_point, make_cell)
