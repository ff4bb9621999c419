"""The example notebook runs, and prints what it shows; the tables of verdicts are the records'."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import bench

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "examples" / "results.ipynb"
DIFFERENCE = re.compile(r"([+-][\d.]+) \(([+-][\d.]+) to ([+-][\d.]+)\)")


def test_the_example_notebook_prints_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert codes
    for cell in codes:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec("".join(cell["source"]), names)
        shown = "".join(text for output in cell["outputs"] for text in output["text"])
        assert printed.getvalue().split() == shown.split()


def told_rows(document: Path) -> dict[tuple[str, str], list[str]]:
    """Return the cells of the table of verdicts in `document` by method and variant."""
    lines = re.findall(r"^\| `(\w+)`, (.+?) \|(.*)\|$", document.read_text(), re.MULTILINE)
    return {(a, b): [cell.strip() for cell in rest.split("|")] for a, b, rest in lines}


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_the_verdicts_in_a_document_are_those_of_the_records(name: str) -> None:
    found = bench.verdicts(ROOT / "results" / "reference")
    found = found[found.axis == "macs"]
    told = told_rows(ROOT / name)
    assert set(told) == set(zip(found.method, found.variant, strict=True))
    for row in found.itertuples():
        accuracy, cost, outcome, difference = told[str(row.method), str(row.variant)]
        assert f" {accuracy} % against" in str(row.sentence)
        if not isinstance(row.outcome, str):
            assert outcome.startswith("no verdict") and difference == ""
            continue
        assert outcome == row.outcome
        assert float(cost.split()[0]) == pytest.approx(row.cost_low, abs=5e-4)
        match = DIFFERENCE.fullmatch(difference)
        assert match is not None
        numbers = [float(text) / 100 for text in match.groups()]
        assert numbers == pytest.approx([row.gain, row.low, row.high], abs=6e-5)
        assert not math.isnan(numbers[0])
