"""The two latency figures as charts: time against MACs, a panel per method with the ideal line on
which time is proportional to MACs; and ranks, where a line that rises from the MACs to the time
belongs to a network that is slower than its MACs say. Numbers come from timed.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from bench.plain_text import counted, slug
from bench.report.data.rows import place_in_words
from bench.report.data.study import Study
from bench.report.figures.chart import (
    CONTENDED_NOTE,
    DAGGER,
    DENSE,
    GREY,
    Align,
    Chart,
    Line,
    Marks,
    Panel,
    Series,
    Style,
    Text,
    mark_of,
)
from bench.report.latency.timed import (
    Ranked,
    Ranking,
    Samples,
    ranking_of,
    samples_of,
    timed_networks,
)

_COLUMNS = 3
_FEWEST_CALLS = 5
_SLOW = mark_of(1)
_ROW_IN = 0.27


def latency_charts(study: Study) -> dict[str, Chart]:
    """Return what there is to draw of timed runs on one data set, by kind and runtime."""
    charts: dict[str, Chart] = {}
    for runtime, networks in timed_networks(study).items():
        if (ranking := ranking_of(networks)) is not None:
            charts[f"ranks-{slug(runtime)}"] = rank_chart(ranking)
        samples, missing = samples_of(networks, study)
        if any(not each.network.dense for each in samples):
            chart = time_chart(samples, without_samples=missing)
            charts[f"time-vs-macs-{slug(runtime)}"] = chart
    return charts


def time_chart(found: Sequence[Samples], *, without_samples: int = 0) -> Chart:
    """Return time per image against its executed MACs at batch 1, both relative to the dense net.

    A marker is the mean of all calls that cost as much, its bar their interquartile range.
    """
    by_panel: dict[tuple[str, str], list[Samples]] = defaultdict(list)
    for samples in sorted(found, key=lambda s: (s.network.row.method, s.network.row.nflops or 0)):
        row = samples.network.row
        if not samples.network.dense:
            by_panel[row.method, row.backbone].append(samples)
    several = len({backbone for _, backbone in by_panel}) > 1
    shown = [b for samples in found for b in samples.bins if b.calls >= _FEWEST_CALLS]
    panels = [
        Panel(
            series=(
                Line((0, 9), (0, 9), GREY, dash="dashed"),
                Marks((1.0,), (1.0,), DENSE, size=6, tips=("the dense network",)),
                *_marks(members),
                # Below the ideal line there is room: hardly a network is faster than that.
                *([Text(0.45, 0.41, "ideal", shift=6)] if number == 0 else []),
            ),
            x_label="MACs / dense MACs",
            y_label="time / dense time",
            title=f"{method}, {backbone}" if several else method,
            x_limits=(0, 1.08 * max([1.0, *(b.macs for b in shown)])),
            y_limits=(0, 1.05 * max([1.05, *(b.high for b in shown)])),
        )
        for number, ((method, backbone), members) in enumerate(by_panel.items())
    ]
    finding, columns = time_finding(found), min(_COLUMNS, max(1, len(panels)))
    return Chart(
        title=finding,
        panels=tuple(panels),
        notes=tuple(_time_notes(found, without_samples)),
        alt=f"Time against executed MACs. {finding}.",
        columns=columns,
        size_in=(9.6, 1.5 + 2.75 * -(-len(panels) // columns)),
        synthetic=any(samples.network.row.synthetic for samples in found),
        legend_in_panels=True,
    )


def time_finding(found: Sequence[Samples]) -> str:
    """Return the finding: how much of the speed that MACs promise the cheaper networks reach."""
    cheaper = [s for s in found if (s.network.row.nflops or 0) < 1 and not s.network.dense]
    if not cheaper:
        return "No network that saves MACs was timed at batch 1"
    ends = sorted(cheaper, key=lambda samples: samples.realised)
    said = dict.fromkeys(
        f"{100 * s.realised:.0f} % ({s.network.row.method})" for s in (ends[0], ends[-1])
    )
    slower = sum(samples.cell.verdict == "slower" for samples in cheaper)
    count = f"{slower} of {len(cheaper)}" if slower else "none"
    return (
        f"Networks run at {' to '.join(said)} of the speed that their MACs promise; "
        f"{count} that save MACs {'are' if slower > 1 else 'is'} slower than the dense network"
    )


def _marks(members: Sequence[Samples]) -> Iterator[Marks]:
    """Yield the lines of one panel, each named by the words that only some of its networks have and
    by its share of the ideal."""
    words = [samples.network.name.replace(",", "").split() for samples in members]
    common = set.intersection(*map(set, words))
    for place, (samples, own) in enumerate(zip(members, words, strict=True)):
        bins = [b for b in samples.bins if b.calls >= _FEWEST_CALLS]
        name = " ".join(word for word in own if word not in common)
        dagger = DAGGER if samples.cell.contended else ""
        named = f"{name}{': ' if name else ''}{100 * samples.realised:.0f} %{dagger}"
        tips = (f"{named}\n{b.calls} calls of {b.macs:.2f} MACs: {b.time:.2f}" for b in bins)
        macs, times, low, high, _ = zip(*bins, strict=True) if bins else ((),) * 5
        style = mark_of(place)
        yield Marks(macs, times, style, named, low, high, tuple(tips), joined=True, size=5)


def _time_notes(found: Sequence[Samples], without_samples: int) -> Iterator[str]:
    where = " and ".join(sorted({samples.network.runtime for samples in found}))
    yield (
        f"batch 1 in {where}; marker and bar: mean and middle half of the calls on images of that "
        "many MACs"
    )
    yield "ideal: time proportional to MACs; percentages: speed-up / ideal speed-up"
    spans: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    for samples in found:
        row, cell = samples.network.row, samples.cell
        spans[row.backbone, row.dense_macs, place_in_words(cell)].append(cell.dense_ms or 0.0)
    for (backbone, macs, place), times in spans.items():
        ends = " to ".join(dict.fromkeys((f"{min(times):.2f}", f"{max(times):.2f}")))
        yield f"dense {backbone}: {macs / 1e6:.1f} M MACs, {ends} ms ({place})"
    if any(samples.cell.contended for samples in found):
        yield CONTENDED_NOTE
    if without_samples:
        yield f"{without_samples} without timed calls at batch 1 on disk, left out"


def rank_chart(ranking: Ranking) -> Chart:
    """Return the ranks by MACs in the middle, by time at the sides; crossings in colour."""
    first, *more = ranking.batch_sizes
    align: Align = "center" if more else "left"
    series: list[Series] = [Text(0, -1.1, "MACs / dense MACs", align), *_side(ranking, first, -1)]
    series += _side(ranking, more[-1], 1) if more else []
    for rank, network in enumerate(ranking.by_macs):
        name = f"{network.nflops:.2f}" + ("" if more else f"   {network.name}")
        series.append(Text(0, rank, name, align, 0 if more else 8, boxed=True))
    panel = Panel(
        tuple(series),
        x_limits=(-1.05, 1.05 if more else 0.05),
        y_limits=(len(ranking.networks) - 0.5, -1.6),
        framed=False,
    )
    notes = [
        "top: fewest MACs, fastest; triangles: slower than a network with at least 1 % more MACs",
        "an order counts only where the 95 % intervals of the two times do not overlap",
        f"{ranking.machine}; all networks timed in the same rounds",
    ]
    if any(network.contended for network in ranking.networks):
        notes.append(CONTENDED_NOTE)
    if ranking.left_out:
        what = counted(ranking.left_out, "network")
        notes.append(f"{what} timed by other commands, left out: no common rounds")
    return Chart(
        title=ranking.finding,
        panels=(panel,),
        notes=tuple(notes),
        alt=f"Ranks by MACs and by time. {ranking.finding}.",
        size_in=(9.6, 2.0 + _ROW_IN * len(ranking.networks)),
        synthetic=ranking.synthetic,
    )


def _side(ranking: Ranking, size: int, side: int) -> list[Series]:
    slow, by_time = ranking.slow_for_their_macs(size), ranking.by_time(size)
    align: Align = "right" if side < 0 else "left"
    head = f"time / dense time, batch {size}"
    found: list[Series] = [Text(side, -1.1, head, align, 8 * side, bold=True)]
    for rank, network in enumerate(ranking.by_macs):
        place, is_slow = by_time.index(network), network.name in slow
        colour, width = (_SLOW.colour, 2.2) if is_slow else (GREY, 1.0)
        if network.dense:
            colour, width = DENSE.colour, 2.0
        words = _timed_words(network, size)
        style = Style(colour, _SLOW.mark if is_slow else "o")
        tip = f"{words}\nMACs: {network.nflops:.2f}"
        ink = colour if is_slow or network.dense else "#333333"
        found.append(Line((0, side), (rank, place), colour, width=width))
        found.append(Marks((side,), (place,), style, size=5, tips=(tip,)))
        found.append(Text(side, place, words, align, 8 * side, ink, is_slow))
    return found


def _timed_words(network: Ranked, size: int) -> str:
    ratio, interval = network.speedups[size]
    mark = DAGGER if size in network.contended else ""
    spread = "" if network.dense else f" [{1 / interval.high:.2f}, {1 / interval.low:.2f}]"
    return f"{network.name}   {1 / ratio:.2f}{spread}{mark}"
