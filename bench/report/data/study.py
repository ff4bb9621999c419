"""Records under study with all that is derived from them once: rows, networks, their arrays.

Owns the sharing, so that verdicts, fronts, pairs and behaviour speak of the same networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import numpy.typing as npt

from bench.records.arrays import Arrays, numbers_in, read_arrays
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.report.data.groups import Network, networks
from bench.report.data.row import Row
from bench.report.data.rows import rows


class Study:
    """Some records of a store."""

    def __init__(self, records: Sequence[RunRecord], store: RunStore) -> None:
        self.records, self.store = tuple(records), store
        self._read = cache(lambda run, file: dict(read_arrays(store.runs_dir / run, file)))

    @cached_property
    def rows(self) -> list[Row]:
        """One row per operating point of the records."""
        return rows(self.records)

    @cached_property
    def networks(self) -> list[Network]:
        """The finished runs with seeds together."""
        return networks(self.records, self.rows)

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
