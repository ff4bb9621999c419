"""Records as pandas tables, for notebooks: what `bench.load_results` and its companions return.

Owns the tables; what stands in them comes from the rooms data and verdicts.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.pareto import front
from bench.errors import ConfigError
from bench.folders import default_results_dir
from bench.records.store import RunStore
from bench.report.data.row import EXTRAS, KEYS, flat
from bench.report.data.rows import rows
from bench.report.data.study import Study
from bench.report.verdicts.fronts import FrontPoint, front_points, pairs_of
from bench.report.verdicts.verdicts import AxisVerdict, MethodVerdict, verdicts_of
from bench.report.verdicts.words import paragraph, sentence

FOLDER = "results_dir"
"""Under this name in `DataFrame.attrs` stands where the rows were read."""


def load_results(path: str | Path | None = None) -> pd.DataFrame:
    """Return one row per operating point of all readable runs in a results folder.

    Without `path` it is $BENCH_RESULTS, or ./results. Fractions are 0-1, `macs` per image,
    latencies milliseconds per image; missing where a value was not measured. Records that cannot be
    read are named in a warning and not counted.

    Raises:
        ConfigError: there is no such folder.

    Examples:
        >>> import bench
        >>> df = bench.load_results("results/reference")
        >>> dense = df[(df.role == "dense") & (df.train_epochs == 0)]
        >>> dense[["backbone", "accuracy", "macs"]].to_numpy().tolist()
        [['resnet20', 0.9173, 40551040.0], ['resnet32', 0.9263, 68862592.0]]
    """
    folder = default_results_dir() if path is None else Path(path)
    if not folder.is_dir():
        raise ConfigError(
            f"There is no results folder {folder}.",
            hint="Give the folder that contains 'runs', or set BENCH_RESULTS.",
        )
    inventory = RunStore(folder).load_all()
    for problem in inventory.problems:
        text = f"The record of run '{problem.name}' is not counted: {problem.reason}"
        warnings.warn(text, stacklevel=2)
    frame = pd.DataFrame(list(map(flat, rows(inventory.records))), columns=[*KEYS, *EXTRAS])
    frame.attrs[FOLDER] = str(folder.absolute())
    return frame


def pareto(df: pd.DataFrame, *, cost: str = "macs") -> pd.DataFrame:
    """Return the rows on the front of each data set, by rising cost: none is as good for less.

    `cost` is a column such as "macs", "nflops" or "latency_ms_b1"; rows without it, or without an
    accuracy, are on no front. Fronts of several data sets follow each other.

    Raises:
        ConfigError: there is no such column.

    Examples:
        >>> import bench
        >>> df = bench.load_results("results/reference")
        >>> bench.pareto(df).method.tolist()[-2:]
        ['cdl', 'resnet']
    """
    if cost not in df.columns:
        raise ConfigError(f"There is no column '{cost}'.", hint="Example: bench.pareto(df)")
    kept: list[int] = []
    values = df[[cost, "accuracy"]].astype(float).to_numpy()
    for _, places in sorted(df.groupby("dataset").indices.items()):
        points = [(float(x), float(y)) for x, y in values[places]]
        kept += [int(places[index]) for index in front(points)]
    return df.iloc[kept]


def verdicts(df_or_path: pd.DataFrame | str | Path | None = None) -> pd.DataFrame:
    """Return one row per method and axis of cost: is it better than a static network of that cost?

    Given a table of `load_results`, only runs in it count, read again where it came from; given a
    folder, all runs in it. `outcome` is "better", "worse", "not distinguishable", or missing with a
    `reason`; gains and bounds are accuracies from 0 to 1, costs are shares of the backbone's.
    `paragraph` is the text on all axes. The full numbers:
    `bench.report.verdicts.verdicts.verdicts_of`.

    Raises:
        ConfigError: the table does not say where it was read, or there is no such folder.

    Examples:
        >>> import bench
        >>> found = bench.verdicts("results/reference")
        >>> found[(found.method == "sact") & (found.axis == "macs")].outcome.item()
        'worse'
    """
    found = verdicts_of(_study_of(df_or_path))
    lines = [_line(verdict, answer) for verdict in found for answer in verdict.axes]
    return pd.DataFrame(lines, columns=VERDICT_COLUMNS)


def front_certainty(df_or_path: pd.DataFrame | str | Path | None = None) -> pd.DataFrame:
    """Return the probability of Pareto optimality of each operating point, by recipe and axis.

    What is read is chosen as by `verdicts`. `cost` is a share of that of the largest backbone,
    `beside`; `probability` is the share of 2,000 resampled repetitions in which no other network of
    the recipe is both cheaper and better (docs/statistics.md).

    Raises:
        ConfigError: the table does not say where it was read, or there is no such folder.

    Examples:
        >>> import bench
        >>> found = bench.front_certainty("results/reference")
        >>> found[(found.backbone == "resnet20") & (found.axis == "macs")].probability.max() > 0.9
        True
    """
    lines = [
        one._asdict() | {"axis": one.axis.name, "runtime": one.axis.runtime or None}
        for one in front_points(_study_of(df_or_path))
    ]
    return pd.DataFrame(lines, columns=["axis", "runtime", *FrontPoint._fields[1:]])


def pairs(df_or_path: pd.DataFrame | str | Path | None = None) -> pd.DataFrame:
    """Return one row per pair of operating points whose MACs differ by less than 10 %.

    What is read is chosen as by `verdicts`. `gain` is the accuracy of `a`, the more expensive, less
    that of `b`, from 0 to 1, with the ends of its 95 % interval; `p_holm` is corrected for all
    pairs.

    Raises:
        ConfigError: the table does not say where it was read, or there is no such folder.

    Examples:
        >>> import bench
        >>> found = bench.pairs("results/reference")
        >>> set(found.columns) >= {"a", "b", "gain", "p_holm"}
        True
    """
    columns = "a b recipe macs_a macs_b seeds_a seeds_b gain low high p_value p_holm"
    lines = [
        (
            *(pair.a.name, pair.b.name, pair.a.network.first.recipe),
            *(pair.a.macs, pair.b.macs, pair.a.network.seeds, pair.b.network.seeds),
            *(pair.gain.value, pair.gain.bounds.low, pair.gain.bounds.high),
            *(pair.gain.p_value, pair.p_holm),
            pair.gain.covers_training,
        )
        for pair in pairs_of(_study_of(df_or_path))
    ]
    return pd.DataFrame(lines, columns=[*columns.split(), "covers_training"])


def _study_of(df_or_path: pd.DataFrame | str | Path | None) -> Study:
    frame = df_or_path if isinstance(df_or_path, pd.DataFrame) else load_results(df_or_path)
    if FOLDER not in frame.attrs or "run" not in frame.columns:
        raise ConfigError(
            "This table does not say which folder it was read from.",
            hint="Give the table of bench.load_results(), or the folder itself.",
        )
    store = RunStore(Path(frame.attrs[FOLDER]))
    wanted = set(frame["run"])
    return Study([r for r in store.load_all().records if r.run in wanted], store)


VERDICT_COLUMNS = [
    *("method", "variant", "settings", "point", "dataset", "backbone", "recipe", "control", "axis"),
    *("runtime", "outcome", "reason", "gain", "low", "high", "p_value", "p_holm", "family", "cost"),
    *("seeds", "static_seeds", "images", "covers_training", "dense_epochs", "static"),
    *("sentence", "paragraph"),
]


def _line(verdict: MethodVerdict, answer: AxisVerdict) -> dict[str, Any]:
    network, decided, first = verdict.network, answer.verdict, verdict.network.first
    line: dict[str, Any] = {
        **{key: getattr(first, key) for key in ("method", "dataset", "backbone", "recipe")},
        "variant": network.record.variant,
        "settings": network.distinguishing,
        "point": network.judged.first.point,
        "control": network.control,
        "axis": answer.axis.name,
        "runtime": answer.axis.runtime or None,
        "reason": answer.reason,
        "seeds": verdict.seeds,
        "images": first.test_images,
        "static_seeds": min((one.seeds for one in answer.static), default=None),
        "static": ", ".join(answer.static_names),
        "dense_epochs": network.total,
        "sentence": sentence(answer),
        "paragraph": paragraph(verdict),
    }
    if decided is not None:
        gain = decided.comparison.gain
        line |= {key: getattr(decided, key) for key in ("outcome", "p_value", "p_holm", "family")}
        line |= {"gain": gain.value, "low": gain.bounds.low, "high": gain.bounds.high}
        line |= {"cost": decided.comparison.cost, "covers_training": gain.covers_training}
    return line
