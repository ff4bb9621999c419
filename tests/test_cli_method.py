"""`bench method`: a new package works at once; checks tell by table and exit status."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bench.cli import app
from bench.engine.plan import ALL, NONE, SHALLOWER, TRAIN_GROUP
from bench.errors import ConfigError
from bench.method import METHODS
from bench.registry import RESERVED_NAMES
from bench.scaffold.example import LearnedGates
from bench.scaffold.package import class_name, new_package, package_files
from bench.testing import suite, workbench


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget plugins after each test, and look at one backbone only."""
    monkeypatch.setattr(METHODS, "_added", {})
    monkeypatch.setattr(workbench, "_BACKBONES", (("resnet14", "B"),))
    yield
    for name in [name for name in sys.modules if name.startswith("bench_plugin_")]:
        del sys.modules[name]


def bench(*arguments: str, columns: int = 160) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["method", *arguments])


def new(folder: Path, name: str = "my_method") -> Result:
    return bench("new", name, "--out", str(folder))


def test_a_new_package_passes_its_checks_and_trains(tmp_path: Path) -> None:
    made = new(tmp_path / "mine")
    assert made.exit_code == 0, made.stderr
    file = tmp_path / "mine" / "src" / "my_method.py"
    assert str(file) in made.stdout.splitlines()
    assert "bench method check my_method" in made.stderr
    checked = bench("check", "my_method", "--plugin", str(file))
    assert checked.exit_code == 0, checked.stdout
    assert "my_method: 21 passed" in checked.stdout
    results = {"BENCH_RESULTS": str(tmp_path / "results")}
    METHODS._added.clear()
    run = ["run", "--plugin", str(file), "--methods", "my_method", "--backbone", "resnet8"]
    options = ["--recipe", "smoke", "--latency", "off", "--controls", NONE]
    trained = CliRunner(env=results).invoke(app, [*run, *options])
    assert trained.exit_code == 0, trained.stderr
    assert "my_method" in trained.stdout


