"""YAML as users give it: numbers, text, lists and mappings, and not too much of them.

Words and numbers are those of YAML 1.2: `off` and `no` are words, 010 is ten and 1e-3 a number. The
YAML language can do more: name a value and repeat it, so that a few lines stand for gigabytes,
or ask for objects. None of that is read here. Owns no options.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

LONGEST_TEXT = 1 << 20
_DEEPEST = 20
_LARGEST_INT = 2**63
_TAG = "tag:yaml.org,2002:"
_KINDS = {
    "null": re.compile(r"null|Null|NULL|~|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}
"""What is not text of the values without quotes."""


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
    """Give values without quotes their kinds; refuse keys that are lists, or there twice."""
    if isinstance(node.value, str):
        if getattr(node, "style", None) is None:
            kinds = (kind for kind, form in _KINDS.items() if form.fullmatch(node.value))
            node.tag = _TAG + next(kinds, "str")
        if node.tag == f"{_TAG}int":  # PyYAML would take a 0 in front for base 8
            node.value = re.sub(r"^([-+]?)0+(?=[0-9])", r"\1", node.value)
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
