"""What a figure and a page say: their words, and the elements of a page."""

from __future__ import annotations

from html.parser import HTMLParser

from matplotlib.figure import Figure


def words(figure: Figure) -> str:
    """Return all texts of a figure, one a line."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


class Outline(HTMLParser):
    """Collects the tags and the text of a page, scripts and styles left out."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open[: self._open.index(tag)] if tag in self._open else self._open

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open[-1:]):
            self.text.append(data)