def test_the_tests_of_a_new_package_pass(tmp_path: Path) -> None:
    assert new(tmp_path / "mine").exit_code == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(command, cwd=tmp_path / "mine", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "23 passed" in done.stdout


def test_a_new_package_declares_its_entry_point(tmp_path: Path) -> None:
    new_package("fast_exit2", tmp_path / "deep" / "mine", taken=())
    project = tomllib.loads((tmp_path / "deep" / "mine" / "pyproject.toml").read_text())
    entries = project["project"]["entry-points"]["bench.methods"]
    assert entries == {"fast_exit2": "fast_exit2:FastExit2"}
    assert project["tool"]["setuptools"]["py-modules"] == ["fast_exit2"]


def test_nothing_of_the_example_is_left_in_a_new_package() -> None:
    text = "".join(package_files("other").values())
    assert "earned" not in text
    assert "$" not in text
    assert 'name = "other"' in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_the_example_is_short() -> None:
    code = [line for line in package_files("other")["src/other.py"].splitlines() if line.strip()]
    assert len(code) <= 80


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("my_method", "MyMethod"),
        ("act2", "Act2"),
        ("phase", "PhaseMethod"),
        ("gates", "GatesMethod"),
    ],
)
def test_the_class_is_called_like_the_module_and_hides_nothing(name: str, cls: str) -> None:
    assert class_name(name) == cls
    compile(package_files(name)[f"src/{name}.py"], name, "exec")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("My-Method", "cannot be the name"),
        ("2fast", "cannot be the name"),
        ("../evil", "cannot be the name"),
        ("größe", "cannot be the name"),
        ("x" * 41, "at most 40"),
        ("class", "a reserved name"),
        ("train", "a reserved name"),
        ("sgad", "a method called 'sgad' already"),
        ("torch", "a Python module called 'torch'"),
        ("methods", "a Python module called 'methods'"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_and_nothing_written(
    name: str, words: str, tmp_path: Path
) -> None:
    outcome = new(tmp_path / "mine", name)
    assert outcome.exit_code == 2
    assert words in " ".join(outcome.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    outcome = new(tmp_path / "mine")
    assert outcome.exit_code == 2
    assert "already there" in outcome.stderr
    assert "--out" in outcome.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.tex"]


def test_a_package_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    original = Path.write_text

    def full(path: Path, text: str, **rest: str) -> int:
        written.append(path.name)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return original(path, text, **rest)

    monkeypatch.setattr(Path, "write_text", full)
    outcome = new(tmp_path / "mine")
    assert outcome.exit_code == 2
    assert "the disk is full" in outcome.stderr
    assert "--out" in outcome.stderr
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = new(tmp_path / "file" / "mine")
    assert outcome.exit_code == 2
    assert "a file stands where a folder should be" in outcome.stderr


BROKEN = """
from bench.method import Tags
from bench.scaffold.example import Gates, LearnedGates
from bench.networks.gated import GatedResNet


class Free(Gates):
    def units(self):
        return ()


class Broken(LearnedGates):
    name = "broken"
    tags = Tags(decision="per unit", exempt={"repeatable": "it is [bold]never[/] the same"})

    def build(self, backbone, config):
        return GatedResNet(backbone, Free(backbone))
"""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken_plugin.py"
    path.write_text(BROKEN)
    return path


def test_a_broken_method_fails_with_numbers_and_a_likely_cause(broken: Path) -> None:
    outcome = bench("check", "--plugin", str(broken))
    assert outcome.exit_code == 1
    said = " ".join(outcome.stdout.split())
    assert "broken: 19 passed, 1 failed, 1 exempt" in said
    assert "per image too few" in said
    assert "Likely cause: something runs that units() does not list" in said
    assert "Exempt: it is [bold]never[/] the same" in said
    assert "Traceback" not in outcome.stderr


def test_a_traceback_is_shown_if_asked_for(broken: Path) -> None:
    outcome = bench("check", "--plugin", str(broken), "--debug")
    assert outcome.exit_code == 1
    assert "Traceback" in outcome.stderr and "_require_same_macs" in outcome.stderr


def test_settings_are_those_that_are_given(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(suite.learning, "metadata", lambda b, _: seen.append(b.config.cost))
    bench("check", "--plugin", str(broken), "--set", "broken.cost=0.25")
    assert seen == [0.25]
    METHODS._added.clear()
    wrong = bench("check", "--plugin", str(broken), "--set", "broken.cost=-1")
    assert wrong.exit_code == 2 and "cost" in wrong.stderr
    METHODS._added.clear()
    other = bench("check", "--plugin", str(broken), "--set", "sgad.d_max=0.5")
    assert other.exit_code == 2 and "'sgad' is not among what is checked" in other.stderr


NEVER = """
from bench.scaffold.example import LearnedGates


class Never(LearnedGates):
    name = "never"

    def build(self, backbone, config):
        raise KeyError("no network")
"""


def test_what_depends_on_a_failed_check_is_not_tried(tmp_path: Path) -> None:
    path = tmp_path / "never_plugin.py"
    path.write_text(NEVER)
    outcome = bench("check", "--plugin", str(path))
    assert outcome.exit_code == 1
    said = " ".join(outcome.stdout.split())
    assert "never: 3 passed, 2 failed, 16 not tried" in said
    assert "Not tried: there is no network to try it on, because 'trains' failed." in said


def test_several_methods_are_checked_each_with_its_table(broken: Path) -> None:
    outcome = bench("check", "resnet", "broken", "resnet", "--plugin", str(broken))
    assert outcome.exit_code == 1
    assert outcome.stdout.count("resnet: ") == 1
    assert outcome.stdout.count("broken: ") == 1


def test_all_means_every_registered_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_offered", {})
    METHODS.add(LearnedGates, source="here")
    outcome = bench("check", "all")
    assert outcome.exit_code == 0
    assert "learned_gates: 21 passed" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sgadd"], "Did you mean 'sgad'"),
        (["resnet", "sgadd"], "Did you mean 'sgad'"),
        ([], "No method is named"),
        (["--plugin", "nowhere.py"], "not a Python file"),
    ],
)
def test_what_cannot_be_checked_is_said_before_anything_is_tried(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite.Check, "run", lambda self: pytest.fail("a check ran"))
    outcome = bench("check", *arguments)
    assert outcome.exit_code == 2
    assert words in outcome.stderr
    assert outcome.stdout == ""


def test_reserved_names_are_those_that_commands_understand_otherwise() -> None:
    assert set(RESERVED_NAMES) == {ALL, NONE, SHALLOWER, TRAIN_GROUP}
    with pytest.raises(ConfigError):
        new_package(SHALLOWER, Path("nowhere"), taken=())
