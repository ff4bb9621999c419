"""Ray where it can start, and a reason with a way out where it cannot."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench.errors import ConfigError
from bench.sweep import ray_connection


def test_the_folder_of_ray_does_not_depend_on_a_long_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    made = ray_connection._scratch()
    made.rmdir()
    assert len(str(made)) < 30


def test_where_no_folder_can_be_made_the_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="missing") as caught:
        ray_connection._scratch()
    assert "$RAY_TMPDIR" in str(caught.value)


def test_a_missing_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="needs Ray Tune"):
        ray_connection._imported()


class Refusing(ModuleType):
    @staticmethod
    def init(**_: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.55.0")


@pytest.mark.parametrize(("address", "words"), [("", "started here"), ("head:x", "at 'head:x'")])
def test_whatever_ray_raises_is_told_on_one_line(address: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        ray_connection._connect(Refusing("ray"), address, tmp_path)
    assert "Ray: 2.55.0" in caught.value.message
    assert "\n" not in caught.value.message
