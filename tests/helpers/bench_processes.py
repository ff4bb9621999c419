"""Real processes that run `bench`, to be waited for, listened to and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SMALL = ("--dataset", "digits", "--backbone", "resnet8", "--controls", "none", "--device", "cpu")
QUICK = (*SMALL, "--recipe", "smoke", "--latency", "off")
RESNET = ("run", "--methods", "resnet", *QUICK)
WITHOUT = ("mlflow.tracking", "matplotlib")
"""Packages that a run works without: most tests here are not about them, and they take seconds."""


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
