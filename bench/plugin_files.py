"""Plugin files imported, with those beside them; their code as a hash; whose packages are found.

Comments, docstrings and layout change no hash. Owns which files are a plugin's own, and `sys.path`
as far as a plugin needs it; knows no registry.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

from bench.errors import PluginError
from bench.plain_text import one_line

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
            place = root.joinpath(*wanted.split("."))
            files = (place.with_name(f"{place.name}.py"), place / "__init__.py")
            path = next((one for one in files if one.is_file()), None)
            if own and path is not None and wanted not in found:
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


_ROOT = Path(__file__).absolute().parents[1]


def import_file(path: Path) -> tuple[ModuleType, str]:
    """Return the module of a plugin file, which may import what lies beside it, and its hash.

    Its folder is the last place where Python looks: nothing in it hides an installed package.

    Raises:
        PluginError: it is missing or fails to import, or a name that it imports from beside it
            means something else to Python.
    """
    module_name = f"bench_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise PluginError(f"The plugin {path} is not a Python file.")
    files = own_files(path, module_name)
    folder = str(path.absolute().parent)
    if len(files) > 1 and folder not in sys.path:
        sys.path.append(folder)
        importlib.invalidate_caches()
    _check_helpers(path, [name for name in files if name != module_name])
    code = code_hash(files, module_name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no result of ours
            spec.loader.exec_module(module)
    # A script that ends in sys.exit() must not end this process without a word.
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise PluginError(
            f"The plugin {path} cannot be imported: {error_text(error)}", hint=_way_out(path, error)
        ) from error
    return module, code


def check_own(package: str) -> None:
    """Check that Python imports `package`, one of skipbench's, from where skipbench is installed.

    Raises:
        PluginError: a folder of the same name stands before it on Python's path.
    """
    place = _place_of(package)
    own = _ROOT / package
    if place is None or place == own or place.resolve() == own.resolve():
        return
    raise PluginError(
        f"Python imports '{package}' from {place}, which hides skipbench's own in {own}.",
        hint=f"Rename {place}, or {_off_the_path(place.parent)}.",
    )


def error_text(error: BaseException) -> str:
    """Return what an exception of a plugin's code says, in one line."""
    try:
        return one_line(f"{type(error).__name__}: {error}")
    except Exception:  # an exception of a plugin's own may fail even at this
        return type(error).__name__


def _check_helpers(path: Path, names: Iterable[str]) -> None:
    folder = path.absolute().parent
    for top in sorted({name.partition(".")[0] for name in names}):
        place = _place_of(top)
        if place is not None and place.parent.resolve() != folder.resolve():
            raise PluginError(
                f"The plugin {path} imports '{top}', which lies beside it, but Python takes "
                f"'{top}' from {place}.",
                hint=f"Give {top} in {folder} another name.",
            )


def _place_of(package: str) -> Path | None:
    """Return the folder of a package, or the file of a module, as Python finds it."""
    module = sys.modules.get(package)
    spec = module.__spec__ if module is not None else importlib.util.find_spec(package)
    if spec is None:
        return None
    found: Iterable[str] = spec.submodule_search_locations or ()
    return next((Path(one) for one in found), Path(spec.origin) if spec.origin else None)


def _off_the_path(folder: Path) -> str:
    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if any(Path(entry).resolve() == folder.resolve() for entry in listed if entry):
        return f"take {folder} out of PYTHONPATH"
    return f"start from another folder than {folder}"


def _way_out(path: Path, error: BaseException) -> str:
    top = str(getattr(error, "name", "")).partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and top in OWN_PACKAGES:
        return f"'{top}' is a package of skipbench: give the folder of yours another name."
    return (
        "Run it with Python alone to see where; --debug shows the traceback here. "
        f"It may import what lies in {path.absolute().parent}."
    )
