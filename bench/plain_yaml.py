"""YAML as users give it: numbers, text, lists and mappings, and not too much of them.

The YAML language can do more: name a value and repeat it, so that a few lines stand for gigabytes,
or ask for objects. None of that is read here. Owns no options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

LONGEST_TEXT = 1 << 20
_DEEPEST = 20
_LARGEST_INT = 2**63
_PLAIN_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")
_TEXT_TAG = "tag:yaml.org,2002:str"


class UnreadableYamlError(Exception):
    """The text is not YAML, or more than is read here; the message says which."""


def read_yaml(text: str) -> Any:
    """Return the value that `text` stands for: None, bool, int, float, str, list or dict.

    Dates are text.

    Raises:
        UnreadableYamlError: it is no YAML, or uses what is not read here.
    """
    import yaml

    if len(text) > LONGEST_TEXT:
        raise UnreadableYamlError(f"it is longer than {LONGEST_TEXT:,} characters")
    try:
        _check_events(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None
        _make_plain(node)
        value = yaml.constructor.SafeConstructor().construct_document(node)
    except yaml.YAMLError as error:
        raise UnreadableYamlError(f"it is not YAML: {_first_words(error)}") from None
    except (ValueError, OverflowError):  # such as a number of thousands of digits
        raise UnreadableYamlError("a number in it cannot be read") from None
    _check_numbers(value)
    return value


def _check_events(text: str) -> None:
    """Refuse what repeats values, asks for objects, or is nested deeply; it is not built yet."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.events.AliasEvent):
            raise UnreadableYamlError("aliases (*name) are not read")
        if getattr(event, "tag", None) is not None:
            raise UnreadableYamlError("tags (!name) are not read")
        depth += isinstance(event, yaml.events.CollectionStartEvent)
        depth -= isinstance(event, yaml.events.CollectionEndEvent)
        if depth > _DEEPEST:
            raise UnreadableYamlError(f"it is nested more than {_DEEPEST} deep")


def _make_plain(node: yaml.nodes.Node) -> None:
    """Make text of what YAML takes for dates; refuse keys that are lists, or there twice."""
    if node.tag.rpartition(":")[2] not in _PLAIN_TAGS:
        node.tag = _TEXT_TAG
    if isinstance(node.value, str):
        return
    keys: set[str] = set()
    for item in node.value:
        pair = item if isinstance(item, tuple) else (item,)
        for part in pair:
            _make_plain(part)
        if len(pair) == 2:
            key = pair[0].value
            if not isinstance(key, str):
                raise UnreadableYamlError("a key is neither text nor a number")
            if key in keys:
                raise UnreadableYamlError(f"the key '{key[:80]}' stands there twice")
            keys.add(key)


def _check_numbers(value: Any) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            _check_numbers(item)
    elif isinstance(value, dict):
        _check_numbers([*value.keys(), *value.values()])
    elif isinstance(value, int) and abs(value) >= _LARGEST_INT:
        raise UnreadableYamlError("a whole number in it is too large")


def _first_words(error: yaml.YAMLError) -> str:
    problem = str(getattr(error, "problem", None) or error)
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
    return f"{' '.join(problem.split())[:200]}{where}"
