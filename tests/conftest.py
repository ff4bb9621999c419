"""What the tests of several rooms share: makers of synthetic records, and a cache of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import synthetic_records
from hypothesis import settings

from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.records.sweep import SweepRecord

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture
def make_cell() -> Callable[..., LatencyCell]:
    return synthetic_records.make_cell


@pytest.fixture
def make_point() -> Callable[..., PointRecord]:
    return synthetic_records.make_point


@pytest.fixture
def make_record() -> Callable[..., RunRecord]:
    return synthetic_records.make_record


@pytest.fixture
def make_sweep() -> Callable[..., SweepRecord]:
    return synthetic_records.make_sweep


@pytest.fixture
def comparison() -> list[RunRecord]:
    return synthetic_records.make_comparison()


@pytest.fixture(autouse=True, scope="session")
def _cache_of_these_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what a test learns about this machine out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
