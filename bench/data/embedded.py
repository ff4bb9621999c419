"""Data sets that come with the program: handwritten digits, and the same under graded noise.

Of the second every image has a difficulty that is known, from 0 (easy) to 1 (hard): a shallow
network can tell the easy images and depth pays on the hard ones, which is what dynamic inference is
about. Owns no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.data.catalogue import DATASETS
from bench.data.images import Dataset, ImageSet, described, hold_out
from bench.seeding import derive

DIGITS_TEST_COUNT = 500
SPLIT_SEED = 0  # one split for all users: a data set, not a choice of the run
BRIGHTEST = 16  # the scans count dark pixels in cells of 4x4
GRADES = 256  # of difficulty; grades are k/255, k from 0 to 255


def load_digits() -> Dataset:
    """Return the digits, 1,297 for training and 500 for testing, each class in proportion."""
    from sklearn import datasets

    scans = datasets.load_digits()
    levels_nhw = torch.from_numpy(scans.images.astype(np.int64))
    images_nhwc = (levels_nhw * 255 // BRIGHTEST).to(torch.uint8)[..., None]
    everything = ImageSet(images_nhwc, torch.from_numpy(scans.target.astype(np.int64)))
    train, test = hold_out(everything, DIGITS_TEST_COUNT, seed=SPLIT_SEED)
    return described(
        train, test, name="digits", title=DATASETS["digits"].title, class_names="0123456789", pad=1
    )


def _level(ends: tuple[int, int], grades_n: Tensor) -> Tensor:
    """Go from the first to the second end as the grade rises, below nothing nothing: (N, 1, 1)."""
    easy, hard = ends
    levels_n = (easy * (GRADES - 1 - grades_n) + hard * grades_n) // (GRADES - 1)
    return levels_n.clamp(min=0)[:, None, None]


def _window(images_nhw: Tensor, top_n: Tensor, left_n: Tensor, *, side: int) -> Tensor:
    """Cut a square out of each image: (N, side, side)."""
    across = torch.arange(side, device=images_nhw.device)
    rows, columns = (top_n[:, None] + across)[:, :, None], (left_n[:, None] + across)[:, None, :]
    numbers = torch.arange(len(images_nhw), device=images_nhw.device)[:, None, None]
    return images_nhw[numbers, rows, columns]


def _placed(pieces_nhw: Tensor, top_n: Tensor, left_n: Tensor, *, side: int) -> Tensor:
    """Put each piece on an empty square, (N, side, side), its corner at `top_n` and `left_n`."""
    room = side - pieces_nhw.shape[1]
    padded_nhw = functional.pad(pieces_nhw, (room,) * 4)
    return _window(padded_nhw, room - top_n, room - left_n, side=side)


COPIES = {"train": 1, "test": 2}  # of each scan, each with a grade of its own
GRADED_SIDE = 10  # of the images; scans are 8 x 8, and up to one pixel off the centre
SCAN_PIECES, SCAN_PIECE_SIDE = 2, 5

# Grey levels, at grade 0 and at grade 1.
BACKGROUND = 40
SCAN = (176, 140)
SCAN_PIECE = (0, 176)
SCAN_NOISE = (0, 60)

Draws = Callable[[str, tuple[int, ...]], Tensor]
"""Random integers from 0 to 255, by what they are for and their shape."""


def load_graded_digits() -> Dataset:
    """Return the damaged digits: always the same pixels, on every machine."""
    digits = load_digits()
    train, _ = _graded_split("train", digits.train.held("cpu"))
    test, grades_n = _graded_split("test", digits.test.held("cpu"))
    return described(
        train,
        test,
        name="graded_digits",
        title=DATASETS["graded_digits"].title,
        class_names=digits.info.class_names,
        difficulty_n=grades_n / (GRADES - 1),
        augment=damaged_anew,
    )


def damaged_anew(scans_nhwc: Tensor, generator: torch.Generator) -> Tensor:
    """Damage each scan of a batch to a degree drawn at random, as training sees it."""

    def draws(what: str, shape: tuple[int, ...]) -> Tensor:
        del what
        return torch.randint(256, shape, generator=generator).to(scans_nhwc.device)

    return _damaged(scans_nhwc[..., 0].long(), draws)[0]


def _graded_split(split: str, scans: ImageSet) -> tuple[ImageSet, Tensor]:
    """Return damaged images of every scan, and their grades from 0 to 255."""

    def draws(what: str, shape: tuple[int, ...]) -> Tensor:
        # From a hash, not from a library's generator, and only integers are used from here on:
        # neither a new version nor another processor can change a pixel.
        seed = str(derive(0, "graded_digits", split, what)).encode()
        drawn = np.frombuffer(hashlib.shake_256(seed).digest(prod(shape)), dtype=np.uint8)
        return torch.from_numpy(drawn.astype(np.int64)).view(shape)

    scans_nhwc = scans.images_nhwc.repeat(COPIES[split], 1, 1, 1)
    images_nhwc, grades_n = _damaged(scans_nhwc[..., 0].long(), draws)
    return ImageSet(images_nhwc, scans.labels_n.repeat(COPIES[split]), scans_nhwc), grades_n


def _damaged(scans_nhw: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return damaged images (N, H, W, 1), and their grades (N,) from 0 to 255.

    Over each lie pieces of other images, anywhere, where the brighter pixel shows; then noise.
    """
    count, room = len(scans_nhw), GRADED_SIDE - scans_nhw.shape[1]
    grades_n = draws("grades", (count,))
    top_n, left_n = room - draws("shifts", (2, count)) % (room + 1)
    placed_nhw = _placed(scans_nhw, top_n, left_n, side=GRADED_SIDE)
    images_nhw = _level(SCAN, grades_n) * placed_nhw // 255
    inside = scans_nhw.shape[1] - SCAN_PIECE_SIDE + 1
    for number in range(SCAN_PIECES):
        chosen = draws(f"others {number}", (2, count))
        spots = draws(f"pieces {number}", (4, count))
        others_nhw = scans_nhw[(256 * chosen[0] + chosen[1]) % count]
        pieces_nhw = _window(others_nhw, *(spots[:2] % inside), side=SCAN_PIECE_SIDE)
        top_n, left_n = spots[2:] % (GRADED_SIDE - SCAN_PIECE_SIDE + 1)
        placed_nhw = _placed(pieces_nhw, top_n, left_n, side=GRADED_SIDE)
        images_nhw = torch.maximum(images_nhw, _level(SCAN_PIECE, grades_n) * placed_nhw // 255)
    noise_nhw = draws("noise", (2, *images_nhw.shape)).sum(0) - 255
    noisy_nhw = BACKGROUND + images_nhw + _level(SCAN_NOISE, grades_n) * noise_nhw // 255
    return noisy_nhw.clamp(0, 255).to(torch.uint8)[..., None], grades_n
