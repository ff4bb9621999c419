"""A trial in a process of its own, watched: its epochs, its end, its time.

What crashes, hangs or eats all memory takes only that process along. Runs inside a Ray worker and
imports nothing heavy; what the process does is trial_process.py. Both talk in lines of JSON:

    to the process:    the job, then one line after each epoch that is to be followed by another
    from the process:  [kind, ...], see `Said`

Owns the talk, the time limit and the words for sudden ends; knows neither Ray nor runs.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Literal, NamedTuple

GO_ON = "go on\n"
Kind = Literal["started", "epoch", "note", "finished", "failed"]
KINDS = ("started", "epoch", "note", "finished", "failed")
_LAST_WORDS = 300


@dataclass(frozen=True, slots=True)
class Job:
    """What a trial's process needs to know; everything in it is JSON.

    `dataset` is what the user named, `weights` the user's file, `shared` a file by which a machine
    knows that it sees the results folder.
    """

    spec: dict[str, Any]
    needs: dict[str, Any] | None
    dataset: str
    data_dir: str
    results_dir: str
    weights: str | None
    plugins: list[str]
    device: str
    threads: int
    time_limit_s: float | None
    shared: str
    budget: float | None
    num_classes: int
    environment: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Return the job as one line."""
        return json.dumps(asdict(self)) + "\n"


class Said(NamedTuple):
    """One line of a trial's process.

    started: its environment. epoch: a row of the history. note: a message. finished: the points
    (nFLOPs, accuracy) on held-out images. failed: the reason.
    """

    kind: Kind
    what: Any


@contextmanager
def watched(job: Job) -> Iterator[Iterator[Said]]:
    """Start the process of a job; yields what it says until it ends, always closed by an end.

    The last thing said is "finished" or "failed", also when the process says nothing any more
    (a signal, the time limit). After "epoch" it goes on when the next thing is asked for. Leaving
    early kills it.
    """
    with tempfile.TemporaryFile("w+") as errors, _process(job, errors) as process:
        try:
            yield _talk(process, job, errors)
        finally:
            process.kill()


def _process(job: Job, errors: IO[str]) -> subprocess.Popen[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(job.threads))
    return subprocess.Popen(
        # -P: not from the folder that a user happens to be in, which may have a `bench` of its own.
        [sys.executable, "-P", "-m", "bench.sweep.trial_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, **threads, **job.environment},
    )


def _talk(process: subprocess.Popen[str], job: Job, errors: IO[str]) -> Iterator[Said]:
    assert process.stdin is not None and process.stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    _tell(process, job.text())
    limit = job.time_limit_s
    deadline = None if limit is None else time.monotonic() + limit
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            process.kill()
            yield Said("failed", f"not done within the time limit of {limit:g} s")
            return
        if not line:
            break
        said = _understood(line)
        if said is None:
            continue  # a method's own print
        yield said
        if said.kind in {"finished", "failed"}:
            return
        if said.kind == "epoch":
            _tell(process, GO_ON)
    yield Said("failed", _sudden_end(process, errors))


def _read(source: IO[str], lines: queue.SimpleQueue[str]) -> None:
    with suppress(ValueError):  # closed: the answer is known, and nobody listens any more
        for line in source:
            lines.put(line)
    lines.put("")


def _tell(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # its end is told by the other pipe
        process.stdin.write(text)
        process.stdin.flush()


def _understood(line: str) -> Said | None:
    try:
        kind, what = json.loads(line)
    except (ValueError, TypeError):
        return None
    return Said(kind, what) if kind in KINDS else None


def _sudden_end(process: subprocess.Popen[str], errors: IO[str]) -> str:
    status = process.wait()
    if status == -signal.SIGKILL:
        return "its process was killed from outside: most likely the memory was used up"
    if status < 0:
        return f"its process was ended by the signal {signal.Signals(-status).name}"
    errors.seek(0)
    words = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
    return f"its process ended with status {status}: {words[:_LAST_WORDS]}"


def said_line(kind: Kind, what: Mapping[str, Any] | list[Any] | str) -> str:
    """Return the line by which a process says something."""
    return json.dumps([kind, what])
