"""Why a run failed, in words for its record and for the person who wrote the method.

Owns what is said of any exception; decides nothing, and imports nothing heavy.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.plain_text import one_line

if TYPE_CHECKING:
    from bench.config import RunSpec


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
