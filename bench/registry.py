"""Where methods and runtimes are found: entry points of a group, and plugin files.

Names are read from package metadata without importing anything; a plugin's module is imported
when it is asked for. Built-ins are found in the same way as third-party plugins.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin, get_type_hints

from bench.errors import PluginError, UnknownNameError
from bench.plain_text import one_line
from bench.plugin_files import code_hash, foreign_code, import_file, own_files

T = TypeVar("T")
RESERVED_NAMES = ("all", "none", "shallower", "train")
"""What no method can be called: words that mean something else where methods are named."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
"""What a name may be: it becomes part of folders, of tables and of `--set NAME.KEY=VALUE`."""
_BUILT_IN = "skipbench"
_FILE_GIVEN = "Name the method, and give the file beside it: --plugin FILE."


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A class, the hash of its code if it was taken at the import, and its plugin file if any."""

    item: type[T]
    taken: str = ""
    file: Path | None = None

    @cached_property
    def code(self) -> str:
        """The hash of its code, taken once: the file may be edited later."""
        return self.taken or _code_of(self.item)


class Registry(Generic[T]):
    """Subclasses of `base`, by name, loaded when asked for."""

    def __init__(self, base: type[Any], *, kind: str, group: str) -> None:
        self.base = base
        self.kind = kind
        self.group = group
        self._added: dict[str, Entry[T]] = {}
        self._loaded: dict[str, Entry[T]] = {}

    @property
    def files(self) -> list[Path]:
        """The plugin files of what is registered, for processes started from this one."""
        return list(dict.fromkeys(one.file for one in self._added.values() if one.file))

    def is_only_here(self, name: str) -> bool:
        """Whether other processes cannot find it: it was added, and not from a file."""
        return name in self._added and self._added[name].file is None

    def names(self) -> list[str]:
        """Return all names, sorted, importing nothing."""
        return sorted({*self._offered, *self._added})

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def get(self, name: str) -> type[T]:
        """Return the class registered as `name`.

        Raises:
            UnknownNameError: nothing is registered under that name.
            PluginError: its module cannot be imported, or it breaks the contract.
        """
        return self._registered(name).item

    def is_built_in(self, name: str) -> bool:
        """Return whether `name` comes with skipbench."""
        return name not in self._added and _BUILT_IN in self._offered.get(name, ())

    def code(self, name: str) -> str:
        """Return the hash of the code of `name`, as it was when it was imported.

        Raises:
            UnknownNameError, PluginError: as `get`, or it has no file.
        """
        return self._registered(name).code

    def add(self, item: type[T], *, source: str, code: str = "", file: Path | None = None) -> None:
        """Register a class under its own `name`; `code` is the hash of its code, if it has no file.

        Raises:
            PluginError: it breaks the contract or claims a name that is taken.
        """
        name = getattr(item, "name", None)
        if not isinstance(name, str):
            raise PluginError(f"{source}: {item.__name__} has no `name`.")
        self._check(item, name=name, source=source)
        known = self._added.get(name)
        if name in self.names() and (known is None or known.item is not item):
            raise PluginError(
                f"{source}: the name '{name}' is taken.",
                hint=f"Give {item.__name__} another `name`.",
            )
        self._added[name] = Entry(item, code, file)

    def remove(self, name: str) -> None:
        """Forget a class that was added, if there is one."""
        self._added.pop(name, None)

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
                hint=f"A {self.kind} is a subclass of {_path_of(self.base)} with a `name`.",
            )
        for registry, item in complete:
            registry.add(item, source=str(path), code=code, file=path.absolute())
        return [str(item.name) for registry, item in complete if registry is self]

    def _classes_in(self, module: ModuleType) -> list[type[Any]]:
        """Return the classes of this kind that a module defines."""
        return [
            item
            for item in dict.fromkeys(v for v in vars(module).values() if isinstance(v, type))
            if item.__module__ == module.__name__ and issubclass(item, self.base)
        ]

    @cached_property
    def _offered(self) -> dict[str, dict[str, EntryPoint]]:
        """The entry points of each name, by the package they come from."""
        found: dict[str, dict[str, EntryPoint]] = {}
        for entry in entry_points(group=self.group):
            package = "unknown" if entry.dist is None else entry.dist.name
            found.setdefault(entry.name, {})[package] = entry
        return found

    def _registered(self, name: str) -> Entry[T]:
        if name in self._added:
            return self._added[name]
        if name not in self._loaded:
            if name not in self._offered:
                hint = _FILE_GIVEN if name.endswith(".py") else ""
                raise UnknownNameError(self.kind, name, self.names(), hint=hint)
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> Entry[T]:
        packages = self._offered[name]
        # A third-party package cannot take a built-in's name.
        package = _BUILT_IN if _BUILT_IN in packages else next(iter(packages))
        if package != _BUILT_IN and len(packages) > 1:
            raise PluginError(
                f"The {self.kind} '{name}' is offered by several packages: "
                f"{', '.join(sorted(packages))}.",
                hint="Remove all but one of them; which one is meant cannot be known.",
            )
        entry = packages[package]
        with foreign_code(
            f"The {self.kind} '{name}' ({entry.value})",
            hint=f"It comes from the package '{package}': reinstall or remove it.",
        ):
            found: type[T] = entry.load()
        self._check(found, name=name, source=entry.value)
        return Entry(found, "" if package == _BUILT_IN else _code_of(found))

    def _check(self, item: type[Any], *, name: str, source: str) -> None:
        base = self.base
        if not isinstance(item, type) or not issubclass(item, base) or _unfinished(item):
            raise PluginError(f"{source} is not a complete subclass of {_path_of(base)}.")
        if not NAME.fullmatch(name) or name in RESERVED_NAMES:
            raise PluginError(
                f"{source}: '{one_line(name, longest=80)}' cannot be the name of a {self.kind}.",
                hint="Letters, digits, - and _ only, at most 40, a letter first; "
                f"and none of {', '.join(RESERVED_NAMES)}.",
            )
        hints = get_type_hints(base).items()
        declared = {f: get_args(hint)[0] for f, hint in hints if get_origin(hint) is ClassVar}
        wrong = [field for field, kind in declared.items() if not _has(item, field, kind)]
        if wrong or getattr(item, "version", 1) < 1:
            raise PluginError(
                f"{source}: {item.__name__} lacks {', '.join(wrong or ['a version above 0'])},"
                f" of the kind that {_path_of(base)} declares."
            )
        if item.name != name:
            raise PluginError(f"{source} is registered as '{name}' but calls itself '{item.name}'.")


def _has(item: type, field: str, kind: Any) -> bool:
    value = getattr(item, field, None)
    if get_origin(kind) is not type:
        return isinstance(value, kind)
    try:  # such as the settings, which must do without arguments
        return isinstance(value(), get_args(kind))  # type: ignore[misc]
    except Exception:  # it is a plugin's code
        return False


def _unfinished(item: type) -> str:
    """Return the abstract methods that `item` leaves open."""
    return ", ".join(sorted(getattr(item, "__abstractmethods__", ())))


def _path_of(base: type) -> str:
    return f"{base.__module__}.{base.__qualname__}"


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
