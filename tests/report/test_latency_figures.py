"""The latency figure: each call beside its own MACs, true titles."""

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
from bench.records.record import Interval, LatencyCell, RunRecord
from bench.records.store import RunStore
from bench.report.data.row import flat
from bench.report.data.study import Study
from bench.report.figures.draw import draw
from bench.report.latency import TimedCalls, finding, time_chart, timed_calls

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


def calls(records: Sequence[RunRecord], folder: Path) -> tuple[list[TimedCalls], int]:
    return timed_calls(Study(records, RunStore(folder)), "eager")


def samples(record: RunRecord, folder: Path) -> TimedCalls:
    (found,), missing = calls([record], folder)
    assert missing == 0
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
    assert found.realised == flat(found.network.first)["realised_b1"] == pytest.approx(0.8)


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
    assert [one.network.first.method for one in found] == ["sgad"] and missing == 1
    figure = draw(time_chart(found, without_calls=missing))
    assert "1 without timed calls at batch 1 on disk" in words(figure)


def test_the_title_states_the_span_and_who_loses(timed: Timed, tmp_path: Path) -> None:
    records = [timed("act", 0.8, 0.8), timed("sgad", 0.5, 1.8), timed("resnet", 1.0, 1.0)]
    found, _ = calls(records, tmp_path)
    sentence = (
        "Networks run at 64 % (act) to 90 % (sgad) of the speed that their MACs promise;"
        " 1 of 2 that save MACs is slower than the dense network"
    )
    assert finding(found) == sentence
    text = words(draw(time_chart(found, without_calls=0))).replace("\n", " ")
    assert sentence in text and "by round: resnet32 (cpu, 1 thread) 4.00 to 4.00 ms" in text


def test_a_shared_machine_is_marked(timed: Timed, tmp_path: Path) -> None:
    records = [timed("act", 0.8, 0.8, contended=True), timed("sgad", 0.5, 1.8)]
    time = words(draw(time_chart(calls(records, tmp_path)[0], without_calls=0)))
    assert "64 %†" in time and "90 %\n" in time and "† timed while" in time


def test_legends_cover_no_data(timed: Timed, tmp_path: Path) -> None:
    records = [timed(m, 0.9, 0.5, costs=[0.05] * 6) for m in ("act", "sgad", "cdl", "skipnet")]
    found, _ = calls(records, tmp_path)
    figure = draw(time_chart(found, without_calls=0))
    figure.canvas.draw()
    boxes = [a.get_legend().get_window_extent() for a in figure.axes if a.get_legend()]  # type: ignore[union-attr]
    plots = [a.bbox for a in figure.axes if a.get_legend()]
    assert len(boxes) == 4
    assert not any(box.overlaps(plot.padded(-2)) for box in boxes for plot in plots)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_lines_of_a_panel_are_named_by_what_differs(timed: Timed, tmp_path: Path) -> None:
    record = timed("cdl", 0.5, 1.8, costs=[0.5] * 6)
    points = tuple(record.points[0].model_copy(update={"name": f"p={n}"}) for n in (1, 2))
    record = record.model_copy(update={"points": points, "variant": "grid"})
    text = words(draw(time_chart(calls([record], tmp_path)[0], without_calls=0)))
    assert "p=1: 90 %" in text and "p=2: 90 %" in text and "grid" not in text


def test_figures_are_the_same_bytes_twice_and_of_the_data_set(timed: Timed, tmp_path: Path) -> None:
    records = [timed("act", 0.8, 0.8), timed("sgad", 0.5, 1.8)]
    folders = Folders(tmp_path, tmp_path)
    files = draw_latency(records, folders)
    assert [file.name for file in files] == ["time-vs-macs-eager-cifar10.png"]
    before = [file.read_bytes() for file in files]
    again = draw_latency(records, folders)
    assert [file.read_bytes() for file in again] == before


def test_dense_networks_alone_give_no_figure(timed: Timed, tmp_path: Path) -> None:
    records = [timed("resnet", 1.0, 1.0, speedup_interval=Interval(low=0.9, high=1.1))]
    assert draw_latency(records, Folders(tmp_path, tmp_path)) == []
