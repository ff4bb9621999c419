"""Ray started on this machine, or a cluster connected; or why not, and what to try.

Owns where Ray's own files lie, and what it needs of the environment; schedules nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.errors import ConfigError
from bench.machine import usable_cores
from bench.plain_text import one_line

_ANSWER_WITHIN_S, _START_WITHIN_S = 10.0, 120.0
_SCRATCH = "bench-ray-"
# Sockets of Ray lie this far below; the kernel takes paths of 107 bytes.
_BELOW = len(
    "/bench-ray-1234567-abcdefgh/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
)
_LONGEST_PARENT = 107 - _BELOW
_NEEDED_BYTES = 64 * 2**20
_OBJECT_STORE_BYTES = 128 * 2**20
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_SURROUNDINGS = (
    "Ray needs room for its files ($TMPDIR, $HOME), some memory, and sockets on this machine: "
    "docs/sweeps.md, Containers."
)


@contextmanager
def connected(address: str) -> Iterator[tuple[Any, Path]]:
    """Give Ray, connected, and a folder for what is gone afterwards.

    Raises:
        ConfigError: Ray is missing or cannot start here, or there is no cluster at `address`.
    """
    if "://" in address:
        raise ConfigError(
            f"'{address}' is where Ray takes jobs or remote clients; a sweep joins the cluster.",
            hint="Give HOST:PORT of its head (6379 by default), or auto on one of its machines.",
        )
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    _remove_left_behind()
    scratch = _scratch()
    with _writable_home(scratch):
        ray = _imported()
        started = not ray.is_initialized()
        try:
            if started:
                _connect(ray, address, scratch)
            for name in ("ray", "ray.tune", "ray.train"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield ray, scratch
        finally:
            if started:
                ray.shutdown()
            shutil.rmtree(scratch, ignore_errors=True)


def _imported() -> Any:
    try:
        import ray
        import ray.tune
    except ImportError as error:
        if (error.name or "ray").partition(".")[0] != "ray":
            raise _refused("imported", error) from error
        raise ConfigError(
            "A sweep needs Ray Tune, which is not installed.",
            hint="pip install 'ray[tune]', or run the settings one by one with bench run.",
        ) from None
    except Exception as error:  # what it reads of the machine may fail in any way
        raise _refused("imported", error) from error
    return ray


def _refused(what: str, error: BaseException) -> ConfigError:
    said = one_line(f"{type(error).__name__}: {error}", longest=300)
    return ConfigError(f"Ray cannot be {what} here: {said}", hint=_SURROUNDINGS)


@contextmanager
def _writable_home(scratch: Path) -> Iterator[None]:
    """Let `scratch` be the home folder where Ray could write to none: in containers."""
    try:
        usable = os.access(Path.home(), os.W_OK)
    except RuntimeError:  # a user id without a name
        usable = False
    if usable:
        yield
        return
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(scratch)
    try:
        yield
    finally:
        del os.environ["HOME"]
        if before is not None:
            os.environ["HOME"] = before


def _parents() -> list[Path]:
    """Return where Ray's files may lie: as the user says, else where most machines have room."""
    places = ["/tmp", "/var/tmp", "/dev/shm"]
    with suppress(FileNotFoundError):  # all are full
        places.insert(0, tempfile.gettempdir())
    return [Path(place) for place in dict.fromkeys(places)]


def _scratch() -> Path:
    """Return a new folder with room, whose path is short enough for sockets.

    Raises:
        ConfigError: there is none.
    """
    for parent in _parents():
        with suppress(OSError):
            short = len(os.fsencode(parent)) <= _LONGEST_PARENT
            if short and shutil.disk_usage(parent).free >= _NEEDED_BYTES:
                return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=parent))
    tried = ", ".join(map(str, _parents()))
    raise ConfigError(
        f"There is no folder for Ray's files: neither of {tried} can be used.",
        hint=f"Set $TMPDIR to a folder with {_NEEDED_BYTES >> 20} MiB of room whose path has at "
        f"most {_LONGEST_PARENT} characters: Ray's sockets lie below it.",
    )


def _remove_left_behind() -> None:
    """Remove what drivers that were killed have left: Ray's logs and sockets."""
    for parent in _parents():
        for folder in parent.glob(f"{_SCRATCH}*-*"):
            driver = folder.name.removeprefix(_SCRATCH).partition("-")[0]
            if driver.isdigit() and not _is_alive(int(driver)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def _connect(ray: Any, address: str, scratch: Path) -> None:
    common = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if not address:
        local = {
            "address": "local",
            "num_cpus": max(1, int(usable_cores())),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": str(scratch),
        }
        try:
            with _time_limit(_START_WITHIN_S):
                ray.init(**local, **common)
        except Exception as error:  # Ray lets through whatever the machine says
            raise _refused("started", error) from error
        return
    try:
        _check_port(address)
        with _time_limit(_START_WITHIN_S):
            ray.init(address=address, **common)
    except (OSError, RuntimeError, ValueError) as error:
        if "Version mismatch" in str(error):
            versions = one_line(str(error).partition(":")[2], longest=300)
            raise ConfigError(
                f"The Ray cluster at '{address}' has other versions than this process: {versions}",
                hint="Install the cluster's Ray here (pip install 'ray[tune]==...'), or leave "
                "--address and $RAY_ADDRESS out to use this machine.",
            ) from None
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"There is no Ray cluster at '{address}': {said}",
            hint="Start one (docs/cluster.md; RAY_AUTH_MODE=token if it asks for a token), or "
            "leave --address and $RAY_ADDRESS out to use this machine.",
        ) from None


class _TooLong(BaseException):
    """No Exception: Ray catches those and goes on trying."""


@contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """Interrupt what is done here after `limit_s`, in the main thread of a Unix system.

    Not in a thread of its own: what Ray starts would end with that.

    Raises:
        TimeoutError: it was interrupted.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return

    def over(number: int, frame: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    except _TooLong:
        reason = f"it does not respond within {limit_s:g} s: is the loopback interface up?"
        raise TimeoutError(reason) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _check_port(address: str) -> None:
    """Check that a process listens: Ray itself would go on trying for minutes.

    Raises:
        OSError: no process does.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        with socket.create_connection((host, int(port)), timeout=_ANSWER_WITHIN_S):
            pass
