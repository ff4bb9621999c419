"""Where the order of networks by MACs and their order by time disagree.

A pair disagrees where one network needs fewer MACs and is slower, and the 95 % intervals of their
speed-ups do not overlap. Only networks timed together are ranked. Owns no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.records.record import UNKNOWN_RUNTIME, Interval
from bench.report.data.rows import place_in_words
from bench.report.latency.timed import TimedNetwork

_SAME_MACS = 0.01
"""MACs that differ by less than 1 % count as equal."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A network, or the dense one, with its MACs and speed-ups relative to the dense one.

    `speedups` holds the paired speed-up and its interval per batch size.
    """

    name: str
    nflops: float
    speedups: dict[int, tuple[float, Interval]]
    contended: frozenset[int] = frozenset()
    dense: bool = False

    def disagrees_with(self, other: Ranked, batch_size: int) -> bool:
        """Whether it needs fewer MACs by 1 % or more, and the whole interval of its speed-up lies
        below that of `other`."""
        own, theirs = self.speedups[batch_size][1], other.speedups[batch_size][1]
        return self.nflops < other.nflops * (1 - _SAME_MACS) and own.high < theirs.low


@dataclass(frozen=True, slots=True)
class Ranking:
    """Networks that were timed together at one or two batch sizes; `left_out` were not. `machine`
    names the device, threads and runtime."""

    networks: tuple[Ranked, ...]
    batch_sizes: tuple[int, ...]
    machine: str
    left_out: int = 0
    synthetic: bool = False

    @property
    def by_macs(self) -> list[Ranked]:
        return sorted(self.networks, key=lambda one: (one.nflops, one.name))

    def by_time(self, batch_size: int) -> list[Ranked]:
        return sorted(self.networks, key=lambda one: (-one.speedups[batch_size][0], one.nflops))

    def disagreements(self, batch_size: int) -> list[tuple[Ranked, Ranked]]:
        """Return the pairs (cheaper, faster): the first needs fewer MACs and is slower."""
        return [
            (a, b) for a in self.networks for b in self.networks if a.disagrees_with(b, batch_size)
        ]

    def slow_for_their_macs(self, batch_size: int) -> set[str]:
        """Return the names of the networks that are slower than one that needs more MACs."""
        return {cheaper.name for cheaper, _ in self.disagreements(batch_size)}

    @property
    def finding(self) -> str:
        """How many networks are slower than one that needs more MACs."""
        sizes, count = self.batch_sizes, len(self.networks)
        pairs = [len(self.disagreements(size)) for size in sizes]
        if not any(pairs):
            where = " and ".join(map(str, sizes))
            return f"No network is slower than one that needs more MACs, at batch {where}"
        slow = [f"{len(self.slow_for_their_macs(size))} at batch {size}" for size in sizes]
        slow[0] = slow[0].replace(" at", f" of {count} networks at")
        return (
            f"Slower than a network that needs more MACs: {' and '.join(slow)} "
            f"({' and '.join(map(str, pairs))} of {count * (count - 1) // 2} pairs)"
        )


def ranking_of(networks: Sequence[TimedNetwork]) -> Ranking | None:
    """Return the ranking of the largest set timed together, with the dense network; or None. Of
    equal sets the newest, then that of the largest backbone.

    The batch sizes are the smallest and the largest at which all of the set were timed.
    """

    def rank(found: tuple[TimedNetwork, list[TimedNetwork]]) -> tuple[int, str, float]:
        largest, members = found
        newest = max(cell.measured_at for network in members for cell in network.cells.values())
        return len(members), newest, largest.row.dense_macs

    largest, members = max(_sets(networks), key=rank, default=(None, []))
    if largest is None or len(members) < 2:
        return None
    first, sizes, unit = members[0], members[0].sizes, largest.row.dense_macs
    itself = dict.fromkeys(sizes, (1.0, Interval(low=1.0, high=1.0)))
    dense = Ranked(f"dense {largest.row.backbone}", 1.0, itself, dense=True)
    timed = [network for network in networks if not network.dense and network.sizes]
    where = "" if first.runtime == UNKNOWN_RUNTIME else f", in {first.runtime}"
    return Ranking(
        (*(_ranked(network, sizes, unit) for network in members), dense),
        sizes,
        f"{place_in_words(first.cells[sizes[0]])}{where}",
        left_out=len(timed) - sum(not network.dense for network in members),
        synthetic=any(network.row.synthetic for network in members),
    )


def _sets(networks: Sequence[TimedNetwork]) -> list[tuple[TimedNetwork, list[TimedNetwork]]]:
    """Return the sets timed together behind a network of the backbone that each is seen from;
    smaller dense networks belong to them."""
    found: dict[tuple[object, ...], tuple[TimedNetwork, list[TimedNetwork]]] = {}
    for label, of in {network.backbone: network for network in networks}.items():
        for network in networks:
            seen = None if network.dense and network.backbone == label else network.beside(label)
            if seen is None or not seen.sizes:
                continue
            # Two networks share these only if their ratios have the same numerator.
            cells = [seen.cells[size] for size in seen.sizes]
            rounds = [(c.batch_size, c.device, c.threads, c.dense_ms) for c in cells]
            _, members = found.setdefault((label, *rounds), (of, []))
            # Dense networks of one backbone differ in nothing that takes time.
            if not (seen.dense and any(m.dense and m.backbone == seen.backbone for m in members)):
                members.append(seen)
    return list(found.values())


def _ranked(network: TimedNetwork, sizes: Sequence[int], unit: float) -> Ranked:
    name = f"dense {network.row.backbone}" if network.dense else network.name
    cells = {size: network.cells[size] for size in sizes}
    speedups = {
        size: (cell.speedup, cell.speedup_interval)
        for size, cell in cells.items()
        if cell.speedup is not None and cell.speedup_interval is not None
    }
    contended = frozenset(size for size, cell in cells.items() if cell.contended)
    return Ranked(name, (network.row.macs or 0) / unit, speedups, contended)
