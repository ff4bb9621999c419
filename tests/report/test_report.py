"""The report: what it says, what is escaped, that it needs no network, and that it works."""

from __future__ import annotations

import csv
import html
import io
import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import Outline
from synthetic_records import make_cell, make_point, make_record, make_sweep
from synthetic_results import ResultsFolder
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import ConfigError
from bench.folders import Folders
from bench.recipes import OptimizerSpec
from bench.records.arrays import save_arrays
from bench.records.published import load_published
from bench.records.record import Dynamics, LatencyCell, RunRecord
from bench.records.store import Problem, RunStore
from bench.records.sweep import SweepRecord, TrialRow, save_sweep
from bench.report.behaviour.images import TestImages, image_strip
from bench.report.behaviour.numbers import by_difficulty
from bench.report.data.study import Study
from bench.report.page.document import Document, document_page, write_report
from bench.report.tables.cells import csv_text, latex, markdown, table_of
from bench.report.tables.provenance import provenance_tables
from bench.report.verdicts.tables import best_table
from bench.report.verdicts.verdicts import verdicts_of
from bench.report.verdicts.words import paragraph, summary

Documented = Callable[[TestImages | str], Document]
IMAGES = 400
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def test_a_paper_recipe_is_told_by_the_optimizers_of_its_phases(tmp_path: Path) -> None:
    record = make_record("blockdrop", recipe="paper")
    assert record.training is not None
    cost, adam = record.training.phases[0], OptimizerSpec(kind="adam", lr=1e-3, schedule="constant")
    slower = adam.model_copy(update={"lr": 1e-4, "schedule": "step"})
    phases = tuple(
        cost.model_copy(update={"optimizer": optimizer, "batch_size": size})
        for optimizer, size in ((adam, 2048), (slower, 256))
    )
    training = record.training.model_copy(update={"phases": phases})
    published = record.model_copy(update={"training": training})
    stopped = make_record("skipnet", recipe="paper", status="failed")
    study = Study([published, stopped], RunStore(tmp_path))
    (recipes,) = [table for table in provenance_tables(study, [], []) if table.name == "recipes"]
    line, failed = (dict(zip(recipes.titles, cells, strict=True)) for cells in recipes.lines)
    assert line["optimizer"].startswith("adam, rate 0.001 constant, ")
    assert "; then adam, rate 0.0001 step, " in line["optimizer"]
    assert failed["optimizer"] == "the paper's"


def network(
    method: str,
    *,
    accuracy: float,
    nflops: float,
    backbone: str = "resnet32",
    variant: str = "",
    latency: tuple[LatencyCell, ...] = (),
) -> RunRecord:
    losses = Dynamics(shuffled_accuracy=accuracy - 0.05, shuffled_loss=0.05)
    shared: dict[str, Any] = {"backbone": backbone, "test_images": IMAGES}
    point = make_point(
        accuracy=accuracy,
        nflops=nflops,
        latency=latency,
        dynamics=losses if nflops < 1 else None,
        **shared,
    )
    role = "dynamic" if nflops < 1 else "dense"
    return make_record(method, variant=variant, points=(point,), role=role, **shared)


def fill(store: RunStore, record: RunRecord, rng: np.random.Generator) -> None:
    """Save a record and the arrays of its points: costs that grow with the image's position."""
    store.save(record)
    for point in record.points:
        right = np.zeros(IMAGES, dtype=bool)
        right[rng.permutation(IMAGES)[: point.correct]] = True
        share_n = np.full(IMAGES, point.nflops)
        if point.gated_blocks:
            share_n += np.linspace(-0.2, 0.2, IMAGES)
        arrays = {
            "correct_bits": np.packbits(right),
            "macs_n": share_n * record.dense_macs,
            "loss_n": np.linspace(0, 3, IMAGES),
        }
        save_arrays(store.folder_of(record), point.arrays_file, arrays)


@pytest.fixture
def records() -> list[RunRecord]:
    def timed(ms: float, speedup: float) -> tuple[LatencyCell, ...]:
        return (make_cell(latency_ms=ms, speedup=speedup, dense_ms=5.9),)

    sgad = "D-MF d_max=0.8"
    return [
        network("resnet", accuracy=0.93, nflops=1.0, latency=timed(5.9, 1.0)),
        network("resnet", accuracy=0.91, nflops=1.0, backbone="resnet20"),
        network("sgad", accuracy=0.6, nflops=0.7, variant=sgad, latency=timed(3.9, 1.5)),
        network("skipnet", accuracy=0.92, nflops=0.9, latency=timed(7.5, 0.8)),
        make_record("act", status="failed", reason="the loss is not a number at epoch 3"),
    ]


