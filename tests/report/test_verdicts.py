"""Verdicts from records: which runs go together, what is compared, and what the sentences say."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_records import make_record, start_of
from synthetic_results import IMAGES, ResultsFolder

import bench
from bench.analysis.verdict import Comparison
from bench.config import InitialWeights
from bench.errors import ConfigError
from bench.records.arrays import save_arrays
from bench.records.record import Interval, OtherDense, RunRecord
from bench.report.data.budgets import TrainingBudget, spent
from bench.report.data.rows import rows
from bench.report.data.study import networks_of
from bench.report.verdicts.verdicts import verdicts_of
from bench.report.verdicts.words import paragraph, sentence, unlike_budgets, why

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
DENSE_MACS = {"resnet20": 40_551_040, "resnet32": 68_862_592}


def add_static(results: ResultsFolder, seeds: int = 1, **extra: Any) -> None:
    for seed in range(seeds):
        results.run("resnet", (0.92 + 0.002 * seed, 1.0), seed=seed, speedups=(1.0,), **extra)
        results.run("resnet", (0.90 - 0.002 * seed, 1.0), seed=seed, backbone="resnet20", **extra)


def test_macs_and_time_are_judged_apart(results: ResultsFolder) -> None:
    add_static(results)
    results.run("sgad", (0.95, 0.8), speedups=(1.0,))
    found = results.judged()["sgad"]
    macs, time = found.on("macs"), found.on("time at batch 1")
    assert macs.verdict is not None
    assert macs.verdict.outcome == "better"
    assert macs.static_names == ("resnet20", "resnet32")
    # Half-way in MACs from 0.589 to 1: 0.9103; in time it costs as much as the whole network.
    gain = macs.verdict.comparison.gain
    assert gain.value == pytest.approx(0.95 - 0.9103, abs=0.002)
    assert time.verdict is not None
    assert time.static_names == ("resnet32",)
    assert time.verdict.comparison.gain.value == pytest.approx(0.03, abs=0.002)
    assert "In MACs: better than a static network of the same cost. At 0.80 of" in paragraph(found)
    assert "In time at batch 1, eager: better than a static network" in paragraph(found)
    assert "batch 256" not in paragraph(found), "none was timed there"


@pytest.mark.parametrize(
    ("key", "wrong", "reason"),
    [
        ("correct_bits", np.ones(IMAGES // 8, np.int64), "It holds no 2000 bits"),
        ("correct_bits", np.ones(9, np.uint8), "It holds no 2000 bits"),
        ("macs_n", np.full(IMAGES, np.nan), "Its 'macs_n' are not all finite"),
        ("macs_n", np.array(["a"] * IMAGES), "It holds no numbers called 'macs_n'"),
        ("macs_n", np.ones(IMAGES - 1), "the MACs on record are of other images"),
    ],
)
def test_arrays_of_another_kind_give_a_reason_and_no_verdict(
    results: ResultsFolder, key: str, wrong: Any, reason: str
) -> None:
    add_static(results)
    record = results.run("sgad", (0.95, 0.8))
    good = {"correct_bits": np.ones(IMAGES // 8, np.uint8), "macs_n": np.ones(IMAGES)}
    save_arrays(results.store.folder(record.spec), "point0.npz", {**good, key: wrong})
    assert f"no verdict, {reason}" in paragraph(results.judged()["sgad"])


def test_only_the_newest_measurement_says_whether_others_ran_beside_it(
    results: ResultsFolder,
) -> None:
    add_static(results)
    record = results.run("sgad", (0.95, 0.8), speedups=(1.0,))
    (cell,) = record.points[0].latency
    disturbed = cell.model_copy(update={"contended": True})
    for cells, said in (((disturbed, cell), False), ((cell, disturbed), True)):
        results.save_timed(record, *cells)
        assert ("Other programs ran" in paragraph(results.judged()["sgad"])) is said


def test_one_seed_is_warned_about_and_three_are_not(results: ResultsFolder) -> None:
    add_static(results, seeds=1)
    results.run("sgad", (0.88, 0.8))
    warned = paragraph(results.judged()["sgad"])
    assert "worse than a static network" in warned
    assert "n=1 for the method, n=1 for static, 2,000 test images" in warned
    assert (
        "do not cover the variance of training where n=1: another seed may reverse them" in warned
    )
    # Wilson's interval of 1,760 of 2,000.
    assert "88.00 % (n=1, 95 % over test images alone (Wilson) 86.50 to 89.35)" in warned


def test_seeds_are_one_group_and_their_spread_counts(results: ResultsFolder) -> None:
    add_static(results, seeds=3)
    for seed in range(3):
        results.run("sgad", (0.89 + 0.02 * seed, 0.8), seed=seed)
    found = results.judged()["sgad"]
    verdict = found.on("macs").verdict
    assert found.seeds == 3
    assert verdict is not None
    assert verdict.outcome == "not distinguishable"
    assert verdict.comparison.gain.covers_training
    assert verdict.comparison.gain.seed_error == pytest.approx(0.02 / 3**0.5, rel=0.1)
    assert "not distinguishable from a static network of the same cost" in paragraph(found)
    assert "n=3 for the method, n=3 for static" in paragraph(found)
    assert "another seed" not in paragraph(found)
    assert "91.00 % (n=3, 95 % over seeds 86.03 to 95.97)" in paragraph(found)


def test_of_several_points_held_out_images_choose_the_one_that_is_judged(
    results: ResultsFolder,
) -> None:
    add_static(results)
    points = (0.80, 0.5), (0.93, 0.7), (0.90, 0.8), (0.925, 0.95)
    # The cheapest within a point of the best on held-out images, whatever the test images say.
    results.run("cdl", *points, held_out=(0.80, 0.91, 0.92, 0.925))
    results.run("sdn", *points)
    judged = results.judged()
    found, other = judged["cdl"].on("macs"), judged["sdn"].on("macs")
    assert found.verdict is not None and other.verdict is not None
    comparison = found.verdict.comparison
    assert isinstance(comparison, Comparison)
    assert comparison.cost == pytest.approx(0.8, abs=0.01)
    assert [point.gain is None for point in comparison.points] == [True, False, False, False]
    assert paragraph(judged["cdl"]).startswith("cdl p=2 (resnet32, ")
    assert "At 0.80 of resnet32's MACs it reaches 90.00 %" in sentence(found)
    assert "All operating points, not corrected: " in sentence(found)
    # Without any, nothing is chosen by test accuracy.
    assert other.verdict.comparison.cost == pytest.approx(0.95, abs=0.01)


def test_more_expensive_and_less_accurate_is_dominated_on_both_axes(results: ResultsFolder) -> None:
    add_static(results)
    results.run("blockdrop", (0.85, 1.2), speedups=(0.5,))
    found = results.judged()["blockdrop"]
    outcomes = [axis.verdict and axis.verdict.outcome for axis in found.axes]
    assert outcomes == ["worse (dominated)", "worse (dominated)"]
    assert [axis.outside for axis in found.axes] == [None, None]
    assert found.on("macs").static_names == ("resnet32",)
    told = sentence(found.on("macs"))
    assert "worse (dominated): more expensive than a static network (1.20 times the MACs of" in told
    assert "it reaches 85.00 % against 92.00 % (resnet32), a difference of -7.00 points" in told
    assert "slower than a static network (2.00 times the time of resnet32)" in paragraph(found)


def test_more_expensive_and_not_clearly_less_accurate_gets_no_verdict(
    results: ResultsFolder,
) -> None:
    add_static(results)
    for accuracy in (0.919, 0.99):
        results.run("blockdrop", (accuracy, 1.2), config={"a": accuracy})
    results.run("act", (0.99, 0.2))
    for name in ("blockdrop", "act"):
        axis = results.judged()[name].on("macs")
        assert axis.verdict is None
        assert axis.outside is not None
    beside = (
        "no verdict, no static network of that cost was run. Beside the most accurate, resnet32"
    )
    assert beside in sentence(results.judged()["blockdrop"].on("macs"))
    cheaper = sentence(results.judged()["act"].on("macs"))
    assert "Beside the nearest, resnet20" in cheaper
    assert cheaper.endswith(": cheaper and more accurate.")


def test_a_dominated_static_network_in_between_is_no_excuse(results: ResultsFolder) -> None:
    # The large static network was trained badly; the small one dominates the method all the same.
    results.run("resnet", (0.80, 1.0))
    results.run("resnet", (0.92, 1.0), backbone="resnet20")
    results.run("sgad", (0.85, 1.3))
    found = results.judged()["sgad"].on("macs")
    assert found.verdict is not None
    assert (found.verdict.outcome, found.static_names) == ("worse (dominated)", ("resnet20",))


def test_dominated_methods_count_among_the_comparisons_of_holm(results: ResultsFolder) -> None:
    add_static(results)
    results.run("sgad", (0.85, 1.2))
    results.run("act", (0.9, 0.8))
    found = results.judged()
    verdicts = [found[name].on("macs").verdict for name in ("sgad", "act")]
    assert [verdict and verdict.family for verdict in verdicts] == [2, 2]


def test_a_time_that_may_be_the_same_is_not_called_slower(results: ResultsFolder) -> None:
    add_static(results)
    results.run("sgad", (0.85, 0.8), speedups=(0.985,))  # the interval is 2 % to each side
    axis = results.judged()["sgad"].on("time at batch 1")
    assert axis.verdict is None
    assert "1.02 times the time" in sentence(axis)


def test_without_static_networks_the_reason_is_told(results: ResultsFolder) -> None:
    results.run("resnet", (0.92, 1.0), dataset="digits")
    results.run("sgad", (0.9, 0.8))
    found = results.judged()["sgad"]
    assert found.on("macs").reason == "no static network was run here"
    assert "In MACs: no verdict, no static network was run here." in paragraph(found)


def test_a_method_is_judged_by_static_networks_of_its_own_budget(results: ResultsFolder) -> None:
    for epochs, worse in ((30, 0.0), (5, 0.05)):
        results.run("resnet", (0.92 - worse, 1.0), epochs=epochs)
        results.run("resnet", (0.90 - worse, 1.0), backbone="resnet20", epochs=epochs)
    results.run("sgad", (0.90, 0.8), epochs=5)
    found = results.judged()["sgad"].on("macs")
    assert found.verdict is not None
    assert found.verdict.outcome == "better"
    assert found.verdict.comparison.static_accuracy == pytest.approx(0.8603, abs=0.002)
    assert unlike_budgets(found) == ""
    assert "udgets differ" not in sentence(found)


def test_where_no_budget_matches_the_nearest_is_taken_and_the_verdict_says_so(
    results: ResultsFolder,
) -> None:
    for epochs in (30, 160):
        results.run("resnet", (0.92, 1.0), epochs=epochs)
        results.run("resnet", (0.90, 1.0), backbone="resnet20", epochs=epochs)
    results.run("sgad", (0.90, 0.8), epochs=5)
    found = results.judged()["sgad"].on("macs")
    differing = unlike_budgets(found)
    assert differing == "budgets differ: 5 epochs, resnet20: 30 epochs; resnet32: 30 epochs"
    assert sentence(found).endswith(f"B{differing[1:]}.")
    assert why(found) == differing


def started(record: RunRecord, source: RunRecord, **training: object) -> RunRecord:
    """Return `record` as the engine records one that began with the weights of the run `source`."""
    assert record.training is not None and source.training is not None
    before = {
        "pretraining_epochs": source.training.epochs,
        "pretraining_dense_epochs": source.training.dense_epochs,
    }
    changed = record.training.model_copy(update=before | training)
    return record.model_copy(update={"training": changed})


def test_the_epochs_of_a_dense_start_count(results: ResultsFolder) -> None:
    # A ladder of 30 epochs; a method of 15 epochs that starts from 15 of a dense network.
    results.run("resnet", (0.92, 1.0))
    results.run("resnet", (0.90, 1.0), backbone="resnet20")
    dense = results.run("resnet", (0.80, 1.0), epochs=15)
    method = results.run("act", (0.91, 0.8), epochs=15, initial=start_of(dense))
    results.store.save(started(method, dense))
    found = results.judged()["act"]
    assert found.network.total == 30
    assert found.on("macs").static_names == ("resnet20", "resnet32")
    assert unlike_budgets(found.on("macs")) == ""
    comparison = found.on("macs").verdict
    assert comparison is not None
    assert comparison.comparison.static_accuracy == pytest.approx(0.9103, abs=0.002)


def test_what_is_known_of_a_source_counts_where_its_start_is_not() -> None:
    from_file = InitialWeights(kind="file", name="a.th", identity="ab")
    source = make_record("sgad", epochs=5, dense_epochs=6.0, initial=from_file)
    assert source.training is not None
    unknown = {"pretraining_epochs": None, "pretraining_dense_epochs": None}
    training = source.training.model_copy(update=unknown)
    source = source.model_copy(update={"training": training})
    initial = start_of(source)
    control = make_record("static_projection", epochs=5, dense_epochs=3.6, initial=initial)
    found = rows([source, started(control, source, **unknown)])
    told = {row.method: (spent(row), row.total_epochs, row.outside) for row in found}
    assert told == {"sgad": ("6+?", 5, "a.th"), "static_projection": ("9.6+?", 10, "a.th")}


def test_weights_from_outside_as_they_came_belong_to_every_curve_from_there(
    results: ResultsFolder,
) -> None:
    budgets = [TrainingBudget(epochs, ("lr=0.1",), True) for epochs in (0, 5, 30)]
    own = budgets[1]
    assert [own.matches(other) for other in budgets] == [True, True, False]
    scratch = TrainingBudget(5, ("lr=0.1",), False)
    assert not own.matches(scratch)
    assert not scratch.matches(TrainingBudget(5, ("lr=0.2",), False))
    assert TrainingBudget(30, ("lr=0.1",), False).matches(TrainingBudget(33, ("lr=0.1",), False))


def test_missing_arrays_are_a_reason_and_not_a_failure(results: ResultsFolder) -> None:
    add_static(results)
    record = results.run("sgad", (0.9, 0.8))
    (results.store.folder_of(record) / "point0.npz").unlink()
    assert "is missing" in results.judged()["sgad"].on("macs").reason


def test_unequal_and_unknown_budgets_are_told(results: ResultsFolder) -> None:
    add_static(results)
    results.run("sgad", (0.9, 0.8), dense_epochs=57.0)
    results.run("cdl", (0.9, 0.8), dense_epochs=31.0)
    results.run("act", (0.9, 0.8), pretraining_dense_epochs=None)
    found = results.judged()
    told = "in dense epochs: 57 against 30 for static: budgets differ by more than 10 %."
    assert told in paragraph(found["sgad"])
    assert "in dense epochs: 31 against 30 for static." in paragraph(found["cdl"])
    assert "30+? against 30 for static (+?: weights of unknown cost)" in paragraph(found["act"])


def test_who_was_trained_with_other_numbers_than_the_static_side_says_so(
    results: ResultsFolder,
) -> None:
    add_static(results)
    results.run("sgad", (0.9, 0.8), precision="bf16")
    results.run("cdl", (0.9, 0.8))
    found = results.judged()
    assert "Trained in bf16, static in fp32." in paragraph(found["sgad"])
    assert "Trained in" not in paragraph(found["cdl"])


def test_methods_are_corrected_together_and_controls_among_themselves(
    results: ResultsFolder,
) -> None:
    add_static(results)
    for method in ("sgad", "cdl", "act"):
        results.run(method, (0.9, 0.8))
    results.run("random_skip", (0.7, 0.8), role="control")
    found = {name: verdict.on("macs").verdict for name, verdict in results.judged().items()}
    assert {name: verdict and verdict.family for name, verdict in found.items()} == {
        **dict.fromkeys(("sgad", "cdl", "act"), 3),
        "random_skip": 1,
    }
    assert "by Holm's rule for 3 comparisons, which decides, " in paragraph(results.judged()["act"])
    assert "by Holm's rule for 1 comparison, which decides, " in paragraph(
        results.judged()["random_skip"]
    )


def test_other_backbones_have_a_time_where_they_were_timed_in_the_same_rounds(
    results: ResultsFolder,
) -> None:
    results.run("resnet", (0.92, 1.0), speedups=(1.0,))
    small = results.run("resnet", (0.90, 1.0), backbone="resnet20", speedups=(1.0,))
    results.run("sgad", (0.91, 0.8), speedups=(1 / 0.75,))
    assert results.judged()["sgad"].on("time at batch 1").verdict is None
    beside = OtherDense(dense_ms=2.0, speedup=2.0, speedup_interval=Interval(low=1.96, high=2.04))
    (cell,) = small.points[0].latency
    results.save_timed(small, cell.model_copy(update={"others": {"resnet32-A": beside}}))
    verdict = results.judged()["sgad"].on("time at batch 1").verdict
    assert verdict is not None
    # Half-way in time between 0.5 and 1 times the whole network's.
    assert verdict.comparison.cost == pytest.approx(0.75)
    assert verdict.comparison.gain.value == pytest.approx(0.0, abs=0.002)
    assert verdict.comparison.gain.cost_error > 0


def seeds_of(records: list[RunRecord]) -> list[int]:
    """How many seeds each network has."""
    return [network.seeds for network in networks_of(rows(records), records)]


def test_runs_whose_starts_were_trained_otherwise_are_other_families() -> None:
    sources = [make_record("resnet", seed=s, epochs=e) for s in range(2) for e in (10, 20)]
    started = [make_record("sgad", seed=s.spec.seed, initial=start_of(s)) for s in sources]
    assert seeds_of([*sources, *started]) == [2, 2, 2, 2]


def test_runs_of_other_seeds_that_start_from_other_runs_are_one_family() -> None:
    dense = [make_record("resnet", seed=seed) for seed in range(2)]
    started = [make_record("sgad", seed=s.spec.seed, initial=start_of(s)) for s in dense]
    assert seeds_of([*dense, *started]) == [2, 2]
    assert seeds_of(started) == seeds_of(started[::-1]) == [2]


def test_a_failed_record_of_the_same_name_does_not_take_the_place_of_a_run() -> None:
    record = make_record("sgad")
    failed = record.model_copy(update={"status": "failed", "points": ()})
    found = networks_of(rows([record, failed]), [record, failed])
    assert [network.record.status for network in found] == ["finished"]


def test_the_order_of_records_changes_nothing(results: ResultsFolder) -> None:
    add_static(results, seeds=2)
    for seed in range(2):
        results.run("sgad", (0.9, 0.8), seed=seed)
    records = results.store.load_all().records
    one, other = (verdicts_of(results.study(order)) for order in (records, records[::-1]))
    assert list(map(paragraph, one)) == list(map(paragraph, other))


def test_a_notebook_gets_tables(results: ResultsFolder) -> None:
    add_static(results)
    results.run("sgad", (0.95, 0.8))
    results.run("act", (0.7, 0.9))
    results.run("cdl", status="failed", reason="no")
    df = bench.load_results(results.store.results_dir)
    assert len(df) == 5
    assert bench.pareto(df)["method"].tolist() == ["resnet", "sgad"]
    assert len(bench.pareto(df.iloc[0:0])) == 0
    found = bench.verdicts(df[df.method != "act"])
    assert sorted(set(found["method"])) == ["sgad"]
    assert found[found.axis == "macs"]["outcome"].tolist() == ["better"]
    assert found[found.axis == "macs"]["covers_training"].tolist() == [False]
    everything = bench.verdicts(results.store.results_dir)
    assert set(everything["method"]) == {"sgad", "act"}


def test_what_a_notebook_cannot_give_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no results folder"):
        bench.load_results(tmp_path / "nowhere")
    empty = bench.load_results(tmp_path)
    assert len(empty) == 0
    assert len(bench.verdicts(empty)) == 0
    with pytest.raises(ConfigError, match="no column 'watts'"):
        bench.pareto(empty, cost="watts")
    empty.attrs.clear()
    with pytest.raises(ConfigError, match="which folder"):
        bench.verdicts(empty)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bench.nothing  # noqa: B018


def test_an_unreadable_record_is_warned_about(tmp_path: Path) -> None:
    (tmp_path / "runs" / "broken").mkdir(parents=True)
    (tmp_path / "runs" / "broken" / "record.json").write_text("{")
    with pytest.warns(UserWarning, match="'broken' is not counted"):
        assert len(bench.load_results(tmp_path)) == 0


def test_importing_bench_imports_nothing() -> None:
    script = (
        "import sys, bench; dir(bench)\n"
        "print([n for n in sys.modules if n.startswith('bench') or n in ('numpy', 'pandas')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "['bench']"


def test_gains_of_the_reference_runs_are_differences_to_the_line_between_static_networks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        df = bench.load_results(REFERENCE)
    found = bench.verdicts(df)
    static = df[df.role == "dense"].groupby("macs").accuracy.mean()
    one_point = df.groupby("run").filter(lambda run: len(run) == 1)
    means = one_point.groupby(["method", "variant"])[["macs", "accuracy"]].mean()
    compared = 0
    for row in found[(found.axis == "macs") & found.gain.notna()].itertuples():
        if (row.method, row.variant) in means.index:
            own = means.loc[(row.method, row.variant)]
            line = np.interp(own.macs, static.index, static)
            assert row.gain == pytest.approx(own.accuracy - line, abs=1e-4), row
            compared += 1
    assert compared
