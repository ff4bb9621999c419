"""Real processes to kill, and one count of all faults at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("--dataset", "digits", "--backbone", "resnet8", "--controls", "none", "--device", "cpu")
WITHOUT = ("mlflow.tracking", "matplotlib")
"""Packages that a run works without: most tests here are not about them, and they take seconds."""

_COUNTS = pytest.StashKey["Faults"]()


@dataclass(slots=True)
class Faults:
    """How many faults of each kind were tried, and how many cost something."""

    tried: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)

    def trying(self, kind: str) -> None:
        """Count a fault; it is lost unless `survived` is counted too."""
        self.tried[kind] += 1

    def over(self, kind: str) -> None:
        """Count one that nothing was lost by."""
        self.survived[kind] += 1

    def lines(self) -> list[str]:
        rows = [(kind, n, self.survived[kind]) for kind, n in sorted(self.tried.items())]
        rows.append(("all", self.tried.total(), self.survived.total()))
        head = f"{'fault':58}{'tried':>7}{'survived':>10}{'lost':>6}"
        return [head, *(f"{kind:58}{n:7}{ok:10}{n - ok:6}" for kind, n, ok in rows)]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COUNTS] = Faults()


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


@dataclass(slots=True)
class Command:
    """A running or finished `bench`."""

    process: int
    out: Path
    nursery: Nursery

    def wait(self, timeout_s: float = 120.0) -> int | None:
        """Return the exit status, negative for a signal; None if it has not ended."""
        return self.nursery.ask({"do": "wait", "process": self.process, "timeout_s": timeout_s})

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        if self.wait(0.0) is None:
            os.kill(self.process, signal.SIGKILL)
            self.wait()

    @property
    def said(self) -> str:
        """All of its output so far, lines that the terminal broke put together."""
        return " ".join(self.out.read_text(errors="replace").split())


class Nursery:
    """Forks `bench` from a process that has imported everything already."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        variables = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        variables.pop("MLFLOW_TRACKING_URI", None)
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
            cwd=folder,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(
        self,
        *arguments: str,
        results: Path,
        before: str = "",
        absent: tuple[str, ...] = WITHOUT,
        variables: dict[str, str] | None = None,
    ) -> Command:
        """Start `bench` with `arguments` on a results folder."""
        self._count += 1
        out = self._folder / f"out-{self._count}.txt"
        request = {
            "do": "start",
            "arguments": list(arguments),
            "variables": {"BENCH_RESULTS": str(results), **(variables or {})},
            "absent": list(absent),
            "out": str(out),
            "before": before,
        }
        return Command(self.ask(request), out, self)

    def run(self, *arguments: str, results: Path, **given: Any) -> Command:
        """Start `bench` and wait until it is done."""
        command = self.start(*arguments, results=results, **given)
        assert command.wait() is not None, command.said
        return command

    def end(self) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    found = Nursery(tmp_path_factory.mktemp("nursery"))
    yield found
    found.end()
