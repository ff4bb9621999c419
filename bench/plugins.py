"""What is registered, by name: plugin files, the code behind a name, settings checked.

Owns no registry: methods are in `bench.method`, backbones in `bench.networks.trunk`, data sets in
`bench.data.plugin`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from bench.config import BackboneSpec
from bench.data.plugin import PLUGINS as DATASET_PLUGINS
from bench.errors import ConfigError
from bench.method import METHODS, Method, MethodConfig
from bench.networks.trunk import BACKBONES, Shortcut, split_name
from bench.options import refuse_truth_values
from bench.plain_text import one_line, shown

M = TypeVar("M", bound=BaseModel)


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


def validated(model: type[M], given: Mapping[str, Any], *, owner: str) -> M:
    """Return a model of the values given, with messages for a person.

    Raises:
        ConfigError: a key does not exist or a value is out of range.
    """
    refuse_truth_values(model, given)
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = one_line(".".join(str(part) for part in first["loc"]) or "?", longest=80)
        known = sorted(model.model_fields)
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.4) or known
            raise ConfigError(
                f"'{owner}' has no setting '{key}'.",
                hint=f"{'Nearest' if near is not known else 'Known'}: {', '.join(near) or 'none'}.",
            ) from error
        raise ConfigError(
            f"{owner}.{key} = {shown(first.get('input'))}: {one_line(first['msg'])}.",
            hint=f"The settings of {owner}: {', '.join(known)}.",
        ) from error
