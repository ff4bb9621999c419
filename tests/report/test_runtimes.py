"""Each runtime is a column, a figure and a verdict of its own: times of two are never pooled."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from synthetic_records import make_cell
from synthetic_results import ResultsFolder

import bench
from bench.records.record import RunRecord
from bench.report.data.rows import rows
from bench.report.figures.chart import Marks
from bench.report.page.document import Document, document_page
from bench.report.tables.results import results_table, rich_table
from bench.report.verdicts.words import paragraph

SPEEDS = {"eager": {"sgad": 1.0, "act": 0.8}, "native": {"sgad": 0.5, "act": 1.6}}


@pytest.fixture
def records(results: ResultsFolder) -> list[RunRecord]:
    """A dense network and two methods, which runtimes order differently."""
    results.run("resnet", (0.92, 1.0))
    for method, accuracy in (("sgad", 0.95), ("act", 0.90)):
        record = results.run(method, (accuracy, 0.8))
        cells = [
            make_cell(latency_ms=2 / of[method], speedup=of[method], runtime=runtime, dense_ms=2.0)
            for runtime, of in SPEEDS.items()
        ]
        cells.append(make_cell(latency_ms=None, runtime="onnxruntime", reason="it has no If"))
        results.save_timed(record, *cells)
    return results.store.load_all().records


@pytest.fixture
def document(results: ResultsFolder, records: list[RunRecord]) -> Document:
    return Document(records, results.store)


def test_each_runtime_has_a_verdict_of_its_own(
    results: ResultsFolder, records: list[RunRecord]
) -> None:
    found = results.judged()["sgad"]
    eager, native = (found.on("time at batch 1", name) for name in SPEEDS)
    assert eager.verdict is not None and eager.verdict.outcome == "better"
    assert native.verdict is None and native.outside is not None
    assert native.outside.cost == pytest.approx(2.0)
    said = paragraph(found)
    assert "In time at batch 1, eager: better than a static network of the same cost." in said
    assert "In time at batch 1, native: no verdict" in said
    assert "In time at batch 1, onnxruntime: no verdict, it has no If." in said
    frame = bench.verdicts(results.store.results_dir)
    timed = frame[(frame.method == "sgad") & (frame.axis == "time at batch 1")]
    assert timed.runtime.tolist() == ["eager", "native", "onnxruntime"]
    assert timed.outcome.tolist()[0] == "better"


def test_figures_are_of_one_runtime_each(document: Document) -> None:
    for runtime, speeds in SPEEDS.items():
        (panel,) = document.charts[f"accuracy-time-{runtime}"].panels
        costs = {s.name: s.x for s in panel.series if isinstance(s, Marks) and s.tips}
        assert costs == {name: (pytest.approx(2 / speed),) for name, speed in speeds.items()}
    page = document_page(document)
    assert "ms per image (eager; cpu, 1 thread)" in page
    assert "ms per image (native; cpu, 1 thread)" in page


def test_each_runtime_is_a_column_and_eighty_columns_show_two(records: list[RunRecord]) -> None:
    found = rows(records)
    table = results_table(found)
    (line,) = (
        dict(zip(table.titles, cells, strict=True)) for cells in table.lines if "act" in cells
    )
    assert line["ms\nnative\nb=1"] == "1.25"
    assert (
        line["speed-up\neager\nb=1"].startswith("0.80x")
        and line["95 %\neager\nb=1"] == "0.78 to 0.82"
    )
    mark = line["speed-up\nonnxruntime\nb=1"]
    assert f"{mark} no time: it has no If" in table.notes
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(rich_table(found, width=80))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "eager" in text and "native" in text
    assert "a wider terminal also shows: " in text and "onnxruntime b=1" in text


def test_no_name_of_a_runtime_leads_out_of_the_folder(
    results: ResultsFolder, records: list[RunRecord]
) -> None:
    for record in records:
        cells = record.points[0].latency[:1]
        odd = (cell.model_copy(update={"runtime": "../../odd"}) for cell in cells)
        results.save_timed(record, *odd)
    document = Document(results.store.load_all().records, results.store)
    assert any(name.startswith("accuracy-time-") for name in document.charts)
    assert not any("/" in name for name in (*document.charts, *document.tables))
