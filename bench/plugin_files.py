"""Plugin files imported, with those beside them; their code as a hash.

Comments, docstrings and layout change no hash. Owns which files are a plugin's own, and `sys.path`
as far as a plugin needs it; knows no registry.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
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
    folder = path.absolute().parent
    if len(files) > 1 and str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()
    _check_beside(path, {name.partition(".")[0] for name in files if name != module_name})
    code = code_hash(files, module_name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with foreign_code(
            f"The plugin {path}", hint=f"It may import what lies in {folder}; --debug shows more."
        ):
            spec.loader.exec_module(module)
    except PluginError:
        del sys.modules[module_name]
        raise
    return module, code


@contextmanager
def foreign_code(what: str, *, hint: str) -> Iterator[None]:
    """Import code of others: what it prints is no result of ours, and no error of it ends us.

    Raises:
        PluginError: it raises something, or ends in sys.exit().
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        try:
            said = one_line(f"{type(error).__name__}: {error}")
        except Exception:  # an exception of its own may fail even at this
            said = type(error).__name__
        raise PluginError(f"{what} cannot be imported: {said}", hint=hint) from error


def _check_beside(path: Path, names: Iterable[str]) -> None:
    """Check that Python takes these modules from beside the plugin, not from elsewhere."""
    folder = path.absolute().parent
    for name in sorted(names):
        found = importlib.util.find_spec(name)
        places = (found.submodule_search_locations or [str(found.origin)]) if found else []
        if any(Path(place).resolve().parent != folder.resolve() for place in places):
            raise PluginError(
                f"The plugin {path} imports '{name}', which lies beside it, but Python takes "
                f"'{name}' from {', '.join(places)}.",
                hint=f"Give {name} in {folder} another name.",
            )
