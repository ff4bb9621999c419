"""Data sets that come with the program: handwritten digits, the same under graded noise, glyphs.

Of the last two every image has a difficulty that is known, from 0 (easy) to 1 (hard): a shallow
network can tell the easy images and depth pays on the hard ones, which is what dynamic inference is
about. Owns no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
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


def _drawn_bytes(*scope: str, shape: tuple[int, ...]) -> Tensor:
    """Return random integers from 0 to 255, others for every `scope`.

    From a hash, not from a library's generator, and only integers are used from here on: neither
    a new version nor another processor can change a pixel.
    """
    drawn = hashlib.shake_256(str(derive(0, *scope)).encode()).digest(prod(shape))
    return torch.from_numpy(np.frombuffer(drawn, dtype=np.uint8).astype(np.int64)).view(shape)


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


CLASSES = 10
TRAIN_COUNT, TEST_COUNT = 4_000, 1_000
SIDE, GLYPH_SIDE, PIECE_SIDE = 16, 8, 4
CELL = 2  # a glyph is drawn in cells of 2x2 pixels, so that it survives a shift by one

# Amplitudes in grey levels, at grade 0 and at grade 1; the tint is gone at grade 1/2, and the
# harder half has to be told by its glyphs.
TINT = (48, -48)
GLYPH = (72, 28)
NOISE = (12, 112)
PIECE = (0, 48)

# Ten directions in colour space, far apart from each other; each sums to about nothing.
TINTS = (
    *((2, -1, -1), (-1, 2, -1), (-1, -1, 2), (-2, 1, 1), (1, -2, 1)),
    *((1, 1, -2), (2, 0, -2), (-2, 0, 2), (0, 2, -2), (-2, 2, 0)),
)


def load_synthetic() -> Dataset:
    """Return the generated data set: always the same pixels, on every machine."""
    train, _ = _synthetic_split("train", TRAIN_COUNT)
    test, grades_n = _synthetic_split("test", TEST_COUNT)
    return described(
        train,
        test,
        name="synthetic",
        title=DATASETS["synthetic"].title,
        class_names=[f"glyph {label}" for label in range(CLASSES)],
        pad=2,  # never mirrored: that is another glyph
        difficulty_n=grades_n / (GRADES - 1),
    )


def _glyphs() -> Tensor:
    """Return one glyph per class, (CLASSES, GLYPH_SIDE, GLYPH_SIDE) of -1 and 1, half of each."""
    cells = GLYPH_SIDE // CELL
    drawn = _drawn_bytes("synthetic", "glyphs", shape=(CLASSES, cells * cells))
    signs = 2 * (drawn.argsort(dim=1, stable=True) >= cells * cells // 2).long() - 1
    glyphs = signs.view(CLASSES, cells, cells)
    return glyphs.repeat_interleave(CELL, dim=1).repeat_interleave(CELL, dim=2)


def _synthetic_split(split: str, count: int) -> tuple[ImageSet, Tensor]:
    """Return `count` images, the classes in turn, and their grades from 0 to 255.

    Each has its glyph up to two pixels off the centre, and two corners of random glyphs anywhere.
    """
    draws = partial(_drawn_bytes, "synthetic", split)
    glyphs, labels_n = _glyphs(), torch.arange(count) % CLASSES
    grades_n = draws("grades", shape=(count,))
    top_n, left_n = (SIDE - GLYPH_SIDE) // 2 + draws("shifts", shape=(2, count)) % 5 - 2
    drawing_nhw = _level(GLYPH, grades_n) * _placed(glyphs[labels_n], top_n, left_n, side=SIDE)
    for label_n, *corner in draws("pieces", shape=(2, 3, count)):
        pieces_nhw = glyphs[label_n % CLASSES, :PIECE_SIDE, :PIECE_SIDE]
        top_n, left_n = (place_n % (SIDE - PIECE_SIDE + 1) for place_n in corner)
        placed_nhw = _placed(pieces_nhw, top_n, left_n, side=SIDE)
        drawing_nhw += _level(PIECE, grades_n) * placed_nhw
    noise_nhwc = draws("noise", shape=(2, count, SIDE, SIDE, 3)).sum(0) - 255
    tints_n11c = torch.tensor(TINTS)[labels_n][:, None, None, :]
    images_nhwc = 128 + drawing_nhw[..., None]
    images_nhwc = images_nhwc + _level(TINT, grades_n)[..., None] * tints_n11c // 2
    images_nhwc += _level(NOISE, grades_n)[..., None] * noise_nhwc // 255
    return ImageSet(images_nhwc.clamp(0, 255).to(torch.uint8), labels_n), grades_n


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
        return _drawn_bytes("graded_digits", split, what, shape=shape)

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
