"""Ray where it can start, and a reason with a way out where it cannot."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from bench.errors import ConfigError
from bench.sweep import ray_connection


def _long(tmp_path: Path) -> Path:
    folder = tmp_path / ("long" * 10)
    folder.mkdir()
    return folder


def test_a_temporary_folder_with_a_long_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(_long(tmp_path)))
    made = ray_connection._scratch()
    try:
        socket = made / "session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
        assert len(os.fsencode(socket)) <= 107
    finally:
        made.rmdir()


@pytest.mark.parametrize("why", ["long", "full", "read-only"])
def test_where_no_folder_can_be_used_the_variable_is_named(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = _long(tmp_path) if why == "long" else Path("/proc" if why == "read-only" else "/tmp")
    monkeypatch.setattr(ray_connection, "_parents", lambda: [place])
    if why == "full":
        monkeypatch.setattr(ray_connection, "_NEEDED_BYTES", 1 << 62)
    with pytest.raises(ConfigError, match=str(place)) as caught:
        ray_connection._scratch()
    assert "$TMPDIR" in str(caught.value)


def test_a_user_without_name_and_home_gets_one_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with ray_connection._writable_home(tmp_path):
        assert Path.home() == tmp_path
    assert "HOME" not in os.environ


def test_a_home_that_is_missing_is_stood_in_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = str(tmp_path / "missing")
    monkeypatch.setenv("HOME", missing)
    with ray_connection._writable_home(tmp_path):
        assert Path.home() == tmp_path
    assert os.environ["HOME"] == missing
    monkeypatch.setenv("HOME", str(tmp_path))
    with ray_connection._writable_home(Path("elsewhere")):
        assert Path.home() == tmp_path


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyError("uid not found")])
def test_whatever_ray_raises_where_it_is_imported_or_started_is_told(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(ModuleType):
        @staticmethod
        def init(**_: object) -> None:
            raise error

    with pytest.raises(ConfigError, match="Ray cannot be started here") as caught:
        ray_connection._connect(Refusing("ray"), "", tmp_path)
    assert str(error.args[0]) in str(caught.value)
    assert "$TMPDIR" in str(caught.value) and "$HOME" in str(caught.value)

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name.partition(".")[0] == "ray":
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(ConfigError, match="Ray cannot be imported here"):
        ray_connection._imported()


def test_a_start_that_hangs_ends_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(ModuleType):
        @staticmethod
        def init(**_: object) -> None:
            for _attempt in range(1000):  # as Ray does, whatever goes wrong
                with contextlib.suppress(Exception):
                    time.sleep(0.05)

    monkeypatch.setattr(ray_connection, "_START_WITHIN_S", 0.2)
    with pytest.raises(ConfigError, match=r"within 0\.2 s"):
        ray_connection._connect(Hanging("ray"), "", tmp_path)


def test_a_cluster_of_another_ray_is_told_with_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ray(ModuleType):
        @staticmethod
        def init(**_: object) -> None:
            raise RuntimeError(
                "Version mismatch: The cluster was started with:\n    Ray: 2.55.0\n"
                "This process on node 10.0.0.2 was started with:\n    Ray: 2.60.0"
            )

    monkeypatch.setattr(ray_connection, "_check_port", lambda address: None)
    with pytest.raises(ConfigError) as caught:
        ray_connection._connect(Ray("ray"), "head:6379", tmp_path)
    assert "Ray: 2.55.0" in str(caught.value) and "Ray: 2.60.0" in str(caught.value)
    assert "no Ray cluster" not in str(caught.value)