@pytest.fixture
def store(tmp_path: Path, records: list[RunRecord]) -> RunStore:
    found = RunStore(tmp_path / "results")
    rng = np.random.default_rng(0)
    for record in records:
        fill(found, record, rng)
    return found


@pytest.fixture
def sweep(records: list[RunRecord], store: RunStore) -> SweepRecord:
    run = records[2].run
    made = make_sweep(TrialRow(method="sgad", settings={}, seed=0, run=run, status="finished"))
    save_sweep(made, store.results_dir)
    return made


REASON = "the images are not available."


@pytest.fixture
def documented(records: list[RunRecord], store: RunStore, sweep: SweepRecord) -> Documented:
    """Make the report, with images or why there are none."""

    def make(images: TestImages | str) -> Document:
        return Document(
            records,
            store,
            problems=[Problem("odd-run", "it is truncated")],
            sweeps=[sweep],
            published=load_published("cifar10"),
            images=images,
        )

    return make


@pytest.fixture
def document(documented: Documented) -> Document:
    return documented(REASON)


def lines_of(document: Document, name: str) -> list[dict[str, str]]:
    table = document.tables[name]
    return [dict(zip(table.titles, line, strict=True)) for line in table.lines]


def test_each_method_has_a_short_verdict_and_a_paragraph(document: Document) -> None:
    sgad, skipnet = document.verdicts
    assert (sgad.network.label, skipnet.network.label) == ("sgad D-MF d_max=0.8", "skipnet")
    macs = sgad.axes[0]
    assert macs.outcome == "worse"
    assert macs.points is not None and macs.points[1] < macs.points[0] < macs.points[2] < 0
    assert [answer.axis.batch_size for answer in skipnet.axes] == [0, 1], "256 was not tried"
    assert "In MACs: worse than a static network of the same cost." in paragraph(sgad)
    assert document.finding == summary(document.verdicts)[0]
    assert document.finding == (
        "Of 2 methods, none is better than a static network at equal MACs, 1 is worse, "
        "1 is not distinguishable (2 of 2 trained once)"
    )
    page = document_page(document)
    assert 'class="outcome worse"' in page and paragraph(sgad) in html.unescape(page)


def test_a_line_of_the_first_table_is_of_one_comparison(results: ResultsFolder) -> None:
    results.run("resnet", (0.92, 1.0), speedups=(1.0,))
    results.run("resnet", (0.90, 1.0), backbone="resnet20", speedups=(1.0,))
    results.run("sgad", (0.91, 0.8), speedups=(1.25,))
    results.run("sgad", (0.80, 0.8), speedups=(1.25,), config={"gamma": 3})
    two = (0.85, 0.65), (0.915, 0.95)
    results.run("cdl", *two, speedups=(1.5, 1.05), held_out=(0.905, 0.91))
    results.run("act", (0.85, 0.2))
    table = best_table(verdicts_of(results.study()))
    lines = [dict(zip(table.titles, line, strict=True)) for line in table.lines]
    assert [line["method"].split()[0] for line in lines] == ["sgad", "cdl", "act"]
    sgad, cdl, act = lines
    assert (sgad["accuracy, %"], sgad["speed-up, eager"]) == ("91.00", "1.25x")
    assert float(sgad["MACs / dense"]) == pytest.approx(0.8, abs=0.01)
    assert sgad["at equal MACs, points"].startswith("not distinguishable: -0.0")
    # The operating point that held-out images choose; the other is better on the test images.
    assert (cdl["method"], cdl["accuracy, %"], cdl["speed-up, eager"]) == (
        "cdl p=0",
        "85.00",
        "1.50x",
    )
    assert cdl["at equal MACs, points"].startswith("worse: -5.")
    assert act["at equal MACs, points"] == (
        "no static network of its cost (0.34x the MACs of resnet20)"
    )
    assert (act["speed-up, eager"], act["at equal time, eager"]) == ("", "no verdict: not timed")


def test_networks_of_one_name_are_differences_by_their_settings(tmp_path: Path) -> None:
    points = (make_point(nflops=0.8),)
    made = [
        make_record("sgad", variant="MF", config={"gamma": gamma}, points=points)
        for gamma in (0.1, 0.3)
    ]
    document = Document(made, RunStore(tmp_path))
    assert [one.network.distinguishing for one in document.verdicts] == ["gamma=0.1", "gamma=0.3"]
    assert document.finding.startswith("Of 2 settings of 1 method, none is better")
    assert "2 have no verdict" in document.finding
    labels = [one.label for one in document.behaviours.values()]
    assert labels == ["sgad MF gamma=0.1", "sgad MF gamma=0.3"]
    assert "n=1, gamma=0.3" in document_page(document)


