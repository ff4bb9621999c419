"""The data sets that need no file: real digits and damaged ones."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.data.embedded import load_digits, load_graded_digits
from bench.data.images import Dataset, ImageSet
from bench.data.streaming import trainable

QUARTERS = (0.0, 0.25, 0.5, 0.75)


def test_digits_are_the_1797_scans_in_a_fixed_stratified_split() -> None:
    dataset, again = load_digits(), load_digits()
    assert (len(dataset.train), len(dataset.test)) == (1297, 500)
    assert dataset.train.images_nhwc.shape[1:] == (8, 8, 1)
    assert dataset.train.images_nhwc.max() == 255
    assert all(45 <= size <= 55 for size in dataset.test.labels_n.bincount().tolist())
    assert torch.equal(dataset.test.images_nhwc, again.test.images_nhwc)
    assert dataset.info.fingerprint == "7e10567c2cc00435"


def test_the_graded_digits_are_the_same_on_every_machine() -> None:
    graded, digits = load_graded_digits(), load_digits()
    assert graded.info.fingerprint == "66a49dab29b33837"
    assert torch.equal(graded.train.labels_n, digits.train.labels_n)
    assert graded.info.synthetic, "they are labelled: real scans under generated damage"


def test_the_higher_the_grade_the_less_is_left_of_the_digit() -> None:
    graded, digits = load_graded_digits(), load_digits()
    grades_n = graded.difficulty_n
    assert grades_n is not None and grades_n.histc(bins=5, min=0, max=1).min() > 150
    right_n = _nearest_scan(digits, graded.test) == graded.test.labels_n
    shares = [right_n[(grades_n >= g) & (grades_n < g + 0.25)].float().mean() for g in QUARTERS]
    assert shares[0] > 0.9 and shares[3] < 0.6
    assert shares == sorted(shares, reverse=True)


def _nearest_scan(digits: Dataset, images: ImageSet) -> Tensor:
    """Classify by the most similar training scan, wherever in the image it lies."""
    scans = digits.train.images_nhwc[..., 0].flatten(1).float()
    scans = (scans - scans.mean(1, keepdim=True)) / scans.std(1, keepdim=True)
    places = images.images_nhwc[..., 0].float().unfold(1, 8, 1).unfold(2, 8, 1).flatten(3)
    windows = (places - places.mean(-1, keepdim=True)) / places.std(-1, keepdim=True)
    return digits.train.labels_n[(windows @ scans.T).amax((1, 2)).argmax(1)]


def test_training_on_graded_digits_sees_each_epoch_anew_and_the_same_for_a_seed() -> None:
    graded = load_graded_digits()

    def epoch(seed: int) -> Tensor:
        draws = torch.Generator().manual_seed(seed)
        portions = trainable(graded.train, graded).epoch(batch_size=1297, generator=draws)
        (portion,) = portions
        return portion.images_nhwc[portion.index_n.argsort()].long()

    first, again, other = epoch(0), epoch(0), epoch(1)
    assert torch.equal(first, again)
    assert (first != other).float().mean() > 0.5
    held = graded.train.images_nhwc.long()
    for seen in (first, other):  # the scan is the same: means over many damages are alike
        assert (seen.float().mean(0) - held.float().mean(0)).abs().max() < 10
        alike = torch.corrcoef(torch.stack([seen.flatten().float(), held.flatten().float()]))[0, 1]
        assert alike > 0.3
