"""The sentences and the table that verdicts generate: sizes, intervals, p-values, seeds, budgets.

Owns the words only; every number comes with a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis.uncertainty import Estimate
from bench.analysis.verdict import Comparison, Outside, Verdict
from bench.plain_text import counted, one_line
from bench.report.data.budgets import budgets_differ, spent_in_words
from bench.report.data.groups import Network
from bench.report.tables.cells import ReportTable, table_of
from bench.report.verdicts.costs import MACS, Axis, cells_of
from bench.report.verdicts.verdicts import NO_VERDICT, AxisVerdict, MethodVerdict

OTHER_BUDGET = "*"


def paragraph(found: MethodVerdict) -> str:
    """Return all that is said about one method: what it reaches, the answers, and what must stand
    beside them."""
    network = found.network
    start = f"{network.label} ({network.backbone}, {network.first.dataset})"
    if len({row.point for row in network.rows}) == 1:
        start += f": {_accuracy(network)}"
    parts = [f"{start}.", *map(sentence, found.axes), *_context(network, found.axes)]
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
    return f"In {about.axis.title}: {text}" + (f" {_capital(differing)}." if differing else "")


def summary(verdicts: Sequence[MethodVerdict]) -> list[str]:
    """Return a sentence for each axis: how many methods are better, worse and so on."""
    methods = [one for one in verdicts if not one.network.control]
    return [
        finding(methods, axis) for axis in dict.fromkeys(a.axis for m in methods for a in m.axes)
    ]


def finding(verdicts: Sequence[MethodVerdict], axis: Axis) -> str:
    """Return how many methods are better than static networks of their cost, worse and so on."""
    methods = [one for one in verdicts if not one.network.control]
    if not methods:
        return "No method was run, so there is nothing to judge"
    of = counted(len({one.method for one in methods}), "method")
    if len(methods) > len({one.method for one in methods}):
        of = f"{len(methods)} settings of {of}"
    outcomes = [one.on(axis.name, axis.runtime).outcome.split(" (")[0] for one in methods]
    better = _counted(outcomes.count("better"), "better") or "none is better"
    parts = [f"{better} than a static network at equal {axis.title}"]
    parts += [_counted(outcomes.count(rest), rest) for rest in ("worse", "not distinguishable")]
    without = outcomes.count(NO_VERDICT)
    parts.append(f"{without} ha{'s' if without == 1 else 've'} {NO_VERDICT}" if without else "")
    # A verdict on one training is one on networks, not yet on a method.
    once = sum(one.seeds == 1 for one in methods)
    note = f" ({once} of {len(methods)} trained once)" if once else ""
    return f"Of {of}, {', '.join(filter(None, parts))}{note}"


def _counted(number: int, what: str) -> str:
    return f"{number} {'is' if number == 1 else 'are'} {what}" if number else ""


def verdict_table(verdicts: Sequence[MethodVerdict]) -> ReportTable:
    """Return one line per method and axis."""
    cells = []
    for one, answer in ((found, answer) for found in verdicts for answer in found.axes):
        gain, low, high = (f"{end:+.2f}" for end in answer.points) if answer.points else ("",) * 3
        cells.append(
            {
                "network": one.network.label,
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
    return table_of("verdicts", caption, cells)


def answer_words(answer: AxisVerdict) -> str:
    """Return in short what was found: outcome and gain, or why there is no verdict; marked where
    the static networks had another training budget."""
    mark = f" {OTHER_BUDGET}" if unlike_budgets(answer) else ""
    if answer.outside is not None:
        return f"no static network of its cost: {_beside(answer)}{mark}"
    return f"{answer.outcome}: {gain_words(answer) or one_line(answer.reason)}{mark}"


def gain_words(answer: AxisVerdict) -> str:
    """Return the gain and the ends of its interval, or nothing."""
    if answer.points is None:
        return ""
    gain, low, high = answer.points
    return f"{gain:+.2f} ({low:+.2f} to {high:+.2f})"


def why(answer: AxisVerdict) -> str:
    """Return in short why there is no verdict, or how budgets differ; or nothing."""
    text = ""
    if answer.outside is not None:
        text = f"no static network of its cost; {_beside(answer)}"
    elif answer.verdict is None:
        return one_line(answer.reason)
    return one_line("; ".join(part for part in (text, unlike_budgets(answer)) if part))


def _beside(answer: AxisVerdict) -> str:
    assert answer.outside is not None
    (nearest,) = answer.static_names
    ratio = answer.outside.cost / answer.outside.nearest_cost
    return f"beside {nearest} at {ratio:.2f} times its {answer.axis.kind}"


def unlike_budgets(about: AxisVerdict) -> str:
    """Return how the static networks used were trained if not as the method was; else ''."""
    own = about.network
    found = [
        f"{one.static_name}: {one.budget.words_beside(own.budget)}"
        for one in about.static
        if not own.budget.matches(one.budget) or budgets_differ([one.epochs, own.epochs])
    ]
    spent = "; ".join(dict.fromkeys(found))
    return f"budgets differ: {own.epochs:g} epochs, {spent}" if found else ""


def _accuracy(network: Network) -> str:
    """Return the accuracy of its only point over seeds, or that one seed has no interval."""
    spread, bounds = network.accuracy_sd, network.accuracy_bounds
    text = f"{100 * network.accuracy:.2f} %"
    ends = "" if bounds is None else f"{100 * bounds.low:.2f} to {100 * bounds.high:.2f} %"
    if spread is None:
        images = f"from the sampling of test images alone {ends}"
        return f"{text} (n=1, no interval over seeds; {images}, Wilson)"
    return f"{text} (n={network.seeds}, sd {100 * spread:.2f}, 95 % t-interval over seeds {ends})"


def _verdict(about: AxisVerdict, verdict: Verdict) -> str:
    found, kind = verdict.comparison, about.axis.kind
    if isinstance(found, Outside):
        (static,) = about.static
        ratio = f"{found.cost / found.nearest_cost:.2f} times the {kind} of {static.static_name}"
        slower = "more expensive" if about.axis == MACS else "slower"
        outcome = f"{verdict.outcome}: {slower} than a static network ({ratio}) and less accurate"
    else:
        word = "from" if verdict.outcome.startswith("not") else "than"
        outcome = f"{verdict.outcome} {word} a static network of the same cost"
    low, high = found.costs
    where = f"On average from {low:.2f} to {high:.2f}" if high > low else f"At {low:.2f}"
    names = list(dict.fromkeys(one.static_name for one in about.static))
    line = f"straight line through {' and '.join(names)}" if len(names) > 1 else names[0]
    text = (
        f"{outcome}. {where} of {about.network.backbone}'s {kind} it reaches "
        f"{_reached(found)} ({line}), {_points(found.gain)}; {_p_values(verdict)}."
    )
    return text + (_single_points(found) if high > low and isinstance(found, Comparison) else "")


def _single_points(found: Comparison) -> str:
    """Return the gains of the points one by one: their mean may hide that some gain."""
    single = [
        f"{100 * point.gain.value:+.2f} at {point.cost:.2f} ({_ends(point.gain)})"
        for point in sorted(found.points, key=lambda point: point.cost)
        if point.gain is not None
    ]
    return f" Point by point, not corrected: {', '.join(single)}." if single else ""


def _outside(about: AxisVerdict, found: Outside) -> str:
    (static,) = about.static
    done = "run" if about.axis == MACS else "timed in the same rounds"
    which = "most accurate" if found.more_expensive else "nearest"
    cheaper = found.cost + 2 * found.cost_error < found.nearest_cost
    both = ": cheaper and more accurate" if cheaper and found.gain.bounds.low > 0 else ""
    return (
        f"no verdict, no static network of that cost was {done}. Beside the "
        f"{which}, {static.static_name}, it has {found.cost / found.nearest_cost:.2f} times the "
        f"{about.axis.kind} and {_reached(found)}, {_points(found.gain)}{both}."
    )


def _reached(found: Comparison | Outside) -> str:
    return f"{100 * found.accuracy:.2f} % against {100 * found.static_accuracy:.2f} %"


def _points(gain: Estimate) -> str:
    size = f"a difference of {100 * gain.value:+.2f} points"
    return f"{size} ({100 * gain.level:.0f} % interval {_ends(gain)})"


def _ends(gain: Estimate) -> str:
    low, high = (100 * end for end in gain.bounds)
    return f"{low:+.2f} to {high:+.2f}"


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
    if any(cell.contended for axis in timed for row in cells_of(network, axis) for cell in row):
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
    spent = f"{_spent(network)} against {' and '.join(dict.fromkeys(map(_spent, static)))}"
    recipe = network.first.recipe
    text = f"Recipe {recipe}, training in dense epochs: {spent} for static"
    if None in costs:
        return f"{text} (+?: weights of unknown cost), so equal budgets cannot be claimed."
    if len({one.forward_only for one in (network, *static)}) > 1:
        return f"{text} (*: forward passes alone), which is no common measure."
    return f"{text}: budgets differ by more than 10 %." if budgets_differ(costs) else f"{text}."


def _spent(network: Network) -> str:
    return spent_in_words(network.known, network.forward_only, network.total is None)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
