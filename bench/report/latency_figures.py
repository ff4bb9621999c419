"""The two latency figures on disk: time against MACs, and where their orders disagree.

Owns the names of the files; what they show is time_figure.py's and rank_figure.py's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.plain_text import tame
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.report.canvas import save_figure
from bench.report.rank_figure import rank_figure
from bench.report.ranks import ranking_of
from bench.report.saving import networks_of, samples_of
from bench.report.time_figure import time_figure


def draw_figures(records: Sequence[RunRecord], store: RunStore, folder: Path) -> list[Path]:
    """Draw what there is to draw of the timed runs, per data set; return the files.

    Raises:
        ConfigError: matplotlib is not installed.
        StorageError: the folder is read-only, full or gone.
    """
    drawn: list[Path] = []
    for name in dict.fromkeys(record.spec.dataset.name for record in records):
        networks = networks_of([r for r in records if r.spec.dataset.name == name])
        samples, missing = samples_of(networks, store)
        if any(not each.network.dense for each in samples):
            figure = time_figure(samples, without_samples=missing)
            drawn.append(save_figure(figure, folder / f"time-vs-macs-{tame(name)}.png"))
        ranking = ranking_of(networks)
        if ranking is not None:
            drawn.append(save_figure(rank_figure(ranking), folder / f"ranks-{tame(name)}.png"))
    return drawn
