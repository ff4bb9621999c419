"""The code of a plugin as a number: its module and what that imports from its own, hashed.

Comments, docstrings and layout change no hash. Owns which files are a plugin's own; imports none.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

OWN_PACKAGES = ("bench", "methods", "baselines")
"""The packages that skipbench consists of: what a plugin imports from them is not its own."""

_INSTALLED = ("site-packages", "dist-packages")
_DIGITS = 16
_WITH_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def own_files(file: Path, module: str) -> dict[str, Path]:
    """Return the files that `module` in `file` consists of, by the names they are imported under.

    Beside the module itself these are the modules that it imports, directly or through others: of
    its own package, or, where it is in none, of its folder. Imports within functions count; a
    package's `__init__` counts where it is what is imported.
    """
    parts = module.split(".")
    in_package = len(parts) > 1 or file.name == "__init__.py"
    root = file.absolute().parents[len(parts) - 1 + (file.name == "__init__.py")]
    found, waiting = {module: file.absolute()}, [module]
    while waiting:
        name = waiting.pop()
        for wanted in _imports(found[name], name):
            own = _is_own(wanted, parts[0] if in_package else None, root)
            path = _file_of(root, wanted) if own and wanted not in found else None
            if path is not None:
                found[wanted] = path
                waiting.append(wanted)
    return found


def code_hash(files: Mapping[str, Path], module: str) -> str:
    """Return 16 hex digits that change with what the code of `files` says.

    The name of `module` itself is left out: it may move from a file into a package.
    """
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(b"" if name == module else name.encode())
        digest.update(b"\0" + _meaning(files[name]) + b"\0")
    return digest.hexdigest()[:_DIGITS]


def _is_own(name: str, package: str | None, root: Path) -> bool:
    top = name.partition(".")[0]
    if package is not None:
        return top == package
    elsewhere = top in OWN_PACKAGES or top in sys.stdlib_module_names
    return not elsewhere and root.name not in _INSTALLED


def _imports(file: Path, module: str) -> Iterator[str]:
    """Yield the absolute names of all that may be a module among what `file` imports."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                said = "." * node.level + (node.module or "")
                base = importlib.util.resolve_name(said, package)
            except ImportError:  # relative beyond the package: importing it will say so
                continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _file_of(root: Path, name: str) -> Path | None:
    path = root.joinpath(*name.split("."))
    candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _meaning(file: Path) -> bytes:
    """Return the code of a file in a normal form, or its bytes where it cannot be parsed."""
    data = file.read_bytes()
    try:
        tree = ast.parse(data)
        for node in ast.walk(tree):
            if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False):
                del node.body[0]
        # Not ast.dump, which writes the same code otherwise in another version of Python.
        return ast.unparse(tree).encode()
    except (SyntaxError, ValueError, RecursionError):
        return data
