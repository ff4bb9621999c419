"""Plugins with files beside them, and folders of a user's that hide skipbench's packages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from strangers import GOOD, methods

from bench.errors import PluginError
from bench.method import Method
from bench.registry import Registry

ROOT = Path(__file__).parents[1]
__all__ = ["methods"]
MINE = GOOD.replace("return 1", "return EPOCHS")


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    def write(folder: str, imports: str, name: str = "mine", **beside: str) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        for other, text in beside.items():
            (tmp_path / folder / f"{other}.py").write_text(text)
        path = tmp_path / folder / f"{name}.py"
        path.write_text(f"{imports}\n{MINE}".replace("quiet", name))
        return path

    return write


def test_a_plugin_imports_what_lies_beside_it_and_its_hash_covers_that(
    methods: Registry[Method], plugin: Callable[..., Path]
) -> None:
    path = plugin("a", "from lengths import EPOCHS", lengths="EPOCHS = 7\n")
    assert methods.add_file(path) == ["mine"]
    mine = methods.get("mine")
    assert mine().published_epochs(mine.Config()) == 7
    before = methods.code("mine")
    assert len(before) == 16 and not methods.is_built_in("mine")
    (path.parent / "lengths.py").write_text("EPOCHS = 8\n")
    assert methods.code("mine") == before, "that of the code that was imported"
    script = (
        "import sys; from pathlib import Path; from bench.method import METHODS\n"
        "METHODS.add_file(Path(sys.argv[1])); print(METHODS.code('mine'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() != before


def test_nothing_beside_a_plugin_hides_an_installed_package(
    methods: Registry[Method], plugin: Callable[..., Path]
) -> None:
    path = plugin("a", "import safetensors\nEPOCHS = 1", safetensors="")
    with pytest.raises(PluginError, match="Python takes 'safetensors' from") as caught:
        methods.add_file(path)
    assert caught.value.hint == f"Give safetensors in {path.parent} another name."


def test_two_plugins_cannot_mean_different_files_by_one_name(
    methods: Registry[Method], plugin: Callable[..., Path]
) -> None:
    methods.add_file(plugin("a", "from lengths import EPOCHS", lengths="EPOCHS = 7\n"))
    other = plugin("b", "from lengths import EPOCHS", name="other", lengths="EPOCHS = 8\n")
    with pytest.raises(PluginError, match=r"'lengths' from .*a.lengths\.py"):
        methods.add_file(other)


@pytest.mark.parametrize("package", ["methods", "baselines", "bench"])
def test_a_folder_that_hides_a_package_of_skipbench_is_named(package: str, tmp_path: Path) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    script = (
        "import skipbench, sys; sys.argv = ['bench', 'run', '--methods', 'resnet,sgad', "
        "'--epochs', '0', '--backbone', 'resnet8']; skipbench.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "COLUMNS": "400"},
    )
    said = done.stderr
    assert done.returncode != 0 and "Traceback" not in said, said
    hiding = tmp_path / package
    assert f"Python imports '{package}' from {hiding}, which hides skipbench's own" in said, said
    assert f"take {tmp_path} out of PYTHONPATH" in said
    assert not (tmp_path / "results").exists()
