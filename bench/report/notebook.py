"""Records as pandas tables, for notebooks: what `bench.load_results` and its companions return.

Owns the tables; rows come from rows.py, verdicts from verdicts.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.analysis.pareto import front
from bench.errors import ConfigError
from bench.folders import default_results_dir

if TYPE_CHECKING:
    import pandas as pd

    from bench.report.verdicts import AxisVerdict, MethodVerdict, Statics

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
        >>> df[df.role == "dense"][["backbone", "accuracy", "macs"]].to_numpy().tolist()
        [['resnet20', 0.9173, 40551040.0], ['resnet32', 0.9263, 68862592.0]]
    """
    import warnings

    import pandas as pd

    from bench.records.store import RunStore
    from bench.report.rows import EXTRAS, KEYS, rows

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
    frame = pd.DataFrame(rows(inventory.records), columns=[*KEYS, *EXTRAS])
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


def verdicts(
    df_or_path: pd.DataFrame | str | Path | None = None,
    *,
    statics: Statics = "dense",
    level: float = 0.95,
) -> pd.DataFrame:
    """Return one row per method and axis of cost: is it better than a static network of that cost?

    Given a table of `load_results`, only runs in it count, read again where it came from; given a
    folder, all runs in it. `outcome` is "better", "worse", "not distinguishable", or missing with a
    `reason`; gains and bounds are accuracies from 0 to 1, costs are shares of the backbone's.
    `paragraph` is the text on all axes. The full numbers: `bench.report.verdicts.judge`.

    Raises:
        ConfigError: the table does not say where it was read, or there is no such folder.

    Examples:
        >>> import bench
        >>> found = bench.verdicts("results/reference")
        >>> found[(found.method == "sact") & (found.axis == "macs")].outcome.item()
        'worse'
    """
    import pandas as pd

    from bench.records.store import RunStore
    from bench.report.verdicts import judge

    frame = df_or_path if isinstance(df_or_path, pd.DataFrame) else load_results(df_or_path)
    if FOLDER not in frame.attrs or "run" not in frame.columns:
        raise ConfigError(
            "This table does not say which folder it was read from.",
            hint="Give the table of bench.load_results(), or the folder itself.",
        )
    store = RunStore(Path(frame.attrs[FOLDER]))
    wanted = set(frame["run"])
    records = [record for record in store.load_all().records if record.run in wanted]
    found = judge(records, store, statics=statics, level=level)
    rows = [_row(verdict, axis) for verdict in found for axis in verdict.axes]
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


VERDICT_COLUMNS = [
    *("method", "variant", "settings", "dataset", "backbone", "recipe", "control", "axis"),
    "outcome",
    *("reason", "gain", "low", "high", "p_value", "p_holm", "family", "cost_low", "cost_high"),
    *("seeds", "static_seeds", "images", "covers_training", "dense_epochs", "static"),
    *("sentence", "paragraph"),
]


def _row(verdict: MethodVerdict, axis: AxisVerdict) -> dict[str, Any]:
    row: dict[str, Any] = {
        key: getattr(verdict, key)
        for key in (
            *("method", "variant", "settings", "dataset", "backbone", "recipe", "control"),
            "seeds",
        )
    }
    row |= {"images": verdict.images, "dense_epochs": verdict.dense_epochs, "axis": axis.axis}
    row |= {"reason": axis.reason, "static": ", ".join(axis.static), "sentence": axis.sentence}
    row |= {"static_seeds": min(axis.static_seeds, default=None), "paragraph": verdict.sentence}
    decided = axis.verdict
    if decided is None:
        return row
    gain, costs = decided.comparison.gain, decided.comparison.costs
    return row | {
        "outcome": decided.outcome,
        "gain": gain.value,
        "low": gain.bounds.low,
        "high": gain.bounds.high,
        "p_value": decided.p_value,
        "p_holm": decided.p_holm,
        "family": decided.family,
        "cost_low": costs.low,
        "cost_high": costs.high,
        "covers_training": gain.covers_training,
    }
