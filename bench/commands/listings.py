"""What there is to choose from, as tables for the terminal: `bench list`.

Owns no registry; reads each room's own catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from bench.errors import UnknownNameError
from bench.plain_text import one_line
from bench.report.tables.cells import aligned, folding_table, table_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bench.method import Method


def listing(what: str, results_dir: Path) -> RenderableType:
    """Return the table of methods, datasets, backbones, recipes, runtimes or runs.

    Raises:
        UnknownNameError: there is no such table.
    """
    tables: dict[str, Callable[[], RenderableType]] = {
        "methods": _methods,
        "datasets": _datasets,
        "backbones": _backbones,
        "recipes": _recipes,
        "runtimes": _runtimes,
        "runs": partial(_runs, results_dir),
    }
    if what not in tables:
        raise UnknownNameError("listing", what, tables)
    return tables[what]()


def _add(table: Table, *cells: str, style: str | None = None) -> None:
    """Add a row of text: names of others are neither markup nor several lines."""
    table.add_row(*(Text(one_line(cell)) for cell in cells), style=style)


def _methods() -> Table:
    from bench.errors import PluginError
    from bench.method import METHODS

    table = folding_table("method", "decides", "settings (defaults)", "reference")
    found: list[type[Method]] = []
    broken: list[tuple[str, str]] = []
    for name in METHODS:
        try:
            found.append(METHODS.get(name))
        except PluginError as error:
            broken.append((name, error.message))
    roles = ("dense", "dynamic", "control")
    for method in sorted(found, key=lambda one: roles.index(one.tags.role)):
        _add(table, *_described(method))
    for name, reason in broken:
        _add(table, name, "broken", reason, "", style="red")
    return table


def _described(method: type[Method]) -> tuple[str, str, str, str]:
    tags, reference = method.tags, method.reference
    first, *others = reference.authors.split(",")
    source = f"{first.strip()}{' et al.' if others else ''} {reference.year}"
    settings = ", ".join(f"{key}={value}" for key, value in method.Config().model_dump().items())
    decides = f"control, {tags.decision}" if tags.role == "control" else tags.decision
    return method.name, decides, settings or "none", source


def _datasets() -> Table:
    from bench.data.catalogue import DATASETS

    table = folding_table("data set", "classes", "embedded", "what it is")
    for card in DATASETS.values():
        embedded = "yes" if card.embedded else "no"
        _add(table, card.name, str(card.num_classes), embedded, card.summary)
    _add(table, "FOLDER", "any", "", "a folder with train/ and test/, one folder per class")
    return table


def _backbones() -> Table:
    from bench.errors import BenchError
    from bench.networks.trunk import BACKBONES

    table = folding_table(
        "backbone", "blocks", "million MACs, 10 classes", "smaller static networks"
    )
    for family in BACKBONES:
        try:
            kind = BACKBONES.get(family)
            for member in kind().members():
                name = f"{family}/{member}" if member else family
                _add(table, name, *_sizes(name, kind().side(member)))
        except BenchError as error:
            _add(table, family, "", "", error.message, style="red")
    return table


def _sizes(name: str, side: int) -> tuple[str, ...]:
    import torch

    from bench.engine.plan import shallower
    from bench.measure.cost import counted_macs
    from bench.networks.trunk import Backbone

    backbone = Backbone(name, 10, (3, side, side))
    with torch.device("meta"), torch.no_grad():
        trunk, image_1chw = backbone.without_memory(), torch.zeros(1, *backbone.image_shape)
        macs = counted_macs(lambda: trunk(image_1chw))
    smaller = [one.rpartition("/")[2] for one in shallower(backbone)]
    blocks, shape = str(len(trunk.blocks)), f"3x{side}x{side}"
    return blocks, f"{macs / 1e6:,.1f} at {shape}", ", ".join(smaller) or "none"


def _recipes() -> Table:
    from bench.recipes import RECIPES

    table = folding_table("recipe", "epochs", "start", "what it is for")
    for recipe in RECIPES.values():
        epochs = "published" if recipe.epochs is None else str(recipe.epochs)
        _add(table, recipe.name, epochs, recipe.start, recipe.summary)
    return table


def _runtimes() -> Table:
    from bench.commands.doctor import runtime_checks

    table = folding_table("runtime", "here", "how networks are run")
    for check in runtime_checks():
        _add(table, check.what, "yes" if check.works else "no", check.detail)
    return table


def _runs(results_dir: Path) -> RenderableType:
    from bench.drawing import no_runs_in
    from bench.records.store import Problem, RunStore

    problems = list[Problem]()
    lines = [
        {"run": r.run, "status": r.status, "variant": r.variant, "created": r.created}
        for r in RunStore(results_dir).read_each(problems)
    ]
    lines += [
        {"run": problem.name, "status": "not counted", "variant": problem.reason, "created": ""}
        for problem in problems
    ]
    if not lines:
        return Text(f"{no_runs_in(results_dir)} Start with: bench run")
    return aligned(table_of("runs", "", lines))
