"""What is recorded of the machine: complete where it can be, silent where it cannot, anonymous."""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.measure import environment
from bench.measure.environment import describe_environment


def test_the_versions_and_the_machine_are_stated() -> None:
    values = describe_environment("cpu").values
    assert values["torch"] == torch.__version__.partition("+")[0]
    assert values["python"] == platform.python_version()
    assert values["numpy"] == np.__version__
    assert values["threads"] == torch.get_num_threads()
    assert values["cores"] >= values["cores_usable"] > 0
    assert values["memory_gib"] > 0 and values["device"] == "cpu"
    assert {"git_commit", "git_dirty", "cudnn_benchmark", "tf32_convolutions"} <= values.keys()


def test_it_can_be_written_as_json_and_names_no_host_user_or_folder() -> None:
    text = json.dumps(describe_environment("cpu").values)
    assert str(Path.home()) not in text and str(Path(environment.__file__).parent) not in text
    for name in (platform.node(), getpass.getuser()):
        assert f'"{name}"' not in text


def test_a_device_that_is_not_there_raises_nothing() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    values = describe_environment("cuda").values
    assert values["device"] == "cuda" and values["gpu"] is None


def test_every_probe_that_fails_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise OSError("nothing works here")

    for name in ("getloadavg", "sched_getaffinity", "sysconf"):
        monkeypatch.setattr(os, name, fail, raising=False)
    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(Path, "read_text", fail)
    values = describe_environment("cpu").values
    assert values["git_commit"] is values["memory_gib"] is values["load_average_1min"] is None
    assert values["cores_usable"] >= 1


def make_checkout(folder: Path) -> None:
    (folder / "bench" / "measure").mkdir(parents=True)
    (folder / "bench" / "__init__.py").write_text("")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def test_the_commit_is_that_of_the_package_and_an_edit_makes_it_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkout(tmp_path)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "bench" / "measure" / "e.py"))
    values = describe_environment("cpu").values
    assert len(values["git_commit"]) == 40 and values["git_dirty"] is False
    (tmp_path / "notes.txt").write_text("not part of the sources")
    assert describe_environment("cpu").values["git_dirty"] is False
    (tmp_path / "bench" / "__init__.py").write_text("changed = True\n")
    assert describe_environment("cpu").values["git_dirty"] is True


def test_a_package_that_only_lies_in_a_checkout_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkout(tmp_path)
    installed = tmp_path / "venv" / "bench" / "measure" / "environment.py"
    installed.parent.mkdir(parents=True)
    (tmp_path / "venv" / "bench" / "__init__.py").write_text("")
    monkeypatch.setattr(environment, "__file__", str(installed))
    values = describe_environment("cpu").values
    assert values["git_commit"] is values["git_dirty"] is None
