"""All that documents show of the reference results, made anew: `python docs/generate/update.py`.

Replaces tables in place, each found by its first line, and draws the README's figure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from readme_figure import REFERENCE, draw_figure
from variant_table import variant_table

from bench.records.store import RunStore
from bench.report.behaviour.dynamics import dynamics_table
from bench.report.data.study import Study
from bench.report.tables.cells import markdown_lines
from bench.report.tables.results import results_table
from bench.report.verdicts.best import best_table
from bench.report.verdicts.verdicts import verdicts_of

ROOT = Path(__file__).parents[2]


def reference() -> Study:
    """Return the reference runs."""
    store = RunStore(REFERENCE)
    return Study(store.load_all().records, store)


def tables() -> Iterator[tuple[Path, str]]:
    """Yield each document and a table in it."""
    yield ROOT / "README.md", markdown_lines(best_table(verdicts_of(reference()))).rstrip()
    yield ROOT / "docs" / "methods.md", variant_table()
    study = reference()
    for table in (results_table(study.rows), dynamics_table(study.groups)):
        yield ROOT / "docs" / "results.md", markdown_lines(table).rstrip()


def replaced(text: str, table: str) -> str:
    """Return a document with the table of the same first line replaced.

    Raises:
        ValueError: it has no such table, or several.
    """
    header = re.escape(table.partition("\n")[0])
    found, count = re.subn(rf"^{header}\n(\|.*\n?)+", lambda _: f"{table}\n", text, flags=re.M)
    if count != 1:
        raise ValueError(f"{count} tables begin with {table.partition(chr(10))[0]}")
    return found


if __name__ == "__main__":
    for document, table in tables():
        document.write_text(replaced(document.read_text(), table))
    draw_figure(verdicts_of(reference()))
