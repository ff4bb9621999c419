"""Links that work in a checkout, made to work in the site.

On GitHub a page may link to any file of the repository; in the site such a file gets a page of its
own below repository/. Owns where a file of the repository lies there; knows nothing of MkDocs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from pathlib import Path

_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^(```.*?^```)", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE)
_ABOVE = "repository/"


def place_in_site(path: str, root: Path) -> str:
    """Return where the file or folder `path` of the repository lies in the site."""
    if (root / path).is_dir():
        path = posixpath.join(path, "README.md")
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        path = path.removeprefix("docs/")
        return path.removesuffix(".ipynb") + ".md" if path.endswith(".ipynb") else path
    return _ABOVE + (path if path.endswith(".md") else f"{path}.md")


def place_in_repository(uri: str) -> str:
    """Return which file of the repository the page `uri` of the site shows."""
    return uri.removeprefix(_ABOVE) if uri.startswith(_ABOVE) else f"docs/{uri}"


def for_site(text: str, uri: str, root: Path) -> str:
    """Return the Markdown of the page `uri`, its links to files pointing into the site."""
    return _outside_code(text, lambda part: _LINK.sub(lambda m: _moved(m, uri, root), part))


def linked(text: str, uri: str, root: Path) -> set[str]:
    """Return the files of the repository outside docs/ that the page `uri` links to."""
    found: set[str] = set()
    for number, part in enumerate(_FENCE.split(text)):
        if number % 2 == 0:
            found |= {_target(match[2], uri) for match in _LINK.finditer(part)}
    outside = {path for path in found if place_in_site(path, root).startswith(_ABOVE)}
    return {place_in_repository(place_in_site(path, root)) for path in outside}


def as_page(path: str, root: Path) -> str:
    """Return the Markdown that shows a file: itself if it is Markdown, else its text as code.

    `path` ends in .md in both cases: that of code is `bench/method.py.md`.
    """
    if (root / path).is_file():
        return (root / path).read_text()
    path = path.removesuffix(".md")
    language = path.rpartition(".")[2]
    return f"# {path}\n\n````{language}\n{(root / path).read_text()}\n````\n"


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts = _FENCE.split(text)
    return "".join(
        part if number % 2 else change(_COMMENT.sub("\n", part))
        for number, part in enumerate(parts)
    )


def _target(link: str, uri: str) -> str:
    here = posixpath.dirname(place_in_repository(uri))
    return posixpath.normpath(posixpath.join(here, link))


def _moved(match: re.Match[str], uri: str, root: Path) -> str:
    if match[2].startswith(("/", "http", "mailto")):
        return match[0]
    place = place_in_site(_target(match[2], uri), root)
    link = posixpath.relpath(place, posixpath.dirname(uri) or ".")
    return f"{match[1]}{link}{match[3] or ''}{match[4]}"


def all_linked(pages: Iterable[tuple[str, str]], root: Path) -> dict[str, str]:
    """Return the pages to add, by place, so that no link of `pages` (place, text) leads nowhere."""
    added: dict[str, str] = {}
    waiting = list(pages)
    while waiting:
        uri, text = waiting.pop()
        for path in sorted(linked(text, uri, root)):
            place = _ABOVE + path
            if place not in added:
                added[place] = as_page(path, root)
                waiting.append((place, added[place]))
    return added
