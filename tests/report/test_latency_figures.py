"""The latency figures: each call beside its own MACs, ranks that really cross, true titles."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from drawn import words
from synthetic_records import make_cell, make_point, make_record

from bench.drawing import draw_latency
from bench.folders import Folders
from bench.records.arrays import save_arrays
from bench.records.record import Interval, LatencyCell, OtherDense, RunRecord
from bench.records.store import RunStore
from bench.report.data.study import Study
from bench.report.figures.draw import draw
from bench.report.latency.charts import rank_chart, time_chart, time_finding
from bench.report.latency.timed import (
    Ranking,
    Samples,
    TimedNetwork,
    ranking_of,
    samples_of,
    timed_networks,
)

DENSE_MS = 4.0
Timed = Callable[..., RunRecord]


@pytest.fixture
def timed(tmp_path: Path) -> Timed:
    """A run on disk with its raw calls: `costs` and `times` relative to the dense network."""
    store = RunStore(tmp_path)

    def cell(speedup: float, batch_size: int, **extra: object) -> LatencyCell:
        given = {"dense_ms": DENSE_MS, "raw_file": "raw.npz"} | extra
        latency_ms = DENSE_MS / speedup
        return make_cell(latency_ms=latency_ms, speedup=speedup, batch_size=batch_size, **given)

    def make(
        method: str,
        nflops: float,
        speedup: float,
        *,
        at_256: float | None = None,
        costs: list[float] | None = None,
        times: list[float] | None = None,
        **extra: object,
    ) -> RunRecord:
        cells = [cell(speedup, 1, **extra), cell(at_256 or speedup, 256, **extra)]
        point = make_point(nflops=nflops, latency=tuple(cells))
        record = make_record(method, points=(point,))
        folder = store.folder(record.spec)
        macs_n = np.array(costs or [nflops]) * record.dense_macs
        save_arrays(folder, point.arrays_file, {"macs_n": macs_n})
        calls = np.array(times or [1 / speedup] * len(macs_n))
        image_nb = np.arange(len(calls), dtype=np.int32)[:, None] % len(macs_n)
        save_arrays(folder, "raw.npz", {"image_nb": image_nb, "ms_n": calls * DENSE_MS})
        store.save(record)
        return record

    return make


def networks(records: Sequence[RunRecord]) -> list[TimedNetwork]:
    """The networks of records that were all timed in one runtime."""
    (found,) = timed_networks(Study(records, RunStore(Path("nowhere")))).values()
    return found


def calls(records: Sequence[RunRecord], folder: Path) -> tuple[list[Samples], int]:
    return samples_of(networks(records), Study(records, RunStore(folder)))


def samples(record: RunRecord, folder: Path) -> Samples:
    (found,), missing = calls([record], folder)
    assert missing == 0
    return found


def ranking(*records: RunRecord) -> Ranking:
    found = ranking_of(networks(records))
    assert found is not None
    return found


def test_each_call_stands_beside_the_macs_of_its_own_image(timed: Timed, tmp_path: Path) -> None:
    record = timed("branchynet", 0.6, 1.5, costs=[0.2, 1.0], times=[0.3, 1.0, 0.5, 1.2])
    found = samples(record, tmp_path)
    assert found.macs_n.tolist() == pytest.approx([0.2, 1.0, 0.2, 1.0])
    assert found.time_n.tolist() == pytest.approx([0.3, 1.0, 0.5, 1.2])
    assert [(b.macs, b.time, b.calls) for b in found.bins] == [
        (pytest.approx(0.2), pytest.approx(0.4), 2),
        (pytest.approx(1.0), pytest.approx(1.1), 2),
    ]


def test_the_realised_share_is_that_of_the_tables(timed: Timed, tmp_path: Path) -> None:
    found = samples(timed("cdl", 0.4, 2.0, costs=[0.2, 1.0], times=[0.25, 1.25]), tmp_path)
    timing = found.network.row.timing(1)
    assert timing is not None
    assert found.realised == timing.realised == pytest.approx(0.8)


def test_many_costs_are_put_into_eight_equal_parts(timed: Timed, tmp_path: Path) -> None:
    costs = np.linspace(0.5, 1.0, 160).tolist()
    found = samples(timed("sact", 0.75, 1 / 0.75, costs=costs, times=costs), tmp_path)
    assert [b.calls for b in found.bins] == [20] * 8
    assert all(b.time == pytest.approx(b.macs) for b in found.bins)
    assert found.realised == pytest.approx(1.0)


def test_a_run_without_its_calls_on_disk_is_left_out_and_counted(
    timed: Timed, tmp_path: Path
) -> None:
    kept, lost = timed("sgad", 0.6, 1.2), timed("cdl", 0.6, 1.2)
    (RunStore(tmp_path).folder_of(lost) / "raw.npz").unlink()
    found, missing = calls([kept, lost], tmp_path)
    assert [one.network.row.method for one in found] == ["sgad"] and missing == 1
    figure = draw(time_chart(found, without_samples=missing))
    assert "1 without timed calls at batch 1 on disk" in words(figure)


def test_the_title_states_the_span_and_who_loses(timed: Timed, tmp_path: Path) -> None:
    records = [timed("act", 0.8, 0.8), timed("sgad", 0.5, 1.8), timed("resnet", 1.0, 1.0)]
    found, _ = calls(records, tmp_path)
    sentence = (
        "Networks run at 64 % (act) to 90 % (sgad) of the speed that their MACs promise;"
        " 1 of 2 that save MACs is slower than the dense network"
    )
    assert time_finding(found) == sentence
    text = words(draw(time_chart(found))).replace("\n", " ")
    assert sentence in text and "dense resnet32: 68.9 M MACs, 4.00 ms (cpu, 1 thread)" in text


def test_a_shared_machine_is_marked_in_both_figures(timed: Timed, tmp_path: Path) -> None:
    records = [timed("act", 0.8, 0.8, contended=True), timed("sgad", 0.5, 1.8)]
    time = words(draw(time_chart(calls(records, tmp_path)[0])))
    assert "64 %†" in time and "90 %\n" in time and "† timed while" in time
    order = words(draw(rank_chart(ranking(*records))))
    assert "act   1.25 [1.23, 1.28]†" in order and "† timed while" in order


def test_legends_cover_no_data(timed: Timed, tmp_path: Path) -> None:
    records = [timed(m, 0.9, 0.5, costs=[0.05] * 6) for m in ("act", "sgad", "cdl", "skipnet")]
    found, _ = calls(records, tmp_path)
    figure = draw(time_chart(found))
    figure.canvas.draw()
    boxes = [a.get_legend().get_window_extent() for a in figure.axes if a.get_legend()]  # type: ignore[union-attr]
    plots = [a.bbox for a in figure.axes if a.get_legend()]
    assert len(boxes) == 4
    assert not any(box.overlaps(plot.padded(-2)) for box in boxes for plot in plots)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_a_pair_disagrees_only_where_the_intervals_are_apart(timed: Timed) -> None:
    # synthetic intervals are 2 % to each side
    found = ranking(timed("act", 0.8, 0.97), timed("sgad", 0.6, 1.30), timed("cdl", 0.7, 1.31))
    pairs = [(a.name, b.name) for a, b in found.disagreements(1)]
    assert pairs == [("act", "dense resnet32")]
    assert found.slow_for_their_macs(1) == {"act"}
    assert [one.name for one in found.by_time(1)] == ["cdl", "sgad", "dense resnet32", "act"]
    assert [one.name for one in found.by_macs] == ["sgad", "cdl", "act", "dense resnet32"]


def test_equal_macs_cannot_disagree(timed: Timed) -> None:
    found = ranking(timed("branchynet", 0.700, 1.1), timed("cdl", 0.705, 1.5))
    assert found.disagreements(1) == []
    sentence = "No network is slower than one that needs more MACs, at batch 1 and 256"
    assert found.finding == sentence


def test_the_title_counts_networks_and_pairs(timed: Timed) -> None:
    records = [timed("act", 0.8, 0.7, at_256=0.9), timed("aig", 0.85, 0.8, at_256=1.05)]
    found = ranking(*records, timed("sgad", 0.9, 1.1, at_256=1.1))
    sentence = (
        "Slower than a network that needs more MACs: 2 of 4 networks at batch 1 and 2 at batch 256"
        " (5 and 4 of 6 pairs)"
    )
    # batch 1: act behind aig, sgad and dense; aig behind sgad and dense
    assert found.finding == sentence
    assert sentence in words(draw(rank_chart(found))).replace("\n", " ")


def test_networks_of_other_rounds_are_left_out_and_counted(timed: Timed) -> None:
    others = [timed("act", 0.8, 1.0, dense_ms=5.0)]
    found = ranking(timed("sgad", 0.6, 1.3), timed("cdl", 0.7, 1.2), *others)
    assert [one.name for one in found.networks] == ["sgad", "cdl", "dense resnet32"]
    assert found.left_out == 1
    assert "1 network timed by other commands" in words(draw(rank_chart(found)))
    assert ranking_of(networks(others)) is None


def test_smaller_dense_networks_of_the_same_rounds_are_ranked(timed: Timed) -> None:
    beside = OtherDense(
        dense_ms=DENSE_MS, speedup=1.7, speedup_interval=Interval(low=1.68, high=1.72)
    )
    small = timed("resnet", 1.0, 1.0, others={"resnet32-A": beside}, dense_ms=2.4)
    spec = make_record("resnet", backbone="resnet20").spec
    small = small.model_copy(update={"spec": spec, "dense_macs": 0.589 * small.dense_macs})
    point = small.points[0].model_copy(update={"macs": small.dense_macs})
    small = small.model_copy(update={"points": (point,)})
    again = small.model_copy(update={"run": "resnet-again"})
    found = ranking(timed("act", 0.8, 0.9), timed("sgad", 0.6, 1.3), small, again)
    assert [one.name for one in found.by_time(1)] == [
        *("dense resnet20", "sgad", "dense resnet32", "act"),
    ]
    assert found.by_macs[0].nflops == pytest.approx(0.589) and found.left_out == 0


def test_batch_sizes_are_not_mixed(timed: Timed) -> None:
    found = ranking(timed("act", 0.8, 0.7, at_256=1.2), timed("sgad", 0.9, 1.1, at_256=1.1))
    assert found.batch_sizes == (1, 256)
    assert len(found.disagreements(1)) == 2 and found.disagreements(256) == []


def test_one_batch_size_is_enough(timed: Timed) -> None:
    records = []
    for record in (timed("act", 0.8, 0.7), timed("sgad", 0.9, 1.1)):
        point = record.points[0]
        alone = point.model_copy(update={"latency": point.latency[:1]})
        records.append(record.model_copy(update={"points": (alone,)}))
    assert "1 of 3 networks at batch 1 (2 of 3 pairs)" in ranking(*records).finding
    assert "0.90   sgad" in words(draw(rank_chart(ranking(*records))))


def test_networks_are_named_by_point_settings_and_seed() -> None:
    cell = make_cell(latency_ms=2.0, speedup=1.5, dense_ms=3.0)
    points = tuple(make_point(name, latency=(cell,)) for name in ("p=1", "p=2"))
    two = networks([make_record("cdl", variant="grid", points=points)])
    assert [one.name for one in two] == ["cdl grid, p=1", "cdl grid, p=2"]
    seeds = [make_record("cdl", seed=s, points=points[:1]) for s in (0, 1)]
    assert [one.name for one in networks(seeds)] == ["cdl p=1 seed=0", "cdl p=1 seed=1"]
    point = make_point("", latency=(cell,))
    runs = [make_record("skipnet", config={"hrl_lr": lr}, points=(point,)) for lr in (1e-4, 1e-3)]
    names = [one.name for one in networks(runs)]
    assert names == ["skipnet hrl_lr=0.0001", "skipnet hrl_lr=0.001"]
    again = runs[0].model_copy(update={"run": "skipnet-again"})
    assert len({one.name for one in networks([*runs, again])}) == 3


def test_figures_are_the_same_bytes_twice_and_of_the_data_set(timed: Timed, tmp_path: Path) -> None:
    records = [timed("act", 0.8, 0.8), timed("sgad", 0.5, 1.8)]
    folders = Folders(tmp_path, tmp_path)
    files = draw_latency(records, folders, out=tmp_path / "a")
    assert [file.name for file in files] == [
        "ranks-eager-cifar10.png",
        "time-vs-macs-eager-cifar10.png",
    ]
    again = draw_latency(records, folders, out=tmp_path / "b")
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]


def test_dense_networks_alone_give_no_figure(timed: Timed, tmp_path: Path) -> None:
    records = [timed("resnet", 1.0, 1.0, speedup_interval=Interval(low=0.9, high=1.1))]
    assert draw_latency(records, Folders(tmp_path, tmp_path)) == []
