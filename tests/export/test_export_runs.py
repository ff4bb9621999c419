"""From a run on disk to a file, by the command."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import bench, new_folders, run
from torch import Tensor

from bench.api import Folders, export
from bench.errors import ConfigError, Unsupported
from bench.export import load_exported
from bench.export.exporting import FileFormat
from bench.method import DynamicNet


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Return results with an SGAD and its static projection and shuffled masks, on digits."""
    place = new_folders(tmp_path_factory)
    asked = {"dataset": "digits", "controls": "static_projection,shuffled_masks"}
    outcome = run(place, "sgad", **asked)
    assert len(outcome.records) == 4 and not outcome.failures
    return place


def command(folders: Folders, *words: str) -> Any:
    return bench("export", *words, results=folders.results)


def test_the_command_says_in_one_line_what_it_wrote(folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "sgad.onnx"
    done = command(folders, "sgad", "--format", "onnx", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "real branches" in done.stdout and "256 images" in done.stdout
    assert out.stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["sgad.onnx"]


def test_the_examples_of_the_document_run(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    formats: dict[FileFormat, str] = {"onnx": "onnx", "safetensors": ""}
    for file_format, suffix in formats.items():
        out = tmp_path / f"sgad.{suffix or file_format}"
        export("sgad", folders, file_format=file_format, out=out)
    monkeypatch.chdir(tmp_path)
    document = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    assert len(examples) == 2
    for source in examples:
        names: dict[str, Any] = {}
        exec(source, names)
        answer = names["output"].logits if "output" in names else names["logits"]
        assert answer.shape[1] == 10


def test_weights_of_a_run_are_loaded_without_the_results(folders: Folders) -> None:
    exported = export("sgad", folders, file_format="safetensors")
    assert exported.path.parent == folders.results / "exports"
    assert exported.proof.startswith("execute == forward on 256 images")
    net = load_exported(exported.path).net
    with torch.no_grad():
        assert net.execute(torch.zeros(2, 1, 8, 8)).logits.shape == (2, 10)


def test_a_control_made_from_a_run_is_exported_as_onnx_alone(folders: Folders) -> None:
    pytest.importorskip("onnxruntime")
    assert export("static_projection", folders, file_format="onnx").path.is_file()
    with pytest.raises(Unsupported, match="is made from a finished run"):
        export("static_projection", folders, file_format="safetensors")


def test_a_control_that_cannot_run_alone_is_not_exported(folders: Folders) -> None:
    with pytest.raises(Unsupported, match="cannot be exported: its cost"):
        export("shuffled_masks", folders, file_format="safetensors")


def test_a_point_that_is_not_there_is_named(folders: Folders) -> None:
    with pytest.raises(ConfigError, match="no operating point 'p=1'"):
        export("sgad", folders, file_format="safetensors", point="p=1")


def test_without_onnx_the_command_says_how_to_install_it(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = command(folders, "sgad", "--format", "onnx")
    assert done.exit_code == 2
    assert "skipbench[export]" in done.stderr


def _slightly_off(net: DynamicNet, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
    output = net.execute(x_nchw)
    return output.logits * 1.001 + 1, output.executed


def _others_run(net: DynamicNet, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
    output = net.execute(x_nchw)
    return output.logits, 1 - output.executed


@pytest.mark.parametrize(
    ("answers", "said"), [(_slightly_off, "differ by up to"), (_others_run, "ran other units")]
)
def test_nothing_is_written_where_the_file_does_not_agree(
    answers: object, said: str, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.export.exporting.executed", answers)
    with pytest.raises(Unsupported, match=said):
        export("sgad", folders, file_format="safetensors", out=tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_a_folder_is_called_like_its_run(folders: Folders, tmp_path: Path) -> None:
    done = command(folders, "sgad", "--format", "safetensors", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_the_suffix_of_another_format_is_refused(folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    done = command(folders, "sgad", "--format", "safetensors", "--out", str(out))
    assert done.exit_code == 2
    assert ".safetensors" in done.stderr
    assert not out.exists()
