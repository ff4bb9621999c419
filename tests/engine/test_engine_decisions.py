"""Code is part of what a run is: changed code is run anew, and never speaks for an older run."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import commands
import numpy as np
import pytest
from commands import Heard

from bench import api
from bench.engine import decisions
from bench.engine.decisions import Answers, Difference, compared
from bench.errors import BenchError, RecordError, RunFailed, WeightsError
from bench.export.weights_file import load_exported
from bench.measure.latency.profiles import PROFILES, Profile
from bench.method import METHODS
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.registry import Entry
from methods.sgad import Sgad

GUIDE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"
BRIEF = Profile("default", round_s=0.01, max_time_s=0.02, warmup_calls=2, warmup_s=0.0)


def contrast(old: str = "", new: str = "") -> str:
    """The plugin of the guide, with `old` in it replaced."""
    [text] = re.findall(r"^```python\n(\"\"\"Images.*?)^```", GUIDE.read_text(), re.M | re.S)
    assert old in text
    return text.replace(old, new)


def load(folder: Path, text: str) -> None:
    """Let `contrast` be what `text` makes of it, as in a process of its own."""
    METHODS._added.pop("contrast", None)
    sys.modules.pop("bench_plugin_contrast", None)
    (folder / "contrast.py").write_text(text)
    METHODS.add_file(folder / "contrast.py")


def run(folders: api.Folders, methods: str, listener: Heard | None = None) -> list[RunRecord]:
    outcome = commands.run(folders, methods, reporter=listener)
    assert not outcome.failures
    return outcome.records


@pytest.fixture(autouse=True)
def _plugins_forgotten() -> Iterator[None]:
    yield
    METHODS._added.pop("contrast", None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.Folders]:
    made = commands.new_folders(tmp_path_factory)
    load(tmp_path_factory.mktemp("plugin"), contrast())
    run(made, "contrast,sgad")
    yield made


@pytest.fixture
def folders(finished: api.Folders, tmp_path: Path) -> api.Folders:
    shutil.copytree(finished.results, tmp_path / "results")
    return api.Folders(tmp_path / "results", finished.data)


def test_a_record_names_the_code_that_made_it(folders: api.Folders, tmp_path: Path) -> None:
    store = RunStore(folders.results)
    load(tmp_path, contrast())
    plugin, built_in = store.get("contrast"), store.get("sgad")
    assert plugin.code == plugin.spec.method_code == METHODS.code("contrast")
    assert built_in.code == METHODS.code("sgad") and built_in.spec.method_code == ""
    assert (plugin.spec.method_version, built_in.spec.method_version) == (1, Sgad.version)


def test_a_plugin_whose_code_changed_is_run_anew_and_its_comments_are_no_code(
    folders: api.Folders, tmp_path: Path
) -> None:
    listener = Heard()
    load(tmp_path, contrast("this decision costs no MACs", "it costs nothing"))
    (before,) = run(folders, "contrast", listener)
    assert before.run == RunStore(folders.results).get("contrast").run and not listener.notes
    load(tmp_path, contrast(">= self", "< self"))
    (now,) = run(folders, "contrast", listener)
    assert now.run != before.run and now.points[0].nflops != before.points[0].nflops
    (note,) = (note for note in listener.notes if "anew" in note)
    assert note == f"The code of 'contrast' has changed since the run {before.run}: it is run anew."
    families = {row.family for row in api.results(folders, expression="method=contrast")[0]}
    assert len(families) == 2, "seeds of different code are not averaged"


def test_a_built_in_is_found_by_its_version_and_other_code_is_noted(
    folders: api.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Heard()
    monkeypatch.setitem(METHODS._loaded, "sgad", Entry(Sgad, "another"))
    (same,) = run(folders, "sgad", listener)
    assert same == RunStore(folders.results).get("sgad")
    (note,) = (note for note in listener.notes if "code" in note)
    assert note.startswith(f"The code of 'sgad' has changed since {same.run} (20")
    now = Sgad.version + 1
    monkeypatch.setattr(Sgad, "version", now)
    (anew,) = run(folders, "sgad", listener)
    assert anew.spec.method_version == now and anew.run != same.run
    told_so = f"The code of 'sgad' has changed since the run {same.run}: it is run anew."
    assert told_so in listener.notes


def refusal(what: str, folders: api.Folders) -> str:
    """Return why `what` refuses the run of contrast."""
    try:
        if what == "export":
            api.export("contrast", folders, file_format="safetensors")
        elif what == "source":
            name = RunStore(folders.results).get("contrast").run
            commands.run(folders, "static_projection", sources=name)
        else:
            (failure,) = getattr(api, what)(["contrast"], folders, device="cpu").failures
            return f"{failure.reason} {failure.hint}"
    except BenchError as error:
        return str(error)
    pytest.fail("nothing was refused")


@pytest.mark.parametrize("what", ["latency", "evaluate", "export", "source"])
def test_code_that_decides_otherwise_does_not_speak_for_a_run(
    what: str, folders: api.Folders, tmp_path: Path
) -> None:
    load(tmp_path, contrast(">= self", "< self"))
    path = next(folders.results.glob("runs/contrast-*/record.json"))
    kept = path.read_bytes()
    said = refusal(what, folders)
    assert "500 of 500 images run something else" in said and "(block1)" in said
    assert f"The code of 'contrast' has changed since {path.parent.name}" in said
    assert "Go back to the code" in said
    assert path.read_bytes() == kept and not (folders.results / "exports").exists()


def test_code_that_decides_the_same_goes_on_and_is_noted(
    folders: api.Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROFILES, "default", BRIEF)
    load(tmp_path, contrast("  # one column per gated block", " + 0.0"))
    listener = Heard()
    before = RunStore(folders.results).get("contrast")
    outcome = api.latency(["contrast"], folders, batch_sizes=(1,), device="cpu", reporter=listener)
    (point,) = outcome.records[0].points
    assert not outcome.failures and {cell.batch_size for cell in point.latency} == {1}
    (note,) = (note for note in listener.notes if "code" in note)
    assert f"has changed since {before.run}" in note and "500 of 500 images as it did" in note
    file = api.export("contrast", folders, file_format="safetensors").path
    assert load_exported(file).description.method_code == METHODS.code("contrast")
    load(tmp_path, contrast(">= self", "< self"))
    with pytest.raises(WeightsError, match="exported with other code of 'contrast'"):
        load_exported(file)


def test_other_units_are_named(folders: api.Folders, tmp_path: Path) -> None:
    looks = 'return [Unit("look", nn.Linear(4, 4), (4,), True, "policy")]'
    more = "\nfrom torch import nn\nfrom bench.method import Unit\n"
    load(tmp_path, contrast("return ()", looks) + more)
    assert "other units or MACs (look)" in refusal("latency", folders)


def test_code_changed_between_plan_and_run_is_refused(
    folders: api.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunStore(folders.results).get("sgad").spec
    decisions.check_code(spec)
    monkeypatch.setattr(Sgad, "version", Sgad.version + 1)
    with pytest.raises(RunFailed, match="was changed after"):
        decisions.check_code(spec)


def test_what_differs_is_counted_by_image_and_unit() -> None:
    before = Answers(np.zeros((600, 3)), np.ones(600, dtype=bool))
    executed_nu = np.zeros((4, 3))
    executed_nu[:2, 2], executed_nu[1:3, 1], executed_nu[0, 0] = 1.0, 0.09, 1.0
    now = Answers(executed_nu, np.array([True, True, True, False]))
    found = compared(before, now, ["a", "b", "c"], index_n=np.array([5, 9, 1, 599]))
    assert found == Difference(3, 4, ("c", "a")) and not found.is_excused
    assert Difference(1, 256, ()).is_excused and not Difference(1, 255, ()).is_excused
    with pytest.raises(RecordError, match="another shape"):
        compared(before, now, ["a", "b"])
