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
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.errors import StorageError
from bench.folders import cache_dir
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
        path = _compiled()
        _load(path)
    except (_Unavailable, OSError, StorageError, RuntimeError) as error:
        return Library(None, str(error).strip().partition("\n")[0])
    return Library(path)


def available() -> bool:
    """Whether the operators can be used now: they were made, and torch is to use one thread."""
    return torch.get_num_threads() == 1 and library().path is not None


class _Unavailable(Exception):
    pass


def _compiled() -> Path:
    if sys.platform != "linux":
        raise _Unavailable("only compiled on Linux")
    compiler = _compiler()
    command = [*compiler, *_FLAGS, f"-D_GLIBCXX_USE_CXX11_ABI={int(_new_abi())}"]
    path = _folder() / f"{_key(command)}.so"
    if not path.exists():
        # Under a name of its own until it is whole: several processes may do this at a time.
        handle, made = tempfile.mkstemp(suffix=".so", dir=path.parent)
        os.close(handle)
        try:
            _compile(command, Path(made))
            os.replace(made, path)
        finally:
            Path(made).unlink(missing_ok=True)
    return path


def _load(path: Path) -> None:
    ops: Any = torch.ops
    ops.load_library(path)


def _compiler() -> list[str]:
    given = shlex.split(os.environ.get("CXX", ""))
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
    try:
        done = subprocess.run(full, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise _Unavailable(f"{command[0]} took longer than {_TIMEOUT_S} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise _Unavailable(f"{command[0]} failed: {(errors or ['without a word'])[0]}")


def _folder() -> Path:
    """Return a folder that can be written to: of the user's cache, else of this process alone."""
    try:
        folder = cache_dir() / "native"
        make_folder(folder)
        if os.access(folder, os.W_OK):
            return folder
    except (StorageError, RuntimeError):  # the latter: nobody knows a home folder
        pass
    return Path(tempfile.mkdtemp(prefix="skipbench-"))


def _key(command: list[str]) -> str:
    """Return a name for all that the file depends on, the processor included: a home folder may
    be shared by many machines."""
    version = subprocess.run(
        [command[0], "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S
    ).stdout
    parts = [torch.__version__, *command, version, platform.machine(), _instructions()]
    parts += [(Path(__file__).parent / name).read_text() for name in _SOURCES]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _instructions() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return line
    return ""


def _new_abi() -> bool:
    return bool(torch.compiled_with_cxx11_abi())
