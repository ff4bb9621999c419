"""Seeds together: rows that differ in nothing but the seed become one group with its spread.

Owns the grouping and the numbers that tables, figures and pages print; owns no rendering.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bench.analysis.statistics import Bounds, mean, sample_sd, t_interval, wilson_interval
from bench.report.budgets import Budget, budget_of, budgets_differ
from bench.report.rows import Row, is_measured

T = TypeVar("T")
FORWARD_ONLY = "*"
_SAME_NAME = ("dataset", "backbone", "method", "variant", "recipe")


@dataclass(frozen=True, slots=True)
class Group:
    """One method, variant and operating point over one or more seeds; numbers are means.

    `accuracy_bounds` is the 95 % t-interval over seeds, or with one seed the binomial interval of
    the test set; None where neither exists.
    """

    rows: tuple[Row, ...]
    apart: str = ""
    """The settings that tell it from other groups of its method and variant."""

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def seeds(self) -> int:
        return len(self.rows)

    @property
    def label(self) -> str:
        """Method and variant, and where that is not enough, the settings that differ."""
        parts = (self.first["method"], self.first["variant"], self.apart)
        return " ".join(part for part in parts if part)

    @property
    def dense(self) -> bool:
        return all(bool(row["dense"]) for row in self.rows)

    @property
    def budget(self) -> Budget:
        """What its training is compared by."""
        return budget_of(self.first, self.mean_of("total_epochs") or 0)

    @property
    def control(self) -> bool:
        """Whether this is a control, there to judge others."""
        return bool(self.first["role"] == "control")

    def mean_of(self, key: str) -> float | None:
        """Return the mean over the seeds that have a value, or None."""
        known = [row for row in self.rows if row[key] is not None]
        timed = key.startswith(("latency_", "speedup_", "realised_"))
        if timed and len({row["runtime"] for row in known}) > 1:
            return None  # times in different runtimes have no mean
        return mean([float(row[key]) for row in known]) if known else None

    def in_runtime(self, runtime: str, key: str) -> list[Any]:
        """Return what the seeds timed in a runtime have of it."""
        cells = [(row["by_runtime"] or {}).get(runtime, {}).get(key) for row in self.rows]
        return [value for value in cells if value is not None]

    def one_of(self, key: str) -> Any:
        """Return the value that all seeds share, or None if they differ."""
        values = {repr(row[key]) for row in self.rows}
        return self.first[key] if len(values) == 1 else None

    @property
    def accuracy(self) -> float:
        return mean([row["accuracy"] for row in self.rows])

    @property
    def accuracy_sd(self) -> float | None:
        return sample_sd([row["accuracy"] for row in self.rows])

    @property
    def accuracy_bounds(self) -> Bounds | None:
        if self.seeds > 1:
            return t_interval([row["accuracy"] for row in self.rows])
        if not self.first["test_images"]:
            return None
        return wilson_interval(self.first["correct"], self.first["test_images"])


def group_seeds(rows: Iterable[Row]) -> list[Group]:
    """Return the groups of the measured rows: largest network first, then by falling MACs."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if is_measured(row):
            found[row["family"], row["point"]].append(row)
    seeds = [group for rows in found.values() for group in each_seed_once(rows, seed=_seed_of)]
    groups = [Group(tuple(sorted(group, key=_seed_and_run))) for group in seeds]
    return sorted(_told_apart(groups), key=_largest_first)


def each_seed_once(family: list[T], *, seed: Callable[[T], int]) -> list[list[T]]:
    """Return a family together; each alone where a seed comes twice: they differ in their start,
    which is a run that is no longer at hand."""
    seeds = {seed(one) for one in family}
    return [family] if len(seeds) == len(family) else [[one] for one in family]


def _seed_of(row: Row) -> int:
    return int(row["seed"])


def _told_apart(groups: Sequence[Group]) -> Iterator[Group]:
    """Yield the groups, those of one name with the settings in which they differ."""
    by_name: dict[tuple[Any, ...], list[Group]] = defaultdict(list)
    for group in groups:
        by_name[tuple(group.first[key] for key in _SAME_NAME)].append(group)
    for same in by_name.values():
        settings = [set(group.first["settings"] or ()) for group in same]
        common = set.intersection(*settings)
        for group in same:
            differing = [item for item in group.first["settings"] or () if item not in common]
            yield replace(group, apart=", ".join(differing))


def without_restated(groups: Sequence[Group]) -> list[Group]:
    """Return the groups without controls that say nothing new.

    A control with the cost of the run it was made from, and the accuracy of that run's shuffled
    masks, is shown as a property of that run.
    """
    known = {
        (row["run"], round(row["macs"]), accuracy)
        for group in groups
        for row in group.rows
        for accuracy in (row["shuffled_accuracy"], _unshuffled(row))
        if accuracy is not None
    }
    return [group for group in groups if not all(_restates(row, known) for row in group.rows)]


def _unshuffled(row: Row) -> float | None:
    """Return the accuracy if shuffling cannot change it: all images have the same mask."""
    return row["accuracy"] if row["distinct_masks"] == 1 else None


