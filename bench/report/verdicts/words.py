"""The sentences that verdicts generate: sizes, intervals, p-values, seeds, budgets.

Owns the words only; every number comes with a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis.uncertainty import Estimate
from bench.analysis.verdict import Comparison, Outside, Verdict
from bench.plain_text import counted, one_line
from bench.report.data.budgets import budgets_differ, spent_in_words
from bench.report.data.study import Network, SeedGroup
from bench.report.verdicts.costs import MACS, Axis
from bench.report.verdicts.verdicts import NO_VERDICT, AxisVerdict, MethodVerdict

OTHER_BUDGET = "*"


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
        f"{one.backbone}: {one.budget.words_beside(own.budget)}"
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
    """Return the accuracy of an operating point, and its interval over seeds or, of one seed, over
    test images."""
    bounds, known = judged.accuracy_bounds, f"{_percent(judged.accuracy)} % (n={judged.seeds}"
    if bounds is None:
        return f"{known})"
    over = "over seeds" if judged.seeds > 1 else "over test images alone (Wilson)"
    return f"{known}, 95 % {over} {_percent(bounds.low)} to {_percent(bounds.high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


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
    return f"{_percent(found.accuracy)} % against {_percent(found.static_accuracy)} %"


def _points(gain: Estimate) -> str:
    size = f"a difference of {100 * gain.value:+.2f} points"
    return f"{size} (95 % interval {_ends(gain)})"


def _ends(gain: Estimate) -> str:
    return f"{100 * gain.bounds.low:+.2f} to {100 * gain.bounds.high:+.2f}"


def _p_values(verdict: Verdict) -> str:
    alone, holm = (
        "< 0.0001" if value < 1e-4 else f"= {value:.2g}"
        for value in (verdict.p_value, verdict.p_holm)
    )
    family = f"by Holm's rule for {counted(verdict.family, 'comparison')}, which decides"
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
    return (
        f"Seeds: {seeds}; the intervals cover other images and do not cover the variance of "
        "training where n=1: another seed may reverse them."
    )


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
