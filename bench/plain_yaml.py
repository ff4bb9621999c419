"""YAML as users give it: numbers, text, lists and mappings, and not too much of them.

The YAML language can do more: name a value and repeat it, so that a few lines stand for gigabytes,
or ask for objects. None of that is read here. Owns no options.
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.events import AliasEvent
from yaml.nodes import MappingNode

LONGEST_TEXT = 1 << 20
_DEEPEST = 20
_LARGEST_INT = 2**63


class UnreadableYamlError(Exception):
    """The text is not YAML, or more than is read here; the message says which."""


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without aliases, merge keys, dates and repeated keys."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(AliasEvent):
            raise UnreadableYamlError("aliases (*name) are not read")
        if self._depth >= _DEEPEST:
            raise UnreadableYamlError(f"it is nested more than {_DEEPEST} deep")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if not isinstance(key, str | int | float | bool):
                raise UnreadableYamlError("a key is neither text nor a number")
            if key in keys[:number]:
                raise UnreadableYamlError(f"the key {str(key)[:80]!r} stands there twice")
        return super().construct_mapping(node, deep=deep)


_PLAIN_TAGS = ("null", "bool", "int", "float", "str")
_PlainLoader.yaml_implicit_resolvers = {
    letter: [(tag, regexp) for tag, regexp in resolvers if tag.rpartition(":")[2] in _PLAIN_TAGS]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> Any:
    """Return the value that `text` stands for: None, bool, int, float, str, list or dict.

    Raises:
        UnreadableYamlError: it is no YAML, or uses what is not read here.
    """
    if len(text) > LONGEST_TEXT:
        raise UnreadableYamlError(f"it is longer than {LONGEST_TEXT:,} characters")
    try:
        loader = _PlainLoader(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UnreadableYamlError(f"it is not YAML: {_first_words(error)}") from None
    # The constructors of numbers raise these for what only looks like a number.
    except (ValueError, OverflowError, RecursionError, KeyError, AttributeError) as error:
        raise UnreadableYamlError(f"a value in it cannot be read: {error}") from None
    _check(value)
    return value


def _check(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key)
            _check(item)
    elif isinstance(value, int) and abs(value) >= _LARGEST_INT:
        raise UnreadableYamlError("a whole number in it is too large")
    elif not (value is None or isinstance(value, str | int | float)):
        raise UnreadableYamlError(f"it asks for a {type(value).__name__}")


def _first_words(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
    return f"{' '.join(problem.split())[:200]}{where}"
