"""Results in a notebook, without importing anything before it is used.

    import bench

    df = bench.load_results("results/reference")  # one row per operating point
    bench.pareto(df)  # the rows that no other row beats
    bench.verdicts(df)  # better or worse than a static network of the same cost?
    bench.front_certainty(df)  # how surely does no other network beat it?
    bench.pairs(df)  # networks of about the same cost, two by two

    bench.run(MyMethod, "cifar10", backbone=MyBackbone)  # classes and modules, not only names
    bench.evaluate(my_net, "cifar10", dense=my_resnet, name="mine")  # without our training

Owns the names only; what they do is in bench.notebook and bench.own.
"""

from __future__ import annotations

from typing import Any

_FROM_NOTEBOOK = ("front_certainty", "load_results", "pairs", "pareto", "verdicts")
_HOME = {name: "bench.notebook" for name in _FROM_NOTEBOOK} | {
    name: "bench.own" for name in ("evaluate", "run")
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bench' has no attribute '{name}'")
    # By name: the package is the lowest floor and imports nothing above it.
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
