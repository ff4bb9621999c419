"""What the documents tell a reader to type: commands parse, examples keep the contract."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import bench.api
from bench.cli import app
from bench.method import METHODS, Method
from bench.plugins import load_plugin
from bench.registry import Registry
from bench.scaffold.package import package_files
from bench.testing import backbone_checks, backbones, check_method, suite, workbench

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "results" / "reference")
    for path in sorted(folder.glob("*.md"))
]
GUIDE = ROOT / "docs" / "adding-a-method.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def one_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "_BACKBONES", (("resnet14", "B"),))


def blocks(document: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(document.read_text()) if kind == language]


def commands() -> Iterator[str]:
    for document in DOCUMENTS:
        for block in blocks(document, "sh"):
            for line in block.splitlines():
                parts = [part.strip() for part in line.partition("#")[0].split("&&")]
                yield from (part for part in parts if part.startswith("bench "))


def parse(command: str) -> None:
    found: Any = typer.main.get_command(app)
    words = shlex.split(command)[1:]
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    found.make_context(found.name, words)


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_a_command_in_a_document_is_understood(command: str) -> None:
    parse(command)


@pytest.mark.parametrize("command", ["bench run --nope", "bench pareto --x watts", "bench data go"])
def test_a_command_that_does_not_exist_would_be_noticed(command: str) -> None:
    with pytest.raises(Exception, match=r"nope|watts|go"):
        parse(command)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_links_of_a_document_lead_to_files(document: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", document.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)]*)\)", prose):
        path = target.partition("#")[0]
        if path and not path.startswith(("http", "mailto:")):
            assert (document.parent / path).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_what_a_document_calls_in_python_exists(document: Path) -> None:
    code = "\n".join([*blocks(document, "python"), *re.findall("`([^`]+)`", document.read_text())])
    for home, module in (("api", bench.api), ("bench", bench)):
        for name in set(re.findall(rf"(?<![\w./]){home}\.(\w+)\(", code)):
            assert hasattr(module, name), f"{home}.{name}"


def failures(method: type[Method]) -> list[str]:
    return [str(found) for found in check_method(method) if found.status == "failed"]


def test_the_method_in_one_file_keeps_the_contract(tmp_path: Path) -> None:
    [source] = [text for text in blocks(GUIDE, "python") if "(Method[ContrastConfig]" in text]
    file = tmp_path / "contrast.py"
    file.write_text(source)
    methods: Registry[Method] = Registry(Method, kind="method", group=METHODS.group)
    assert methods.add_file(file) == ["contrast"]
    assert failures(methods.get("contrast")) == []


@pytest.fixture
def in_the_example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Return what gives the names of the new package's module after the lines of a block."""
    module = ModuleType("my_method")
    monkeypatch.setitem(sys.modules, "my_method", module)  # annotations are looked up there
    return lambda block: after(block, vars(module))


def after(block: str, names: dict[str, Any]) -> dict[str, Any]:
    for source in (package_files("my_method")["src/my_method.py"], block):
        exec(compile(source, "my_method.py", "exec"), names)
    return names


def guide_block(first_line: str) -> str:
    [block] = [text for text in blocks(GUIDE, "python") if text.startswith(f"# {first_line}\n")]
    return block


@pytest.mark.parametrize(
    ("first_line", "method"),
    [("in place of Gates", "MyMethod"), ("below MyMethod", "TwoPhases")],
)
def test_what_the_guide_puts_into_the_example_keeps_the_contract(
    first_line: str, method: str, in_the_example: Callable[[str], dict[str, Any]]
) -> None:
    names = in_the_example(guide_block(first_line))
    assert failures(names[method]) == []


def test_the_guide_shows_how_to_check_from_python(
    capsys: pytest.CaptureFixture[str], in_the_example: Callable[[str], dict[str, Any]]
) -> None:
    in_the_example(guide_block("anywhere"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert "macs passed" in "".join(lines)
    tags = in_the_example(guide_block("inside the class"))["tags"]
    assert set(tags.exempt) <= set(suite.CHECKS)


def words_of(function: Callable[[Any], None]) -> tuple[str, str]:
    check = suite.Check("", function, list)
    return check.name, check.proves


def test_the_guide_lists_all_checks_in_their_own_words() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", GUIDE.read_text(), re.MULTILINE)
    told = [(name, proves) for name, proves in rows if name in suite.CHECKS]
    assert told == [words_of(check) for check in (*suite._OF_METHODS, *suite.OF_NETWORKS)]


def leaves(found: Any, words: tuple[str, ...] = ("bench",)) -> Iterator[tuple[str, str]]:
    """Yield each command with what its help says."""
    if not hasattr(found, "commands"):
        yield " ".join(words), found.help or ""
    for name, command in getattr(found, "commands", {}).items():
        yield from leaves(command, (*words, name))


@pytest.mark.parametrize(("command", "told"), [*leaves(typer.main.get_command(app))])
def test_the_help_of_a_command_shows_examples_that_are_understood(command: str, told: str) -> None:
    examples = re.findall(r"`(bench [^`]+)`", told.partition("*")[2])
    mine = [text.partition(" > ")[0] for text in examples if text.startswith(command)]
    assert mine
    for example in mine:
        parse(example)


def test_the_guide_to_backbones_lists_all_checks_in_their_own_words() -> None:
    guide = ROOT / "docs" / "adding-a-backbone.md"
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", guide.read_text(), re.MULTILINE)
    assert rows == [words_of(check) for check in (*backbones.OF_TRUNKS, *suite.OF_NETWORKS)]


@pytest.mark.parametrize(("file", "lines"), [("mine", 5), ("other", 20)])
def test_the_backbones_of_the_guide_are_as_short_as_it_says_and_keep_the_contract(
    file: str, lines: int, tmp_path: Path
) -> None:
    guide = ROOT / "docs" / "adding-a-backbone.md"
    [source] = [b for b in blocks(guide, "python") if b.startswith(f"# {file}.py\n")]
    assert len([line for line in source.splitlines()[1:] if line.strip()]) <= lines + 1
    path = tmp_path / f"{file}.py"
    path.write_text(source)
    load_plugin(path)
    name = {"mine": "mine", "other": "other/4"}[file]
    failed = [f for f in (c.run() for c in backbone_checks(name)) if f.status == "failed"]
    assert [str(found) for found in failed] == []
