"""Where methods and runtimes are found: entry points of a group, and plugin files.

Names are read from package metadata without importing anything; a plugin's module is imported
when it is asked for. Built-ins are found in the same way as third-party plugins.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin, get_type_hints

from bench.errors import PluginError, UnknownNameError
from bench.plain_text import one_line
from bench.plugin_files import check_own, code_hash, error_text, import_file, own_files

T = TypeVar("T")
METHODS_GROUP = "bench.methods"
BACKBONES_GROUP = "bench.backbones"
RESERVED_NAMES = ("all", "none", "shallower", "train")
"""What no method can be called: words that mean something else where methods are named."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
"""What a name may be: it becomes part of folders, of tables and of `--set NAME.KEY=VALUE`."""
_BUILT_IN = "skipbench"
_FILE_GIVEN = "Name the method, and give the file beside it: --plugin FILE."


class Registry(Generic[T]):
    """Classes of one kind, by name, loaded when asked for."""

    def __init__(self, *, kind: str, group: str, base: str) -> None:
        self.kind = kind
        self.group = group
        self.base = base
        self._added: dict[str, type[T]] = {}
        self._loaded: dict[str, type[T]] = {}  # of entry points, checked
        self._files: dict[str, Path] = {}  # by the name of what was added from it
        self._codes: dict[str, str] = {}  # hashes of code by name, taken as it was imported

    @property
    def files(self) -> list[Path]:
        """The plugin files of what is registered, for processes started from this one."""
        return list(dict.fromkeys(self._files[name] for name in self._added if name in self._files))

    def is_only_here(self, name: str) -> bool:
        """Whether other processes cannot find it: it was added, and not from a file."""
        return name in self._added and name not in self._files

    def names(self) -> list[str]:
        """Return all names, sorted, importing nothing."""
        return sorted({*self._entries, *self._added})

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def get(self, name: str) -> type[T]:
        """Return the class registered as `name`.

        Raises:
            UnknownNameError: nothing is registered under that name.
            PluginError: its module cannot be imported, or it breaks the contract.
        """
        if name in self._added:
            return self._added[name]
        if name in self._loaded:
            return self._loaded[name]
        entry = self._entries.get(name)
        if entry is None:
            hint = _FILE_GIVEN if name.endswith(".py") else ""
            raise UnknownNameError(self.kind, name, self.names(), hint=hint)
        packages = {_origin(one) for one in self._offered if one.name == name}
        if _is_built_in(entry):
            check_own(entry.module.partition(".")[0])
        elif len(packages) > 1:
            raise PluginError(
                f"The {self.kind} '{name}' is offered by several packages: "
                f"{', '.join(sorted(packages))}.",
                hint="Remove all but one of them; which one is meant cannot be known.",
            )
        try:
            with redirect_stdout(sys.stderr):  # what it prints is no result of ours
                found = entry.load()
        # A module that ends in sys.exit() must not end this process without a word.
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"The {self.kind} '{name}' ({entry.value}) cannot be imported: {error_text(error)}",
                hint=f"It comes from the package '{_origin(entry)}': reinstall or remove it.",
            ) from error
        self._check(found, name=name, source=entry.value)
        if not _is_built_in(entry) and name not in self._codes:
            self._codes[name] = self._code_of(found)  # now, before the file is edited
        self._loaded[name] = found
        return self._loaded[name]

    def is_built_in(self, name: str) -> bool:
        """Return whether `name` comes with skipbench."""
        entry = self._entries.get(name)
        return name not in self._added and entry is not None and _is_built_in(entry)

    def code(self, name: str) -> str:
        """Return the hash of the code of `name`, as it was when it was imported.

        Raises:
            UnknownNameError, PluginError: as `get`, or it has no file.
        """
        item = self.get(name)
        if name not in self._codes:
            self._codes[name] = self._code_of(item)
        return self._codes[name]

    def add(self, item: type[T], *, source: str, code: str = "") -> None:
        """Register a class under its own `name`; `code` is the hash of its code, if it has no file.

        Raises:
            PluginError: it breaks the contract or claims a name that is taken.
        """
        name = getattr(item, "name", None)
        if not isinstance(name, str):
            raise PluginError(f"{source}: {item.__name__} has no `name`.")
        self._check(item, name=name, source=source)
        if name in self.names() and self._added.get(name) is not item:
            raise PluginError(
                f"{source}: the name '{name}' is taken.",
                hint=f"Give {item.__name__} another `name`.",
            )
        self._added[name] = item
        if code:
            self._codes[name] = code

    def add_file(self, path: Path, *beside: Registry[Any]) -> list[str]:
        """Import a plugin file and register the classes it defines; return their names here.

        What it defines for the registries `beside` this one is registered there.

        Raises:
            PluginError: the file is missing, fails to import, or defines nothing to register.
        """
        module, code = import_file(path)
        registries = (self, *beside)
        found = [registry._classes_in(module) for registry in registries]
        if not any(complete for complete, _ in found):
            open_ones = [item for _, unfinished in found for item in unfinished]
            lacking = [f"{c.__name__} lacks {', '.join(_unfinished(c))}" for c in open_ones]
            what = f": {'; '.join(lacking)}." if lacking else "."
            kinds = " or ".join(registry.kind for registry in registries)
            raise PluginError(
                f"The plugin {path} defines no {'complete ' * bool(lacking)}{kinds}{what}",
                hint=f"A {self.kind} is a subclass of {self.base} with a `name`.",
            )
        for registry, (items, _) in zip(registries, found, strict=True):
            for item in items:
                registry.add(item, source=str(path))
                registry._files[item.name], registry._codes[item.name] = path.absolute(), code
        return [str(item.name) for item in found[0][0]]

    def _classes_in(self, module: ModuleType) -> tuple[list[type[Any]], list[type[Any]]]:
        """Return the classes of this kind that a module defines, and those it leaves unfinished."""
        classes: list[type[Any]] = [
            item
            for item in dict.fromkeys(v for v in vars(module).values() if isinstance(v, type))
            if item.__module__ == module.__name__ and issubclass(item, self._base())
        ]
        complete = [item for item in classes if not _unfinished(item)]
        return complete, [item for item in classes if item not in complete]

    def _code_of(self, item: type[T]) -> str:
        try:
            file = Path(inspect.getfile(item))
        except (TypeError, OSError):
            raise PluginError(
                f"The code of {item.__name__} lies in no file, so a change to it could not be "
                "noticed later.",
                hint=_FILE_GIVEN,
            ) from None
        return code_hash(own_files(file, item.__module__), item.__module__)

    @cached_property
    def _offered(self) -> list[EntryPoint]:
        # Built-ins last: a third-party package cannot take a built-in's name.
        return sorted(entry_points(group=self.group), key=_is_built_in)

    @property
    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in self._offered}

    def _base(self) -> type[Any]:
        module_name, _, class_name = self.base.rpartition(".")
        base: type[Any] = getattr(importlib.import_module(module_name), class_name)
        return base

    def _check(self, item: object, *, name: str, source: str) -> None:
        base = self._base()
        if not isinstance(item, type) or not issubclass(item, base) or _unfinished(item):
            raise PluginError(f"{source} is not a complete subclass of {self.base}.")
        if not NAME.fullmatch(name) or name in RESERVED_NAMES:
            raise PluginError(
                f"{source}: '{one_line(name, longest=80)}' cannot be the name of a {self.kind}.",
                hint="Letters, digits, - and _ only, at most 40, a letter first; "
                f"and none of {', '.join(RESERVED_NAMES)}.",
            )
        hints = get_type_hints(base).items()
        declared = {f: get_args(hint)[0] for f, hint in hints if get_origin(hint) is ClassVar}
        missing = [field for field in declared if not hasattr(item, field)]
        if missing:
            raise PluginError(f"{source}: {item.__name__} lacks {', '.join(missing)}.")
        wrong = [field for field, kind in declared.items() if not _is_of(item, field, kind)]
        if wrong:
            raise PluginError(
                f"{source}: {item.__name__} has another kind of {', '.join(wrong)} than"
                f" {self.base} declares."
            )
        if getattr(item, "version", 1) < 1:
            raise PluginError(f"{source}: the version of {item.__name__} must be 1 or more.")
        own = item.name  # type: ignore[attr-defined]
        if own != name:
            raise PluginError(f"{source} is registered as '{name}' but calls itself '{own}'.")


def _is_of(item: type, field: str, kind: Any) -> bool:
    value = getattr(item, field, None)
    if get_origin(kind) is type:  # a class, which must do without arguments
        return isinstance(value, type) and issubclass(value, get_args(kind)) and _starts(value)
    return isinstance(value, kind)


def _starts(item: type) -> bool:
    try:
        item()
    except Exception:  # it is a plugin's code
        return False
    return True


def _unfinished(item: type) -> list[str]:
    """Return the abstract methods that `item` leaves open."""
    return sorted(getattr(item, "__abstractmethods__", ()))


def _is_built_in(entry: EntryPoint) -> bool:
    return _origin(entry) == _BUILT_IN


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown"
