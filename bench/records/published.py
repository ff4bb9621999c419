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

SHARE = Path("share") / "skipbench" / "published"


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
    return [
        point
        for point in points
        if canonical_name(point.dataset) == canonical_name(dataset)
        and (backbone is None or canonical_name(point.backbone) == canonical_name(backbone))
    ]


def canonical_name(name: str) -> str:
    """Return `name` in lower case, without punctuation and without what is in parentheses."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*?\)", "", name.lower()))


def _read(path: Path) -> list[PublishedPoint]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_point(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise DataError(f"Cannot read the published numbers in {path}: {error}.") from error


def _point(row: dict[str, str]) -> PublishedPoint:
    return PublishedPoint(
        **{name: row[name] for name in ("method", "variant", "dataset", "backbone", "source")},
        accuracy=float(row["accuracy"]) / 100 if row["accuracy"] else None,
        nflops=float(row["nflops"]) if row["nflops"] else None,
        macs=_macs(row["flops"]) if row["flops"] else None,
        note=row["note"].strip(),
    )


def _macs(text: str) -> float:
    """Return MACs of a cost such as "5.5e7 MAC" or "1e8 (2xMAC)".

    BlockDrop and SACT count a multiplication and an addition as two; everyone else as one.
    """
    number, unit = text.split()
    return float(number) / {"MAC": 1, "(2xMAC)": 2}[unit]
