"""Colours and marks that a colour-blind reader can distinguish, the same in figures and pages.

A method always differs from its neighbours in colour and in mark. Owns no drawing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.records.published import canonical_name

# Okabe and Ito, without the yellow that vanishes on white and the black kept for dense networks.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKS = "o^DvPX*"
GREY = "#7F7F7F"
DAGGER = "†"
CONTENDED_NOTE = f"{DAGGER} timed while other processes took part of the machine"


@dataclass(frozen=True, slots=True)
class Style:
    """How one method is drawn: a colour (#rrggbb), and a mark by matplotlib's name."""

    colour: str
    mark: str


DENSE = Style("#000000", "s")


def styles(
    ours: Iterable[str], *, controls: Iterable[str] = (), theirs: Iterable[str] = ()
) -> dict[str, Style]:
    """Return a style per method, keyed by `canonical_name`.

    Controls are black like the dense networks, each with a mark of its own; what only others ran
    is grey.

    Spelling such as "ConvNet-AIG" and "convnet_aig" is one method.
    """
    own = sorted({canonical_name(method) for method in ours})
    foreign = sorted({canonical_name(method) for method in theirs} - {*own, *controls})
    # 6 colours and 7 marks meet again only after 42 methods.
    found = {name: Style(_COLOURS[i % len(_COLOURS)], _mark(i)) for i, name in enumerate(own)}
    judges = sorted({canonical_name(method) for method in controls} - set(own))
    found |= {name: Style(DENSE.colour, _mark(i)) for i, name in enumerate(judges)}
    return found | {name: Style(GREY, _mark(len(own) + i)) for i, name in enumerate(foreign)}


def mark_of(number: int) -> Style:
    """Return the style of the `number`-th of several lines that have no name of a method."""
    return Style(_COLOURS[number % len(_COLOURS)], _mark(number))


def greyed(colour: str) -> str:
    """Return `colour` (#rrggbb) mixed with grey, for numbers that are not ours."""
    own, grey = (bytes.fromhex(text.removeprefix("#")) for text in (colour, GREY))
    mixed = bytes(round(0.45 * a + 0.55 * b) for a, b in zip(own, grey, strict=True))
    return f"#{mixed.hex()}"


def _mark(index: int) -> str:
    return _MARKS[index % len(_MARKS)]
