"""Figures and the page: true titles, no overlap, same bytes, nothing injected."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from drawn import Outline, words
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic_records import make_cell, make_point, make_record

from bench.errors import ConfigError, UnknownNameError
from bench.records.published import PublishedPoint, load_published
from bench.records.record import RunRecord
from bench.report.data.row import Row
from bench.report.data.rows import rows
from bench.report.figures.chart import Marks, styles
from bench.report.figures.draw import draw, save_figure
from bench.report.page.document import pareto_page
from bench.report.pareto.chart import pareto_chart, pareto_data


def pareto_figure(found: Sequence[Row], *, x: str = "nflops", **options: Any) -> Figure:
    return draw(pareto_chart(pareto_data(found, x=x, **options)))


def run(method: str, *numbers: object) -> RunRecord:
    accuracy, nflops, backbone = numbers
    point = make_point(accuracy=accuracy, nflops=nflops, backbone=backbone)
    return make_record(method, backbone=backbone, points=(point,))


@pytest.mark.parametrize(
    ("x", "networks"),
    [
        ("nflops", "3 networks of 2 methods: "),
        ("macs", "3 networks of 2 methods: "),
        ("latency_ms", "2 networks of 1 method: "),
    ],
)
def test_the_title_states_the_finding(ours: list[Row], x: str, networks: str) -> None:
    sentence = pareto_data(ours, x=x).finding
    assert sentence.startswith(networks)
    assert sentence in words(pareto_figure(ours, x=x)).replace("\n", " ")


RESNET32, RESNET20 = ("resnet", 0.92, 1.0, "resnet32"), ("resnet", 0.90, 1.0, "resnet20")


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([], "No finished runs to compare yet"),
        ([RESNET32], "0 networks of 0 methods: none on the Pareto front of 1 network"),
        (
            [
                *(RESNET32, RESNET20),
                *(("sgad", 0.93, 0.8, "resnet32"), ("act", 0.80, 0.8, "resnet32")),
                *(("cdl", 0.911, 0.8, "resnet32"), ("sact", 0.89, 0.2, "resnet32")),
                ("blockdrop", 0.91, 1.2, "resnet32"),
            ],
            "5 networks of 5 methods: 2 on the Pareto front of 7 networks, controls included",
        ),
    ],
)
def test_the_title_is_about_all_networks(runs: list[tuple], sentence: str) -> None:
    records = [run(*numbers) for numbers in runs]
    assert pareto_data(rows(records), x="nflops").finding.startswith(sentence)


def test_static_networks_of_each_budget_have_a_line_of_their_own() -> None:
    def one(backbone: str, accuracy: float, epochs: int) -> RunRecord:
        point = make_point(accuracy=accuracy, nflops=1.0, backbone=backbone)
        return make_record("resnet", backbone=backbone, points=(point,), epochs=epochs)

    networks = [(b, a, e) for e in (5, 30) for b, a in (("resnet32", 0.9), ("resnet20", 0.8))]
    data = pareto_data(rows([one(*numbers) for numbers in networks]), x="nflops")
    assert len(data.static_curves) == 2


def test_the_notes_tell_what_the_bars_are(ours: list[Row]) -> None:
    text = words(pareto_figure(ours))
    assert "t-interval of the mean over seeds; with one seed, of 10,000 test images" in text
    assert "training budgets differ" in text
    assert "left out: 1 run that failed" in text


def test_a_few_bad_networks_do_not_flatten_the_view_and_are_named_below_it() -> None:
    good = [("resnet", 0.93, 1.0), ("act", 0.92, 0.9), ("sact", 0.91, 0.8), ("skipnet", 0.92, 0.7)]
    made = [run(*numbers, "resnet32") for numbers in good]
    assert pareto_data(rows(made), x="nflops").lowest is None
    bad = run("cdl", 0.60, 0.3, "resnet32")
    data = pareto_data(rows([*made, bad]), x="nflops")
    assert data.below_view == ["cdl"]
    figure = pareto_figure(rows([*made, bad]))
    low, high = figure.axes[0].get_ylim()
    assert 85 < low < 91 and 93 < high < 97
    assert "below the view: cdl" in words(figure)
    many = [run(f"cdl{n}", 0.5, 0.3, "resnet32") for n in range(4)]
    assert pareto_data(rows([*made, *many]), x="nflops").lowest is None, "they are the picture"


def test_synthetic_data_is_stamped() -> None:
    record = make_record(dataset="synthetic", synthetic=True)
    assert "synthetic data" in words(pareto_figure(rows([record]))).splitlines()
    assert "Synthetic data: not a result" in pareto_page(rows([record]))


def test_published_points_are_hollow_and_named_as_such(ours: list[Row]) -> None:
    published = load_published("cifar10", "resnet32")
    figure = pareto_figure(ours, published=published)
    (legend,) = figure.legends
    assert "published: SGAD" in [text.get_text() for text in legend.get_texts()]
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert len(hollow) == sum(point.plottable for point in published)


def test_a_collapsed_published_network_is_counted_and_not_in_view(ours: list[Row]) -> None:
    low = PublishedPoint("X", "", "CIFAR-10", "ResNet-32", 0.23, 0.5, None, "s", "")
    data = pareto_data(ours, x="nflops", published=[low])
    assert (data.lowest or 0) > 23
    assert "below the view: 1 published point" in list(data.notes())


def test_published_costs_meet_ours_on_each_axis(ours: list[Row]) -> None:
    same = PublishedPoint("X", "", "CIFAR-10", "ResNet-32", 0.92, 0.5, None, "s", "")
    other = PublishedPoint("X", "", "CIFAR-10", "ResNet-56", 0.93, 0.5, 6e7, "s", "")
    bare = PublishedPoint("X", "", "CIFAR-10", "ResNet-56", 0.93, 0.5, None, "s", "")
    dense = 68_862_592

    def costs(x: str) -> list[float]:
        data = pareto_data(ours, x=x, published=[same, other, bare])
        return [foreign.cost for foreign in data.published]

    assert costs("nflops") == pytest.approx([0.5, 6e7 / dense])
    assert costs("macs") == pytest.approx([0.5 * dense / 1e6, 60.0])
    assert costs("latency_ms") == []
    data = pareto_data(ours, x="latency_ms", published=[same, other, bare])
    assert any("3 published points without a place" in note for note in data.notes())


def boxes(figure: Figure) -> list:
    figure.draw_without_rendering()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    return [Text.get_window_extent(text) for text in texts]  # without leader lines


def test_labels_and_legends_cover_neither_each_other_nor_data(ours: list[Row]) -> None:
    published = load_published("cifar10", "resnet32")
    figure = pareto_figure(ours, published=published)
    labels = boxes(figure)
    assert len(labels) == 5
    for i, one in enumerate(labels):
        assert not any(one.overlaps(other) for other in labels[i + 1 :])
    title = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
    assert len(figure.legends) == 1
    for legend in (legend.get_window_extent() for legend in figure.legends):
        assert not legend.overlaps(figure.axes[0].bbox) and not legend.overlaps(title)
        assert figure.bbox.x1 >= legend.x1


def test_names_without_room_are_left_out() -> None:
    made = [run(f"method{n:02d}", 0.9 + n / 1e5, 0.7, "resnet32") for n in range(20)]
    figure = pareto_figure(rows(made))
    labels = boxes(figure)
    assert 2 <= len(labels) < 20
    for a, b in itertools.combinations(labels, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        up = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert max(across, 0) * max(up, 0) <= 0.03 * a.width * a.height


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_the_same_rows_give_the_same_bytes(ours: list[Row], tmp_path: Path, kind: str) -> None:
    first, second = (
        save_figure(pareto_figure(ours), tmp_path / name / f"f.{kind}").read_bytes()
        for name in "ab"
    )
    assert first == second
    assert len(first) > 5000


def test_an_unknown_extension_lists_the_known(ours: list[Row], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'f\.gif'") as caught:
        save_figure(pareto_figure(ours), tmp_path / "f.gif")
    assert ".png, .svg, .pdf" in str(caught.value.hint)


def test_an_unknown_axis_is_refused(ours: list[Row]) -> None:
    with pytest.raises(UnknownNameError, match="Unknown cost axis 'flops'"):
        pareto_figure(ours, x="flops")


def test_no_runs_give_an_empty_plot_that_says_so() -> None:
    assert "No finished runs" in words(pareto_figure([]))
    assert "No finished runs" in pareto_page([])


def test_a_run_without_latency_is_counted_on_the_latency_axis(ours: list[Row]) -> None:
    data = pareto_data(ours, x="latency_ms")
    assert any("1 network without measured latency" in note for note in data.notes())


def test_methods_differ_in_colour_and_mark() -> None:
    names = [f"method{i}" for i in range(12)]
    found = styles(names, theirs=["Method-0", "foreign"])
    assert len({(s.colour, s.mark) for s in found.values()}) == 13
    assert all(a.mark != b.mark for a, b in itertools.pairwise(found.values()))


def test_the_page_has_language_title_heading_and_tables(ours: list[Row]) -> None:
    published = load_published("cifar10", "resnet32")
    page = Outline(pareto_page(ours, published))
    tags = [tag for tag, _ in page.tags]
    assert ("html", {"lang": "en"}) in page.tags
    assert [tags.count(tag) for tag in ("title", "h1", "table", "caption")] == [1, 1, 2, 2]
    assert {"scope": "col"} in [attrs for tag, attrs in page.tags if tag == "th"]
    assert "width=device-width" in str(page.tags)
    text = " ".join(page.text)
    assert "3 networks of 2 methods" in text
    assert "failed: the loss is not a number at epoch 3" in text
    assert "SGAD arXiv 1807.01430 Table 1" in text


def test_the_page_loads_nothing_from_elsewhere(ours: list[Row]) -> None:
    page = Outline(pareto_page(ours))
    loaders = {"src", "href", "srcset", "data"}
    assert not [attrs for _, attrs in page.tags if loaders & set(attrs)]
    assert len(pareto_page(ours)) < 100_000


def test_hovering_shows_the_numbers(ours: list[Row]) -> None:
    page = pareto_page(ours, load_published("cifar10", "resnet32"))
    for piece in ("accuracy: 92.14 %", "nFLOPs: 0.550", "37.87 M", "3.90 ms", "seeds: 0, 1, 2"):
        assert piece in page
    assert "published: SGAD" in page
    assert "<script src" not in page


def test_names_cannot_inject_markup() -> None:
    evil = "<script>alert(1)</script>"
    records = [make_record(evil, variant='"><img src=x onerror=alert(2)>')]
    point = PublishedPoint(evil, evil, "CIFAR-10", "ResNet-32", 0.92, 0.5, None, evil, evil)
    page = pareto_page(rows(records), [point])
    assert evil not in page
    parsed = Outline(page)
    assert "img" not in [tag for tag, _ in parsed.tags]
    assert evil in "".join(parsed.text)
    assert not re.search(r"<img", page)


def test_latencies_of_two_machines_are_not_compared_silently() -> None:
    records = [
        make_record(m, points=(make_point(latency=(make_cell(latency_ms=1.0, device=d),)),))
        for m, d in (("sgad", "cpu"), ("skipnet", "cuda"))
    ]
    notes = list(pareto_data(rows(records), x="latency_ms").notes())
    assert "latencies come from different machines: compare within one only" in notes


def crowd() -> list[Row]:
    """One hundred networks, the tenth of which are on the front, and two dense ones."""

    def one(method: str, accuracy: float, nflops: float, number: int) -> RunRecord:
        point = make_point(accuracy=accuracy, nflops=nflops)
        return make_record(method, variant=f"v{number}", points=(point,))

    found = [one("resnet", 0.90 + 0.01 * n, 1.0, n) for n in range(2)]
    for n in range(100):
        below = 0.0 if n % 10 == 0 else 0.02
        cost = 0.3 + 0.005 * n
        found.append(one("sgad" if n % 2 else "blockdrop", 0.8 + 0.001 * n - below, cost, n))
    return rows(found)


def test_of_a_crowd_the_front_and_the_best_of_each_method_and_backbone_are_drawn() -> None:
    many = crowd()
    data = pareto_data(many, x="nflops")
    names = {placed.group.first.variant for placed in data.shown}
    assert names == {"v1", "v99"} | {f"v{n}" for n in range(0, 100, 10)}
    chart = pareto_chart(data)
    marks = [series for series in chart.panels[0].series if isinstance(series, Marks)]
    assert sorted(x for one in marks for x in one.x) == sorted(p.cost for p in data.shown)
    assert sorted(one.name for one in marks) == ["blockdrop", "dense networks", "sgad"]
    text = words(pareto_figure(many)).replace("\n", " ")
    assert "12 of 102 networks shown" in text
    assert "on the Pareto front of 102 networks" in text
    page = pareto_page(many)
    assert page.count('<th scope="row">') == 12
    assert "All 102 networks: bench results." in page


def test_points_of_one_entry_keep_their_own_bars_and_words(ours: list[Row]) -> None:
    data = pareto_data(ours, x="nflops")
    series = [one for one in pareto_chart(data).panels[0].series if isinstance(one, Marks)]
    trace = next(one for one in series if one.name == "sgad")
    own = [placed for placed in data.placed if placed.group.first.method == "sgad"]
    assert len(trace.x) == len(own) == 2
    for place, placed in enumerate(own):
        bounds = placed.group.accuracy_bounds
        assert bounds is not None
        assert trace.x[place] == placed.cost
        assert trace.high[place] == pytest.approx(100 * bounds.high)
        assert trace.low[place] == pytest.approx(100 * bounds.low)
        assert placed.group.first.variant in trace.tips[place]
