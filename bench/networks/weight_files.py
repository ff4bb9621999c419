"""The bytes of a weights file as named tensors, from any library.

Reads safetensors, and what torch.save writes in the layouts of common trainers, by content and not
by suffix; calls by its name what is neither. Nothing in a file is run: of objects beside the
weights (settings, numpy scalars) not even the class is looked up. Owns no names of layers.
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
_MOST_UNREAD, _DEEPEST = 32, 4
_ZIP, _TAR, _TAR_AT = b"PK\x03\x04", b"ustar", 257
_SAVE_ALONE = "Where it was made: torch.save(net.state_dict(), 'new.pt')."
_UNPACK = "Unpack it and give the file inside."
_DOWNLOAD = "Download the file itself; the size says whether it is the one."
_SIGNS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for a file elsewhere", _DOWNLOAD),
    (b"<", "a web page (HTML or XML)", _DOWNLOAD),
    (b"\x1f\x8b", "an archive (gzip)", _UNPACK),
    (b"BZh", "an archive (bzip2)", _UNPACK),
    (b"\xfd7zXZ", "an archive (xz)", _UNPACK),
    (b"7z\xbc\xaf", "an archive (7z)", _UNPACK),
    (b"Rar!", "an archive (rar)", _UNPACK),
    (b"\x89HDF", "an HDF5 file, as Keras writes", READABLE),
)
"""How what is no weights file begins, its name, and the way out."""


class _Unread:
    """Stands where a file has an object of a kind that is not read; takes anything, keeps none."""

    __slots__ = ()

    def __new__(cls, *_: object) -> _Unread:
        return object.__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def read_tensors(data: bytes, path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    """Return the state dict in a file, values not checked yet, and what safetensors say of it.

    Raises:
        WeightsError: it is no weights file, broken, of an unknown layout, or needs code to be read.
    """
    if path.suffix == ".safetensors" or _looks_like_safetensors(data):
        state, metadata = _read_safetensors(data, path)
        return _state_dict(state, path), metadata
    _refuse_others(data, path)
    try:
        content = _unpickled(data)
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(
            f"{path} cannot be read as weights: {_first_line(error)}",
            hint=f"It is broken, or needs code to be read, which is never run. {READABLE}",
        ) from None
    return _state_dict(content, path), {}


def _looks_like_safetensors(data: bytes) -> bool:
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data)


def _read_safetensors(data: bytes, path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    _refuse_others(data, path)
    try:
        state = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(
            f"{path} is not a readable safetensors file of weights: {_first_line(error)}.",
            hint=READABLE,
        ) from None
    return state, metadata


def _refuse_others(data: bytes, path: Path) -> None:
    """Refuse by its name what is no weights file.

    Raises:
        WeightsError: it is.
    """
    beginning = data[:1024].lstrip()
    for sign, kind, way_out in _SIGNS:
        if beginning.startswith(sign):
            raise WeightsError(f"{path} is {kind}, no weights.", hint=way_out)
    if data[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        raise WeightsError(f"{path} is an archive (tar), no weights.", hint=_UNPACK)
    if data.startswith(_ZIP):
        _check_zip(data, path)


def _check_zip(data: bytes, path: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.filelist
    except Exception:  # damaged: reading it says so
        return
    names = {member.filename.rpartition("/")[2] for member in members}
    if "constants.pkl" in names:
        raise WeightsError(
            f"{path} is a TorchScript file: a program with its weights, which is never run.",
            hint=_SAVE_ALONE,
        )
    if "data.pkl" not in names:
        raise WeightsError(f"{path} is an archive (zip), no weights.", hint=_UNPACK)
    if sum(member.file_size for member in members) > LARGEST_BYTES:
        raise WeightsError(
            f"{path} cannot be read as weights: it unpacks to more than {LARGEST_BYTES >> 20} MiB."
        )


def _unpickled(data: bytes) -> Any:
    """Return what torch's weights-only reader reads, `_Unread` in place of what it refuses."""
    unread: list[str] = []
    while True:
        stand_ins: list[Any] = [(_Unread, name) for name in unread]
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
                # torch remarks on old layouts and sparse tensors; here they are read or refused.
                warnings.simplefilter("ignore")
                return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
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
        inner = [name for name in LAYOUTS if isinstance(content.get(name), dict)]
        if len(inner) > 1:
            raise WeightsError(
                f"{path} holds weights twice: under '{inner[0]}' and under '{inner[1]}'.",
                hint="Save the state dict that is meant in a file of its own.",
            )
        if not inner:
            break
        content = content[inner[0]]
    if isinstance(content, dict):
        if any(isinstance(v, Tensor) and "." in str(key) for key, v in content.items()):
            return content
        content = next((content[name] for name in LAYOUTS if name in content), None)
    whole = " but a whole pickled network, which is code" if isinstance(content, _Unread) else ""
    raise WeightsError(
        f"{path} holds no state dict{whole}.",
        hint=f"{_SAVE_ALONE} {READABLE}",
    )


def _first_line(error: Exception) -> str:
    # torch puts advice for programmers before what is wrong.
    said = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    lines = said.splitlines() or [type(error).__name__]
    return one_line(lines[0], longest=200)
