"""The data sets that need no file: real digits, damaged ones and generated glyphs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.data.embedded import load_digits, load_graded_digits, load_synthetic
from bench.data.images import Dataset, ImageSet
from bench.data.streaming import trainable

QUARTERS = (0.0, 0.25, 0.5, 0.75)


@pytest.fixture(scope="module")
def synthetic() -> Dataset:
    return load_synthetic()


def test_digits_are_the_1797_scans_in_a_fixed_stratified_split() -> None:
    dataset, again = load_digits(), load_digits()
    assert (len(dataset.train), len(dataset.test)) == (1297, 500)
    assert dataset.train.images_nhwc.shape[1:] == (8, 8, 1)
    assert dataset.train.images_nhwc.max() == 255
    assert all(45 <= size <= 55 for size in dataset.test.labels_n.bincount().tolist())
    assert torch.equal(dataset.test.images_nhwc, again.test.images_nhwc)
    assert dataset.info.fingerprint == "7e10567c2cc00435"


def test_the_generated_pixels_are_the_same_on_every_machine(synthetic: Dataset) -> None:
    assert synthetic.info.fingerprint == "342bfaa9a04cba1a"
    assert synthetic.train.images_nhwc.shape == (4000, 16, 16, 3)
    assert synthetic.test.labels_n.bincount().tolist() == [100] * 10


def test_grades_of_the_test_images_cover_the_whole_range(synthetic: Dataset) -> None:
    grades_n = synthetic.difficulty_n
    assert grades_n is not None
    assert grades_n.shape == (1000,)
    assert grades_n.min() < 0.02
    assert grades_n.max() > 0.98
    assert grades_n.histc(bins=5, min=0, max=1).min() > 150


def test_only_easy_generated_images_give_themselves_away_by_their_mean_colour(
    synthetic: Dataset,
) -> None:
    correct_n = _nearest_mean_colour(synthetic) == synthetic.test.labels_n
    grades_n = synthetic.difficulty_n
    assert grades_n is not None
    assert correct_n[grades_n < 0.3].float().mean() > 0.95
    assert correct_n[grades_n > 0.6].float().mean() < 0.25


def _nearest_mean_colour(dataset: Dataset) -> Tensor:
    def colours(images: ImageSet) -> Tensor:
        return images.images_nhwc.float().mean((1, 2))

    train = colours(dataset.train)
    centres = torch.stack([train[dataset.train.labels_n == label].mean(0) for label in range(10)])
    return torch.cdist(colours(dataset.test), centres).argmin(1)


def test_hard_generated_images_can_still_be_told_by_their_shape(synthetic: Dataset) -> None:
    grades_n = synthetic.difficulty_n
    assert grades_n is not None
    hard = synthetic.test.take((grades_n > 0.6).nonzero().squeeze(1))
    correct = (_best_matching_template(synthetic.train, hard) == hard.labels_n).float().mean()
    assert correct > 0.6


def _best_matching_template(train: ImageSet, images: ImageSet) -> Tensor:
    """Classify by the class's mean picture, shifted to where it fits best."""

    def grey(part: ImageSet) -> Tensor:
        pixels = part.images_nhwc.float().mean(3)
        return pixels - pixels.mean((1, 2), keepdim=True)

    pictures, labels_n = grey(train), train.labels_n
    sharp = torch.stack(
        [pictures[labels_n == label].mean(0) for label in range(10)]
    )  # blurred by the shifts, which is good enough
    sharp = sharp / sharp.flatten(1).norm(dim=1)[:, None, None]
    fits = torch.nn.functional.conv2d(grey(images)[:, None], sharp[:, None], padding=2)
    return fits.amax((2, 3)).argmax(1)


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
