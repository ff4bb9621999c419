"""Numbers from papers: read from results/published/*.csv, one point a line, with its source.

Owns the units (percent to fraction, 2 x MAC to MAC) and where the files lie, in a checkout and in
an installed package; owns no comparison. Nothing here was measured by this program.
"""

from __future__ import annotations

import csv
import re
import site
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import bench
from bench.errors import DataError

COLUMNS = ("method", "variant", "dataset", "backbone", "accuracy", "nflops", "flops", "source")
SHARE = Path("share") / "skipbench" / "published"
_FLOPS = re.compile(r"([0-9.]+(?:e[0-9]+)?) (MAC|\(2xMAC\))")


@dataclass(frozen=True, slots=True)
class PublishedPoint:
    """One published operating point; `accuracy` and `nflops` are fractions, `macs` per image."""

    method: str
    variant: str
    dataset: str
    backbone: str
    accuracy: float | None
    nflops: float | None
    macs: float | None
    source: str
    note: str

    @property
    def plottable(self) -> bool:
        """Whether the point has a place in the plane of nFLOPs and accuracy."""
        return self.accuracy is not None and self.nflops is not None


def published_dir() -> Path:
    """Return the folder of the published numbers: beside the source, else as installed.

    Raises:
        DataError: it is in none of the places.
    """
    package = bench.__file__ or bench.__path__[0]
    root = Path(package).resolve().parent.parent
    places = [
        root / "results" / "published",
        root / SHARE,  # pip install --target
        Path(sysconfig.get_path("data")) / SHARE,
        Path(site.getuserbase()) / SHARE,
    ]
    for place in places:
        if any(place.glob("*.csv")):
            return place
    raise DataError(
        f"The published numbers are missing: no .csv file in {places[0]} or {places[2]}.",
        hint="Install skipbench again; without them, leave out --published.",
    )


def load_published(
    dataset: str, backbone: str | None = None, *, folder: Path | None = None
) -> list[PublishedPoint]:
    """Return the points of `dataset`, in the order of the files, sorted by name.

    Spelling does not matter: "cifar10" finds CIFAR-10. `backbone` "resnet32" also finds variants
    such as "ResNet-32 (option B)"; the point keeps the source's own name.

    Raises:
        DataError: a file cannot be read, lacks a column or holds a wrong value.
    """
    paths = sorted((folder or published_dir()).glob("*.csv"))
    points = [point for path in paths for point in _read(path)]
    wanted = (
        {"dataset": dataset} if backbone is None else {"dataset": dataset, "backbone": backbone}
    )
    asked = {key: canonical_name(name) for key, name in wanted.items()}
    return [p for p in points if all(canonical_name(getattr(p, k)) == v for k, v in asked.items())]


def canonical_name(name: str) -> str:
    """Return `name` in lower case, without punctuation and without what is in parentheses."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*?\)", "", name.lower()))


def _read(path: Path) -> list[PublishedPoint]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path} has no column {', '.join(missing)}.",
                    hint=f"Expected columns: {', '.join(COLUMNS)}, and a note.",
                )
            return [_point(row, f"{path}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Cannot read the published numbers in {path}: {error}.") from error


def _point(row: dict[str, str], where: str) -> PublishedPoint:
    percent = _number(row["accuracy"], where=where, highest=100.0)
    return PublishedPoint(
        **{name: row[name] for name in ("method", "variant", "dataset", "backbone", "source")},
        accuracy=None if percent is None else percent / 100,
        nflops=_number(row["nflops"], where=where, highest=10.0),
        macs=_macs(row["flops"], where=where),
        note=(row.get("note") or "").strip(),
    )


def _number(text: str, *, where: str, highest: float) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= highest:
        raise DataError(f"{where}: '{text}' is not a number from 0 to {highest:g}.")
    return value


def _macs(text: str, *, where: str) -> float | None:
    if not text:
        return None
    match = _FLOPS.fullmatch(text)
    if match is None:
        raise DataError(f"{where}: '{text}' is not a cost such as '5.5e7 MAC' or '1e8 (2xMAC)'.")
    # BlockDrop and SACT count a multiplication and an addition as two; everyone else as one.
    return float(match[1]) / (2 if "2x" in match[2] else 1)
