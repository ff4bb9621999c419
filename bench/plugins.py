"""What is registered, by name: plugin files, the code behind a name, settings checked.

Owns no registry: methods are in `bench.method`, backbones in `bench.networks.trunk`, data sets in
`bench.data.plugin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench.config import BackboneSpec
from bench.data.plugin import PLUGINS as DATASET_PLUGINS
from bench.method import METHODS, Method, MethodConfig
from bench.networks.trunk import BACKBONES, Shortcut, split_name
from bench.options import validated


class MethodCode(NamedTuple):
    """The fields of a RunSpec that say which method it is, and which code of it."""

    method: str
    method_version: int
    method_code: str


def load_plugin(path: Path) -> list[str]:
    """Register methods, backbones and data sets of a plugin file; return the methods' names.

    Raises:
        PluginError: it cannot be imported, or defines none of them.
    """
    known = path.absolute() in plugin_files()
    return [] if known else METHODS.add_file(path, BACKBONES, DATASET_PLUGINS)


def plugin_files() -> list[Path]:
    """Return the plugin files of what is registered, for processes started from this one."""
    return list(dict.fromkeys([*METHODS.files, *BACKBONES.files, *DATASET_PLUGINS.files]))


def method_config(method: type[Method], given: Mapping[str, Any]) -> MethodConfig:
    """Return the settings of a method with `given` over the defaults.

    Raises:
        ConfigError: a key does not exist or a value is out of range.
    """
    return validated(method.Config, given, owner=method.name)


def code_of(name: str) -> MethodCode:
    """Return which method `name` is, and which code of it.

    Raises:
        UnknownNameError, PluginError: there is no such method, or it cannot be used.
    """
    code = "" if METHODS.is_built_in(name) else METHODS.code(name)
    return MethodCode(name, METHODS.get(name).version, code)


def backbone_spec(name: str, shortcut: Shortcut) -> BackboneSpec:
    """Return which backbone `name` is, and which code of it."""
    family = split_name(name)[0]
    code = "" if BACKBONES.is_built_in(family) else BACKBONES.code(family)
    return BackboneSpec(name=name, shortcut=shortcut, code=code)
