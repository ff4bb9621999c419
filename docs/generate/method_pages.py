"""Pages of the built-in methods, from what their files say and what was recorded.

Owns the text of one page per file in methods/ and baselines/: the module's docstring, the settings,
numbers from papers and our reference runs. Knows nothing of MkDocs.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined
from update import reference

from bench.method import METHODS, Method
from bench.records.published import PublishedPoint, canonical_name, load_published
from bench.report.data.row import Row
from bench.report.data.study import Study
from bench.report.verdicts.verdicts import verdicts_of
from bench.report.verdicts.words import sentence
from bench.spaces import search_space

_DATASETS = ("CIFAR-10", "CIFAR-100", "MNIST", "ImageNet")
_LEAD = re.compile(r"\A((?:How|What|When) [^.:]{3,40}\.|Reference:|Expected|Published)(?=\s|\Z)")
_SOURCES = (
    "*Published*: in the paper or in the authors' code. *Reconstructed*: stated in neither, filled "
    "in here. `bench sweep` searches the range unless it is told another."
)
_ROLES = ("dense", "dynamic", "control")


def method_pages() -> dict[str, str]:
    """Return the Markdown of each page by its place in the site, dense first, controls last."""
    study = reference()
    rows, told = study.rows, _sentences(study)
    return {f"methods/{_stem(methods[0])}.md": _page(methods, rows, told) for methods in _by_file()}


def _by_file() -> list[list[type[Method]]]:
    """Return the built-in methods, those of one file together."""
    found: dict[str, list[type[Method]]] = {}
    built_in = [METHODS.get(name) for name in METHODS.names()]
    for method in built_in:
        if method.__module__.partition(".")[0] in {"methods", "baselines"}:
            found.setdefault(method.__module__, []).append(method)
    groups = [sorted(group, key=lambda method: len(method.name)) for group in found.values()]
    return sorted(groups, key=lambda group: (_ROLES.index(group[0].tags.role), _stem(group[0])))


def _stem(method: type[Method]) -> str:
    return method.__module__.rpartition(".")[2]


def _page(methods: Sequence[type[Method]], rows: Sequence[Row], told: dict[str, list[str]]) -> str:
    module = sys.modules[methods[0].__module__]
    title, _, body = inspect.cleandoc(module.__doc__ or "").partition("\n")
    names = [method.name for method in methods]
    mine = [row for row in rows if row.method in names]
    parts = [
        f"# {title.rstrip('.')}",
        _facts(methods),
        _markdown(body),
        *(_settings(method, methods[0]) for method in methods),
        _published(_stem(methods[0])),
        _measured(mine, [line for name in names for line in told.get(name, [])]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(methods: Sequence[type[Method]]) -> str:
    first = methods[0]
    path = first.__module__.replace(".", "/") + ".py"
    names = ", ".join(f"`{method.name}`" for method in methods)
    decides = (
        "decides nothing"
        if first.tags.decision == "static"
        else (f"decides: {first.tags.decision}")
    )
    notes = f"In the harness: {names}; {decides}. [Its code](../../{path})"
    return f"{notes}, and [cost, differences, traps](../methods.md#{_anchor(_stem(first))})."


def _anchor(stem: str) -> str:
    """Return the section of docs/methods.md about a file."""
    return "the-backbone" if stem == "resnet" else stem.replace("_", "-")


def _markdown(docstring: str) -> str:
    """Return paragraphs as they are and indented formulas as blocks of code."""
    blocks = re.split(r"\n\s*\n", docstring.strip("\n"))
    return "\n\n".join(_block(block) for block in blocks if block.strip())


def _block(block: str) -> str:
    if not all(line.startswith("    ") for line in block.splitlines()):
        return _LEAD.sub(r"**\1**", block)
    return f"```text\n{textwrap.dedent(block)}\n```"


def _settings(method: type[Method], first: type[Method]) -> str:
    fields = method.Config.model_fields
    spaces = search_space(method.Config)
    usual = {name: _shown(field) for name, field in first.Config.model_fields.items()}
    derived = method is not first and issubclass(method.Config, first.Config)
    lines = []
    for name, field in fields.items():
        if derived and usual.get(name) == _shown(field):
            continue
        source = "reconstructed" if name in method.tags.reconstructed else "published"
        cells = (
            f"`{name}`",
            *_shown(field),
            str(spaces.get(name, "")),
            field.description or "",
            source,
        )
        lines.append(cells)
    what = f"## Settings of `{method.name}`"
    if derived:
        what += f"\n\nThe same as those of `{first.name}`, but for:"
    if not lines:
        return f"## Settings of `{method.name}`\n\nNone of its own."
    header = ("name", "default", "values", "range searched", "what it is", "source")
    legend = f"\n\n{_SOURCES}" if method is first else ""
    return f"{what}\n\n{_table(header, lines)}{legend}"


def _shown(field: Any) -> tuple[str, str]:
    default = "" if field.default is PydanticUndefined else field.default
    if isinstance(default, tuple):
        default = ", ".join(str(value) for value in default)
    return ("none" if default is None else str(default)), _values(field.annotation)


def _values(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(str(value) for value in get_args(annotation))
    plain = {float: "number", int: "whole number", str: "text"}
    return plain.get(annotation, "numbers")


def _published(stem: str) -> str:
    known = canonical_name(stem.replace("_", ""))
    points = [
        (dataset, point)
        for dataset in _DATASETS
        for point in load_published(dataset)
        if canonical_name(point.method) == known
    ]
    if not points:
        return "## Published numbers\n\nNone in our collection."
    header = ("variant", "data", "backbone", "accuracy, %", "nFLOPs", "million MACs", "source",
              "note")  # fmt: skip
    table = _table(header, [(p.variant, data, p.backbone, *_numbers(p)) for data, p in points])
    return (
        "## Published numbers\n\nAs their sources print them; not measured here, and with other "
        f"recipes than ours ([all of them](../../results/published/README.md)).\n\n{table}"
    )


def _numbers(point: PublishedPoint) -> tuple[str, ...]:
    nflops = "" if point.nflops is None else f"{point.nflops:.3f}"
    macs = "" if point.macs is None else f"{point.macs / 1e6:.1f}"
    return _percent(point.accuracy), nflops, macs, point.source, point.note


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _sentences(study: Study) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for found in verdicts_of(study):
        told.setdefault(found.method, []).append(
            f"{found.network.record.variant}. {sentence(found.on('macs'))}"
        )
    return told


def _measured(rows: Sequence[Row], told: Sequence[str]) -> str:
    if not rows:
        return "## Our reference runs\n\nNone yet."
    header = ("variant", "backbone", "accuracy, %", "nFLOPs", "speed-up, batch 1",
              "speed-up, batch 256", "epochs")  # fmt: skip
    table = _table(header, [_measured_row(row) for row in rows])
    verdicts = "\n".join(f"- {line}" for line in told)
    return (
        "## Our reference runs\n\nCIFAR-10, a line per run; a speed-up is on one CPU "
        "thread, with its 95 % interval ([what they say](../results.md)).\n\n"
        f"{table}\n\n{verdicts}"
    )


def _measured_row(row: Row) -> tuple[str, ...]:
    return (
        row.variant or "-",
        row.backbone,
        _percent(row.accuracy),
        f"{row.nflops:.3f}",
        _speedup(row, 1),
        _speedup(row, 256),
        str(row.train_epochs),
    )


def _speedup(row: Row, size: int) -> str:
    cell = row.timing(size)
    if cell is None or cell.speedup is None or cell.speedup_interval is None:
        return ""
    ends = cell.speedup_interval
    return f"{cell.speedup:.2f} ({ends.low:.2f} to {ends.high:.2f})"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    texts = [" | ".join(header), " | ".join("---" for _ in header)]
    texts += [" | ".join(cell.strip().replace("|", "\\|") for cell in line) for line in lines]
    return "\n".join(f"| {text} |" for text in texts)
