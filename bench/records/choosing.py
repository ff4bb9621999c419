"""Which finished runs a user means: by full name, by key, or by the beginning of either.

Owns the choice and how candidates are told apart; the store owns where runs lie and their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.config import RunSpec
from bench.errors import RecordError
from bench.records.record import RunRecord
from bench.records.store import RunStore

_LISTED = 8
_IN_THE_NAME = ("seed", "dataset.name", "backbone.name", "method")


def finished_runs(store: RunStore, name: str) -> list[RunRecord]:
    """Return all finished runs that `name` names, sorted by name; never an empty list.

    Raises:
        RecordError: it names no run, or only runs that are damaged or not finished.
    """
    names = store.matching(name)
    if len(names) == 1:
        records = [store.get(names[0])]
    else:
        known = store.load_all().records
        records = [record for record in known if record.run in set(names)]
    finished = [record for record in records if record.status == "finished"]
    if finished:
        return finished
    if len(names) > 1:
        said = f"None of the {len(names)} runs that '{name}' names is finished."
    else:
        failed = records[0].reason
        said = f"The run {names[0]} is not finished.{f' It failed: {failed}' if failed else ''}"
    raise RecordError(said, hint="Run it again, with bench run.")


def finished_run(store: RunStore, name: str) -> RunRecord:
    """Return the one finished run that `name` names.

    Raises:
        RecordError: as `finished_runs`, or it names several; they are listed with what differs.
    """
    found = finished_runs(store, name)
    if len(found) == 1:
        return found[0]
    lines = [f"  {line}" for line in _differences([record.spec for record in found])[:_LISTED]]
    if len(found) > _LISTED:
        lines.append(f"  and {len(found) - _LISTED} more")
    raise RecordError(
        f"'{name}' names {len(found)} finished runs, and one is needed:",
        hint="\n".join([*lines, "Give a full name, or the hash at its end."]),
    )


def _differences(specs: Sequence[RunSpec]) -> list[str]:
    """Return the names of runs, each with those of its settings that not all of them share."""
    flat = [_leaves(spec.model_dump(mode="json")) for spec in specs]
    keys = dict.fromkeys(key for leaves in flat for key in leaves if key not in _IN_THE_NAME)
    differing = [key for key in keys if len({str(leaves.get(key)) for leaves in flat}) > 1]
    lines: list[str] = []
    for spec, leaves in zip(specs, flat, strict=True):
        told = [
            f"{key.removeprefix('config.')}={leaves[key]}" for key in differing if key in leaves
        ]
        lines.append(f"{spec.run} ({', '.join(told)})" if told else spec.run)
    return lines


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
