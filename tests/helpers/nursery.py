"""Starts `bench` many times without importing torch each time: imports once, then forks.

Reads one JSON object a line: {"do": "start", "arguments", "variables", "absent", "out", "before"}
or {"do": "wait", "process", "timeout_s"}; answers one line each. Every child is a process of its
own, with the command line's own `main`, that real signals can hit. `before` is Python that a child
runs first, to die at a chosen call; `absent` are packages it cannot import.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any

_ENDED: dict[int, int] = {}


def main() -> None:
    import threading

    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking
    import sklearn.datasets
    import torch

    import bench.api
    import bench.cli
    import bench.engine.latency.timing
    import bench.engine.single
    import bench.report.tables.results
    from bench.method import METHODS

    for name in ("resnet", "sgad"):
        METHODS.get(name)
    assert torch.get_num_threads() == threading.active_count() == 1, "a fork has one thread"
    assert sklearn and mlflow and bench
    print("ready", flush=True)
    for line in sys.stdin:
        given = json.loads(line)
        answer = _start(given) if given["do"] == "start" else _wait(given)
        print(json.dumps(answer), flush=True)


def _start(given: dict[str, Any]) -> int:
    process = os.fork()
    if process == 0:
        _be_bench(given)
    return process


def _wait(given: dict[str, Any]) -> int | None:
    """Return the exit status, negative for a signal; None if it still runs."""
    end = time.monotonic() + given["timeout_s"]
    while given["process"] not in _ENDED:
        process, status = os.waitpid(given["process"], os.WNOHANG)
        if process:
            _ENDED[process] = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() > end:
            return None
        time.sleep(0.01)
    return _ENDED[given["process"]]


def _be_bench(given: dict[str, Any]) -> None:
    status = 1
    try:
        out = os.open(given["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ.update(given["variables"])
        for package in given["absent"]:
            sys.modules[package] = None  # type: ignore[assignment]
        sys.argv = ["bench", *given["arguments"]]
        exec(given["before"], {"__name__": "before"})
        from bench.cli import main as bench_main

        bench_main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
