"""Real processes to kill, and one count of all faults at the end."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_processes import RESNET, Nursery
from fault_counts import Faults

_COUNTS = pytest.StashKey[Faults]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COUNTS] = Faults()
    config.addinivalue_line("markers", "fault(kind): a test that stands for one fault of a kind")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    mark = item.get_closest_marker("fault")
    if mark is not None and report.when == "call" and not report.skipped:
        counts = item.config.stash[_COUNTS]
        counts.tried[mark.args[0]] += 1
        counts.survived[mark.args[0]] += report.passed
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.reliability)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counts = config.stash[_COUNTS]
    if counts.tried:
        terminalreporter.section("faults")
        for line in counts.lines():
            terminalreporter.write_line(line)


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    return request.config.stash[_COUNTS]


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    found = Nursery(tmp_path_factory.mktemp("nursery"))
    yield found
    found.end()


@pytest.fixture(scope="session")
def finished(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with one finished resnet run."""
    folder = tmp_path_factory.mktemp("finished")
    done = nursery.run(*RESNET, results=folder)
    assert done.wait() == 0, done.said
    return folder
