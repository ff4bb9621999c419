"""Processes that are watched: what one says, its end, its time.

What crashes, hangs or eats all memory takes only that process along. Imports nothing heavy, as
workers of a sweep use it too; what a process does is run_process.py and latency/processes.py. Both
sides exchange lines:

    to the process:    a job, `packed`, and a line after each epoch that another is to follow
    from the process:  JSON of [kind, what], see `Message`

Owns the protocol, the time limit and the messages for sudden ends; knows no run and no schedule.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from bench.config import RunSpec
from bench.errors import BenchError
from bench.plain_text import one_line


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that did not finish, why, what to try next, and the traceback if there is one."""

    run: str
    reason: str
    hint: str = ""
    trace: str = ""


def failure_of(spec: RunSpec, error: Exception) -> Failure:
    """Return what is said of a run that ended with `error`."""
    foreseen = isinstance(error, BenchError)
    return Failure(
        spec.run,
        reason_for(error),
        hint="" if foreseen else f"Look closer with: bench method check {spec.method}",
        trace="".join(traceback.format_exception(error)),
    )


def reason_for(error: Exception) -> str:
    """Return one line: what went wrong and, if not foreseen, the file and line of the method."""
    if isinstance(error, BenchError):
        return error.message
    said = one_line(str(error))
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    place = _place(error)
    return f"{text} ({place})" if place else text


def _place(error: Exception) -> str:
    """Return the innermost place that is neither the harness nor torch, empty if there is none."""
    found = [find_spec(package) for package in ("bench", "torch")]
    not_to_blame = [Path(spec.origin).parent for spec in found if spec and spec.origin]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(root) for root in not_to_blame):
            return f"{path.name}, line {frame.lineno}"
    return ""


GO_ON = "go on\n"
KINDS = frozenset(
    [
        "started",
        "run",
        "phase",
        "images",
        "epoch",
        "note",
        "progress",
        "printed",
        "finished",
        "failed",
    ]
)
_LAST_WORDS = 300


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What a process needs to know to do a run.

    `needs` is a run to do first if it is not finished, `dataset` what the user named, `weights` the
    user's file.
    """

    spec: RunSpec
    needs: RunSpec | None
    dataset: str
    data_dir: Path
    results_dir: Path
    weights: Path | None
    plugins: Sequence[Path]
    device: str
    threads: int
    workers: int | None = None
    time_limit_s: float | None = None


class Message(NamedTuple):
    """One line of a process.

    started: its environment. run: the name of the run that begins. phase: what
    `Reporter.phase_started` takes. images: how many more have been trained on. epoch: a row of the
    history. note: a message. progress: the share that is done. printed: a line that is none of
    ours. finished: of a run the points (nFLOPs, accuracy) on held-out images, if any; else the
    answer, `packed`. failed: a `Failure` without the name of the run.
    """

    kind: str
    what: Any


class WatchedProcess:
    """A process that does one job after the other; a context manager, whose end is its own."""

    def __init__(self, module: str, variables: Mapping[str, str]) -> None:
        """Start the `main` of a module, with more variables in its environment."""
        # -P: not from the folder that a user is in, which may have a `bench` of its own.
        command = [sys.executable, "-P", "-c", f"from {module} import main; main()"]
        paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._open = ExitStack()
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._errors: IO[str] = self._open.enter_context(errors)
        self._process = self._open.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env={**os.environ, **paths, **variables},
            )
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        with suppress(BrokenPipeError):
            self._open.close()

    def ask(self, job: object, *, time_limit_s: float | None = None) -> Iterator[Message]:
        """Do a job; yields what the process says, always closed by "finished" or "failed".

        That is so also when it says nothing any more (a signal, the time limit). After "epoch" it
        goes on when the next thing is asked for. Only after "finished" it can do another job.
        """
        self._tell(f"{packed(job)}\n")
        deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                self._process.kill()
                yield _failed(f"not done within the time limit of {time_limit_s:g} s")
                return
            if not line:
                yield _failed(self._sudden_end())
                return
            if not line.strip():
                continue
            said = _understood(line)
            yield said
            if said.kind in {"finished", "failed"}:
                return
            if said.kind == "epoch":
                self._tell(GO_ON)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError):  # closed: the answer is known, and nothing reads it
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put("")

    def _tell(self, text: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its end is told by the other pipe
            self._process.stdin.write(text)
            self._process.stdin.flush()

    def _sudden_end(self) -> str:
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return "its process was killed from outside: most likely the memory was used up"
        if status < 0:
            return f"its process was ended by the signal {signal.Signals(-status).name}"
        self._errors.seek(0)
        words = (self._errors.read().strip().splitlines() or ["it said nothing"])[-1]
        return f"its process ended with status {status}: {words[:_LAST_WORDS]}"


class RunProcess(WatchedProcess):
    """A process that does runs."""

    def __init__(self, job: TrainingJob) -> None:
        """Start the process with the threads of `job`, which it does not begin yet."""
        variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(job.threads))
        # Threads that wait for each other by spinning take the cores from those they wait for:
        # beside one busy process two threads train at a third of the speed of one.
        variables["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
        super().__init__("bench.engine.run_process", variables)

    def do(self, job: TrainingJob) -> Iterator[Message]:
        """Do the run of `job`."""
        return self.ask(job, time_limit_s=job.time_limit_s)


def say(kind: str, what: object) -> None:
    """Say something to the parent, on a line of its own."""
    print(f"\n{json.dumps([kind, what])}", flush=True)


def packed(what: object) -> str:
    """Return anything that can be pickled as one word, for the other side of a pipe."""
    return base64.b64encode(pickle.dumps(what)).decode()


def unpacked(word: str) -> Any:
    """Return what `packed` was given."""
    return pickle.loads(base64.b64decode(word))


def _understood(line: str) -> Message:
    with suppress(ValueError, TypeError):
        kind, what = json.loads(line)
        if kind in KINDS:
            return Message(kind, what)
    return Message("printed", line.rstrip("\n"))


def _failed(reason: str) -> Message:
    return Message("failed", {"reason": reason})
