"""Names and reasons in records are a stranger's words: no reader takes them for code."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.commands.listings import listing
from bench.console import stdout
from bench.plain_text import one_line, plain, shown
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.report.data.rows import rows
from bench.report.figures.draw import draw, save_figure
from bench.report.page.document import Document, document_page, pareto_page
from bench.report.pareto.chart import pareto_chart, pareto_data
from bench.report.tables.cells import markdown_lines
from bench.report.tables.results import render, results_table, rich_table

pytestmark = [pytest.mark.reliability, pytest.mark.filterwarnings("ignore:Glyph")]

WORDS = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><b>",
    "end of script": "</script></style></title><!--",
    "markup": "[red]danger[/red] [link=http://x]y[/link] [/]",
    "escape sequences": "\x1b[31m\x1b]0;title\x07\x9b2J\b\r\x7f",
    "direction": "abc\u202edcba\u2066\u200b\ufeff",
    "latex": "\\input{/etc/passwd} \\write18{x} $\\frac{ %_&#^~{}",
    "math": "$\\frac{$ $$ $x^{$",
    "markdown": "a|b ![x](javascript:alert(1)) `code` <b>",
    "formula": "=cmd|' /C calc'!A0",
    "template": "$body ${title} {{7*7}} %(x)s {0}",
    "lines": "a\nb\r\nc\u2028d\ve",
    "half a letter": "\ud800",
    "shell": "; rm -rf ~ $(touch x) `touch x` && ../../x",
}


def spoken(make_record: Callable[..., RunRecord], word: str) -> list[RunRecord]:
    """Return records that say `word` wherever a record has words."""
    made = []
    for dense in (False, True):
        record = make_record(word + ("d" if dense else ""), variant=word, reconstructed=(word,))
        point = record.points[0].model_copy(update={"name": word})
        spec = record.spec.model_copy(
            update={
                "dataset": record.spec.dataset.model_copy(update={"name": word}),
                "backbone": record.spec.backbone.model_copy(update={"name": word}),
                "budget": record.spec.budget.model_copy(update={"recipe": word}),
            }
        )
        made.append(
            record.model_copy(
                update={"spec": spec, "run": spec.run, "points": (point,), "reason": word}
            )
        )
    failed = made[0].model_copy(update={"status": "failed", "points": ()})
    return [*made, failed]


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def elements(page: str) -> _Elements:
    found = _Elements()
    found.feed(page)
    return found


@pytest.mark.parametrize("what", WORDS)
def test_a_page_has_the_elements_of_a_page_without_odd_names(
    what: str, make_record: Callable[..., RunRecord]
) -> None:
    tame = elements(pareto_page(rows(spoken(make_record, "tame"))))
    page = pareto_page(rows(spoken(make_record, WORDS[what])))
    found = elements(page)
    assert found.tags == tame.tags
    assert not {name for name in found.attributes if name.startswith("on")}
    assert "\x1b" not in page and "\u202e" not in page and "\ud800" not in page
    page.encode()


@pytest.mark.parametrize("what", WORDS)
def test_a_report_has_the_elements_of_one_without_odd_names(
    what: str, make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    def report(word: str) -> str:
        return document_page(Document(spoken(make_record, word), RunStore(tmp_path)))

    page = report(WORDS[what])
    found = elements(page)
    assert found.tags == elements(report("tame")).tags
    assert not {name for name in found.attributes if name.startswith("on")}
    assert "\x1b" not in page and "\u202e" not in page and "\ud800" not in page
    page.encode()


@pytest.mark.parametrize("what", WORDS)
def test_a_terminal_shows_the_words_and_obeys_none(
    what: str, make_record: Callable[..., RunRecord], tmp_path: Path, capsys: Any
) -> None:
    console = stdout()
    console.print(rich_table(rows(spoken(make_record, WORDS[what])), width=100))
    store = RunStore(tmp_path)
    for record in spoken(make_record, WORDS[what])[:2]:
        if what != "half a letter":  # a record that says this cannot be written at all
            store.save(record)
    console.print(listing("runs", tmp_path))
    console.print(f"Not counted: {WORDS[what]}", markup=False)
    said = capsys.readouterr().out
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff]", said
    )
    if what == "markup":
        assert "[red]danger[/red]" in re.sub(r"\s+", "", said).replace("[red]danger", "[red]danger")


@pytest.mark.parametrize("what", WORDS)
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_figures_draw_the_words_as_they_are(
    what: str, suffix: str, make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    records = spoken(make_record, WORDS[what])
    target = save_figure(
        draw(pareto_chart(pareto_data(rows(records), x="nflops"))), tmp_path / f"a{suffix}"
    )
    if suffix == ".svg":
        assert "<script" not in target.read_text(encoding="utf-8")


def test_csv_holds_no_formula(make_record: Callable[..., RunRecord]) -> None:
    for word in ("=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "=cmd|' /C calc'!A0"):
        found = list(csv.reader(io.StringIO(render(rows(spoken(make_record, word)), "csv"))))
        assert len({len(line) for line in found}) == 1
        for cell in (cell for line in found for cell in line):
            number = re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", cell)
            assert number or not cell.startswith(("=", "+", "-", "@", "\t", "\r")), cell


def test_markdown_has_one_line_per_row_and_as_many_cells(
    make_record: Callable[..., RunRecord],
) -> None:
    for word in WORDS.values():
        found = rows(spoken(make_record, word))
        lines = markdown_lines(results_table(found)).splitlines()
        assert len(lines) == 2 + 2
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}) == 1
        assert not re.search(r"<[a-z/]|(?<!\\)\]\(", render(found, "md"))


def test_latex_gets_no_command(make_record: Callable[..., RunRecord]) -> None:
    text = render(rows(spoken(make_record, WORDS["latex"])), "latex")
    assert "\\input" not in text and "\\write" not in text and "$\\frac" not in text
    assert text.count("\\\\\n") == 2 * (1 + 2)


def test_json_is_text_that_comes_back(make_record: Callable[..., RunRecord]) -> None:
    import json

    for word in WORDS.values():
        text = render(rows(spoken(make_record, word)), "json")
        text.encode()
        assert json.loads(text)[0]["reason"] == one_line(word)


def test_what_is_not_printed_is_written_out() -> None:
    assert plain("a\x1b[31mb\u202e\nc\u00a0d\u3000é") == "a\\x1b[31mb\\u202e\nc\u00a0d\u3000é"
    assert one_line("  a\r\n\tb\x00 ") == "a b\\x00"
    assert one_line("x" * 1000) == "x" * 499 + "…"
    assert shown(10**10_000) == "a int too large to show"
    assert len(shown(["x" * 1000])) == 80
