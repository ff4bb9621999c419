"""What the tests of the report share."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_results import ResultsFolder


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """An empty results folder to put synthetic runs into."""
    return ResultsFolder(tmp_path)
