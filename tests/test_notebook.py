"""The example notebooks run, and print what they show; the tables of verdicts are the records'."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

import bench
from bench.records.store import RunStore
from bench.report.data.study import Study
from bench.report.verdicts.verdicts import MethodVerdict, verdicts_of

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_example_notebook_prints_what_it_shows(
    notebook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    cells = json.loads(notebook.read_text())["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert codes
    for cell in codes:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec("".join(cell["source"]), names)
        shown = "".join(text for output in cell["outputs"] for text in output["text"])
        assert printed.getvalue().split() == shown.split()


@pytest.fixture
def update(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "generate"))
    return importlib.import_module("update")


@pytest.fixture(scope="module")
def reference() -> Study:
    store = RunStore(ROOT / "results" / "reference")
    return Study(store.load_all().records, store)


@pytest.fixture(scope="module")
def judged(reference: Study) -> list[MethodVerdict]:
    return verdicts_of(reference)


def test_the_tables_in_documents_are_those_of_the_records(
    update: ModuleType, reference: Study, judged: list[MethodVerdict]
) -> None:
    for document, table in update.tables(reference, judged):
        assert table in document.read_text(), "python docs/generate/update.py replaces it"


def test_a_table_is_replaced_in_its_place(update: ModuleType) -> None:
    text = (
        "before\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n\nAnd 2 more: x, y.\n\nafter\n"
    )
    new = "| a | b |\n| --- | --- |\n| 5 | 6 |"
    for closed in (new, f"{new}\n\nAnd 3 more: x, y, z."):
        assert update.replaced(text, closed) == f"before\n\n{closed}\n\nafter\n"
    with pytest.raises(ValueError, match="0 tables"):
        update.replaced("nothing", new)


def test_the_table_of_best_settings_says_what_a_notebook_gets(
    update: ModuleType, reference: Study, judged: list[MethodVerdict]
) -> None:
    found = bench.verdicts(ROOT / "results" / "reference")
    decided = found[(found.axis == "macs") & found.outcome.notna()]
    order = ["better", "not distinguishable", "worse"]
    outcome = decided.outcome.str.removesuffix(" (dominated)")
    decided = decided.assign(rank=outcome.map(order.index))
    decided = decided.sort_values(["control", "rank", "gain"], ascending=[True, True, False])
    best = decided.drop_duplicates("method")
    controls = best[best.control][:2]
    best = pd.concat([best[~best.control][: 10 - len(controls)], controls])
    _, text = next(update.tables(reference, judged))
    lines = [line for line in text.splitlines()[2:] if line.startswith("| ")]
    assert len(lines) == len(best) <= 10
    for line, row in zip(lines, best.itertuples(), strict=True):
        assert line.startswith(f"| {row.method} "), line
        assert f"{row.outcome}: {100 * row.gain:+.2f} ({100 * row.low:+.2f} to " in line
    rest = sorted(set(found.method) - set(best.method))
    closing = f"And {len(rest)} more: {', '.join(rest)} ([results]"
    assert (closing in text) is bool(rest)
