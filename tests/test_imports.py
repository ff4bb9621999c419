"""Imports run one way: from the command line down to the errors, never up, never in circles."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom up. A room may import from rooms of lower floors and from itself.
_TABLE = re.compile(r"^\| (\d+) \| (.*) \|$", re.MULTILINE)
FLOOR_OF = {"bench": 0} | {
    f"bench.{room}": int(number)
    for number, rooms in _TABLE.findall((ROOT / "docs" / "architecture.md").read_text())
    for room in re.findall(r"`([\w.]+)`", rooms)
}
# What a run works without; only the functions that need them import them.
OPTIONAL = {
    *("ray", "mlflow", "matplotlib", "jinja2", "sklearn", "yaml", "PIL"),
    *("onnx", "onnxruntime", "optuna", "timm"),
}
# Modules that a function imports once it is clear that the package is there.
ONLY_THEN = {"bench.sweep.scheduling": {"ray"}}
HEAVY = {"torch", "torchvision", "ray", "mlflow", "pandas", "numpy", "matplotlib"}


def modules_of(package: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


BENCH = modules_of("bench")
PLUGINS = modules_of("methods") | modules_of("baselines")


def imported_by(tree: ast.AST, known: frozenset[str]) -> Iterator[str]:
    """Yield the absolute names of what is imported anywhere under `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a reader sees the room"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in known else base


def imports_of(path: Path) -> set[str]:
    return set(imported_by(ast.parse(path.read_text()), frozenset(BENCH)))


def at_import_time(path: Path) -> set[str]:
    """Return what is imported when the module is: not inside functions, not for types only."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not for_types and not isinstance(node, ast.FunctionDef | ast.ClassDef):
            found |= set(imported_by(node, frozenset(BENCH)))
    return found


def room_of(module: str) -> str:
    rooms = [room for room in FLOOR_OF if module == room or module.startswith(f"{room}.")]
    assert rooms, module
    return max(rooms, key=len)


def test_a_name_of_a_class_has_one_meaning() -> None:
    found: dict[str, list[str]] = {}
    for module, path in BENCH.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


def test_every_module_of_bench_has_a_room() -> None:
    homeless = [m for m in BENCH if m != "bench" and room_of(m) == "bench"]
    assert homeless == []
    assert {room_of(module) for module in BENCH} == set(FLOOR_OF)


@pytest.mark.parametrize("module", BENCH)
def test_a_module_imports_only_from_lower_floors_and_its_own_room(module: str) -> None:
    room = room_of(module)
    for imported in imports_of(BENCH[module]):
        if imported.partition(".")[0] == "bench":
            other = room_of(imported)
            assert other == room or FLOOR_OF[other] < FLOOR_OF[room], f"{module} -> {imported}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        module: {name for name in imports_of(path) if name in BENCH and name != "bench"}
        for module, path in BENCH.items()
    }
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("bench.errors") < order.index("bench.cli")


@pytest.mark.parametrize("module", BENCH)
def test_bench_knows_no_method(module: str) -> None:
    rooms = {name.partition(".")[0] for name in imports_of(BENCH[module])}
    assert not rooms & {"methods", "baselines", "tests"}


@pytest.mark.parametrize("module", BENCH)
def test_what_a_run_can_do_without_is_imported_only_where_it_is_used(module: str) -> None:
    packages = {name.partition(".")[0] for name in at_import_time(BENCH[module])}
    assert not packages & OPTIONAL - ONLY_THEN.get(module, set())


def test_a_module_that_needs_such_a_package_is_imported_only_where_it_is_used() -> None:
    for module, path in BENCH.items():
        assert not set(ONLY_THEN) & set(at_import_time(path)), module


@pytest.mark.parametrize("module", PLUGINS)
def test_a_method_imports_the_public_names_of_bench_and_no_other_method(module: str) -> None:
    for imported in imports_of(PLUGINS[module]):
        first = imported.partition(".")[0]
        assert first not in {"methods", "baselines"}, f"{module} -> {imported}"
        if first == "bench":
            assert room_of(imported) in {"bench.method", "bench.networks", "bench.phases"}, imported


@pytest.mark.parametrize("module", [*BENCH, *PLUGINS])
def test_nothing_uses_torchscript_which_is_about_to_go(module: str) -> None:
    assert "torch.jit" not in (BENCH | PLUGINS)[module].read_text()


def test_the_rules_catch_what_they_forbid() -> None:
    source = "from bench import cli\nimport methods.sgad\ndef f():\n    from bench.api import run\n"
    tree = ast.parse(source)
    assert set(imported_by(tree, frozenset(BENCH))) == {"bench.cli", "methods.sgad", "bench.api"}
    with pytest.raises(AssertionError, match="absolute"):
        list(imported_by(ast.parse("from . import resnet"), frozenset(BENCH)))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["data", "--help"], ["method", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import json, sys\n"
        "from bench.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    status = end.code\n"
        "packages = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "print(json.dumps([status, packages]), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    status, packages = json.loads(done.stderr)
    assert status == 0
    assert "Usage" in done.stdout
    assert not HEAVY & set(packages)
