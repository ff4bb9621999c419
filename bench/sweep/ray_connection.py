"""Ray started on this machine, or a cluster joined; or why not, and what to try.

Owns where Ray's own files lie, and what it needs of the environment; schedules nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import ConfigError
from bench.machine import usable_cores
from bench.plain_text import one_line

_ANSWER_WITHIN_S = 10.0
_OBJECT_STORE_BYTES = 128 * 2**20
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def connected(address: str) -> Iterator[Path]:
    """Connect to Ray, and give a folder for its files, which is gone afterwards.

    Raises:
        ConfigError: Ray is missing or cannot start here, or there is no cluster at `address`.
    """
    if "://" in address:
        raise ConfigError(
            f"'{address}' is where Ray takes jobs or remote clients; a sweep joins the cluster.",
            hint="Give HOST:PORT of its head (6379 by default), or auto on one of its machines.",
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray, scratch = _imported(), _scratch()
    started = not ray.is_initialized()
    try:
        if started:
            _connect(ray, address, scratch)
        for name in ("ray", "ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield scratch
    finally:
        if started:
            ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _imported() -> Any:
    try:
        import ray
        import ray.tune
    except ImportError as error:
        raise ConfigError(
            f"A sweep needs Ray Tune, which cannot be imported: {one_line(str(error))}.",
            hint="pip install 'ray[tune]', or run the settings one by one with bench run.",
        ) from None
    return ray


def _scratch() -> Path:
    """Return a new folder for Ray's files.

    Not in $TMPDIR: sockets lie some 90 characters below it, and the kernel takes paths of 107.
    """
    parent = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.name == "posix" else None)
    try:
        return Path(tempfile.mkdtemp(prefix="bench-ray-", dir=parent))
    except OSError as error:
        raise ConfigError(
            f"There is no folder for Ray's files: {error}.",
            hint="Set $RAY_TMPDIR to a folder with room whose path is at most 15 characters long.",
        ) from None


def _connect(ray: Any, address: str, scratch: Path) -> None:
    asked: dict[str, Any] = {"address": address}
    if not address:
        asked = {
            "address": "local",
            "num_cpus": max(1, int(usable_cores())),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": str(scratch),
        }
    try:
        _check_port(address)
        ray.init(**asked, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # Ray lets through whatever the machine says
        said = one_line(f"{type(error).__name__}: {error}", longest=300)
        if not address:
            raise ConfigError(
                f"Ray cannot be started here: {said}",
                hint="It needs room for its files in /tmp (or $RAY_TMPDIR), some memory, and "
                "sockets on this machine.",
            ) from error
        raise ConfigError(
            f"There is no Ray cluster at '{address}' that can be joined: {said}",
            hint="Start one (docs/cluster.md; RAY_AUTH_MODE=token if it asks for a token) with "
            "the version of Ray that is installed here, or leave --address and $RAY_ADDRESS out "
            "to use this machine.",
        ) from None


def _check_port(address: str) -> None:
    """Check that a process listens: Ray itself would go on trying for minutes.

    Raises:
        OSError: no process does.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        with socket.create_connection((host, int(port)), timeout=_ANSWER_WITHIN_S):
            pass
