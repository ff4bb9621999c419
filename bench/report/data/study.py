"""Records under study with all that is derived from them once: rows, groups, networks, arrays, so
that verdicts, fronts, pairs and behaviour speak of the same networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import numpy.typing as npt

from bench.records.arrays import Arrays, numbers_in, read_arrays
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.report.data.groups import Network, SeedGroup, group_seeds, networks_of
from bench.report.data.row import Row
from bench.report.data.rows import rows


class Study:
    """Some records of a store."""

    def __init__(self, records: Sequence[RunRecord], store: RunStore) -> None:
        self.records, self.store = tuple(records), store
        self._read = cache(lambda run, file: dict(read_arrays(store.runs_dir / run, file)))

    @cached_property
    def rows(self) -> list[Row]:
        return rows(self.records)

    @cached_property
    def groups(self) -> list[SeedGroup]:
        return group_seeds(self.rows)

    @cached_property
    def networks(self) -> list[Network]:
        return networks_of(self.rows, self.records)

    @cached_property
    def names(self) -> dict[tuple[str, str | None], str]:
        """What each operating point of a run is called where seeds are not together."""
        recipes = len({row.recipe for row in self.rows}) > 1
        found = {}
        for group in self.groups:
            name = f"{group.label}, {group.first.recipe}" if recipes else group.label
            for row in group.rows:
                found[row.run, row.point] = f"{name} seed={row.seed}" if group.seeds > 1 else name
        twice = Counter(found.values())
        return {
            (run, point): name if twice[name] == 1 else f"{name} {run.rpartition('-')[2]}"
            for (run, point), name in found.items()
        }

    def arrays(self, record: RunRecord, file: str) -> Arrays:
        """Return the arrays of a file of a run, read once.

        Raises:
            RecordError: the file cannot be read.
        """
        return self._read(record.run, file)

    def numbers(self, record: RunRecord, file: str, key: str, *, axes: int) -> npt.NDArray[Any]:
        """Return finite numbers of a file of a run, of this many axes.

        Raises:
            RecordError: they are missing or of another kind.
        """
        return numbers_in(self.arrays(record, file), key, axes=axes)
