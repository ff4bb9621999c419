"""The sentences that verdicts generate: sizes, intervals, p-values, seeds, budgets; and the tables:
the best settings, which a report and the README begin with, and all.

Owns the words, and which settings are the best; every number comes with a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis.uncertainty import Estimate
from bench.analysis.verdict import Comparison, Outside, Verdict
from bench.plain_text import counted, one_line
from bench.report.data.budgets import budgets_differ, spent_in_words
from bench.report.data.study import Network, SeedGroup
from bench.report.tables.cells import ReportTable, number, percent_with_sd, table_of
from bench.report.verdicts.costs import MACS, Axis
from bench.report.verdicts.verdicts import NO_VERDICT, AxisVerdict, MethodVerdict

OTHER_BUDGET = "*"
MOST_SHOWN, CONTROLS_SHOWN, SHOWN_RUNTIMES = 10, 2, 2
_BEST_FIRST = ("better", "not distinguishable", "worse", NO_VERDICT)


def finding(verdicts: Sequence[MethodVerdict], axis: Axis) -> str:
    """Return how many methods are better than static networks of their cost, worse and so on."""
    methods = [one for one in verdicts if not one.network.control]
    if not methods:
        return "No method was run, so there is nothing to judge"
    names = {one.method for one in methods}
    of = counted(len(names), "method")
    if len(methods) > len(names):
        of = f"{len(methods)} settings of {of}"
    outcomes = [one.on(axis.name, axis.runtime).outcome.split(" (")[0] for one in methods]
    found = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    said = {what: f"{n} {'is' if n == 1 else 'are'} {what}" for what, n in found.items()}
    parts = [f"{said.get('better', 'none is better')} than a static network at equal {axis.title}"]
    parts += [said[what] for what in ("worse", "not distinguishable") if what in said]
    if without := found.get(NO_VERDICT):
        parts.append(f"{without} ha{'s' if without == 1 else 've'} {NO_VERDICT}")
    # A verdict on one training is one on networks, not yet on a method.
    once = sum(one.seeds == 1 for one in methods)
    note = f" ({once} of {len(methods)} trained once)" if once else ""
    return f"Of {of}, {', '.join(parts)}{note}"


def summary(verdicts: Sequence[MethodVerdict]) -> list[str]:
    """Return the finding on each axis."""
    axes = (answer.axis for one in verdicts if not one.network.control for answer in one.axes)
    return [finding(verdicts, axis) for axis in dict.fromkeys(axes)]


def paragraph(found: MethodVerdict) -> str:
    """Return all that is said about one method: what it reaches, the answers, and what must stand
    beside them."""
    network = found.network
    judged = network.judged
    start = f"{judged.label} ({network.backbone}, {network.first.dataset}): {_accuracy(judged)}."
    parts = [start, *map(sentence, found.axes), *_context(network, found.axes)]
    return one_line(" ".join(parts), longest=20_000)


def sentence(about: AxisVerdict) -> str:
    """Return the sentence of one axis: the verdict, or why there is none; and where the static side
    was trained otherwise, how."""
    if about.verdict is not None:
        text = _verdict(about, about.verdict)
    elif about.outside is not None:
        text = _outside(about, about.outside)
    else:
        text = f"no verdict, {about.reason}."
    differing = unlike_budgets(about)
    return f"In {about.axis.title}: {text}" + (f" B{differing[1:]}." if differing else "")


def answer_words(answer: AxisVerdict) -> str:
    """Return in short what was found: outcome and gain, or why there is no verdict; marked where
    the static networks had another training budget."""
    mark = f" {OTHER_BUDGET}" if unlike_budgets(answer) else ""
    found = f"{answer.outcome}: {gain_words(answer) or one_line(answer.reason)}"
    return f"{_other_cost(answer) or found}{mark}"


def gain_words(answer: AxisVerdict) -> str:
    """Return the gain and the ends of its interval, or nothing."""
    if answer.points is None:
        return ""
    gain, low, high = answer.points
    return f"{gain:+.2f} ({low:+.2f} to {high:+.2f})"


def why(answer: AxisVerdict) -> str:
    """Return in short why there is no verdict, or how budgets differ; or nothing."""
    if answer.verdict is None and answer.outside is None:
        return one_line(answer.reason)
    return one_line("; ".join(filter(None, (_other_cost(answer), unlike_budgets(answer)))))


def unlike_budgets(about: AxisVerdict) -> str:
    """Return how the static networks used were trained if not as the method was; else ''."""
    own = about.network
    found = dict.fromkeys(
        f"{one.static_name}: {one.budget.words_beside(own.budget)}"
        for one in about.static
        if not own.budget.matches(one.budget) or budgets_differ([one.epochs, own.epochs])
    )
    return f"budgets differ: {own.epochs:g} epochs, {'; '.join(found)}" if found else ""


def _other_cost(answer: AxisVerdict) -> str:
    """Return that no static network has this cost, beside the one compared with; or nothing."""
    if answer.outside is None:
        return ""
    (nearest,) = answer.static_names
    beside = f"{_times(answer.outside)}x the {answer.axis.kind} of {nearest}"
    return f"no static network of its cost ({beside})"


def _times(found: Outside) -> str:
    return f"{found.cost / found.nearest_cost:.2f}"


def _accuracy(judged: SeedGroup) -> str:
    """Return the accuracy of an operating point over seeds, or that one seed has no interval."""
    spread, bounds = judged.accuracy_sd, judged.accuracy_bounds
    text = f"{100 * judged.accuracy:.2f} %"
    ends = "" if bounds is None else f"{100 * bounds.low:.2f} to {100 * bounds.high:.2f} %"
    if spread is None:
        images = f"from the sampling of test images alone {ends}"
        return f"{text} (n=1, no interval over seeds; {images}, Wilson)"
    return f"{text} (n={judged.seeds}, sd {100 * spread:.2f}, 95 % t-interval over seeds {ends})"


def _verdict(about: AxisVerdict, verdict: Verdict) -> str:
    found, kind = verdict.comparison, about.axis.kind
    names = list(dict.fromkeys(about.static_names))
    if isinstance(found, Outside):
        slower = "more expensive" if about.axis == MACS else "slower"
        ratio = f"{_times(found)} times the {kind} of {names[0]}"
        outcome = f"{verdict.outcome}: {slower} than a static network ({ratio}) and less accurate"
    else:
        word = "from" if verdict.outcome.startswith("not") else "than"
        outcome = f"{verdict.outcome} {word} a static network of the same cost"
    line = f"straight line through {' and '.join(names)}" if len(names) > 1 else names[0]
    text = (
        f"{outcome}. At {found.cost:.2f} of {about.network.backbone}'s {kind} it reaches "
        f"{_reached(found)} ({line}), {_points(found.gain)}; {_p_values(verdict)}."
    )
    if not isinstance(found, Comparison) or len(found.points) == 1:
        return text
    single = [
        f"{100 * point.gain.value:+.2f} at {point.cost:.2f} ({_ends(point.gain)})"
        for point in sorted(found.points, key=lambda point: point.cost)
        if point.gain is not None
    ]
    return f"{text} All operating points, not corrected: {', '.join(single)}."


def _outside(about: AxisVerdict, found: Outside) -> str:
    (static,) = about.static_names
    done = "run" if about.axis == MACS else "timed in the same rounds"
    which = "most accurate" if found.more_expensive else "nearest"
    cheaper = found.cost + 2 * found.cost_error < found.nearest_cost
    both = ": cheaper and more accurate" if cheaper and found.gain.bounds.low > 0 else ""
    return (
        f"no verdict, no static network of that cost was {done}. Beside the {which}, {static}, it "
        f"has {_times(found)} times the {about.axis.kind} and {_reached(found)}, "
        f"{_points(found.gain)}{both}."
    )


def _reached(found: Comparison | Outside) -> str:
    return f"{100 * found.accuracy:.2f} % against {100 * found.static_accuracy:.2f} %"


def _points(gain: Estimate) -> str:
    size = f"a difference of {100 * gain.value:+.2f} points"
    return f"{size} ({100 * gain.level:.0f} % interval {_ends(gain)})"


def _ends(gain: Estimate) -> str:
    return f"{100 * gain.bounds.low:+.2f} to {100 * gain.bounds.high:+.2f}"


def _p_values(verdict: Verdict) -> str:
    alone, holm = (
        "< 0.0001" if value < 1e-4 else f"= {value:.2g}"
        for value in (verdict.p_value, verdict.p_holm)
    )
    if verdict.family == 1:
        return f"p {alone}, the only one judged here"
    family = f"by Holm's rule for {verdict.family} comparisons, which decides"
    return f"p {alone}; {family}, p {holm}"


def _context(network: Network, answers: Sequence[AxisVerdict]) -> list[str]:
    """Return what must stand beside the verdicts on one method: seeds, images, recipe, budgets."""
    static = list({id(one): one for about in answers for one in about.static}.values())
    images = f"{network.record.test_images:,} test images"
    if not static:
        return [f"{counted(network.seeds, 'seed')}, {images}."]
    sentences = [_sampling(network, static, images), _budgets(network, static)]
    mine = network.record.spec.precision
    others = list(dict.fromkeys(one.record.spec.precision for one in static))
    if others != [mine]:
        sentences.append(f"Trained in {mine}, static in {' and '.join(others)}.")
    timed = [about.axis for about in answers if about.axis != MACS and about.static]
    cells = (cell for axis in timed for cell in network.timings(axis.batch_size, axis.runtime))
    if any(cell.contended for cell in cells):
        sentences.append("Other programs ran while it was timed.")
    return sentences


def _sampling(network: Network, static: Sequence[Network], images: str) -> str:
    own, other = network.seeds, sorted({one.seeds for one in static})
    ends = " to ".join(map(str, dict.fromkeys((other[0], other[-1]))))
    seeds = f"n={own} for the method, n={ends} for static, {images}"
    if min(own, *other) > 1:
        starts = sorted({one.first.outside for one in (network, *static) if one.first.outside})
        shared = f", but not other starting weights than {', '.join(starts)}" if starts else ""
        return f"Seeds: {seeds}; the intervals cover other seeds and other images{shared}."
    whose = "training" if own == 1 and max(other) == 1 else "training where n=1"
    warning = f"do not cover the variance of {whose}: another seed may reverse them"
    return f"Seeds: {seeds}; the intervals cover other images and {warning}."


def _budgets(network: Network, static: Sequence[Network]) -> str:
    costs = [network.total, *(one.total for one in static)]
    own, *others = (spent_in_words(one.known, one.total is None) for one in (network, *static))
    text = (
        f"Recipe {network.first.recipe}, training in dense epochs: {own} against "
        f"{' and '.join(dict.fromkeys(others))} for static"
    )
    if None in costs:
        return f"{text} (+?: weights of unknown cost), so equal budgets cannot be claimed."
    return f"{text}: budgets differ by more than 10 %." if budgets_differ(costs) else f"{text}."


def best_settings(verdicts: Sequence[MethodVerdict]) -> list[MethodVerdict]:
    """Return the best setting of each method and then of the strongest controls, ten at most.

    Best is who has the better verdict at equal MACs, of equal ones the larger gain; without a
    verdict, the higher accuracy.
    """
    best: dict[str, MethodVerdict] = {}
    for one in sorted(verdicts, key=_rank):
        best.setdefault(one.method, one)
    controls = [one for one in best.values() if one.network.control][:CONTROLS_SHOWN]
    methods = [one for one in best.values() if not one.network.control]
    return [*methods[: MOST_SHOWN - len(controls)], *controls]


def _rank(one: MethodVerdict) -> tuple[int, float]:
    answer = one.on(MACS.name)
    decided = answer.verdict
    reached = one.network.judged.accuracy if decided is None else decided.comparison.gain.value
    return _BEST_FIRST.index(answer.outcome.removesuffix(" (dominated)")), -reached


def rest_in_words(verdicts: Sequence[MethodVerdict]) -> str:
    """Return how many methods and controls are not among the best settings, and which; or ''."""
    shown = {one.method for one in best_settings(verdicts)}
    rest = sorted({one.method for one in verdicts} - shown)
    return f"{len(rest)} more: {', '.join(rest)}" if rest else ""


def best_table(verdicts: Sequence[MethodVerdict]) -> ReportTable:
    """Return a line for each of `best_settings`, at the operating point that verdicts are on."""
    best = best_settings(verdicts)
    runtimes = dict.fromkeys(a.axis.runtime for one in best for a in one.axes if a.axis.runtime)
    lines = []
    for one in best:
        judged = one.network.judged
        line = {
            "method": f"{judged.label}{' (control)' if judged.control else ''}",
            "at equal MACs, points": answer_words(one.on(MACS.name)),
            "accuracy, %": percent_with_sd(judged.accuracy, judged.accuracy_sd),
            "MACs / dense": number(judged.mean_of("nflops"), ".3f"),
        }
        for runtime in list(runtimes)[:SHOWN_RUNTIMES]:
            answer = one.on("time at batch 1", runtime)
            where = answer.axis.title.removeprefix("time at batch 1")
            ratio = number(judged.mean_time("speedup", 1, runtime))
            line[f"speed-up{where}"] = ratio and f"{ratio}x"
            line[f"at equal time{where}"] = answer_words(answer)
        lines.append(line | {"seeds": str(one.seeds)})
    caption = (
        "The best setting of each method, and of the two strongest controls, by the verdict at "
        "equal MACs: its gain in accuracy over static networks of the same cost, with its 95 % "
        "interval; times at batch 1. Of several operating points the cheapest within a point of "
        "the most accurate, on held-out images. "
        f"{OTHER_BUDGET}: static networks of another budget."
    )
    more = ", ".join(list(runtimes)[SHOWN_RUNTIMES:])
    timed = more and f"also timed in {more}: below"
    return table_of("overview", caption, lines, notes=(rest_in_words(verdicts), timed))


def verdict_table(verdicts: Sequence[MethodVerdict]) -> ReportTable:
    """Return one line per method and axis."""
    lines = []
    for one, answer in ((found, answer) for found in verdicts for answer in found.axes):
        gain, low, high = (f"{end:+.2f}" for end in answer.points) if answer.points else ("",) * 3
        lines.append(
            {
                "network": one.network.judged.label,
                "backbone": one.network.backbone,
                "kind": "control" if one.network.control else "method",
                "at equal": answer.axis.title,
                "verdict": answer.outcome,
                **{"gain, points": gain, "95 %, low": low, "95 %, high": high},
                "note": why(answer),
                "seeds": str(one.seeds),
                "test images": str(one.network.record.test_images),
            }
        )
    caption = "Each network against the static curve at its own cost; Holm's rule decides."
    return table_of("verdicts", caption, lines)
