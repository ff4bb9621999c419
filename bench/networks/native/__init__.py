"""Operators of our own for inference on one CPU thread: compiled once per machine, then kept.

torch runs a small convolution, a sum and a gate as calls that each cost as much as what they
compute. Where there is a C++ compiler the sources beside this file become operators that do not
(operators.cpp); elsewhere everything runs without them. Owns compiling and loading; what they are
put in place of is bench.networks.native_parts.

    $XDG_CACHE_HOME/skipbench/native/<what it depends on>.so (or ~/.cache/...)
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.errors import StorageError
from bench.folders import cache_dir, from_home
from bench.storage import make_folder

_SOURCES = ("convolution.h", "halting.h", "operators.cpp")
_COMPILERS = ("g++", "clang++", "c++")
# Sums may be reordered, as any BLAS does; what is not a number stays so.
_FLAGS = (
    *("-O3", "-march=native", "-std=c++20", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
_TIMEOUT_S = 300


class Library(NamedTuple):
    """The operators as a file, or why there is none."""

    path: Path | None
    reason: str = ""


@functools.cache
def library() -> Library:
    """Return the operators, compiled if they were not before and loaded as `torch.ops.skipbench`.

    Takes some ten seconds the first time on a machine. Never raises.
    """
    try:
        with _folder() as folder:
            path = _compiled(folder)
            _load(path)
    except (_Unavailable, OSError, StorageError, RuntimeError) as error:
        return Library(None, str(error).strip().partition("\n")[0])
    return Library(path)


def to_be_compiled() -> bool:
    """Whether `library` will have to compile the operators, which takes some ten seconds."""
    try:
        return not _path(_command(), cache_dir() / "native").exists()
    except (_Unavailable, OSError, RuntimeError):
        return False


def available() -> bool:
    """Whether the operators can be used now: they were made, and torch is to use one thread."""
    return torch.get_num_threads() == 1 and library().path is not None


class _Unavailable(Exception):
    pass


def _compiled(folder: Path) -> Path:
    command = _command()
    path = _path(command, folder)
    if not path.exists():
        # Under a name of its own until it is whole: several processes may do this at a time.
        handle, made = tempfile.mkstemp(suffix=".so", dir=folder)
        os.close(handle)
        try:
            _compile(command, Path(made))
            os.replace(made, path)
        finally:
            Path(made).unlink(missing_ok=True)
    return path


def _command() -> list[str]:
    if sys.platform != "linux":
        raise _Unavailable("only compiled on Linux")
    return [
        *_compiler(),
        *_FLAGS,
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
    ]


def _load(path: Path) -> None:
    ops: Any = torch.ops
    ops.load_library(path)


def _compiler() -> list[str]:
    try:
        given = [from_home(part) for part in shlex.split(os.environ.get("CXX", ""))]
    except ValueError as error:
        raise _Unavailable(f"$CXX cannot be read: {str(error).lower()}") from None
    if given:
        return given
    for name in _COMPILERS:
        if shutil.which(name):
            return [name]
    raise _Unavailable(f"no C++ compiler: none of {', '.join(_COMPILERS)}")


def _compile(command: list[str], out: Path) -> None:
    torch_folder = Path(torch.__file__).parent
    include, libraries = torch_folder / "include", torch_folder / "lib"
    source = Path(__file__).parent / "operators.cpp"
    linked = [f"-L{libraries}", "-lc10", "-ltorch_cpu"]
    full = [*command, f"-isystem{include}", str(source), "-o", str(out), *linked]
    done = _run(full)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise _Unavailable(f"{command[0]} failed: {(errors or ['without a word'])[0]}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    # What a compiler says may be in any encoding; only some words of it are shown.
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise _Unavailable(f"{command[0]} took longer than {_TIMEOUT_S} s") from None
    except ValueError as error:  # a null character
        raise _Unavailable(f"{command[0]!r} cannot be run: {error}") from None


@contextmanager
def _folder() -> Iterator[Path]:
    """Give a folder to write to: of the user's cache, else one that is gone afterwards."""
    try:
        folder = cache_dir() / "native"
        make_folder(folder)
        kept = os.access(folder, os.W_OK)
    except (StorageError, RuntimeError):  # the latter: nobody knows a home folder
        kept = False
    if kept:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="skipbench-") as temporary:
        yield Path(temporary)


def _path(command: list[str], folder: Path) -> Path:
    return folder / f"{_key(command)}.so"


def _key(command: list[str]) -> str:
    """Return a name for all that the file depends on, the processor included: a home folder may
    be shared by many machines."""
    version = _run([command[0], "--version"]).stdout
    parts = [torch.__version__, *command, version, platform.machine(), _instructions()]
    parts += [(Path(__file__).parent / name).read_text() for name in _SOURCES]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _instructions() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return line
    return ""
