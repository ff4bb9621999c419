"""The command line as a user meets it: the demo in small, views of its results, wrong input."""

import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
from commands import bench, rows_in

from bench.method import METHODS

SMALL = ["--backbone", "resnet8", "--recipe", "smoke", "--controls", "none"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of one small run of the demo's methods."""
    folder = tmp_path_factory.mktemp("results")
    outcome = bench("run", *SMALL, results=folder)
    assert outcome.exit_code == 0, outcome.stderr
    assert "blockdrop" in outcome.stdout
    return folder


def test_the_demo_records_accuracy_cost_and_time_of_three_methods(results: Path) -> None:
    rows = rows_in(results)
    assert [row["method"] for row in rows] == ["blockdrop", "resnet", "sgad"]
    for row in rows:
        assert row["status"] == "finished"
        assert 0 <= float(str(row["accuracy"])) <= 1
        assert float(str(row["latency_ms_b1"])) > 0
    dense = next(row for row in rows if row["method"] == "resnet")
    assert dense["nflops"] == 1


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    shutil.copytree(results, tmp_path / "results")
    return tmp_path / "results"


def test_a_finished_run_is_found_again_and_not_repeated(results: Path) -> None:
    files = sorted(results.glob("runs/*/weights.safetensors"))
    before = [file.stat().st_mtime_ns for file in files]
    outcome = bench("run", *SMALL, results=results)
    assert outcome.exit_code == 0
    assert [file.stat().st_mtime_ns for file in files] == before


def test_fresh_does_a_finished_run_again(copy: Path) -> None:
    file = next(copy.glob("runs/resnet-*/weights.safetensors"))
    before = file.stat().st_mtime_ns
    arguments = ["run", *SMALL, "--methods", "resnet", "--latency", "off", "--fresh"]
    assert bench(*arguments, results=copy).exit_code == 0
    assert file.stat().st_mtime_ns > before


def test_the_runs_are_in_mlflow_once(results: Path) -> None:
    outcome = bench("mlflow", "sync", results=results)
    assert outcome.exit_code == 0
    assert outcome.stdout.count("already logged") == 3
    assert (results / "mlflow.db").is_file()


def test_results_can_be_filtered(results: Path) -> None:
    assert [row["method"] for row in rows_in(results, "--filter", "method=sgad")] == ["sgad"]
    wrong = bench("results", "--filter", "metod=sgad", results=results)
    assert wrong.exit_code == 2
    assert "method" in wrong.stderr


@pytest.mark.parametrize("suffix", ["html", "png", "svg", "pdf"])
@pytest.mark.parametrize("x", ["nflops", "latency_ms"])
def test_the_pareto_plot_is_drawn_in_every_format(
    suffix: str, x: str, results: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"plot.{suffix}"
    outcome = bench("pareto", "--x", x, "--published", "--out", str(out), results=results)
    assert outcome.exit_code == 0, outcome.stderr
    assert out.stat().st_size > 5_000


def test_latency_of_a_finished_run_is_added_and_the_old_one_kept(copy: Path) -> None:
    outcome = bench(
        *("latency", "sgad", "--batch-sizes", "1,8", "--profile", "smoke"), results=copy
    )
    assert outcome.exit_code == 0, outcome.stderr
    record = json.loads(next(copy.glob("runs/sgad-*/record.json")).read_text())["record"]
    cells = record["points"][0]["latency"]
    runtimes = {cell["runtime"] for cell in cells}
    for runtime in runtimes:
        sizes = [cell["batch_size"] for cell in cells if cell["runtime"] == runtime]
        assert sizes == [1, 1, 8]
    drawn = [line for line in outcome.stderr.splitlines() if line.startswith("Figure: ")]
    assert len(drawn) == len(runtimes)
    assert all(Path(line.removeprefix("Figure: ")).is_file() for line in drawn)


@pytest.mark.parametrize("what", ["methods", "datasets", "backbones", "recipes", "runs"])
def test_everything_can_be_listed(what: str, results: Path) -> None:
    outcome = bench("list", what, results=results)
    assert outcome.exit_code == 0, outcome.stderr
    assert len(outcome.stdout.splitlines()) > 3


def test_the_doctor_tries_the_skipping_path(results: Path) -> None:
    outcome = bench("doctor", results=results)
    assert outcome.exit_code == 0
    assert "execute == forward" in outcome.stdout.replace("\n", " ").replace("  ", " ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "sgadd"], "Did you mean 'sgad'"),
        (["--dataset", "cifar11"], "Did you mean 'cifar10'"),
        (["--recipe", "fiar"], "Did you mean 'fair'"),
        (["--set", "sgad.dmax=1"], "no setting 'dmax'"),
        (["--set", "sgad.d_max=7"], "less than or equal to 1"),
        (["--device", "tpu9"], "not a device"),
        (["--pretrained", "nowhere.th"], "no weights file"),
        (["--config", "nowhere.yaml"], "cannot be read"),
        (["--plugin", "nowhere.py"], "not a Python file"),
        (["--recipe", "finetune"], "--pretrained"),
        (["--seeds", "a"], "--seeds: 'a' cannot be used: it must be a whole number."),
        (["--seeds", ""], "--seeds: () cannot be used: at least one is needed."),
        (["--methods", ""], "--methods: () cannot be used: at least one is needed."),
        (["--epochs", "-1"], "--epochs: -1 cannot be used: it must be greater than or equal to 0."),
        (["--controls", "all,none"], "--controls all,none: 'none' has no other names beside it."),
        (["--controls", "foo"], "Known: all, cascade, none, random_skip"),
        (["--backbone", "resnet21"], "Did you mean 'resnet"),
        (["--backbone", "qqqqqq"], "resnet8, resnet14, resnet20"),
        (["--dataset", "nope"], "Known: cifar10, cifar100, digits, graded_digits"),
    ],
)
def test_wrong_input_gets_a_short_message_and_status_2(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    outcome = bench("run", *arguments, results=tmp_path / "results")
    assert outcome.exit_code == 2
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 5
    assert not (tmp_path / "results").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    outcome = bench("run", "--methods", "sgadd", "--debug", results=tmp_path)
    assert outcome.exception is not None
    assert type(outcome.exception).__name__ == "UnknownNameError"


def test_results_that_cannot_be_written_are_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = bench("run", *SMALL, results=tmp_path / "file")
    assert outcome.exit_code == 2
    assert "--results-dir" in outcome.stderr


def test_weights_of_another_depth_are_refused_with_both_depths(
    results: Path, tmp_path: Path
) -> None:
    trunk = next(results.glob("runs/resnet-*/trunk.safetensors"))
    outcome = bench(
        *("run", "--backbone", "resnet14", "--recipe", "finetune", "--pretrained", str(trunk)),
        results=tmp_path,
    )
    assert outcome.exit_code == 2
    assert "ResNet-8" in outcome.stderr
    assert "resnet14" in outcome.stderr


def test_a_broken_record_is_named_not_counted_and_its_run_done_again(copy: Path) -> None:
    record = next(copy.glob("runs/sgad-*/record.json"))
    record.write_bytes(record.read_bytes()[:-200])
    outcome = bench("results", results=copy)
    assert outcome.exit_code == 0
    assert "Not counted" in outcome.stderr
    again = bench("run", *SMALL, "--methods", "sgad", "--latency", "off", results=copy)
    assert again.exit_code == 0
    assert len(rows_in(copy)) == 3
    assert list(record.parent.glob("record.json.broken-*"))


FAILING_PLUGIN = """
from baselines.resnet import DenseResNet


class Failing(DenseResNet):
    name = "failing"

    def phases(self, config, budget):
        raise RuntimeError("out of luck")
"""


def test_a_failing_method_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "failing_plugin.py"
    plugin.write_text(FAILING_PLUGIN)
    monkeypatch.setattr(METHODS, "_added", {})
    arguments = ["run", *SMALL, "--plugin", str(plugin), "--latency", "off", "--methods"]
    outcome = bench(*arguments, "failing,resnet", results=tmp_path / "results")
    assert outcome.exit_code == 1
    said = "RuntimeError: out of luck (failing_plugin.py, line 9)"
    assert said in outcome.stderr.replace("\n", " ")
    assert "bench method check failing" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    statuses = {row["method"]: row["status"] for row in rows_in(tmp_path / "results")}
    assert statuses == {"failing": "failed", "resnet": "finished"}
    alone = bench(*arguments, "failing", "--debug", results=tmp_path / "alone")
    sys.modules.pop("bench_plugin_failing_plugin", None)
    assert alone.exit_code == 1
    assert "Traceback" in alone.stderr and "in phases" in alone.stderr
    assert "No runs" not in alone.stderr and not alone.stdout


def test_the_version_is_told_without_a_command(tmp_path: Path) -> None:
    outcome = bench("--version", results=tmp_path)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout == f"skipbench {metadata.version('skipbench')}\n"


def test_what_cannot_be_timed_fails_after_the_others_were(copy: Path) -> None:
    next(copy.glob("runs/sgad-*/weights.safetensors")).unlink()
    alone = bench("latency", "sgad", "--profile", "smoke", results=copy)
    assert alone.exit_code == 1
    assert "Failed: sgad-" in alone.stderr and "--fresh" in alone.stderr
    assert "Timing" not in alone.stderr and not alone.stdout
    both = bench("latency", "sgad", "resnet", "--profile", "smoke", results=copy)
    assert both.exit_code == 1
    assert "Timing 1 network against" in both.stderr and "resnet" in both.stdout
