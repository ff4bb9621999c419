"""Image sets and the stratified hold-out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.images import ImageSet, hold_out
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


def test_an_image_set_refuses_pixels_that_are_neither_bytes_nor_float32() -> None:
    with pytest.raises(ValueError, match="uint8"):
        ImageSet(torch.zeros(2, 4, 4, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))


def test_an_image_set_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="labels"):
        ImageSet(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
