"""The figure of README.md, from the reference results.

Accuracy against measured time at batch 1: the ten rows of the table beside it, and the static
networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from verdict_table import REFERENCE, best_verdicts

import bench
from bench.report.figures.labels import Spot, place_labels
from bench.report.verdicts.verdicts import MethodVerdict

TARGET = Path(__file__).parents[2] / "docs" / "figures" / "readme.png"
_METHOD, _CONTROL, _STATIC = "#0072b2", "#d55e00", "#333333"


def draw(target: Path = TARGET) -> None:
    """Draw the figure."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    best = [found for found in best_verdicts() if found.axes[1].verdict is not None]
    figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
    statics = static_networks()
    line = dict(color=_STATIC, marker="s", label="static networks, best training of each")
    axes.plot([time for _, time, _ in statics], [100 * a for *_, a in statics], **line)
    labels = {name: (time, 100 * accuracy) for name, time, accuracy in statics}
    for controls, color, label in (
        (False, _METHOD, "dynamic methods, best setting of each"),
        (True, _CONTROL, "controls"),
    ):
        mine = [found for found in best if found.network.control is controls]
        labels |= _points(axes, mine, color=color, label=label)
    axes.set_xlabel("time per image at batch 1, relative to ResNet-32")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(_finding(best), loc="left", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    axes.margins(0.06)
    figure.canvas.draw()
    place_labels(axes, list(labels.values()), list(labels), marks=list(labels.values()), size=9)
    figure.savefig(target, dpi=150, metadata={"Software": None})


def static_networks() -> list[tuple[str, float, float]]:
    """Return name, time relative to the largest and accuracy of each backbone's best training."""
    rows = bench.load_results(REFERENCE)
    dense = rows[(rows.role == "dense") & rows.latency_ms_b1.notna()]
    unit = dense[dense.dense_macs == dense.dense_macs.max()].latency_ms_b1.median()
    found = [
        (str(backbone), float(group.latency_ms_b1.median() / unit), float(group.accuracy.max()))
        for backbone, group in dense.groupby("backbone")
    ]
    return sorted(found, key=lambda one: one[1])


def _points(
    axes: Any, verdicts: Sequence[MethodVerdict], *, color: str, label: str
) -> dict[str, Spot]:
    """Draw the verdicts on time; return where each method lies."""
    places: dict[str, Spot] = {}
    for found in verdicts:
        verdict = found.axes[1].verdict
        assert verdict is not None
        compared = verdict.comparison
        accuracy, gain = 100 * compared.accuracy, compared.gain
        time, (low, high) = sum(compared.costs) / 2, gain.bounds
        bars = [[100 * (gain.value - low)], [100 * (high - gain.value)]]
        axes.errorbar(time, accuracy, bars, fmt="o", color=color, label=label, capsize=2)
        label, places[found.method] = "_nolegend_", (time, accuracy)
    return places


def _finding(best: Sequence[MethodVerdict]) -> str:
    outcomes = [
        v.axes[1].verdict.outcome for v in best if not v.network.control and v.axes[1].verdict
    ]
    better = outcomes.count("better")
    worse = sum(outcome.startswith("worse") for outcome in outcomes)
    return (
        f"Of {len(outcomes)} methods {better} beat a static network of the same time, "
        f"{len(outcomes) - better - worse} are level, {worse} worse"
    )
