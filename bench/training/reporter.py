"""Who is told how a training goes: the interface, which says nothing itself.

Owns no terminal; the command line brings its own reporter.
"""

from __future__ import annotations

from typing import NamedTuple

from bench.records.record import EpochRow


class Overall(NamedTuple):
    """How far all runs of a command are that were not finished before; images count once for each
    epoch."""

    done: int
    runs: int
    images: int
    of_images: int


class Reporter:
    """Listens to trainings, one after the other; what a subclass leaves out is not heard."""

    def run_started(self, run: str) -> None:
        """The next phases belong to the run of this name."""

    def phase_started(self, name: str, *, epochs: int, done: int, images_per_epoch: int) -> None:
        """A phase begins, or continues after `done` of its epochs."""

    def advanced(self, images: int) -> None:
        """Some images have been trained on; must not touch the device."""

    def epoch_finished(self, row: EpochRow) -> None:
        """An epoch is complete and recorded: now, or before training was interrupted."""

    def note(self, message: str) -> None:
        """Something a user should know, such as a checkpoint that had to be set aside."""

    def overall(self, state: Overall) -> None:
        """All runs of the command together are this far now; may come from any thread."""

    def beside(self) -> Reporter:
        """Return who listens to trainings that go on at the same time as those told here."""
        return self
