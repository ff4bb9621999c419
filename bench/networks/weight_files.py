"""The bytes of a weights file as named tensors, from any library.

Reads safetensors, and what torch.save writes in the layouts of common trainers, by content and not
by suffix. Nothing in a file is run: of objects beside the weights (settings, numpy scalars) not
even the class is looked up. Owns no names of layers.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from bench.errors import WeightsError
from bench.plain_text import one_line

LAYOUTS = ("state_dict", "model_state_dict", "model", "net")
"""Names under which trainers keep the state dict beside other things."""
LARGEST_BYTES = 1 << 30
"""A ViT of 86 million parameters has a third of that."""
READABLE = (
    "Readable: safetensors, and torch.save of a state dict, docs/data.md says in which layouts."
)
_DEEPEST, _MOST_UNREAD = 4, 32
_HINT = (
    "It is broken, or a whole pickled network, which is code and never run. Where it was made:"
    f" torch.save(net.state_dict(), 'new.pt'). {READABLE}"
)
_SIGNS = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for a file elsewhere"),
    (b"<", "a web page (HTML or XML)"),
)
"""How what is often downloaded in place of a weights file begins."""


def read_tensors(data: bytes, path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    """Return the state dict in a file, values not checked yet, and what safetensors say of it.

    Raises:
        WeightsError: it is no weights file, broken, of an unknown layout, or needs code to be read.
    """
    for sign, kind in _SIGNS:
        if data[:1024].lstrip().startswith(sign):
            raise WeightsError(
                f"{path} is {kind}, no weights.",
                hint="Download the file itself; the size says whether it is the one.",
            )
    safe = path.suffix == ".safetensors" or _looks_like_safetensors(data)
    try:
        content, metadata = _safetensors(data) if safe else (_unpickled(data), {})
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(
            f"{path} cannot be read as weights: {_first_line(error)}",
            hint=_HINT,
        ) from None
    return _state_dict(content, path), metadata


def _looks_like_safetensors(data: bytes) -> bool:
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data)


def _safetensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    state = load(data)
    length = int.from_bytes(data[:8], "little")
    return state, json.loads(data[8 : 8 + length]).get("__metadata__") or {}


class _Unread:
    """Stands where a file has an object of a kind that is not read; takes anything, keeps none."""

    __slots__ = ()

    def __new__(cls, *_: object) -> _Unread:
        return object.__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _unpickled(data: bytes) -> Any:
    """Return what torch's weights-only reader reads, `_Unread` in place of what it refuses."""
    file = io.BytesIO(data)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.filelist) > LARGEST_BYTES:
                raise ValueError(f"it unpacks to more than {LARGEST_BYTES >> 20} MiB")
    unread: list[str] = []
    while True:
        file.seek(0)
        stand_ins: list[Any] = [(_Unread, name) for name in unread]
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
                # torch remarks on old layouts and sparse tensors; here they are read or refused.
                warnings.simplefilter("ignore")
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
            name = "" if found is None else found[1]
            name = name if "." in name else f"builtins.{name}"  # torch leaves that out
            if found is None or name in unread or len(unread) == _MOST_UNREAD:
                raise
            unread.append(name)


def _state_dict(content: Any, path: Path) -> dict[Any, Any]:
    for _ in range(_DEEPEST):
        if not isinstance(content, dict):
            break
        if any(isinstance(v, Tensor) and "." in str(key) for key, v in content.items()):
            return content
        inner = [name for name in LAYOUTS if isinstance(content.get(name), dict)]
        if len(inner) > 1:
            raise WeightsError(
                f"{path} holds weights twice: under '{inner[0]}' and under '{inner[1]}'.",
                hint="Save the state dict that is meant in a file of its own.",
            )
        content = content[inner[0]] if inner else None
    raise WeightsError(f"{path} holds no state dict.", hint=_HINT)


def _first_line(error: Exception) -> str:
    # torch puts advice for programmers before what is wrong.
    said = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    lines = said.splitlines() or [type(error).__name__]
    return one_line(lines[0], longest=200)
