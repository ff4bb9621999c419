"""YAML as users give it: numbers, text, lists and mappings.

Words and numbers are those of YAML 1.2: `off` and `no` are words, 010 is ten and 1e-3 a number. The
YAML language can do more: name a value and repeat it, so that a few lines stand for gigabytes,
or ask for objects. None of that is read here. Owns no options.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import Any

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

    try:
        return yaml.load(text, _loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or "a value in it cannot be read"
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        said = f"it is not YAML: {' '.join(problem.split())[:200]}{where}"
        raise UnreadableYamlError(said) from None


@functools.cache
def _loader() -> Any:
    import yaml

    class Plain(yaml.SafeLoader):
        """Refuses what repeats values, and objects, before it is built."""

        yaml_implicit_resolvers: dict[str | None, Any] = {}  # noqa: RUF012

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent) or event.tag is not None:
                raise UnreadableYamlError("aliases (*name) and tags (!name) are not read")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            counts = Counter(str(key.value) for key, _ in node.value)
            for key, count in counts.items():
                if count > 1:
                    raise UnreadableYamlError(f"the key '{key[:80]}' stands there twice")
            return super().construct_mapping(node, deep)

        def construct_yaml_int(self, node: Any) -> int:
            return int(node.value, 16 if node.value.startswith("0x") else 10)

    for kind, form in _KINDS.items():
        Plain.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{form})$"), None)
    Plain.add_constructor("tag:yaml.org,2002:int", Plain.construct_yaml_int)
    return Plain
