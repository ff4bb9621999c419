"""Data sets of one's own, in memory and not, and those of torchvision by name."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.data.augment import train_batches
from bench.data.images import Dataset
from bench.data.load import is_named, load_dataset
from bench.data.plugin import PLUGINS, DatasetPlugin, in_memory, streamed
from bench.data.streaming import Views, trainable
from bench.errors import DataError, PluginError
from bench.plugins import load_plugin, plugin_files

LABELS = torch.arange(12) % 3
TABLE = torch.randn(12, 1, 4, 2, generator=torch.Generator().manual_seed(0))


class Table(DatasetPlugin):
    """Numbers that are no pixels: (N, 1, 4, 2)."""

    name, title = "table", "A table"

    def load(self, data_dir: Path, *, workers: int, room_bytes: int) -> Dataset:
        return in_memory(
            self,
            train=(TABLE, LABELS),
            test=(TABLE[:6], LABELS[:6]),
            class_names="abc",
            constants=((0.0, 0.0), (1.0, 1.0)),
        )


def _noise(x_nhwc: Tensor, generator: torch.Generator) -> Tensor:
    return x_nhwc + torch.rand(x_nhwc.shape, generator=generator)


def _one_test_image(plugin: DatasetPlugin, data_dir: Path, **_: int) -> Dataset:
    test = TABLE[:1], LABELS[:1]
    return in_memory(plugin, train=(TABLE, LABELS), test=test, class_names="abc")


class Noisy(Table):
    name, title = "noisy", "A table with noise"

    def load(self, data_dir: Path, *, workers: int, room_bytes: int) -> Dataset:
        split = (TABLE, LABELS)
        constants = ((0.0, 0.0), (1.0, 1.0))
        return in_memory(
            self, train=split, test=split, class_names="abc", constants=constants, augment=_noise
        )


class Rows:
    """A source: row n of the table, as (C, H, W)."""

    def __len__(self) -> int:
        return len(TABLE)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return TABLE[place].permute(2, 0, 1), int(LABELS[place])


def _jitter(row: Tensor) -> Tensor:
    return row + torch.rand(())


class Lazy(DatasetPlugin):
    name, title = "lazy", "Rows read one by one"
    labels = LABELS.tolist()

    def load(self, data_dir: Path, *, workers: int, room_bytes: int) -> Dataset:
        return streamed(
            self,
            train=Rows(),
            test=Rows(),
            labels=(self.labels, self.labels),
            views=Views(_jitter, torch.Tensor.clone),
            class_names="abc",
            constants=((0.0, 0.0), (1.0, 1.0)),
            workers=workers,
        )


@pytest.fixture(autouse=True)
def _plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PLUGINS, "_added", {})
    for plugin in (Table, Noisy, Lazy):
        PLUGINS.add(plugin, source="this test")


def _seen(name: str, folder: Path, *, seed: int = 0, workers: int = 1) -> Tensor:
    """Return what an epoch of training sees, (N, H, W, C) in the order of the split."""
    data = load_dataset(name, data_dir=folder, workers=workers)
    draws = torch.Generator().manual_seed(seed)
    batches = train_batches(
        trainable(data.train, data),
        batch_size=4,
        mean=data.info.mean,
        std=data.info.std,
        generator=draws,
    )
    found = [(batch.x_nchw, batch.index_n) for batch in batches]
    order = torch.cat([index_n for _, index_n in found]).argsort()
    return torch.cat([x_nchw for x_nchw, _ in found])[order].permute(0, 2, 3, 1)


def _rows(x_nhwc: Tensor) -> list[list[float]]:
    return sorted(x_nhwc.flatten(1).tolist())


def test_numbers_that_are_no_pixels_reach_training_as_they_are(tmp_path: Path) -> None:
    assert _rows(_seen("table", tmp_path)) == _rows(TABLE)
    info = load_dataset("table", data_dir=tmp_path).info
    assert (info.channels, info.height, info.width, info.flip, info.pad) == (2, 1, 4, False, 0)
    assert is_named("table") and not is_named("tables")


def test_an_augmentation_of_its_own_draws_from_the_seed_and_is_part_of_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again, other = (_seen("noisy", tmp_path, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    plain = load_dataset("noisy", data_dir=tmp_path)
    added = first - plain.train.held("cpu").images_nhwc
    assert added.min() >= 0 and added.max() <= 1 and added.std() > 0.2
    monkeypatch.setattr(PLUGINS, "code", lambda name: "changed")
    assert load_dataset("noisy", data_dir=tmp_path).info.fingerprint != plain.info.fingerprint


def test_one_in_a_plugin_file_is_found_by_its_name_here_and_in_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own_table.py"
    file.write_text(
        """
