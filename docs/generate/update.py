"""All that documents show of the reference results, made anew: `python docs/generate/update.py`.

Replaces tables in place, each found by its first line, and draws the README's figure.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from readme_figure import REFERENCE, draw_figure
from variant_table import variant_table

from bench.records.store import RunStore
from bench.report.data.study import Study
from bench.report.tables.cells import markdown_lines
from bench.report.tables.results import dynamics_table, results_table
from bench.report.verdicts.tables import best_table, rest_in_words
from bench.report.verdicts.verdicts import MethodVerdict, verdicts_of

ROOT = Path(__file__).parents[2]


def reference(folder: Path = REFERENCE) -> Study:
    """Return the reference runs in a results folder."""
    store = RunStore(folder)
    return Study(store.load_all().records, store)


def tables(study: Study, verdicts: Sequence[MethodVerdict]) -> Iterator[tuple[Path, str]]:
    """Yield each document and a table in it; that of the README with the line that closes it."""
    rest = rest_in_words(verdicts)
    closing = f"\nAnd {rest} ([results](docs/results.md))." if rest else ""
    yield ROOT / "README.md", (markdown_lines(best_table(verdicts)) + closing).rstrip()
    yield ROOT / "docs" / "methods.md", variant_table()
    for table in (results_table(study.rows), dynamics_table(study.groups)):
        yield ROOT / "docs" / "results.md", markdown_lines(table).rstrip()
    transformers = verdicts_of(reference(REFERENCE / "vit"))
    yield ROOT / "docs" / "results.md", markdown_lines(best_table(transformers)).rstrip()


def replaced(text: str, table: str) -> str:
    """Return a document with the table of the same first line replaced, and what closes it.

    Raises:
        ValueError: it has no such table, or several.
    """
    first = table.partition("\n")[0]
    old = rf"^{re.escape(first)}\n(\|.*\n?)+(\nAnd \d+ more: .*\n)?"
    found, count = re.subn(old, lambda _: f"{table}\n", text, flags=re.M)
    if count != 1:
        raise ValueError(f"{count} tables begin with {first}")
    return found


def run_again(notebook: Path) -> None:
    """Run the cells of a notebook and write what they print into it."""
    content, names = json.loads(notebook.read_text()), dict[str, Any]()
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            with redirect_stdout(io.StringIO()) as printed:
                exec("".join(cell["source"]), names)
            for output in cell["outputs"]:
                output["text"] = printed.getvalue().splitlines(keepends=True)
    notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    runs = reference()
    judged = verdicts_of(runs)
    for document, table in tables(runs, judged):
        document.write_text(replaced(document.read_text(), table))
    draw_figure(judged)
    os.chdir(ROOT)
    run_again(ROOT / "docs" / "examples" / "results.ipynb")
