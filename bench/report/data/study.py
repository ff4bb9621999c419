"""Records under study with all that is derived from them once: rows, families, their arrays.

Owns the sharing, so that verdicts, fronts, pairs and behaviour speak of the same families; what a
family is, groups.py says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property

from bench.errors import RecordError
from bench.records.arrays import Arrays, read_arrays
from bench.records.record import PointRecord, RunRecord
from bench.records.store import RunStore
from bench.report.data.groups import Family, families
from bench.report.data.row import Row
from bench.report.data.rows import rows


class Unusable(Exception):
    """There is no number on this axis; the message says why, for a sentence."""


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
    def families(self) -> list[Family]:
        """The finished runs with seeds together."""
        return families(self.records, self.rows)

    def arrays(self, record: RunRecord, point: PointRecord) -> Arrays:
        """Return the arrays of a point, each file read once.

        Raises:
            Unusable: the file cannot be read.
        """
        try:
            return self._read(record.run, point.arrays_file)
        except RecordError as error:
            raise Unusable(error.message) from None
