"""Is it dynamic? The table that says, of each network with gates, whether they follow the image.

Owns the columns and their explanation, for the page and the terminal; numbers come with the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.report.behaviour.gradients import RatesAndGradients
from bench.report.data.groups import SeedGroup
from bench.report.tables.cells import ReportTable, number, table_of

DYNAMICS_ORDER = ("dropped", "masks", "cost ±", "shuffled", "difficulty", "never run")
"""The columns, the most important first."""

_EXPLAINED = (
    "dropped: mean share of gated blocks that an image does not run",
    "cost ±: spread of nFLOPs over images",
    "shuffled: change in accuracy, in points, when every image follows another image's decisions, "
    "same cost",
    "difficulty: rank correlation of an image's MACs with the dense network's loss on it",
)
_GRADIENTS = (
    "gradient: rank correlation, over gated blocks, of the share of images that run a block with "
    "its gradient in the dense network; within stages: the same within each stage"
)


def dynamics_table(
    groups: Sequence[SeedGroup],
    gradients: Mapping[tuple[str, str], RatesAndGradients] | None = None,
) -> ReportTable:
    """Return the numbers of the groups that have gates; `gradients` by run and operating point."""
    lines = []
    for group in (group for group in groups if group.gated):
        names = {int(b.removeprefix("block")) for r in group.rows for b in r.dead_blocks or ()}
        line = {
            "method": group.label,
            "dropped": number(group.mean_of("mean_drop"), ".1%"),
            "masks": number(group.mean_of("distinct_masks"), ",.0f"),
            "cost ±": number(group.mean_of("nflops_std"), ".3f"),
            "shuffled": number(group.mean_of("shuffled_loss"), "+z.2f", scale=-100),
            "difficulty": number(group.mean_of("difficulty_correlation"), "+z.2f"),
            "never run": ", ".join(map(str, sorted(names))),
        }
        if gradients is not None:
            found = gradients.get((group.first.run, group.first.point or ""))
            line |= found.cells if found else RatesAndGradients("", reason="not compared").cells
        lines.append(line)
    notes = (*_EXPLAINED, *(() if gradients is None else (_GRADIENTS,)))
    return table_of("behaviour", "Is it dynamic?", lines, notes=notes)
