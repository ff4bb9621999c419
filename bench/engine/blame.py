"""Why a run failed, in words for its record and for the person who wrote the method.

Owns what is said of any exception; decides nothing.
"""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

import bench
from bench.errors import BenchError
from bench.plain_text import one_line

_NOT_TO_BLAME = tuple(Path(str(package.__file__)).parent for package in (bench, torch))


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
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(root) for root in _NOT_TO_BLAME):
            return f"{path.name}, line {frame.lineno}"
    return ""
