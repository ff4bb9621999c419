"""Papers' numbers: the shipped file reads whole, and units are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import DataError
from bench.records import published
from bench.records.published import load_published, published_dir

HEADER = "method,variant,dataset,backbone,blocks,accuracy,nflops,flops,source,note\n"


def write(folder: Path, *lines: str) -> Path:
    (folder / "own.csv").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_the_shipped_numbers_read_and_every_one_has_a_source() -> None:
    points = load_published("cifar10") + load_published("cifar100")
    assert len(points) > 50
    assert all(point.source and point.source != "unverified" for point in points)
    assert all(0.05 < point.accuracy < 1 for point in points if point.accuracy is not None)
    assert all(0 < point.nflops < 10 for point in points if point.nflops is not None)


def test_spelling_of_data_set_and_backbone_does_not_matter() -> None:
    assert load_published("CIFAR-10", "ResNet-32") == load_published("cifar10", "resnet32")
    names = {point.backbone for point in load_published("cifar10", "resnet32")}
    assert names == {"ResNet-32", "ResNet-32 (option B)", "ResNet-32 (pre-act, lrelu)"}
    assert load_published("cifar1000") == []


def test_sgad_on_resnet32_is_as_in_its_table_1() -> None:
    points = [p for p in load_published("cifar10", "resnet32") if p.method == "SGAD"]
    assert [(p.variant, p.accuracy, p.nflops) for p in points] == [
        ("MF", pytest.approx(0.9311), 0.86),
        ("LF", pytest.approx(0.9218), 0.47),
    ]


def test_costs_counted_as_two_per_mac_are_halved() -> None:
    (sact,) = [p for p in load_published("cifar10", "resnet32") if p.method == "SACT"]
    assert sact.macs == pytest.approx(8.239e7 / 2)
    (dynconv,) = [p for p in load_published("cifar10", "resnet32") if p.method == "DynConv"]
    assert dynconv.macs == pytest.approx(5.543e7)


def test_only_points_with_accuracy_and_nflops_are_plottable(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        "A,v,D,R,1,90,0.5,,s,",
        "A,v,D,R,1,,0.5,,s,",
        "A,v,D,R,1,90,,5e7 MAC,s,",
    )
    points = load_published("D", folder=folder)
    assert [point.plottable for point in points] == [True, False, False]


@pytest.mark.parametrize("line", ["A,v,D,R,1,high,0.5,,s,", "A,v,D,R,1,90,0.5,5e7 FLOPs,s,"])
def test_a_file_with_something_else_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match=r"Cannot read the published numbers in .*own\.csv"):
        load_published("D", folder=write(tmp_path, line))


def installed_at(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published.bench, "__file__", str(base / "site" / "bench" / "__init__.py"))
    monkeypatch.setattr(published.sysconfig, "get_path", lambda name: str(base / "prefix"))
    monkeypatch.setattr(published.site, "getuserbase", lambda: str(base / "user"))


@pytest.mark.parametrize("where", ["site", "prefix", "user"])
def test_an_installed_package_finds_them_under_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    installed_at(tmp_path, monkeypatch)
    folder = tmp_path / where / "share" / "skipbench" / "published"
    folder.mkdir(parents=True)
    write(folder, "A,v,D,R,1,90,0.5,,s,")
    assert published_dir() == folder


def test_missing_numbers_say_where_they_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_at(tmp_path, monkeypatch)
    with pytest.raises(DataError, match="results/published"):
        published_dir()
