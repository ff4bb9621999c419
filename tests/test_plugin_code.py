"""The hash of a plugin's code: what changes it, what does not, and which files it is made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.plugin_files import code_hash, own_files

PLUGIN = '''
"""A plugin."""
import math
from collections.abc import Sequence

import torch
from bench.method import Method


class Gate:
    """Opens."""

    def opens(self, x: float) -> bool:
        """Return whether it opens."""
        return x >= 1.0  # or not
'''


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def hash_of(folder: Path, file: str = "mine.py", module: str = "bench_plugin_mine") -> str:
    return code_hash(own_files(folder / file, module), module)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # or not", "  # or so"),
        ("Return whether it opens.", "Say whether it opens."),
        ('    """Opens."""\n\n', ""),
        ("x >= 1.0", "(x\n            >= 1.0)"),
        ("import math\n", "import math\n\n\n"),
    ],
)
def test_comments_docstrings_and_layout_change_no_hash(old: str, new: str, tmp_path: Path) -> None:
    write(tmp_path, {"mine.py": PLUGIN})
    before = hash_of(tmp_path)
    assert old in PLUGIN
    write(tmp_path, {"mine.py": PLUGIN.replace(old, new)})
    assert hash_of(tmp_path) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [(">=", "<"), ("1.0", "1.5"), ("opens", "closes"), ("import math", "import cmath")],
)
def test_what_the_code_says_changes_the_hash(old: str, new: str, tmp_path: Path) -> None:
    write(tmp_path, {"mine.py": PLUGIN})
    before = hash_of(tmp_path)
    write(tmp_path, {"mine.py": PLUGIN.replace(old, new)})
    assert hash_of(tmp_path) != before


def test_files_beside_a_plugin_count_where_it_imports_them_also_within_functions(
    tmp_path: Path,
) -> None:
    mine = "import helper\n\n\ndef late():\n    from parts.gates import gate\n    return gate\n"
    write(
        tmp_path,
        {
            "mine.py": mine,
            "helper.py": "from further import A\n",
            "further.py": "A = 1\n",
            "parts/__init__.py": "from parts import unused\n",
            "parts/gates.py": "from .shapes import B\n",
            "parts/shapes.py": "B = 2\n",
            "parts/unused.py": "C = 3\n",
            "other.py": "D = 4\n",
            "math.py": "E = 5\n",
            "bench/method.py": "F = 6\n",
        },
    )
    found = own_files(tmp_path / "mine.py", "bench_plugin_mine")
    assert sorted(found) == [
        "bench_plugin_mine",
        "further",
        "helper",
        "parts.gates",
        "parts.shapes",
    ]
    assert found["parts.shapes"] == tmp_path / "parts" / "shapes.py"
    before = hash_of(tmp_path)
    for name, counts in {"further.py": True, "parts/shapes.py": True, "other.py": False}.items():
        kept = (tmp_path / name).read_text()
        write(tmp_path, {name: "Z = 26\n"})
        assert (hash_of(tmp_path) != before) == counts, name
        write(tmp_path, {name: kept})


def test_of_a_package_only_its_own_modules_count(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "mine/__init__.py": "from mine import methods\n",
            "mine/methods/gated.py": "import beside\nfrom ..layers import A\nfrom mine import B\n",
            "mine/layers.py": "A = 1\n",
            "mine/unused.py": "",
            "beside.py": "",
        },
    )
    found = own_files(tmp_path / "mine/methods/gated.py", "mine.methods.gated")
    assert sorted(found) == ["mine", "mine.layers", "mine.methods.gated"]
    moved = code_hash({"x": found["mine.layers"]}, "x")
    assert moved == code_hash({"y.z": found["mine.layers"]}, "y.z")


def test_a_module_in_the_folder_of_installed_packages_is_alone(tmp_path: Path) -> None:
    folder = tmp_path / "site-packages"
    write(folder, {"mine.py": "import numpy_like\n", "numpy_like.py": ""})
    assert list(own_files(folder / "mine.py", "mine")) == ["mine"]


def test_the_hash_is_the_same_in_another_process(tmp_path: Path) -> None:
    write(tmp_path, {"mine.py": PLUGIN})
    script = (
        "import sys; from pathlib import Path; from bench.plugin_files import *\n"
        "print(code_hash(own_files(Path(sys.argv[1]), 'm'), 'm'))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "mine.py")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() == hash_of(tmp_path) and len(said.strip()) == 16
