"""Fingerprint, canonical order and channel statistics."""

from __future__ import annotations

import pytest
import torch

from bench.data.images import Dataset, ImageSet, channel_statistics, fingerprint, in_canonical_order


def _shuffled(images: ImageSet) -> ImageSet:
    return images.take(torch.randperm(len(images), generator=torch.Generator().manual_seed(5)))


def test_the_fingerprint_does_not_depend_on_the_order(small_dataset: Dataset) -> None:
    train, test = small_dataset.train, small_dataset.test
    assert fingerprint(train, test) == fingerprint(_shuffled(train), _shuffled(test))
    assert len(fingerprint(train, test)) == 16


def test_the_fingerprint_changes_with_one_pixel_one_label_or_the_split(
    small_dataset: Dataset,
) -> None:
    train, test = small_dataset.train, small_dataset.test
    pixels, labels = train.images_nhwc.clone(), train.labels_n.clone()
    pixels[3, 2, 1, 0] += 1
    labels[0] += 1
    prints = {
        fingerprint(train, test),
        fingerprint(test, train),
        fingerprint(ImageSet(pixels, train.labels_n), test),
        fingerprint(ImageSet(train.images_nhwc, labels), test),
    }
    assert len(prints) == 4


def test_the_canonical_order_is_the_same_from_every_order(small_dataset: Dataset) -> None:
    ordered = in_canonical_order(small_dataset.train)
    again = in_canonical_order(_shuffled(small_dataset.train))
    assert torch.equal(ordered.images_nhwc, again.images_nhwc)
    assert torch.equal(ordered.labels_n, again.labels_n)
    assert not torch.equal(ordered.images_nhwc, small_dataset.train.images_nhwc)


def test_channel_statistics_agree_with_the_plain_formulas(small_dataset: Dataset) -> None:
    pixels = small_dataset.train.images_nhwc.double() / 255
    mean, std = channel_statistics(small_dataset.train)
    assert mean == pytest.approx(pixels.mean((0, 1, 2)).tolist(), abs=1e-4)
    assert std == pytest.approx(pixels.std((0, 1, 2), correction=0).tolist(), abs=1e-4)


def test_a_constant_channel_gets_a_deviation_that_can_be_divided_by() -> None:
    black = ImageSet(torch.zeros(2, 4, 4, 1, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    assert channel_statistics(black)[1][0] > 0
