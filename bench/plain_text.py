"""Text that others wrote, made safe to show: nothing in it can move the cursor or hide a letter.

Control characters (a terminal's escape sequences), marks that turn the direction of writing, and
whatever else is not printed are written out as `\\x1b` or `\\u202e`. Owns no format: what HTML,
Markdown, LaTeX and CSV take for code is theirs to escape.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

LONGEST = 500
_CUT = "…"


def plain(text: str) -> str:
    """Return `text` with everything that is not printed written out; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(
        letter if _shown(letter) else letter.encode("unicode_escape").decode() for letter in text
    )


def one_line(text: str, *, longest: int = LONGEST) -> str:
    """Return `text` as `plain` does, on one line, and cut where it is longer than `longest`."""
    # Cut first: of a text of megabytes only the beginning is worth any work.
    line = plain(" ".join(text[: 8 * longest].split()))
    return line if len(line) <= longest else line[: longest - 1] + _CUT


def shown(value: object, *, longest: int = 80) -> str:
    """Return the repr of a value that a user gave, short enough for a message."""
    try:
        return one_line(repr(value), longest=longest)
    except (ValueError, RecursionError):  # numbers of thousands of digits have no repr
        return f"a {type(value).__name__} too large to show"


def slug(text: str) -> str:
    """Return `text` as part of a file name: letters, digits, _ and . only, at most 40."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip(".")[:40] or "unnamed"


def counted(count: int, noun: str) -> str:
    """Return "1 seed" or "2 seeds"."""
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


def some(names: Sequence[str]) -> str:
    """Return the first five of some names, and how many more there are."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _shown(letter: str) -> bool:
    return letter.isprintable() or letter == "\n" or unicodedata.category(letter) == "Zs"
