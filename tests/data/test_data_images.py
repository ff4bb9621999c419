"""Image sets: the stratified hold-out, fingerprint, canonical order and channel statistics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.images import (
    Dataset,
    ImageSet,
    channel_statistics,
    fingerprint,
    hold_out,
    in_canonical_order,
)
from bench.errors import ConfigError


def _numbered(labels: list[int]) -> ImageSet:
    """Images that carry their own position in two bytes."""
    places = torch.arange(len(labels))
    pixels = torch.stack([places // 256, places % 256], dim=1).to(torch.uint8)
    return ImageSet(pixels.view(-1, 1, 1, 2), torch.tensor(labels))


def _places(images: ImageSet) -> list[int]:
    pairs = images.images_nhwc.view(-1, 2).long()
    return (pairs[:, 0] * 256 + pairs[:, 1]).tolist()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), labels=st.lists(st.integers(0, 4), min_size=1, max_size=300))
def test_hold_out_takes_each_class_in_proportion(data: st.DataObject, labels: list[int]) -> None:
    count = data.draw(st.integers(0, len(labels) - 1))
    train = _numbered(labels)
    rest, held = hold_out(train, count, seed=data.draw(st.integers(0, 9)))
    assert len(held) == count
    assert sorted(_places(rest) + _places(held)) == list(range(len(labels)))
    assert held.labels_n.tolist() == [labels[place] for place in _places(held)]
    for label in set(labels):
        exact_share = count * labels.count(label) / len(labels)
        assert abs(int((held.labels_n == label).sum()) - exact_share) < 1


def test_hold_out_is_the_same_for_the_same_seed_and_another_for_another_seed() -> None:
    train = _numbered([i % 5 for i in range(200)])
    first, again, other = (_places(hold_out(train, 50, seed=seed)[1]) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("count", [-1, 10, 11])
def test_hold_out_refuses_to_take_everything_or_less_than_nothing(count: int) -> None:
    with pytest.raises(ConfigError, match="from 0 to 9"):
        hold_out(_numbered([0] * 10), count, seed=0)


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