import torch
from bench.data.plugin import DatasetPlugin, in_memory


class Own(DatasetPlugin):
    name, title = "own_table", "Mine"

    def load(self, data_dir, *, workers, room_bytes):
        split = torch.ones(4, 2, 2, 1), torch.tensor([0, 1, 0, 1])
        return in_memory(self, train=split, test=split, class_names="ab")
"""
    )
    assert load_plugin(file) == [], "no method"
    assert load_plugin(file) == [] and file in plugin_files()
    assert load_dataset("own_table", data_dir=tmp_path).info.title == "Mine"


def test_a_lazy_one_is_read_by_workers_with_its_own_views(tmp_path: Path) -> None:
    first, again = _seen("lazy", tmp_path), _seen("lazy", tmp_path, workers=2)
    assert torch.equal(first, again)
    shift_nhwc = first - TABLE
    assert (shift_nhwc.flatten(1).std(1) < 1e-5).all(), "one number for each image"
    assert shift_nhwc[:, 0, 0, 0].std() > 0.1, "another for each"
    test = load_dataset("lazy", data_dir=tmp_path).test
    assert torch.equal(test.held("cpu").images_nhwc, TABLE)


def test_labels_without_a_class_and_code_that_fails_are_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lazy, "labels", [0, 1, 3] * 4)
    with pytest.raises(DataError, match=r"'lazy' go from 0 to 3, but it names 3 classes"):
        load_dataset("lazy", data_dir=tmp_path)

    monkeypatch.setattr(Table, "load", _one_test_image)
    with pytest.raises(DataError, match=r"'table' has 1 test images of 3 classes; at least 2"):
        load_dataset("table", data_dir=tmp_path)

    def fails(*_: object, **__: object) -> Any:
        raise KeyError("images")

    monkeypatch.setattr(Table, "load", fails)
    with pytest.raises(PluginError, match=r"'table' cannot be loaded: KeyError: 'images'"):
        load_dataset("table", data_dir=tmp_path)


@pytest.mark.parametrize(
    "test",
    [(TABLE.double(), LABELS), (TABLE, LABELS.int()), (TABLE, LABELS[:-1]), (TABLE[0], LABELS)],
)
def test_tensors_of_another_kind_or_number_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test: tuple[Tensor, Tensor]
) -> None:
    def load(plugin: DatasetPlugin, data_dir: Path, **_: int) -> Dataset:
        return in_memory(plugin, train=(TABLE, LABELS), test=test, class_names="abc")

    monkeypatch.setattr(Table, "load", load)
    with pytest.raises(DataError, match=r"'table': images must be \(N, H, W, C\) uint8 or float32"):
        load_dataset("table", data_dir=tmp_path)


def test_a_data_set_of_torchvision_is_read_where_its_files_lie(tmp_path: Path) -> None:
    raw, draws = tmp_path / "FashionMNIST" / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    pixels = draws.integers(0, 255, (20, 28, 28), dtype=np.uint8)
    for split, count in (("train", 20), ("t10k", 10)):
        images = struct.pack(">IIII", 2051, count, 28, 28) + pixels[:count].tobytes()
        (raw / f"{split}-images-idx3-ubyte").write_bytes(images)
        labels = struct.pack(">II", 2049, count) + bytes(n % 10 for n in range(count))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(labels)
    data = load_dataset("fashion_mnist", data_dir=tmp_path)
    assert data.info == load_dataset("torchvision/FashionMNIST", data_dir=tmp_path).info
    assert data.info.class_names[9] == "Ankle boot" and data.info.flip
    held = data.train.held("cpu")
    pictures = [image.numpy().tobytes() for image in held.images_nhwc]
    assert dict(zip(pictures, held.labels_n.tolist(), strict=True)) == {
        image.tobytes(): n % 10 for n, image in enumerate(pixels)
    }
    with pytest.raises(DataError, match=r"Food101 cannot be read[\s\S]*download=True"):
        load_dataset("food101", data_dir=tmp_path)
