"""Plugins of strangers: they run as code, but take no name, no output and no command down."""

from __future__ import annotations

from pathlib import Path

import pytest
from strangers import GOOD, Install, entry_point, installed, methods
from typer.testing import CliRunner

from bench import method
from bench.cli import app
from bench.errors import PluginError
from bench.method import Method
from bench.registry import Registry

pytestmark = pytest.mark.reliability

__all__ = ["installed", "methods"]
NAME = 'name = "quiet"'


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "a b", "../x", "a.b", "a/b", "-x", "_x", "1x", "é"),
        *("x" * 41, "[red]", "a,b", "a=b"),
        *("\\x1b[31m", "\\u202ex", "\\0", "all", "none", "train", "shallower", "quiet\\n"),
    ],
)
def test_an_odd_name_is_refused_and_shown_harmlessly(
    name: str, methods: Registry[Method], tmp_path: Path
) -> None:
    path = tmp_path / "odd.py"
    path.write_text(GOOD.replace(NAME, f'name = "{name}"'))
    with pytest.raises(PluginError, match="cannot be the name of a method") as caught:
        methods.add_file(path)
    assert str(caught.value).replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("class Quiet", "raise KeyError('x')\n\nclass Quiet"), "KeyError"),
        (("class Quiet", "raise Exception('\\x1b[2J')\n\nclass Quiet"), "\\x1b[2J"),
        (("class Quiet", "raise Exception('x' * 100_000)\n\nclass Quiet"), "…"),
        (
            (
                "class Quiet",
                "class E(Exception):\n    def __str__(self):\n        raise ValueError\n\n"
                "raise E\n\nclass Quiet",
            ),
            "imported: E",
        ),
        ((NAME, NAME + "\n    Config = 5"), "lacks Config"),
        ((NAME, NAME + "\n    Config = dict"), "lacks Config"),
        (
            (
                "class Quiet(Method):",
                "class C(MethodConfig):\n    x: int\n\n\nclass Quiet(Method):\n    Config = C",
            ),
            "lacks Config",
        ),
        (('tags = Tags(decision="static")', "tags = None"), "lacks tags"),
        (
            (
                'reference = Reference("Quiet", "Nobody", 2024, "https://example.org")',
                "reference = ''",
            ),
            "lacks reference",
        ),
    ],
)
def test_a_plugin_file_that_misbehaves_is_refused(
    change: tuple[str, str], said: str, methods: Registry[Method], tmp_path: Path
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(PluginError) as caught:
        methods.add_file(path)
    assert said in caught.value.message and len(caught.value.message) < 1000
    assert "quiet" not in methods.names()


def test_what_a_plugin_prints_is_no_output_of_ours(
    methods: Registry[Method], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "loud.py"
    path.write_text("print('garbage')\n" + GOOD)
    assert methods.add_file(path) == ["quiet"]
    said = capsys.readouterr()
    assert said.out == "" and said.err == "garbage\n"


@pytest.mark.parametrize("name", ["a b.py", "a.b.py", "é.py", "[red].py", "x;y.py", "__init__.py"])
def test_a_plugin_file_may_be_called_anything(
    name: str, methods: Registry[Method], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(GOOD)
    assert methods.add_file(path) == ["quiet"]


def test_of_two_packages_with_one_name_neither_wins(
    methods: Registry[Method], installed: Install
) -> None:
    installed(entry_point("sgad", "methods.sgad:Sgad", "one"), entry_point("sgad", "x:Y", "two"))
    with pytest.raises(PluginError, match="several packages: one, two"):
        methods.get("sgad")


def test_a_built_in_keeps_its_name_among_several_strangers(
    methods: Registry[Method], installed: Install
) -> None:
    ours = entry_point("sgad", "methods.sgad:Sgad", "skipbench")
    installed(entry_point("sgad", "x:Y", "one"), ours, entry_point("sgad", "x:Z", "two"))
    assert methods.get("sgad").__module__ == "methods.sgad"


@pytest.mark.parametrize("source", ["import sys; sys.exit(3)", "1/0", "raise SystemExit", "x = 1"])
def test_an_installed_module_that_ends_the_process_is_refused(
    source: str,
    methods: Registry[Method],
    installed: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bench_plugin_installed.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    installed(entry_point("other", "bench_plugin_installed:X", "third-party"))
    with pytest.raises(PluginError, match="cannot be imported"):
        methods.get("other")


def test_the_listing_shows_what_is_broken_and_goes_on(
    methods: Registry[Method],
    installed: Install,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = "[red]\x1b[2J"
    installed(
        entry_point("resnet", "baselines.resnet:DenseResNet", "skipbench"),
        entry_point(odd, "methods.sgad:Sgad", "evil"),
        entry_point("gone", "no_such_module_anywhere:X", "evil"),
    )
    monkeypatch.setattr(method, "METHODS", methods)
    outcome = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["list", "methods"])
    assert outcome.exit_code == 0
    assert "[red]\\x1b[2J" in outcome.stdout and "\x1b" not in outcome.stdout
    assert "resnet" in outcome.stdout and "no_such_module_anywhere" in outcome.stdout
