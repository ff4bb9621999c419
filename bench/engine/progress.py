"""How far all runs of a command are together: counts what each tells, and says when one ends.

Owns the counting and the estimate of the time left; shows nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from bench.records.record import EpochRow
from bench.training.reporter import Overall, Reporter

_FIRST_ESTIMATE_S = 60.0


class Together:
    """All runs that are to be done, by name with the images that each will see."""

    def __init__(self, images: Mapping[str, int], reporter: Reporter) -> None:
        self._images, self._reporter = dict(images), reporter
        self._seen = dict.fromkeys(images, 0)
        self._found, self._done = 0, 0
        self._begun, self._lock = time.monotonic(), threading.Lock()
        self._estimated = False

    def listener(self) -> Reporter:
        """Return who listens to one run after the other; each has a place of its own."""
        return _Counting(self, self._reporter.beside())

    def seen(self, run: str, images: int) -> None:
        """Count images of a run, from any thread."""
        with self._lock:
            if run in self._seen:
                self._seen[run] = min(self._seen[run] + images, self._images[run])
            self._tell()

    def found(self, run: str, images: int) -> None:
        """Count images that a run had seen before it was interrupted."""
        self._found += images
        self.seen(run, images)

    def ended(self, run: str) -> None:
        """A run is finished, or has failed."""
        self._done += 1
        self.seen(run, self._images[run])
        runs = len(self._images)
        if runs > 1:
            left = f", about {_duration(self._left_s())} left" if self._done < runs else ""
            self._reporter.note(f"{run}: {self._done} of {runs} runs done{left}")

    def _tell(self) -> None:
        if len(self._images) > 1:
            if not self._estimated and time.monotonic() - self._begun > _FIRST_ESTIMATE_S:
                self._estimated = True
                left = _duration(self._left_s())
                self._reporter.note(f"{len(self._images)} runs: about {left} in all at this rate")
            total = sum(self._images.values())
            seen = sum(self._seen.values())
            self._reporter.overall(Overall(self._done, len(self._images), seen, total))

    def _left_s(self) -> float:
        seen, total = sum(self._seen.values()), sum(self._images.values())
        spent_s = time.monotonic() - self._begun
        return spent_s * (total - seen) / max(1, seen - self._found)


class _Counting:
    """Passes all on, and counts."""

    def __init__(self, together: Together, reporter: Reporter) -> None:
        self._together, self._reporter, self._run = together, reporter, ""

    def run_started(self, run: str) -> None:
        self._run = run
        self._reporter.run_started(run)

    def phase_started(self, name: str, *, epochs: int, done: int, images_per_epoch: int) -> None:
        self._together.found(self._run, done * images_per_epoch)
        self._reporter.phase_started(
            name, epochs=epochs, done=done, images_per_epoch=images_per_epoch
        )

    def advanced(self, images: int) -> None:
        self._together.seen(self._run, images)
        self._reporter.advanced(images)

    def epoch_finished(self, row: EpochRow) -> None:
        self._reporter.epoch_finished(row)

    def note(self, message: str) -> None:
        self._reporter.note(message)

    def overall(self, state: Overall) -> None:
        self._reporter.overall(state)

    def beside(self) -> Reporter:
        return self._reporter.beside()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
