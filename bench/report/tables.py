"""Tables of results: for the terminal, and as CSV, JSON, Markdown and LaTeX.

Owns columns and number formats; the rows themselves come from rows.py, seeds are put together in
groups.py. Loads pandas and rich only when a table is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, get_args

from bench.errors import UnknownNameError
from bench.report.groups import Group, footnotes, group_seeds
from bench.report.rows import EXTRAS, KEYS, Row, filter_rows, is_measured, rows

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType
    from rich.table import Table

from typing import Literal

Format = Literal["csv", "json", "md", "latex"]
FORMATS: tuple[str, ...] = get_args(Format)

__all__ = [
    "FORMATS",
    "Format",
    "filter_rows",
    "render",
    "rich_table",
    "rows",
    "to_dataframe",
]

_DOCUMENT_COLUMNS = {
    "method": "method",
    "variant": "variant",
    "dataset": "data",
    "backbone": "backbone",
    "recipe": "recipe",
    "seed": "seed",
    "accuracy": "accuracy %",
    "nflops": "nFLOPs",
    "nflops_backbone": "nFLOPs without policy",
    "macs": "MMACs",
    "latency_ms_b1": "ms, batch 1",
    "speedup_b1": "speed-up, batch 1",
    "speedup_b256": "speed-up, batch 256",
    "total_dense_epochs": "training, dense epochs",
    "budget_note": "note",
}
_MARKS = {"faster": "▲", "slower": "▼", "indistinguishable": "≈", "baseline": "="}
_MARK_NOTE = "▲ faster, ▼ slower, ≈ indistinguishable from the dense network (= baseline)"


def to_dataframe(all_rows: Sequence[Row]) -> pd.DataFrame:
    """Return the rows as a table with all keys as columns, also when there are no rows."""
    import pandas as pd

    return pd.DataFrame(list(all_rows), columns=[*KEYS, *EXTRAS])


def render(all_rows: Sequence[Row], format: str) -> str:
    """Return the rows as text in one of FORMATS; CSV and JSON hold every key in full precision.

    Raises:
        UnknownNameError: there is no such format.
    """
    writers: dict[str, Callable[[Sequence[Row]], str]] = {
        "csv": _csv,
        "json": _json,
        "md": _markdown,
        "latex": _latex,
    }
    if format not in writers:
        raise UnknownNameError("format", format, FORMATS)
    return writers[format](all_rows)


def _json(all_rows: Sequence[Row]) -> str:
    return json.dumps(list(all_rows), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _csv(all_rows: Sequence[Row]) -> str:
    table = to_dataframe(all_rows)
    table["reconstructed"] = [" ".join(row["reconstructed"]) for row in all_rows]
    return str(table.to_csv(index=False, lineterminator="\n"))


def _markdown(all_rows: Sequence[Row]) -> str:
    cells = _document(all_rows).map(lambda text: text.replace("|", "\\|"))
    return str(cells.to_markdown(index=False, disable_numparse=True)) + "\n"


def _latex(all_rows: Sequence[Row]) -> str:
    table = _document(all_rows)
    # The Styler escapes cells and not column names.
    table.columns = table.columns.str.replace("%", "\\%", regex=False)
    escaped = table.style.hide(axis="index").format(escape="latex")
    return str(escaped.to_latex(hrules=True))


def _document(all_rows: Sequence[Row]) -> pd.DataFrame:
    import pandas as pd

    cells = [{key: _cell(key, row[key]) for key in _DOCUMENT_COLUMNS} for row in all_rows]
    for row, line in zip(all_rows, cells, strict=True):
        if not is_measured(row):
            line["budget_note"] = " ".join(f"{row['status']}: {row['reason']}".split())
    table = pd.DataFrame(cells, columns=list(_DOCUMENT_COLUMNS), dtype="str")
    return table.rename(columns=_DOCUMENT_COLUMNS)


def _cell(key: str, value: object) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    scale = {"accuracy": 100.0, "macs": 1e-6}.get(key, 1.0)
    digits = {"nflops": 3, "nflops_backbone": 3, "total_dense_epochs": 1}.get(key, 2)
    return f"{value * scale:.{digits}f}"


def rich_table(all_rows: Sequence[Row]) -> RenderableType:
    """Return one table per data set for a terminal of 100 columns, seeds together, with footnotes.

    Failed runs stand below with their reasons.
    """
    from rich.console import Group as Lines
    from rich.text import Text

    parts: list[RenderableType] = []
    groups = group_seeds(all_rows)
    for dataset in dict.fromkeys(group.first["dataset"] for group in groups):
        chosen = [group for group in groups if group.first["dataset"] == dataset]
        parts.append(_terminal_table(dataset, chosen))
        parts += [Text(f"  {note}", style="dim") for note in _notes(chosen)]
    for row in all_rows:
        if not is_measured(row):
            name = f"{row['method']} {row['variant']}".strip()
            parts.append(Text(f"  {name} (seed {row['seed']}) failed: {row['reason']}", "red"))
    return Lines(*parts) if parts else Text("No runs yet. Start one with: bench run")


def _notes(groups: Sequence[Group]) -> list[str]:
    notes = footnotes(groups)
    if len({group.first["backbone"] for group in groups}) > 1:
        notes.append("nFLOPs and training costs are relative to each row's own backbone")
    if any(group.mean_of("speedup_b1") is not None for group in groups):
        notes.append(_MARK_NOTE)
    devices = sorted({d for g in groups for r in g.rows if (d := r["latency_device"])})
    if devices:
        apart = "" if len(devices) == 1 else " (compare within one machine only)"
        notes.append(f"latency on {'; '.join(devices)}{apart}")
    return notes


def _terminal_table(dataset: str, groups: Sequence[Group]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    kind = " (synthetic data)" if any(g.first["synthetic"] for g in groups) else ""
    table = Table(
        title=f"{dataset}{kind}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("method", overflow="fold", max_width=24)
    table.add_column("backbone", overflow="fold", max_width=10)
    for title in ("acc. %", "nFLOPs", "w/o\npolicy", "MMACs", "ms\nb=1", "speed\nb=1"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("speed\nb=256", "train\nepochs", "seeds"):
        table.add_column(title, justify="right", no_wrap=True)
    for group in groups:
        # Text, so that a name in square brackets is not taken for markup.
        table.add_row(*(Text(cell) for cell in _terminal_cells(group)))
    return table


def _terminal_cells(group: Group) -> list[str]:
    sd = group.accuracy_sd
    return [
        group.label,
        group.first["backbone"],
        f"{100 * group.accuracy:.2f}" + ("" if sd is None else f" ±{100 * sd:.2f}"),
        _number(group.mean_of("nflops"), "{:.3f}"),
        _number(group.mean_of("nflops_backbone"), "{:.3f}"),
        _number(group.mean_of("macs"), "{:.2f}", scale=1e-6),
        _number(group.mean_of("latency_ms_b1"), "{:.2f}"),
        _speed(group, "b1"),
        _speed(group, "b256"),
        _number(group.mean_of("total_dense_epochs"), "{:.0f}", missing="?"),
        f"n={group.seeds}" if group.seeds > 1 else str(group.first["seed"]),
    ]


def _number(value: float | None, form: str, *, scale: float = 1.0, missing: str = "-") -> str:
    return missing if value is None else form.format(value * scale)


def _speed(group: Group, suffix: str) -> str:
    ratio = group.mean_of(f"speedup_{suffix}")
    if ratio is None:
        return "-"
    # Seeds that disagree have no common verdict.
    mark = _MARKS.get(group.one_of(f"verdict_{suffix}") or "", " ")
    return f"{ratio:.2f}x {mark}"