def test_the_paper_stands_beside_ours(document: Document) -> None:
    lines = lines_of(document, "published")
    dense = next(line for line in lines if line["our network"] == "resnet")
    assert dense["accuracy %"] == "93.02" and dense["measured"] == "93.00"
    assert dense["difference, points"] == "-0.02"
    mf = next(line for line in lines if line["our network"].startswith("sgad"))
    assert (mf["nFLOPs"], mf["our nFLOPs"]) == ("0.860", "0.700")
    assert mf["our recipe"].startswith("quick, 30 epochs")
    missing = next(line for line in lines if (line["method"], line["variant"]) == ("SGAD", "LF"))
    assert (missing["our network"], missing["measured"]) == ("not run", "")


def test_failures_holes_and_sweeps_are_told_with_reasons(document: Document) -> None:
    holes = {(line["missing"], line["why"]) for line in lines_of(document, "holes")}
    assert ("the run failed", "the loss is not a number at epoch 3") in holes
    assert ("its record is not counted", "it is truncated") in holes
    assert ("latency", "not timed") in holes
    assert lines_of(document, "sweeps")[0]["chosen by"] == "hypervolume, on 40 held-out images"
    assert any(what == "gradients per block" for what, _ in holes)


def test_cost_by_difficulty_rises_where_it_does(document: Document) -> None:
    behaviour = next(iter(document.behaviours.values()))
    shown = behaviour.points[0]
    assert shown.by_difficulty is not None
    mean = shown.by_difficulty[:, 2]
    assert len(mean) == 10 and (np.diff(mean) > 0).all()
    expected = by_difficulty(np.array([1.0, 3.0, 2.0, 4.0]), np.array([0.1, 0.3, 0.2, 0.4]))
    assert expected[:, 2].tolist() == [1.0, 2.0, 3.0, 4.0]
    extremes = behaviour.extremes
    assert extremes is not None and extremes.cheapest == tuple(range(10))
    assert extremes.most_expensive[0] == IMAGES - 1
    assert lines_of(document, "behaviour")[0]["shuffled"] == "-5.00"


def test_without_arrays_the_reason_stands_in_their_place(
    records: list[RunRecord], tmp_path: Path
) -> None:
    bare = Document(records, RunStore(tmp_path / "nothing"))
    behaviour = next(iter(bare.behaviours.values()))
    assert any("Cost per image is missing" in text for text in behaviour.missing)
    assert "In MACs: no verdict" in paragraph(bare.verdicts[0])
    assert "Cost per image is missing" in document_page(bare)


