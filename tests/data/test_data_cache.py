"""The decoded copy on disk: whole, checked, and set aside when damaged."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest
import safetensors.torch
import torch

from bench.data import cache
from bench.data.images import Dataset
from bench.errors import StorageError


@pytest.fixture
def saved(small_dataset: Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "small" / cache.FILE_NAME
    cache.save(small_dataset, path, source="here")
    return path


def test_a_data_set_comes_back_as_it_was_saved(small_dataset: Dataset, saved: Path) -> None:
    loaded = cache.load(saved, source="here")
    assert loaded is not None
    assert loaded.info == small_dataset.info
    for found, expected in (
        (loaded.train, small_dataset.train),
        (loaded.test, small_dataset.test),
    ):
        assert torch.equal(found.images_nhwc, expected.images_nhwc)
        assert torch.equal(found.labels_n, expected.labels_n)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_file_that_is_not_there_or_of_another_source_gives_nothing(saved: Path) -> None:
    assert cache.load(saved.with_name("other"), source="here") is None
    assert cache.load(saved, source="there") is None
    assert saved.exists()


@pytest.mark.parametrize("kept_bytes", [0, 5, 200, -1])
def test_a_truncated_file_is_set_aside_with_a_warning(saved: Path, kept_bytes: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept_bytes])
    with pytest.warns(cache.DataWarning, match="damaged"):
        assert cache.load(saved, source="here") is None
    assert [path.name for path in saved.parent.iterdir()] == [f"{saved.name}.broken"]


@pytest.mark.parametrize("what", [b"A small one", b"here", None])
def test_one_changed_byte_anywhere_is_noticed(saved: Path, what: bytes | None) -> None:
    content = bytearray(saved.read_bytes())
    place = -7 if what is None else content.index(what)
    content[place] ^= 1
    saved.write_bytes(content)
    if what == b"here":  # then it is a file of another source
        assert cache.load(saved, source="here") is None
    else:
        with pytest.warns(cache.DataWarning, match="checksum"):
            assert cache.load(saved, source="here") is None


def test_a_foreign_safetensors_file_is_set_aside(saved: Path) -> None:
    safetensors.torch.save_file({"x": torch.zeros(1)}, saved, metadata={"source": "here"})
    with pytest.warns(cache.DataWarning, match="damaged"):
        assert cache.load(saved, source="here") is None


def test_a_data_folder_that_cannot_be_made_is_named_with_a_way_out(
    small_dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"--data-dir.*digits"):
        cache.save(small_dataset, tmp_path / "file" / "x" / cache.FILE_NAME, source="here")


def test_a_full_disk_is_told_and_the_old_file_stays(
    small_dataset: Dataset, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="disk is full"):
        cache.save(small_dataset, saved, source="elsewhere")
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert cache.load(saved, source="here") is not None
