"""Break-even shares measured once per machine, kept in a file of the user's cache.

    $XDG_CACHE_HOME/skipbench/break_even.json (or ~/.cache/...): {what it depends on: {kind: share}}

A file that is absent, damaged or cannot be written costs two seconds of measuring and nothing else;
deleting it has the shares measured again. Measures nothing itself (break_even.py).
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import torch

from bench.errors import StorageError
from bench.folders import cache_dir
from bench.measure.environment import cpu_model, usable_cores
from bench.storage import make_folder, write_atomically

Shares = dict[str, float]


def shares_file() -> Path:
    """Return where the shares of this machine are kept."""
    return cache_dir() / "break_even.json"


def machine_key(device: torch.device, *, layers: str, batch_size: int) -> str:
    """Return all that a share depends on but the kind of a block, as one line.

    `layers` names the kernels of the blocks, which are fused in one copy and plain in another.
    """
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()
    threads = f"{torch.get_num_threads()} threads of {usable_cores():g} cores"
    return f"{where}, {threads}, torch {torch.__version__}, {layers}, batch {batch_size}"


def recall(key: str) -> Shares:
    """Return the shares kept under `key` by kind of block; none where nothing can be read."""
    return _read().get(key, {})


def remember(key: str, shares: Shares) -> None:
    """Keep `shares` under `key`, beside what is kept already; does nothing where it cannot."""
    kept = _read()
    kept[key] = {**kept.get(key, {}), **shares}
    with suppress(StorageError, RuntimeError):  # the latter: nobody knows a home folder
        path = shares_file()
        make_folder(path.parent)
        write_atomically(path, json.dumps(kept, indent=1, sort_keys=True).encode())


def _read() -> dict[str, Shares]:
    try:
        found = json.loads(shares_file().read_text())
        return {
            str(key): {str(kind): _share(share) for kind, share in kinds.items()}
            for key, kinds in found.items()
        }
    except (OSError, RuntimeError, ValueError, AttributeError, TypeError):
        return {}


def _share(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no share")
    return float(value)
