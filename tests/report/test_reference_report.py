"""The report committed beside the reference runs is the one that their records give."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest

from bench.drawing import document_in
from bench.records.store import RunStore
from bench.report.page.document import Document, table_files
from bench.report.verdicts.words import paragraph, summary

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
REPORT = REFERENCE / "report"
AGAIN = (
    "bench report --dataset cifar10 --results-dir results/reference --out results/reference/report"
)


@pytest.fixture(scope="module")
def document() -> Document:
    assert not RunStore(REFERENCE).load_all().problems
    return document_in(REFERENCE, dataset="cifar10")


def test_its_tables_are_those_of_the_records(document: Document) -> None:
    written = table_files(document)
    committed = {path.name: path.read_text() for path in (REPORT / "tables").iterdir()}
    assert committed.keys() == written.keys(), AGAIN
    assert [name for name, text in written.items() if committed[name] != text] == [], AGAIN


def test_its_page_is_smaller_than_3_mb_with_pictures_of_images_in_it() -> None:
    page = REPORT / "report.html"
    assert "data:image/png" in page.read_text()
    assert page.stat().st_size < 3_000_000


def test_its_page_says_what_the_records_say(document: Document) -> None:
    page = unescape((REPORT / "report.html").read_text())
    sentences = [*summary(document.verdicts), *map(paragraph, document.verdicts)]
    assert sentences
    assert [said for said in sentences if said not in page] == [], AGAIN
