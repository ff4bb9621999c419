"""What the tests of the report share."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_results import Make, Shelf


@pytest.fixture
def shelf(tmp_path: Path, make_record: Make, make_point: Make, make_cell: Make) -> Shelf:
    """An empty results folder to put made-up runs into."""
    return Shelf(tmp_path, make_record, make_point, make_cell)
