"""Writes a new method's package or a new backbone's file: whole or not at all, under a name that
can be used.

Owns no text: the method is example.py, which is checked and tested like any other module, as is
example_backbone.py; what surrounds the method is in templates/. Knows no registry: it is told which
names are taken.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from bench.errors import ConfigError, StorageError
from bench.registry import RESERVED_NAMES
from bench.storage import storage_errors, write_atomically

_HERE = Path(__file__).parent
_LONGEST = 40
_ELSEWHERE = "Choose another place with --out."


def new_package(name: str, folder: Path, *, taken: Collection[str]) -> list[Path]:
    """Write the package of a method called `name` as the new `folder`; return its files.

    Raises:
        ConfigError: the name cannot be used.
        StorageError: the folder is there already or cannot be written; nothing is left behind.
    """
    _check(name, folder, taken=taken, kind="method")
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
    sources = {
        "pyproject.toml": "templates/pyproject.toml",
        "README.md": "templates/README.md",
        f"src/{name}.py": "example.py",
        f"tests/test_{name}.py": "templates/test_method.txt",
    }
    return {
        path: _text(source, learned_gates=name, LearnedGates=class_name(name))
        for path, source in sources.items()
    }


def class_name(name: str) -> str:
    """Return the name of the class, no name that the example has: my_method -> MyMethod."""
    cls = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    taken = re.findall(r"\b[A-Z]\w+", _text("example.py"))
    return f"{cls}Method" if cls in taken or keyword.iskeyword(cls) else cls


def new_backbone(name: str, file: Path, *, taken: Collection[str]) -> Path:
    """Write a plugin file with a backbone called `name`; return it.

    Raises:
        ConfigError: the name cannot be used.
        StorageError: the file is there already or cannot be written.
    """
    _check(name, file, taken=taken, kind="backbone")
    text = _text("example_backbone.py", my_backbone=name, MyBackbone=class_name(name))
    write_atomically(file, text.encode())
    return file


def _text(source: str, **renamed: str) -> str:
    text = (_HERE / source).read_text(encoding="utf-8")
    for old, new in renamed.items():
        text = text.replace(old, new)
    return text


def _check(name: str, place: Path, *, taken: Collection[str], kind: str) -> None:
    """Check that a module, a class and a method or backbone can be called `name`, and that there is
    nothing at `place`."""
    why = ""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > _LONGEST:
        why = f"at most {_LONGEST} small letters, digits and _, a letter first"
    elif keyword.iskeyword(name) or name in RESERVED_NAMES:
        why = "it is a reserved name"
    elif name in taken:
        why = f"there is a {kind} called '{name}' already"
    elif importlib.util.find_spec(name) is not None:
        why = f"there is a Python module called '{name}', which yours would hide"
    if why:
        raise ConfigError(
            f"'{name}' cannot be the name of a {kind}: {why}.",
            hint=f"Choose another, like my_{kind}.",
        )
    if place.exists() or place.is_symlink():
        raise StorageError(f"{place} is already there.", hint=f"Move it away. {_ELSEWHERE}")