def _restates(row: Row, known: set[tuple[Any, ...]]) -> bool:
    return (row["source"], round(row["macs"]), row["accuracy"]) in known


def _seed_and_run(row: Row) -> tuple[int, str]:
    return row["seed"], row["run"]


def _largest_first(group: Group) -> tuple[Any, ...]:
    macs = group.mean_of("macs") or 0.0
    return (group.first["dataset"], -group.first["dense_macs"], -macs, group.label)


def footnotes(groups: Sequence[Group]) -> list[str]:
    """Return what must stand beside any comparison of `groups`: data, budgets, guesses."""
    notes = [_synthetic(groups), _budgets(groups), _forward_only(groups), _shortened(groups)]
    notes += [_unchecked(groups), _reconstructed(groups)]
    return [note for note in notes if note]


def short_footnotes(groups: Sequence[Group]) -> list[str]:
    """Return the same for a figure, where the settings that were guessed have no room."""
    guessed = sorted({row["method"] for g in groups for row in g.rows if row["reconstructed"]})
    note = f"in part reconstructed, see the table: {', '.join(guessed)}" if guessed else ""
    notes = [_synthetic(groups), _budgets(groups), _forward_only(groups), _shortened(groups)]
    return [text for text in (*notes, _unchecked(groups), note) if text]


def seed_note(groups: Sequence[Group]) -> str:
    """Return what a table's ± means, and that a single seed has none."""
    several = [group for group in groups if group.seeds > 1]
    single = len(groups) - len(several)
    parts = []
    if several:
        parts.append("± is the sample standard deviation over seeds")
    if single:
        parts.append("n=1: no interval over seeds" + (" for the other rows" if several else ""))
    return "; ".join(parts)


def _synthetic(groups: Sequence[Group]) -> str:
    names = sorted({g.first["dataset"] for g in groups if g.first["synthetic"]})
    return f"synthetic data ({', '.join(names)}): not a result about real images" if names else ""


def _shortened(groups: Sequence[Group]) -> str:
    lengths = {
        row["method"]: (row["train_epochs"], row["published_epochs"])
        for group in groups
        for row in group.rows
        if row["published_epochs"] and row["train_epochs"] < row["published_epochs"]
    }
    named = [f"{method} {own:,} of {all_:,}" for method, (own, all_) in sorted(lengths.items())]
    return f"epochs, of those of the paper: {', '.join(named)}" if named else ""


def _budgets(groups: Sequence[Group]) -> str:
    costs = {group.label: group.mean_of("total_dense_epochs") for group in groups}
    unknown = any(row["total_dense_epochs"] is None for group in groups for row in group.rows)
    alone = len(groups) == 1
    if alone or not budgets_differ([*costs.values(), *([None] if unknown else [])]):
        return ""
    by_method: dict[str, list[Row]] = defaultdict(list)
    for group in groups:
        by_method[group.first["method"]].extend(group.rows)
    by_range: dict[str, list[str]] = defaultdict(list)
    for method, rows in sorted(by_method.items()):
        by_range[_range(rows)].append(method)
    parts = [f"{cost} ({', '.join(methods)})" for cost, methods in by_range.items()]
    start = "; ?: weights whose training is not known" if unknown else ""
    return f"training budgets differ, in dense epochs: {'; '.join(parts)}{start}"


def _forward_only(groups: Sequence[Group]) -> str:
    if not any(row["forward_only"] for group in groups for row in group.rows):
        return ""
    return f"{FORWARD_ONLY} counted by forward passes alone, in an older record: no common measure"


def _range(rows: Sequence[Row]) -> str:
    texts = list(dict.fromkeys(spent(row) for row in sorted(rows, key=_cost)))
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def _cost(row: Row) -> float:
    return float(row["known_dense_epochs"] or 0)


def spent(row: Row) -> str:
    """Return the training cost in dense epochs, that of starts and sources included: "+?" where a
    part is not known, a mark where an older record counts forward passes alone."""
    cost = row["known_dense_epochs"]
    if cost is None:
        return "?"
    mark = FORWARD_ONLY if row["forward_only"] and cost else ""
    return f"{_epochs(cost)}{'+?' if row['outside'] else ''}{mark}"


def _epochs(cost: float) -> str:
    """Return a cost with as many digits as tell budgets of more than a tenth apart."""
    return f"{cost:.1f}".removesuffix(".0") if cost < 10 else f"{cost:.0f}"


def _unchecked(groups: Sequence[Group]) -> str:
    named = _by_method(groups, "unchecked")
    return f"unchecked, as the method says: {named}" if named else ""


def _reconstructed(groups: Sequence[Group]) -> str:
    named = _by_method(groups, "reconstructed")
    return f"settings no publication states: {named}" if named else ""


def _by_method(groups: Sequence[Group], key: str) -> str:
    """Return what the rows list under `key`, behind the name of each method that has any."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for row in (row for group in groups for row in group.rows if row[key]):
        found[row["method"]].update(dict.fromkeys(row[key]))
    return "; ".join(f"{method} ({', '.join(names)})" for method, names in sorted(found.items()))
