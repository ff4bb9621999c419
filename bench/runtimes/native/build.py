"""The C++ sources compiled once per machine, then kept.

    $XDG_CACHE_HOME/skipbench/native/<what it depends on>.so (or ~/.cache/...), with its .sha256

They need the system's compiler and nothing of torch. A file that is damaged is made again. Owns
compiling and loading.
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
from collections.abc import Iterator
from contextlib import contextmanager
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


@functools.cache
def library() -> Library:
    """Return the library, compiled if it was not before. Takes some seconds then. Never raises."""
    try:
        with _folder() as folder:
            return Library(_loaded(_made(folder)))
    except (_Unavailable, OSError, StorageError, RuntimeError, ValueError) as error:
        return Library(None, str(error).strip().partition("\n")[0])


def to_be_compiled() -> bool:
    """Whether `library` will have to compile."""
    try:
        return not _path(_compiler(), cache_dir() / "native").exists()
    except (_Unavailable, OSError, RuntimeError, ValueError):
        return False


def missing() -> str:
    """Return why there can be no library here, as far as that is known without compiling; or ""."""
    try:
        _compiler()
    except (_Unavailable, ValueError) as error:
        return str(error)
    return ""


class _Unavailable(Exception):
    pass


def _made(folder: Path) -> Path:
    compiler = _compiler()
    path = _path(compiler, folder)
    if not _is_whole(path):
        # Elsewhere until it is whole: several processes may do this at a time.
        with tempfile.TemporaryDirectory(dir=path.parent) as apart:
            made = Path(apart) / path.name
            _compile(compiler, made)
            content = made.read_bytes()
        write_atomically(path.with_suffix(".sha256"), _digest(content).encode())
        write_atomically(path, content)
    return path


def _is_whole(path: Path) -> bool:
    try:
        return path.with_suffix(".sha256").read_text().strip() == _digest(path.read_bytes())
    except (OSError, ValueError):
        return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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


def _compile(compiler: list[str], out: Path) -> None:
    source = Path(__file__).parent / "program.cpp"
    errors: list[str] = []
    for native in (*([flag] for flag in _NATIVE), []):
        command = [*compiler, *_FLAGS, *native, str(source), "-o", str(out)]
        done = _run(command)
        if done.returncode == 0 and out.stat().st_size > 0:
            return
        errors += [line for line in done.stderr.splitlines() if "error" in line]
    raise _Unavailable(f"{compiler[0]} failed: {(errors or ['without a word'])[0]}")


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
        kept = os.access(folder, os.W_OK) or _is_whole(_path(_compiler(), folder))
    except (StorageError, RuntimeError):  # the latter: no home folder
        kept = False
    if kept:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="skipbench-") as temporary:
        yield Path(temporary)


def _path(compiler: list[str], folder: Path) -> Path:
    """Return where a library is kept, by all that it depends on, the processor included: a home
    folder may be shared by many machines."""
    found = _run([compiler[0], "--version"])
    parts = [*compiler, *_FLAGS, found.stdout, platform.machine(), _instructions()]
    parts += [(Path(__file__).parent / name).read_text() for name in SOURCES]
    return folder / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.so"


def _instructions() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
