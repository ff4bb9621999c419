"""Batches: what an epoch holds, and that the pixels agree with torchvision's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as reference

from bench.data.augment import (
    Batch,
    Draws,
    crop_and_mirror,
    eval_batches,
    normalise,
    pad_images,
    steps_per_epoch,
    train_batches,
)
from bench.data.images import ImageSet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def _images(count: int, *, height: int = 12, width: int = 10, channels: int = 3) -> ImageSet:
    draws = torch.Generator().manual_seed(count)
    shape = (count, height, width, channels)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=draws)
    return ImageSet(pixels, torch.arange(count) % 7)


def _epoch(images: ImageSet, *, batch_size: int, seed: int, pad: int = 2) -> list[Batch]:
    draws = torch.Generator().manual_seed(seed)
    padded = pad_images(images, pad, flip=True)
    return list(train_batches(padded, batch_size=batch_size, mean=MEAN, std=STD, generator=draws))


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_crop_mirror_and_normalise_agree_with_torchvision(pad: int) -> None:
    images, draws = _images(24), torch.Generator().manual_seed(0)
    index_n = torch.randint(24, (16,), generator=draws)
    top_n, left_n = torch.randint(2 * pad + 1, (2, 16), generator=draws)
    mirrored_n = torch.randint(2, (16,), generator=draws).bool()
    cut_nhwc = crop_and_mirror(pad_images(images, pad), Draws(index_n, top_n, left_n, mirrored_n))
    x_nchw = normalise(cut_nhwc, mean=MEAN, std=STD)
    for i in range(16):
        expected = images.images_nhwc[index_n[i]].permute(2, 0, 1)
        expected = reference.pad(expected, [pad])
        expected = reference.crop(expected, int(top_n[i]), int(left_n[i]), 12, 10)
        expected = reference.horizontal_flip(expected) if mirrored_n[i] else expected
        assert torch.equal(cut_nhwc[i].permute(2, 0, 1), expected)
        expected = reference.to_dtype(expected, torch.float32, scale=True)
        expected = reference.normalize(expected, list(MEAN), list(STD))
        torch.testing.assert_close(x_nchw[i], expected, rtol=0, atol=1e-6)


def test_normalised_batches_are_float32_and_channels_last() -> None:
    x_nchw = normalise(_images(5).images_nhwc, mean=MEAN, std=STD)
    assert x_nchw.shape == (5, 3, 12, 10)
    assert x_nchw.dtype == torch.float32
    assert x_nchw.is_contiguous(memory_format=torch.channels_last)


def test_normalising_leaves_the_stored_pixels_alone() -> None:
    images = _images(5)
    before = images.images_nhwc.clone()
    normalise(images.images_nhwc, mean=MEAN, std=STD)
    assert torch.equal(images.images_nhwc, before)


def test_grey_images_work_too() -> None:
    x_nchw = normalise(_images(5, channels=1).images_nhwc, mean=(0.5,), std=(0.5,))
    assert x_nchw.shape == (5, 1, 12, 10)
    assert -1 <= x_nchw.min() < x_nchw.max() <= 1


def test_an_epoch_shows_every_image_once_but_for_the_last_partial_batch() -> None:
    images = _images(50)
    batches = _epoch(images, batch_size=16, seed=0)
    assert [len(batch) for batch in batches] == [16, 16, 16]
    index_n = torch.cat([batch.index_n for batch in batches])
    assert len(index_n.unique()) == 48
    assert index_n.tolist() != sorted(index_n.tolist())
    assert torch.equal(torch.cat([b.labels_n for b in batches]), images.labels_n[index_n])


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    (batch,) = _epoch(_images(5), batch_size=16, seed=0)
    assert sorted(batch.index_n.tolist()) == [0, 1, 2, 3, 4]


def test_an_epoch_is_reproducible_from_its_seed() -> None:
    images = _images(40)
    first, again, other = (_epoch(images, batch_size=8, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a.x_nchw, b.x_nchw) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a.x_nchw, b.x_nchw) for a, b in zip(first, other, strict=True))


def test_an_image_is_cut_the_same_way_at_every_batch_size() -> None:
    images = _images(32)
    small = torch.cat([batch.x_nchw for batch in _epoch(images, batch_size=4, seed=1)])
    large = torch.cat([batch.x_nchw for batch in _epoch(images, batch_size=16, seed=1)])
    assert torch.equal(small, large)


def test_the_draws_are_made_before_the_first_batch_is_asked_for() -> None:
    draws, untouched = torch.Generator().manual_seed(9), torch.Generator().manual_seed(9)
    padded = pad_images(_images(20), 2)
    epoch = train_batches(padded, batch_size=4, mean=MEAN, std=STD, generator=draws)
    after = draws.get_state()
    assert not torch.equal(after, untouched.get_state())
    assert len(list(epoch)) == 5
    assert torch.equal(draws.get_state(), after)


def test_crops_reach_every_offset_and_half_of_the_images_are_mirrored() -> None:
    # One bright pixel off the middle shows where the window was and whether it was mirrored.
    pixels = torch.zeros(2000, 5, 5, 1, dtype=torch.uint8)
    pixels[:, 2, 1] = 255
    images = ImageSet(pixels, torch.zeros(2000, dtype=torch.int64))
    draws = torch.Generator().manual_seed(0)
    (batch,) = train_batches(
        pad_images(images, 1, flip=True),
        batch_size=2000,
        mean=(0.0,),
        std=(1.0,),
        generator=draws,
    )
    counts_hw = (batch.x_nchw[:, 0] > 0.5).sum(0)
    # Unmirrored the pixel lands in columns 0 to 2, mirrored in 2 to 4; rows 1 to 3 either way.
    expected = torch.zeros(5, 5)
    expected[1:4] = torch.tensor([1.0, 1, 2, 1, 1]) * 2000 / 18
    assert counts_hw.sum() == 2000
    assert (counts_hw - expected).abs().max() < 50


def test_without_flip_no_image_is_mirrored() -> None:
    images = _images(64)
    draws = torch.Generator().manual_seed(0)
    (batch,) = train_batches(
        pad_images(images, 0), batch_size=64, mean=MEAN, std=STD, generator=draws
    )
    straight = normalise(images.images_nhwc[batch.index_n], mean=MEAN, std=STD)
    assert torch.equal(batch.x_nchw, straight)


def test_evaluation_shows_all_images_in_order_and_untouched() -> None:
    images = _images(21)
    batches = list(eval_batches(images, batch_size=8, mean=MEAN, std=STD))
    assert [len(batch) for batch in batches] == [8, 8, 5]
    assert torch.cat([batch.index_n for batch in batches]).tolist() == list(range(21))
    assert torch.equal(torch.cat([batch.labels_n for batch in batches]), images.labels_n)
    together = torch.cat([batch.x_nchw for batch in batches])
    assert torch.equal(together, normalise(images.images_nhwc, mean=MEAN, std=STD))


@given(count=st.integers(0, 40), batch_size=st.integers(1, 50))
def test_steps_per_epoch_is_what_an_epoch_gives(count: int, batch_size: int) -> None:
    images = _images(count, height=2, width=2)
    batches = _epoch(images, batch_size=batch_size, seed=0, pad=0)
    assert len(batches) == steps_per_epoch(count, batch_size=batch_size)
