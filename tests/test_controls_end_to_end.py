"""Controls on the command line: trained beside a method, found again, timed, made from any run."""

from pathlib import Path
from typing import Any

import pytest
from commands import bench, rows_in

from bench.analysis.statistics import rank_correlation
from bench.data.embedded import load_graded_digits
from bench.records.arrays import read_arrays
from bench.records.store import RunStore

SMALL = ["run", "--backbone", "resnet8", "--recipe", "smoke", "--methods", "blockdrop"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    controls = ["--controls", "shuffled_masks,static_projection"]
    outcome = bench(*SMALL, *controls, results=folder)
    assert outcome.exit_code == 0, outcome.stderr
    assert "Is it dynamic?" in outcome.stdout
    assert "--controls none" in outcome.stderr
    return folder


def _rows(results: Path) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in rows_in(results)}


def test_the_shuffled_control_costs_the_same_and_is_what_the_record_says(results: Path) -> None:
    rows = _rows(results)
    own, shuffled = rows["blockdrop"], rows["shuffled_masks"]
    assert set(rows) == {"resnet", "blockdrop", "shuffled_masks", "static_projection"}
    for key in ("nflops", "macs", "nflops_std", "distinct_masks"):
        assert own[key] == pytest.approx(shuffled[key], rel=1e-12)
    assert own["distinct_masks"] > 1
    assert own["shuffled_accuracy"] == shuffled["accuracy"]
    assert own["accuracy"] - own["shuffled_loss"] == pytest.approx(shuffled["accuracy"])
    assert -1 <= own["difficulty_correlation"] <= 1


def test_a_control_without_a_path_of_its_own_has_no_latency_and_says_why(results: Path) -> None:
    shuffled = _rows(results)["shuffled_masks"]
    assert shuffled["latency_ms_b1"] is None
    assert "that of its source" in str(shuffled["latency_reason"])


def test_the_projection_is_static_timed_and_pays_for_its_source(results: Path) -> None:
    rows = _rows(results)
    own, projected = rows["blockdrop"], rows["static_projection"]
    assert projected["distinct_masks"] == 1
    assert projected["gated_blocks"] == 0
    assert projected["latency_ms_b1"] is not None
    assert projected["variant"] == f"of blockdrop {own['variant']}"
    total = projected["total_dense_epochs"]
    assert total == own["total_dense_epochs"] + projected["train_dense_epochs"]


def test_finished_controls_are_found_again(results: Path) -> None:
    files = sorted(results.glob("runs/*/weights.safetensors"))
    before = [file.stat().st_mtime_ns for file in files]
    controls = ["--controls", "shuffled_masks,static_projection", "--latency", "off"]
    assert bench(*SMALL, *controls, results=results).exit_code == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    assert len(before) == 4


def test_a_control_is_made_from_a_run_that_is_named(results: Path) -> None:
    source = str(_rows(results)["blockdrop"]["run"])
    arguments = [*SMALL[:-1], "static_projection", "--latency", "off", "--epochs", "0"]
    outcome = bench(*arguments, "--source", source, results=results)
    assert outcome.exit_code == 0, outcome.stderr
    assert "static_projection" in outcome.stdout


OWN_UNITS = """
from bench.scaffold.example import Gates, LearnedGates
from bench.networks.gated import GatedResNet

class FromTheEnd(GatedResNet):
    def units(self):
        units = list(super().units())
        blocks = [unit for unit in units if unit.role == "block"]
        names = {unit.name: other.name for unit, other in zip(blocks, blocks[::-1])}
        return [unit._replace(name=names.get(unit.name, unit.name)) for unit in units]

class OwnUnits(LearnedGates):
    name = "own_units"
    def build(self, backbone, config):
        return FromTheEnd(backbone, Gates(backbone))
"""


def test_a_control_that_does_not_apply_says_why_and_fails_nothing(tmp_path: Path) -> None:
    plugin = tmp_path / "own_units.py"
    plugin.write_text(OWN_UNITS)
    arguments = [*SMALL[:-1], "own_units", "--plugin", str(plugin), "--latency", "off"]
    outcome = bench(*arguments, "--controls", "static_projection", results=tmp_path / "results")
    assert outcome.exit_code == 0, outcome.stderr
    said = " ".join(outcome.stdout.split())
    assert "static_projection (seed 0) not applicable: 'own_units' runs units of its own" in said
    assert "failed" not in outcome.output
    rows = _rows(tmp_path / "results")
    assert rows["static_projection"]["status"] == "not applicable"
    assert rows["own_units"]["status"] == "finished"


NEVER = """
from bench.method import NotApplicable
from bench.scaffold.example import LearnedGates

class Never(LearnedGates):
    name = "never"
    def build(self, backbone, config):
        raise NotApplicable("it is for no network.")
"""


def test_controls_of_a_method_that_does_not_apply_do_not_apply_either(tmp_path: Path) -> None:
    plugin = tmp_path / "never.py"
    plugin.write_text(NEVER)
    arguments = [*SMALL[:-1], "never", "--plugin", str(plugin), "--latency", "off"]
    controls = "static_projection,shuffled_masks"
    outcome = bench(*arguments, "--controls", controls, results=tmp_path / "results")
    assert outcome.exit_code == 0, outcome.stderr
    said = " ".join(outcome.stdout.split())
    assert said.count("not applicable: nor is its source, never: it is for no network.") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "static_projection"], "--source"),
        (["--methods", "static_projection", "--source", "nosuch"], "no run 'nosuch'"),
        (["--methods", "sgad", "--controls", "blockdrop"], "is no control"),
        (["--methods", "sgad", "--controls", "shufled_masks"], "Did you mean 'shuffled_masks'"),
    ],
)
def test_wrong_controls_get_a_short_message_and_status_2(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    outcome = bench("run", *arguments, results=tmp_path)
    assert outcome.exit_code == 2
    assert words in outcome.stderr.replace("\n", " ")
    assert "Traceback" not in outcome.output


def test_cost_is_compared_with_the_grades_that_images_are_known_to_have(results: Path) -> None:
    store = RunStore(results)
    (record,) = (r for r in store.load_all()[0] if r.spec.method == "blockdrop")
    arrays = read_arrays(store.folder_of(record), record.points[0].arrays_file)
    grades_n = load_graded_digits().difficulty_n
    dynamics = record.points[0].dynamics
    assert grades_n is not None and dynamics is not None
    expected = rank_correlation(arrays["macs_n"], grades_n.numpy())
    assert dynamics.grade_correlation == pytest.approx(expected)