def test_the_page_is_whole_small_and_loads_nothing(
    documented: Documented, images: TestImages
) -> None:
    page = document_page(documented(images))
    assert len(page.encode()) < 1e6
    body = Outline(page)
    for tag, attributes in body.tags:
        for name in ("src", "href"):
            where = attributes.get(name) or ""
            assert where == "" or where.startswith(("data:", "#")), (tag, where)
    assert not re.search(r"@import|url\(\s*['\"]?http", page[: page.index("<script>")])
    pictures = [attributes for tag, attributes in body.tags if tag == "img"]
    assert len(pictures) == 2 * 2 and all(picture.get("alt") for picture in pictures)
    levels = [int(tag[1]) for tag, _ in body.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    targets = {attributes.get("id") for _, attributes in body.tags}
    contents = [a.get("href") or "" for tag, a in body.tags if tag == "a"]
    assert len(contents) == 6 and all(link[1:] in targets for link in contents)


def test_without_the_images_a_sentence_says_why(documented: Documented, images: TestImages) -> None:
    assert REASON in document_page(documented(REASON))
    page = document_page(documented(images))
    assert "No pictures" not in page and "10 test images of lowest cost (cat, dog, cat" in page


def test_a_strip_holds_the_images_side_by_side(images: TestImages) -> None:
    strip = image_strip(images, [3, 5])
    assert strip.shape == (8, 18, 4) and not strip[0, 8].any()
    assert strip[0, 10].tolist() == [*images.images_nhwc[5, 0, 0].tolist(), 255]


def test_tables_escape_what_their_format_takes_for_code() -> None:
    odd = table_of("odd", "a & b", [{"name %": "=1+1|<b>", "value": "-0.5"}, {"a": "x_y", "b": ""}])
    assert "=1+1\\|&lt;b&gt;" in markdown(odd)
    assert "x\\_y" in latex(odd) and "name \\%" in latex(odd)
    cells = list(csv.reader(io.StringIO(csv_text(odd))))
    assert cells[1] == ["'=1+1|<b>", "-0.5"]
    assert odd.numeric == (False, True)


def test_the_same_document_gives_the_same_page(document: Document) -> None:
    assert document_page(document) == document_page(document)


def test_files_are_written(document: Document, tmp_path: Path) -> None:
    files = write_report(document, tmp_path / "out")
    names = {str(path.relative_to(tmp_path / "out")) for path in files}
    assert files[0].name == "report.html" and all(path.stat().st_size for path in files)
    assert {f"tables/verdicts.{kind}" for kind in ("md", "tex", "csv")} <= names
    assert {f"figures/accuracy-macs.{kind}" for kind in ("pdf", "png")} <= names
    assert {"tables/results.csv", "tables/published.md", "figures/accuracy-time-eager.pdf"} <= names
    head = (tmp_path / "out" / "tables" / "results.csv").read_text().splitlines()[0]
    assert head.startswith("run,method,variant,dataset")


def test_the_command_writes_the_report_and_names_the_page(
    store: RunStore, sweep: SweepRecord, tmp_path: Path
) -> None:
    words = ["report", "--results-dir", str(store.results_dir), "--data-dir", str(tmp_path)]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    page = store.results_dir / "report" / "cifar10" / "report.html"
    assert str(page) in outcome.output and "No pictures" in page.read_text()


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    from bench import api

    with pytest.raises(ConfigError, match="no finished runs"):
        api.report(Folders(tmp_path, tmp_path))


_PROBE = """<script>
setTimeout(() => {
for (const part of document.querySelectorAll("details")) part.open = true;
const said = [];
const table = [...document.querySelectorAll("#cost table")].pop();
const heads = [...table.querySelectorAll("th button")];
const cells = () => [...table.tBodies[0].rows].map((row) => row.cells[7].textContent);
const order = [cells().join()];
for (let n = 0; n < 2; n++) { heads[7].focus(); heads[7].click(); order.push(cells().join()); }
said.push("order=" + order.join("/"));
said.push("sort=" + heads[7].closest("th").getAttribute("aria-sort"));
const plot = document.querySelector("figure.chart");
const mark = plot.querySelector(".mark[tabindex='0']");
mark.focus();
said.push("tip=" + (plot.querySelector(".tip").textContent.length > 20));
mark.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
said.push("next=" + (document.activeElement !== mark && document.activeElement.matches(".mark")));
const before = plot.querySelectorAll(".mark").length;
plot.querySelector(".legend button[aria-pressed='true']:last-child").click();
said.push("fewer=" + (plot.querySelectorAll(".mark").length < before));
said.push("loaded=" + performance.getEntriesByType("resource")
  .filter((entry) => !entry.name.startsWith("data:")).length);
said.push("wide=" + (document.documentElement.scrollWidth <= window.innerWidth));
const result = document.createElement("p");
result.id = "probe";
result.textContent = said.join(";");
document.body.append(result);
}, 300);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to open the page in")
def test_a_browser_sorts_hovers_and_loads_nothing(
    documented: Documented, images: TestImages, tmp_path: Path
) -> None:
    page = document_page(documented(images)).replace("</body>", f"{_PROBE}</body>")
    target = tmp_path / "probed.html"
    target.write_text(page, encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    command = [str(CHROMIUM), *options.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [*command, target.as_uri()], capture_output=True, text=True, check=False, timeout=120
    )
    said = re.search(r'<p id="probe">(.*?)</p>', done.stdout)
    assert said is not None, done.stderr[-2000:]
    results = dict(part.split("=", 1) for part in said[1].split(";"))
    assert results["order"] == "/".join(
        (
            "0.98 to 1.02,0.78 to 0.82,1.47 to 1.53,",
            "0.78 to 0.82,0.98 to 1.02,1.47 to 1.53,",
            "1.47 to 1.53,0.98 to 1.02,0.78 to 0.82,",
        )
    ), "empty cells stay last"
    assert results["sort"] == "descending"
    assert (results["tip"], results["next"], results["fewer"]) == ("true",) * 3
    assert results["loaded"] == "0" and results["wide"] == "true"
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
