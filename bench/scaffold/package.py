"""Writes a new method's package or a new backbone's file: whole or not at all, under a name that
can be used.

Owns the texts around the method; the method itself is example.py, which is checked and tested like
any other module, and so is example_backbone.py. Knows no registry: it is told which names are
taken.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from string import Template

from bench.errors import ConfigError, StorageError
from bench.registry import RESERVED_NAMES
from bench.storage import storage_errors, write_atomically

_EXAMPLE = Path(__file__).with_name("example.py")
_BACKBONE = Path(__file__).with_name("example_backbone.py")
_LONGEST = 40
_ELSEWHERE = "Choose another folder with --out."
_TAKEN_IN_TEMPLATE = frozenset(re.findall(r"\b[A-Z]\w+", _EXAMPLE.read_text(encoding="utf-8")))

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=68"]
build-backend = "setuptools.build_meta"

[project]
name = "$name"
version = "0.1.0"
description = "A method of dynamic inference, for skipbench"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["skipbench"]

[project.optional-dependencies]
test = ["pytest>=8"]

# Under this name bench finds the method, wherever the package is installed.
[project.entry-points."bench.methods"]
$name = "$name:$cls"

[tool.setuptools]
package-dir = { "" = "src" }
py-modules = ["$name"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["src"]
"""

_TEST = '''\
"""$name keeps the contract of bench, and its own formulas."""

import pytest
import torch
from bench.method import Backbone
from bench.testing import Check, checks_of

from $name import $names


@pytest.mark.parametrize("check", checks_of($cls), ids=str)
def test_it_keeps_the_contract(check: Check) -> None:
    check.run().require()


@pytest.mark.parametrize(("bias", "open_"), [(2.0, 1.0), (-2.0, 0.0)])
def test_a_gate_is_0_or_1_and_has_the_gradient_of_a_sigmoid(bias: float, open_: float) -> None:
    policy = Gates(Backbone("resnet8", 10, (3, 8, 8))).eval()
    last = policy.layers[0][1]
    torch.nn.init.constant_(last.bias, bias)
    gate_n = policy.decide(0, torch.zeros(1, 16, 8, 8))
    assert gate_n.item() == open_
    gate_n.sum().backward()
    # sigmoid(2) (1 - sigmoid(2)), by hand.
    assert last.bias.grad.item() == pytest.approx(0.104994, abs=1e-6)
'''

_README = """\
# $name

A method of dynamic inference for skipbench. The code is in `src/$name.py`: replace the example by
your method, and say at the top of the file how it decides, how it learns and what it expects.

    pip install -e ".[test]"            # once; then bench finds it by its name
    bench method check $name            # does it keep the contract?
    pytest                              # the same checks, and the formulas of the method
    bench run --methods resnet,$name    # train, count, time and compare

Without installing: `bench method check --plugin src/$name.py`.

Settings are fields of `${cls}Config`: `bench run --methods $name --set $name.cost=0.2`.
"""


def new_package(name: str, folder: Path, *, taken: Collection[str]) -> list[Path]:
    """Write the package of a method called `name` as the new `folder`; return its files.

    Raises:
        ConfigError: the name cannot be used.
        StorageError: the folder is there already or cannot be written; nothing is left behind.
    """
    check_name(name, taken=taken)
    if folder.exists() or folder.is_symlink():
        raise StorageError(
            f"{folder} is already there.", hint=f"{_ELSEWHERE[:-1]}, or move this one away."
        )
    files = package_files(name)
    with storage_errors(folder, elsewhere=_ELSEWHERE):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as place:
            draft = Path(place) / folder.name
            for path, text in files.items():
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                (draft / path).write_text(text, encoding="utf-8")
            draft.rename(folder)
    return [folder / path for path in files]


def package_files(name: str) -> Mapping[str, str]:
    """Return the text of each file of the package, by its path within the package."""
    cls = class_name(name)
    example = _EXAMPLE.read_text(encoding="utf-8")
    method = example.replace("learned_gates", name).replace("LearnedGates", cls)
    texts = {"pyproject.toml": _PYPROJECT, f"tests/test_{name}.py": _TEST, "README.md": _README}
    words = {"name": name, "cls": cls, "names": ", ".join(sorted(["Gates", cls]))}
    filled = {path: Template(text).substitute(words) for path, text in texts.items()}
    return {**filled, f"src/{name}.py": method}


def class_name(name: str) -> str:
    """Return the name of the class: my_method -> MyMethod."""
    cls = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return f"{cls}Method" if cls in _TAKEN_IN_TEMPLATE or keyword.iskeyword(cls) else cls


def new_backbone(name: str, file: Path, *, taken: Collection[str]) -> Path:
    """Write a plugin file with a backbone called `name`; return it.

    Raises:
        ConfigError: the name cannot be used.
        StorageError: the file is there already or cannot be written.
    """
    check_name(name, taken=taken, kind="backbone")
    if file.exists() or file.is_symlink():
        raise StorageError(f"{file} is already there.", hint=_ELSEWHERE.replace("folder", "file"))
    example = _BACKBONE.read_text(encoding="utf-8")
    text = example.replace("my_backbone", name).replace("MyBackbone", class_name(name))
    write_atomically(file, text.encode())
    return file


def check_name(name: str, *, taken: Collection[str], kind: str = "method") -> None:
    """Check that a module, a class and a method or backbone can be called `name`.

    Raises:
        ConfigError: they cannot; the message says why.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > _LONGEST:
        raise ConfigError(
            f"'{name}' cannot be the name of a {kind}.",
            hint=f"At most {_LONGEST} small letters, digits and _, a letter first: like my_{kind}.",
        )
    if keyword.iskeyword(name) or name in RESERVED_NAMES:
        raise ConfigError(f"'{name}' is a reserved name.", hint=f"Choose another, like my_{kind}.")
    if name in taken:
        raise ConfigError(
            f"There is a {kind} called '{name}' already.",
            hint=f"Choose another name; bench list {kind}s shows those that are taken.",
        )
    if importlib.util.find_spec(name) is not None:
        raise ConfigError(
            f"There is a Python module called '{name}' already; yours would hide it.",
            hint="Choose another name.",
        )
