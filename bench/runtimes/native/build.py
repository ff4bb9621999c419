"""The C++ sources compiled once per machine, then kept.

    $XDG_CACHE_HOME/skipbench/native/<what it depends on>.so (or ~/.cache/...)

They need the system's compiler and nothing of torch. Owns compiling and loading.
"""

from __future__ import annotations

import ctypes
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
from typing import NamedTuple

from bench.errors import StorageError
from bench.folders import cache_dir, from_home
from bench.storage import make_folder, write_atomically

SOURCES = ("convolution.h", "kernels.h", "program.cpp", "program.h")
_COMPILERS = ("g++", "clang++", "c++")
# Sums may be reordered, as any BLAS does; what is not a number stays so.
_FLAGS = (
    *("-O3", "-std=c++20", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
_NATIVE = ("-march=native", "-mcpu=native")  # the second where a compiler knows no first
_TIMEOUT_S = 300


class Library(NamedTuple):
    """The compiled sources, or why there are none."""

    loaded: ctypes.CDLL | None
    reason: str = ""


class _Unavailable(Exception):
    pass


_FAULTS = (_Unavailable, OSError, StorageError, RuntimeError, subprocess.TimeoutExpired)
"""What may go wrong; a RuntimeError is that of a user without a home folder."""


@functools.cache
def library() -> Library:
    """Return the library, compiled if it was not before. Takes some seconds then. Never raises."""
    try:
        compiler = _compiler()
        path = _path(compiler)
        if not path.exists():
            make_folder(path.parent)
            write_atomically(path, _compiled(compiler))
        return Library(_loaded(path))
    except _FAULTS as error:
        return Library(None, str(error).strip().partition("\n")[0])


def to_be_compiled() -> bool:
    """Whether `library` will have to compile."""
    try:
        return not _path(_compiler()).exists()
    except _FAULTS:
        return False


def missing() -> str:
    """Return why there can be no library here, as far as that is known without compiling; or ""."""
    try:
        _compiler()
    except _Unavailable as error:
        return str(error)
    return ""


def _loaded(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    at, size = ctypes.c_void_p, ctypes.c_int64
    loaded.skipbench_load.restype = at
    loaded.skipbench_load.argtypes = [at, size, at, size, at, size, size, at, size]
    loaded.skipbench_run.restype = ctypes.c_int
    loaded.skipbench_run.argtypes = [at, at, size, size, at, size, at, size]
    loaded.skipbench_free.restype = None
    loaded.skipbench_free.argtypes = [at]
    return loaded


def _compiler() -> list[str]:
    if sys.platform == "win32":
        raise _Unavailable("only compiled on Linux and macOS")
    try:
        given = [from_home(part) for part in shlex.split(os.environ.get("CXX", ""))]
    except ValueError as error:
        raise _Unavailable(f"$CXX cannot be read: {str(error).lower()}") from None
    for command in [given] if given else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return command
    tried = given[:1] or _COMPILERS
    raise _Unavailable(f"no C++ compiler: none of {', '.join(tried)}")


def _compiled(compiler: list[str]) -> bytes:
    source = Path(__file__).parent / "program.cpp"
    errors: list[str] = []
    with tempfile.TemporaryDirectory(prefix="skipbench-") as folder:
        out = Path(folder) / "library.so"
        for native in (*([flag] for flag in _NATIVE), []):
            done = _run([*compiler, *_FLAGS, *native, str(source), "-o", str(out)])
            if done.returncode == 0 and out.exists():
                return out.read_bytes()
            errors += [line for line in done.stderr.splitlines() if "error" in line]
    raise _Unavailable(f"{compiler[0]} failed: {(errors or ['without a word'])[0]}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    # What a compiler says may be in any encoding; only some words of it are shown.
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S
    )


def _path(compiler: list[str]) -> Path:
    """Return where a library is kept, by all that it depends on, the processor included: a home
    folder may be shared by many machines."""
    found = _run([compiler[0], "--version"])
    parts = [*compiler, *_FLAGS, found.stdout, platform.machine(), _instructions()]
    parts += [(Path(__file__).parent / name).read_text() for name in SOURCES]
    digest = hashlib.sha256(chr(0).join(parts).encode()).hexdigest()
    return cache_dir() / "native" / f"{digest[:24]}.so"


def _instructions() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
