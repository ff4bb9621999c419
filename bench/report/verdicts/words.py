"""The sentences and the table that verdicts generate: sizes, intervals, p-values, seeds, budgets.

Owns the words only; every number comes with a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis.statistics import mean, sample_sd, t_interval, wilson_interval
from bench.analysis.uncertainty import Estimate
from bench.analysis.verdict import Comparison, Outside, Verdict
from bench.plain_text import one_line
from bench.report.data.budgets import budgets_differ
from bench.report.data.groups import Family
from bench.report.data.notes import FORWARD_ONLY
from bench.report.tables.cells import ReportTable, table_of
from bench.report.verdicts.costs import MACS, cells_of
from bench.report.verdicts.verdicts import NO_VERDICT, AxisVerdict, MethodVerdict

OUTCOMES = ("better", "worse", "worse (dominated)", "not distinguishable", NO_VERDICT)


def paragraph(found: MethodVerdict) -> str:
    """Return all that is said about one method: what it reaches, the answers, and what must stand
    beside them."""
    family = found.family
    reached = ""
    if len(family.point_names) == 1:
        reached = f": {accuracy_words(family, family.point_names[0])}"
    start = f"{family.label} ({family.backbone}, {family.rows[0].dataset}){reached}."
    parts = [start, *map(sentence, found.axes), _context(family, found.axes)]
    return one_line(" ".join(parts), longest=20_000)


def sentence(about: AxisVerdict) -> str:
    """Return the sentence of one axis: the verdict, or why there is none; and where the static side
    was trained otherwise, how."""
    if about.verdict is not None:
        text = _verdict(about, about.verdict)
    elif about.outside is not None:
        text = _outside(about, about.outside)
    else:
        return f"In {about.axis.title}: no verdict, {about.reason}."
    differing = unlike_budgets(about)
    return f"{text} {_sentence_case(differing)}." if differing else text


def summary(verdicts: Sequence[MethodVerdict]) -> list[str]:
    """Return a sentence for each axis: how many methods are better, worse and so on."""
    methods = [one for one in verdicts if not one.family.control]
    if not methods:
        return ["No method was run, so there is nothing to judge."]
    return [_counted(methods, number) for number in range(len(methods[0].axes))]


def _counted(methods: Sequence[MethodVerdict], number: int) -> str:
    parts = []
    for outcome in OUTCOMES:
        found = [one for one in methods if one.axes[number].outcome == outcome]
        # A verdict on one training is one on networks, not yet on a method.
        single = sum(one.seeds == 1 for one in found) if outcome != NO_VERDICT else 0
        note = f" ({single} by one training)" if single else ""
        parts += [f"{len(found)} {outcome}{note}"] if found else []
    names = len({one.method for one in methods})
    of = "1 method" if names == 1 else f"{names} methods"
    if len(methods) > names:
        of = f"{len(methods)} settings of {of}"
    return f"At equal {methods[0].axes[number].axis.title}, of {of}: {', '.join(parts)}."


def ordered(verdicts: Sequence[MethodVerdict]) -> list[MethodVerdict]:
    """Return the verdicts by name, methods first, then controls."""
    return sorted(verdicts, key=lambda o: (o.family.control, o.family.title, o.family.apart))


def verdict_table(verdicts: Sequence[MethodVerdict]) -> ReportTable:
    """Return one line per method and axis."""
    cells = [
        {
            "network": one.family.label,
            "backbone": one.family.backbone,
            "kind": "control" if one.family.control else "method",
            "at equal": answer.axis.title,
            "verdict": answer.outcome,
            **_in_columns(answer),
            "note": why(answer),
            "seeds": str(one.seeds),
            "test images": str(one.family.first.test_images),
        }
        for one in ordered(verdicts)
        for answer in one.axes
    ]
    caption = "Each network against the static curve at its own cost; Holm's rule decides."
    return table_of("verdicts", caption, cells)


def gain_words(answer: AxisVerdict) -> str:
    """Return the gain and the ends of its interval, or nothing."""
    if answer.points is None:
        return ""
    gain, low, high = answer.points
    return f"{gain:+.2f} ({low:+.2f} to {high:+.2f})"


def why(answer: AxisVerdict) -> str:
    """Return in short why there is no verdict, or how budgets differ; or nothing."""
    differing = unlike_budgets(answer)
    if answer.verdict is not None:
        return one_line(differing)
    if answer.outside is None:
        return one_line(answer.reason)
    ratio = answer.outside.cost / answer.outside.nearest_cost
    (nearest,) = answer.static_names
    text = f"no static network of its cost; beside {nearest} at {ratio:.2f} times its "
    text += answer.axis.kind
    return one_line(f"{text}; {differing}" if differing else text)


def _in_columns(answer: AxisVerdict) -> dict[str, str]:
    numbers = answer.points or (None, None, None)
    texts = ["" if number is None else f"{number:+.2f}" for number in numbers]
    return dict(zip(("gain, points", "95 %, low", "95 %, high"), texts, strict=True))


def unlike_budgets(about: AxisVerdict) -> str:
    """Return how the static networks used were trained if not as the method was; else ''."""
    family = about.family
    found = {
        _name(one): one.budget.words_beside(family.budget)
        for one in about.static
        if not family.budget.matches(one.budget) or budgets_differ([one.epochs, family.epochs])
    }
    if not found:
        return ""
    spent = "; ".join(f"{name}: {words}" for name, words in found.items())
    return f"budgets differ: {family.epochs:g} epochs, {spent}"


def _context(family: Family, answers: Sequence[AxisVerdict]) -> str:
    """Return what must stand beside the verdicts on one method: seeds, images, recipe, budgets."""
    static = _static_of(answers)
    if not static:
        return f"{_count(len(family.records), 'seed')}, {family.first.test_images:,} test images."
    sentences = [_sampling(family, static), _budgets(family, static), *_precisions(family, static)]
    timed = [about for about in answers if about.axis != MACS and about.static]
    if any(_contended(about) for about in timed):
        sentences.append("Other programs ran while it was timed.")
    return " ".join(sentences)


def accuracy_words(family: Family, point: str) -> str:
    """Return the accuracy of an operating point over seeds, or that one seed has no interval."""
    points = [p for r in family.records for p in family.points(r) if p.name == point]
    accuracies = [one.accuracy for one in points]
    text = f"{100 * mean(accuracies):.2f} %"
    spread, bounds = sample_sd(accuracies), t_interval(accuracies)
    if spread is None or bounds is None:
        low, high = wilson_interval(points[0].correct, family.first.test_images)
        images = f"from the sampling of test images alone {100 * low:.2f} to {100 * high:.2f} %"
        return f"{text} (n=1, no interval over seeds; {images}, Wilson)"
    ends = f"{100 * bounds.low:.2f} to {100 * bounds.high:.2f} %"
    return f"{text} (n={len(points)}, sd {100 * spread:.2f}, 95 % t-interval over seeds {ends})"


def _verdict(about: AxisVerdict, verdict: Verdict) -> str:
    found = verdict.comparison
    whole = f"{about.family.backbone}'s {about.axis.kind}"
    several = found.costs.high > found.costs.low
    where = (
        f"on average from {found.costs.low:.2f} to {found.costs.high:.2f} of {whole}"
        if several
        else f"at {found.costs.low:.2f} of {whole}"
    )
    reached = f"{100 * found.accuracy:.2f} % against {100 * found.static_accuracy:.2f} %"
    return (
        f"In {about.axis.title}: {_judged(about, verdict)}. {_sentence_case(where)} "
        f"it reaches {reached} ({_line(about.static)}), {_points(found.gain)}; "
        f"{_p_values(verdict)}.{_single_points(found) if several else ''}"
    )


def _judged(about: AxisVerdict, verdict: Verdict) -> str:
    found = verdict.comparison
    if isinstance(found, Outside):
        slower = "more expensive" if about.axis == MACS else "slower"
        (static,) = about.static
        ratio = found.cost / found.nearest_cost
        return (
            f"{verdict.outcome}: {slower} than a static network ({ratio:.2f} times the "
            f"{about.axis.kind} of {_name(static)}) and less accurate"
        )
    word = "from" if verdict.outcome.startswith("not") else "than"
    return f"{verdict.outcome} {word} a static network of the same cost"


def _single_points(found: Comparison | Outside) -> str:
    """Return the gains of the points one by one: their mean may hide that some gain."""
    points = found.points if isinstance(found, Comparison) else ()
    inside = [point for point in points if point.gain is not None]
    single = [
        f"{100 * point.gain.value:+.2f} at {point.cost:.2f} ({_ends(point.gain)})"
        for point in sorted(inside, key=lambda point: point.cost)
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
        f"In {about.axis.title}: no verdict, no static network of that cost was {done}. Beside the "
        f"{which}, {_name(static)}, it has {found.cost / found.nearest_cost:.2f} times the "
        f"{about.axis.kind} and {100 * found.accuracy:.2f} % against "
        f"{100 * found.static_accuracy:.2f} %, {_points(found.gain)}{both}."
    )


def _points(gain: Estimate) -> str:
    size = f"a difference of {100 * gain.value:+.2f} points"
    return f"{size} ({100 * gain.level:.0f} % interval {_ends(gain)})"


def _ends(gain: Estimate) -> str:
    low, high = (100 * end for end in gain.bounds)
    return f"{low:+.2f} to {high:+.2f}"


def _p_values(verdict: Verdict) -> str:
    alone = f"p {_p(verdict.p_value)}"
    if verdict.family == 1:
        return f"{alone}, the only one judged here"
    family = f"by Holm's rule for {verdict.family} comparisons, which decides"
    return f"{alone}; {family}, p {_p(verdict.p_holm)}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"= {value:.2g}"


def _sampling(family: Family, static: Sequence[Family]) -> str:
    own, other = len(family.records), [len(one.records) for one in static]
    images = f"{family.first.test_images:,} test images"
    seeds = f"n={own} for the method, n={_range(other)} for static, {images}"
    if min(own, *other) > 1:
        starts = sorted({one.start for one in (family, *static) if one.start})
        shared = f", but not other starting weights than {', '.join(starts)}" if starts else ""
        return f"Seeds: {seeds}; the intervals cover other seeds and other images{shared}."
    whose = "training" if own == 1 and max(other) == 1 else "training where n=1"
    warning = f"do not cover the variance of {whose}: another seed may reverse them"
    return f"Seeds: {seeds}; the intervals cover other images and {warning}."


def _budgets(family: Family, static: Sequence[Family]) -> str:
    costs = [family.total, *(one.total for one in static)]
    spent = f"{_spent(family)} against {' and '.join(dict.fromkeys(map(_spent, static)))}"
    text = f"Recipe {family.first.spec.budget.recipe}, training in dense epochs: {spent} for static"
    if None in costs:
        return f"{text} (+?: weights of unknown cost), so equal budgets cannot be claimed."
    if len({one.forward_only for one in (family, *static)}) > 1:
        return f"{text} (*: forward passes alone), which is no common measure."
    return f"{text}: budgets differ by more than 10 %." if budgets_differ(costs) else f"{text}."


def _precisions(family: Family, static: Sequence[Family]) -> list[str]:
    """Return a sentence where the numbers of training are not those of the static side."""
    mine = family.first.spec.precision
    others = dict.fromkeys(one.first.spec.precision for one in static)
    if list(others) == [mine]:
        return []
    return [f"Trained in {mine}, static in {' and '.join(others)}."]


def _spent(family: Family) -> str:
    unknown = "+?" if family.total is None else ""
    return f"{family.known:.3g}{unknown}{FORWARD_ONLY if family.forward_only else ''}"


def _line(static: Sequence[Family]) -> str:
    names = list(dict.fromkeys(_name(one) for one in static))
    return names[0] if len(names) == 1 else f"straight line through {' and '.join(names)}"


def _name(static: Family) -> str:
    return static.label if static.control else static.backbone


def _static_of(answers: Sequence[AxisVerdict]) -> list[Family]:
    found: list[Family] = []
    for about in answers:
        found.extend(one for one in about.static if one not in found)
    return found


def _contended(about: AxisVerdict) -> bool:
    cells = cells_of(about.family, about.axis)
    return any(cell.contended for row in cells for cell in row)


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]
