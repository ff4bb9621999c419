"""The report committed beside the reference runs is the one that their records give."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest

from bench.records.published import load_published
from bench.records.store import RunStore
from bench.records.sweep import load_sweeps
from bench.report.document import Document, document_of
from bench.report.report_table import csv_text, latex, markdown
from bench.report.tables import render

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
REPORT = REFERENCE / "report"
AGAIN = (
    "bench report --dataset cifar10 --results-dir results/reference --out results/reference/report"
)


@pytest.fixture(scope="module")
def document() -> Document:
    store = RunStore(REFERENCE)
    records, problems = store.load_all()
    assert not problems
    chosen = [record for record in records if record.spec.dataset.name == "cifar10"]
    sweeps, _ = load_sweeps(REFERENCE)
    return document_of(chosen, store, sweeps=sweeps, published=load_published("cifar10"))


def test_its_tables_are_those_of_the_records(document: Document) -> None:
    written = {}
    for table in document.tables:
        texts = {"md": markdown(table), "tex": latex(table), "csv": csv_text(table)}
        if table.name == "results":
            texts["csv"] = render(document.rows, "csv")
        written |= {f"{table.name}.{suffix}": text for suffix, text in texts.items()}
    committed = {path.name: path.read_text() for path in (REPORT / "tables").iterdir()}
    assert committed.keys() == written.keys(), AGAIN
    assert [name for name, text in written.items() if committed[name] != text] == [], AGAIN


def test_its_page_says_what_the_records_say(document: Document) -> None:
    page = unescape((REPORT / "report.html").read_text())
    sentences = [*document.summary, *(line.paragraph for line in document.verdicts)]
    assert sentences
    assert [said for said in sentences if said not in page] == [], AGAIN
