"""Where methods and runtimes are found: entry points of a group, and plugin files.

Names are read from package metadata without importing anything; a plugin's module is imported
when it is asked for. Built-ins are found in the same way as third-party plugins.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin, get_type_hints

from bench.errors import PluginError, UnknownNameError
from bench.plain_text import one_line
from bench.plugin_files import code_hash, foreign_code, import_file, own_files

T = TypeVar("T")
METHODS_GROUP = "bench.methods"
BACKBONES_GROUP = "bench.backbones"
RESERVED_NAMES = ("all", "none", "shallower", "train")
"""What no method can be called: words that mean something else where methods are named."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
"""What a name may be: it becomes part of folders, of tables and of `--set NAME.KEY=VALUE`."""
_BUILT_IN = "skipbench"
_FILE_GIVEN = "Name the method, and give the file beside it: --plugin FILE."


def names_in(group: str) -> set[str]:
    """Return the names of a group of entry points, importing nothing."""
    return {entry.name for entry in entry_points(group=group)}


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
        if name not in self._loaded:
            if name not in self._entries:
                hint = _FILE_GIVEN if name.endswith(".py") else ""
                raise UnknownNameError(self.kind, name, self.names(), hint=hint)
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def is_built_in(self, name: str) -> bool:
        """Return whether `name` comes with skipbench."""
        return name not in self._added and name in self._entries and self._is_ours(name)

    def code(self, name: str) -> str:
        """Return the hash of the code of `name`, as it was when it was imported.

        Raises:
            UnknownNameError, PluginError: as `get`, or it has no file.
        """
        item = self.get(name)
        if name not in self._codes:
            self._codes[name] = _code_of(item)
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

    def remove(self, name: str) -> None:
        """Forget a class that was added, if there is one."""
        for known in (self._added, self._files, self._codes):
            known.pop(name, None)

    def add_file(self, path: Path, *beside: Registry[Any]) -> list[str]:
        """Import a plugin file and register the classes it defines; return their names here.

        What it defines for the registries `beside` this one is registered there.

        Raises:
            PluginError: the file is missing, fails to import, or defines nothing to register.
        """
        module, code = import_file(path)
        registries = (self, *beside)
        defined = [(one, item) for one in registries for item in one._classes_in(module)]
        complete = [(one, item) for one, item in defined if not inspect.isabstract(item)]
        if not complete:
            kinds = " or ".join(one.kind for one in registries)
            lacking = "; ".join(f"{item.__name__} lacks {_unfinished(item)}" for _, item in defined)
            raise PluginError(
                f"The plugin {path} defines no complete {kinds}{lacking and f': {lacking}'}.",
                hint=f"A {self.kind} is a subclass of {self.base} with a `name`.",
            )
        for registry, item in complete:
            registry.add(item, source=str(path), code=code)
            registry._files[item.name] = path.absolute()
        return [str(item.name) for registry, item in complete if registry is self]

    def _classes_in(self, module: ModuleType) -> list[type[Any]]:
        """Return the classes of this kind that a module defines."""
        return [
            item
            for item in dict.fromkeys(v for v in vars(module).values() if isinstance(v, type))
            if item.__module__ == module.__name__ and issubclass(item, self._base)
        ]

    def _load(self, name: str) -> type[T]:
        entry, packages = self._entries[name], {_origin(e) for e in self._offered if e.name == name}
        if not self._is_ours(name) and len(packages) > 1:
            raise PluginError(
                f"The {self.kind} '{name}' is offered by several packages: "
                f"{', '.join(sorted(packages))}.",
                hint="Remove all but one of them; which one is meant cannot be known.",
            )
        with foreign_code(
            f"The {self.kind} '{name}' ({entry.value})",
            hint=f"It comes from the package '{_origin(entry)}': reinstall or remove it.",
        ):
            found: type[T] = entry.load()
        self._check(found, name=name, source=entry.value)
        if not self._is_ours(name):
            self._codes.setdefault(name, _code_of(found))  # now, before the file is edited
        return found

    @cached_property
    def _offered(self) -> list[EntryPoint]:
        # Built-ins last: a third-party package cannot take a built-in's name.
        return sorted(entry_points(group=self.group), key=lambda one: _origin(one) == _BUILT_IN)

    @property
    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in self._offered}

    def _is_ours(self, name: str) -> bool:
        return _origin(self._entries[name]) == _BUILT_IN

    @cached_property
    def _base(self) -> type[Any]:
        base: type[Any] = pkgutil.resolve_name(self.base)
        return base

    def _check(self, item: type[Any], *, name: str, source: str) -> None:
        if not isinstance(item, type) or not issubclass(item, self._base) or _unfinished(item):
            raise PluginError(f"{source} is not a complete subclass of {self.base}.")
        if not NAME.fullmatch(name) or name in RESERVED_NAMES:
            raise PluginError(
                f"{source}: '{one_line(name, longest=80)}' cannot be the name of a {self.kind}.",
                hint="Letters, digits, - and _ only, at most 40, a letter first; "
                f"and none of {', '.join(RESERVED_NAMES)}.",
            )
        hints = get_type_hints(self._base).items()
        declared = {f: get_args(hint)[0] for f, hint in hints if get_origin(hint) is ClassVar}
        wrong = [field for field, kind in declared.items() if not _has(item, field, kind)]
        if wrong or getattr(item, "version", 1) < 1:
            raise PluginError(
                f"{source}: {item.__name__} lacks {', '.join(wrong or ['a version above 0'])},"
                f" of the kind that {self.base} declares."
            )
        if item.name != name:
            raise PluginError(f"{source} is registered as '{name}' but calls itself '{item.name}'.")


def _has(item: type, field: str, kind: Any) -> bool:
    value = getattr(item, field, None)
    if get_origin(kind) is not type:
        return isinstance(value, kind)
    if not (isinstance(value, type) and issubclass(value, get_args(kind))):
        return False
    try:
        value()  # such as the settings, which must do without arguments
    except Exception:  # it is a plugin's code
        return False
    return True


def _unfinished(item: type) -> str:
    """Return the abstract methods that `item` leaves open."""
    return ", ".join(sorted(getattr(item, "__abstractmethods__", ())))


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown"


def _code_of(item: type) -> str:
    try:
        file = Path(inspect.getfile(item))
    except (TypeError, OSError):
        raise PluginError(
            f"The code of {item.__name__} lies in no file, so a change to it could not be "
            "noticed later.",
            hint=_FILE_GIVEN,
        ) from None
    return code_hash(own_files(file, item.__module__), item.__module__)
