"""Plugin files imported, with the files beside them; and whose packages Python imports.

Owns `sys.path` as far as a plugin needs it; knows no registry.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

from bench.errors import PluginError
from bench.plain_text import one_line
from bench.plugin_code import OWN_PACKAGES, code_hash, own_files

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
            f"The plugin {path} cannot be imported: {said(error)}",
            hint=_way_out(path, error),
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


def said(error: BaseException) -> str:
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
