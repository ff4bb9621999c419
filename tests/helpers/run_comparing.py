"""What must be equal in two runs of one spec, and what a results folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_DIFFERS = {"wall_s", "images_per_s", "environment", "created"}
_COMPARED = (".npz", ".safetensors")


def without_times(value: Any) -> Any:
    """Return a record's JSON without times and without what describes the machine."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in _DIFFERS}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value


def record_in(folder: Path) -> dict[str, Any]:
    """Return the record in a run's folder."""
    found: dict[str, Any] = json.loads((folder / "record.json").read_text())["record"]
    return found


def run_folder(results: Path, method: str) -> Path:
    """Return the folder of the only run of `method`."""
    (found,) = results.glob(f"runs/{method}-*")
    return found


def assert_same_run(folder: Path, reference: Path) -> None:
    """Both hold the same files, with the same numbers and the same bytes."""
    names = {path.name for path in folder.iterdir() if not _is_apart(path.name)}
    assert names == {path.name for path in reference.iterdir() if not _is_apart(path.name)}
    for name in sorted(names):
        if name.endswith(_COMPARED):
            assert (folder / name).read_bytes() == (reference / name).read_bytes(), name
    assert without_times(record_in(folder)) == without_times(record_in(reference))


def _is_apart(name: str) -> bool:
    """Whether a file is no result: damaged and set aside, left by a killed writer, or a lock."""
    return ".broken" in name or name.endswith((".tmp", ".lock"))


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return modification time and content of every file under `folder`."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _is_apart(path.name)
    }
