"""Images that are read when they are needed: the same ones, whoever reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from baselines.resnet import DenseResNet
from bench.data import folder, load
from bench.data.augment import eval_batches, train_batches
from bench.data.images import Dataset, hold_out
from bench.data.load import load_dataset
from bench.data.streaming import Streamed, trainable
from bench.errors import DataError
from bench.method import Backbone, Budget, OptimizerSpec
from bench.seeding import seed_globally
from bench.training.checkpoint import Checkpoint
from bench.training.loop import Training, train
from bench.training.reporter import Reporter

ZEROS, ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@pytest.fixture
def photos_folder(tmp_path: Path) -> Path:
    """Photos of three classes and of many sizes, 24 for training and 9 for testing."""
    draws, folder = np.random.default_rng(0), tmp_path / "photos"
    for split, count in (("train", 8), ("val", 3)):
        for label in "abc":
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                height, width = draws.integers(24, 48, 2)
                pixels = draws.integers(0, 255, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.jpg")
    return folder


def _load(folder: Path, *, workers: int = 1) -> Dataset:
    return load_dataset(str(folder), data_dir=folder.parent / "data", workers=workers)


def _epoch(data: Dataset, *, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batches = list(
        train_batches(
            trainable(data.train, data), batch_size=5, mean=ZEROS, std=ONES, generator=generator
        )
    )
    return torch.cat([b.x_nchw for b in batches]), torch.cat([b.index_n for b in batches])


def test_an_epoch_depends_on_its_seed_and_not_on_the_number_of_workers(photos_folder: Path) -> None:
    alone, three = _load(photos_folder), _load(photos_folder, workers=3)
    (x_nchw, index_n), (same_nchw, same_n) = _epoch(alone, seed=1), _epoch(three, seed=1)
    assert x_nchw.shape == (20, 3, 24, 24), "whole batches"
    assert torch.equal(x_nchw, same_nchw) and torch.equal(index_n, same_n)
    other_nchw, other_n = _epoch(alone, seed=2)
    both = set(index_n.tolist()) & set(other_n.tolist())
    for image in both:
        one, two = x_nchw[index_n == image], other_nchw[other_n == image]
        assert not torch.equal(one, two), "cropped anew"


def test_evaluation_sees_the_middle_as_torchvision_cuts_it(photos_folder: Path) -> None:
    data = _load(photos_folder)
    side = data.info.height
    files = sorted((photos_folder / "val").rglob("*.jpg"))
    view = v2.Compose([v2.Resize(side * 8 // 7, antialias=True), v2.CenterCrop(side)])
    expected = {np.asarray(view(Image.open(file))).tobytes(): file.parent.name for file in files}
    held = data.test.held("cpu")
    found = {
        image.numpy().tobytes(): data.info.class_names[label]
        for image, label in zip(held.images_nhwc, held.labels_n.tolist(), strict=True)
    }
    assert found == expected
    order_n = torch.tensor([4, 0, 7])
    (batch,) = eval_batches(data.test, batch_size=9, mean=ZEROS, std=ONES, order_n=order_n)
    picked = held.images_nhwc[order_n].permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(batch.x_nchw, picked, rtol=0, atol=1e-6)
    assert torch.equal(batch.labels_n, held.labels_n[order_n])


def test_what_is_held_out_is_trained_on_no_more(photos_folder: Path) -> None:
    rest, held = hold_out(_load(photos_folder).train, 6, seed=3)
    assert held.labels_n.bincount().tolist() == [2, 2, 2]
    assert not set(rest.place_n.tolist()) & set(held.place_n.tolist())


def test_what_does_not_fit_into_memory_is_streamed_and_looked_at_once(
    photos_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in photos_folder.rglob("*.jpg"):
        Image.open(file).resize((40, 30)).save(file)
    monkeypatch.setattr(load, "memory_bytes", lambda: 100_000)
    first = _load(photos_folder)
    assert isinstance(first.train, Streamed) and "33 images" in first.remark
    assert (first.info.height, first.info.width) == (30, 40), "one size: it is kept"
    monkeypatch.setattr(folder, "in_threads", None)
    again = _load(photos_folder)
    assert again.info == first.info
    assert torch.equal(again.test.held("cpu").images_nhwc, first.test.held("cpu").images_nhwc)


def test_a_killed_training_on_streamed_images_ends_in_the_same_weights(
    photos_folder: Path, tmp_path: Path
) -> None:
    class Killed(Reporter):
        def epoch_finished(self, row: object) -> None:
            raise KeyboardInterrupt

    def trained(name: str, reporter: Reporter, *, workers: int) -> list[Tensor]:
        data = _load(photos_folder, workers=workers)
        seed_globally(0, "build")
        method = DenseResNet()
        net = method.build(Backbone("resnet8", 3, (3, 24, 24), "A", None), method.Config())
        budget = Budget(recipe="t", epochs=2, batch_size=8, optimizer=OptimizerSpec(lr=0.05))
        checkpoint = Checkpoint(tmp_path / name, identity="x")
        info, images = data.info, trainable(data.train, data)
        training = Training(images, info.mean, info.std, checkpoint, reporter=reporter)
        train(net, method.phases(method.Config(), budget), training)
        return list(net.state_dict().values())

    whole = trained("whole", Reporter(), workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.training.loop._CHECKPOINT_EVERY_S", -1.0)
        with pytest.raises(KeyboardInterrupt):
            trained("killed", Killed(), workers=3)
    continued = trained("killed", Reporter(), workers=2)
    assert all(torch.equal(a, b) for a, b in zip(whole, continued, strict=True))


def test_a_broken_image_is_named_until_it_is_mended(photos_folder: Path) -> None:
    broken = photos_folder / "train" / "b" / "3.jpg"
    sound = broken.read_bytes()
    broken.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(DataError, match=r"1 of 33 images[\s\S]*b.3\.jpg"):
        _load(photos_folder)
    broken.write_bytes(sound)
    assert len(_load(photos_folder).train) == 24, "it was mended"


def test_an_image_that_breaks_later_ends_training_in_words(photos_folder: Path) -> None:
    data = _load(photos_folder, workers=2)
    for file in photos_folder.glob("train/a/*.jpg"):
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^Cannot read the image .*train.a.\d\.jpg"):
        _epoch(data, seed=0)
