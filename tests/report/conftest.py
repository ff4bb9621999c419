"""What the tests of the report share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_records import make_comparison
from synthetic_results import ResultsFolder

from bench.report.behaviour.images import TestImages
from bench.report.data.row import Row
from bench.report.data.rows import rows


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """An empty results folder to put synthetic runs into."""
    return ResultsFolder(tmp_path)


@pytest.fixture
def ours() -> list[Row]:
    """The rows of the synthetic comparison."""
    return rows(make_comparison())


@pytest.fixture
def images() -> TestImages:
    """Four hundred small pictures of noise, of cats and dogs in turn."""
    pixels = np.random.default_rng(1).integers(0, 256, (400, 8, 8, 3), dtype=np.uint8)
    return TestImages(pixels, np.arange(400) % 2, ("cat", "dog"))
