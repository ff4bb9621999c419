"""What `bench data verify` is told about the files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_cifar import TinyCifar

from bench.data.cifar import cache_path
from bench.data.load import load_dataset, verify


def _statuses(name: str, data_dir: Path) -> dict[str, str]:
    return {
        report.file.name: report.status
        for report in verify(name, data_dir=data_dir)
        if report.file is not None
    }


def test_an_empty_data_folder_has_nothing_and_stays_empty(
    cifar10: TinyCifar, tmp_path: Path
) -> None:
    assert set(_statuses("cifar10", tmp_path / "data").values()) == {"missing"}
    assert not (tmp_path / "data").exists()


def test_after_a_fetch_all_is_well(
    cifar10: TinyCifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar10.put_archive(tmp_path / "mirror")
    monkeypatch.setenv("BENCH_DATA_MIRROR", (tmp_path / "mirror").as_uri())
    dataset = load_dataset("cifar10", data_dir=tmp_path / "data")
    reports = verify("cifar10", data_dir=tmp_path / "data")
    assert [report.status for report in reports] == ["ok", "ok"]
    assert dataset.info.fingerprint in reports[0].detail


def test_damaged_files_are_named_and_left_where_they_are(
    cifar10: TinyCifar, tmp_path: Path
) -> None:
    archive = cifar10.put_archive(tmp_path)
    load_dataset("cifar10", data_dir=tmp_path)
    decoded = cache_path("cifar10", data_dir=tmp_path)
    decoded.write_bytes(decoded.read_bytes()[:-1])
    archive.write_bytes(cifar10.archive[:-1])
    archive.with_name(archive.name + ".part").write_bytes(b"half")
    assert _statuses("cifar10", tmp_path) == {
        decoded.name: "broken",
        archive.name: "broken",
        f"{archive.name}.part": "incomplete",
    }
    assert decoded.exists()
    assert archive.exists()


def test_an_embedded_set_needs_no_file(tmp_path: Path) -> None:
    (report,) = verify("synthetic", data_dir=tmp_path)
    assert (report.file, report.status) == (None, "embedded")


def test_a_folder_is_ok_once_loaded_and_outdated_when_it_changed(
    cifar10: TinyCifar, tmp_path: Path
) -> None:
    folder = cifar10.put_folder(tmp_path / "photos")
    (new,) = verify(str(folder), data_dir=tmp_path / "data")
    load_dataset(str(folder), data_dir=tmp_path / "data")
    (good,) = verify(str(folder), data_dir=tmp_path / "data")
    next((folder / "train" / "cat").iterdir()).unlink()
    (stale,) = verify(str(folder), data_dir=tmp_path / "data")
    assert [report.status for report in (new, good, stale)] == ["ok", "ok", "ok"]
    assert "40 + 20 images, looked at when first used" in new.detail
    assert "older" in stale.detail
