"""YAML as users give it: numbers, text, lists and mappings, and not too much of them.

Words and numbers are those of YAML 1.2: `off` and `no` are words, 010 is ten and 1e-3 a number. The
YAML language can do more: name a value and repeat it, so that a few lines stand for gigabytes,
or ask for objects. None of that is read here. Owns no options.
"""

from __future__ import annotations

import functools
import re
from typing import Any

LONGEST_TEXT = 1 << 20
_DEEPEST = 20
_LARGEST_INT = 2**63
_KINDS = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
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
        return yaml.load(text, _loader())
    except yaml.YAMLError as error:
        problem = str(getattr(error, "problem", None) or error)
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        said = f"it is not YAML: {' '.join(problem.split())[:200]}{where}"
        raise UnreadableYamlError(said) from None
    except (ValueError, OverflowError):  # such as a number of thousands of digits
        raise UnreadableYamlError("a number in it cannot be read") from None


@functools.cache
def _loader() -> Any:
    import yaml

    class Plain(yaml.SafeLoader):
        """Refuses what repeats values, asks for objects or is nested deeply, before it is built."""

        yaml_implicit_resolvers: dict[str | None, Any] = {}  # noqa: RUF012
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent):
                raise UnreadableYamlError("aliases (*name) are not read")
            if event.tag is not None:
                raise UnreadableYamlError("tags (!name) are not read")
            inside = isinstance(event, yaml.CollectionStartEvent)
            self.depth += inside
            if self.depth > _DEEPEST:
                raise UnreadableYamlError(f"it is nested more than {_DEEPEST} deep")
            node = super().compose_node(parent, index)
            self.depth -= inside
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key.value, str):
                    raise UnreadableYamlError("a key is neither text nor a number")
                if key.value in keys:
                    raise UnreadableYamlError(f"the key '{key.value[:80]}' stands there twice")
                keys.add(key.value)
            return super().construct_mapping(node, deep)

        def construct_yaml_int(self, node: Any) -> int:
            value = int(node.value, 16 if node.value.startswith("0x") else 10)
            if abs(value) >= _LARGEST_INT:
                raise UnreadableYamlError("a whole number in it is too large")
            return value

    for kind, form in _KINDS.items():
        Plain.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{form})$"), None)
    Plain.add_constructor("tag:yaml.org,2002:int", Plain.construct_yaml_int)
    return Plain
