"""Data sets that come with the program: handwritten digits, the same under graded noise, glyphs.

Of the last two every image has a difficulty that is known, from 0 (easy) to 1 (hard): a shallow
network can tell the easy images and depth pays on the hard ones, which is what dynamic inference is
about. Owns no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

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


def load_digits() -> Dataset:
    """Return the digits, 1,297 for training and 500 for testing, each class in proportion."""
    from sklearn import datasets

    scans = datasets.load_digits()
    levels_nhw = scans.images.astype(np.int64)
    images_nhwc = (levels_nhw * 255 // BRIGHTEST).astype(np.uint8)[..., None]
    labels_n = torch.from_numpy(scans.target.astype(np.int64))
    everything = ImageSet(torch.from_numpy(images_nhwc), labels_n)
    train, test = hold_out(everything, DIGITS_TEST_COUNT, seed=SPLIT_SEED)
    return described(
        train, test, name="digits", title=DATASETS["digits"].title, class_names="0123456789", pad=1
    )


CLASSES = 10
TRAIN_COUNT = 4_000
TEST_COUNT = 1_000
SIDE = 16
GLYPH_SIDE = 8
CELL = 2  # a glyph is drawn in cells of 2x2 pixels, so that it survives a shift by one
PIECE_SIDE = 4
GRADES = 256  # grades are k/255, k from 0 to 255

# Amplitudes in grey levels, at grade 0 and at grade 1; below nothing is nothing, so the tint is
# gone at grade 1/2 and the harder half has to be told by its glyphs.
TINT = (48, -48)
GLYPH = (72, 28)
NOISE = (12, 112)
PIECE = (0, 48)

# Ten directions in colour space, far apart from each other; each sums to about nothing.
TINTS = (
    (2, -1, -1),
    (-1, 2, -1),
    (-1, -1, 2),
    (-2, 1, 1),
    (1, -2, 1),
    (1, 1, -2),
    (2, 0, -2),
    (-2, 0, 2),
    (0, 2, -2),
    (-2, 2, 0),
)

Integers = np.ndarray[Any, np.dtype[np.int64]]


def load_synthetic() -> Dataset:
    """Return the generated data set: always the same pixels, on every machine."""
    glyphs = _glyphs()
    train, _ = _split("train", TRAIN_COUNT, glyphs=glyphs)
    test, grades_n = _split("test", TEST_COUNT, glyphs=glyphs)
    return described(
        train,
        test,
        name="synthetic",
        title=DATASETS["synthetic"].title,
        class_names=[f"glyph {label}" for label in range(CLASSES)],
        pad=2,  # never mirrored: that is another glyph
        difficulty_n=torch.from_numpy(grades_n).to(torch.float32) / (GRADES - 1),
    )


def drawn_bytes(*scope: str, shape: tuple[int, ...]) -> Integers:
    """Return random integers from 0 to 255, others for every `scope`.

    From a hash, not from a library's generator, and only integers are used from here on: neither
    a new version nor another processor can change a pixel.
    """
    seed = str(derive(0, *scope)).encode()
    drawn = hashlib.shake_256(seed).digest(int(np.prod(shape)))
    return np.frombuffer(drawn, dtype=np.uint8).astype(np.int64).reshape(shape)


def _bytes(*scope: str, shape: tuple[int, ...]) -> Integers:
    return drawn_bytes("synthetic", *scope, shape=shape)


def _glyphs() -> Integers:
    """Return one glyph per class, (CLASSES, GLYPH_SIDE, GLYPH_SIDE) of -1 and 1, half of each."""
    cells = GLYPH_SIDE // CELL
    ranks = _bytes("glyphs", shape=(CLASSES, cells * cells)).argsort(axis=1, kind="stable")
    signs = np.where(ranks < cells * cells // 2, -1, 1).reshape(CLASSES, cells, cells)
    return signs.repeat(CELL, axis=1).repeat(CELL, axis=2)


def _split(split: str, count: int, *, glyphs: Integers) -> tuple[ImageSet, Integers]:
    """Return `count` images, the classes in turn, and their grades from 0 to 255."""
    labels_n = np.arange(count) % CLASSES
    grades_n = _bytes(split, "grades", shape=(count,))
    tints = np.array(TINTS)[labels_n][:, None, None, :]
    drawing_nhw = _amplitude(GLYPH, grades_n) * _placed_glyphs(split, labels_n, glyphs=glyphs)
    drawing_nhw += _amplitude(PIECE, grades_n) * _placed_pieces(split, count, glyphs=glyphs)
    noise = _bytes(split, "noise", shape=(2, count, SIDE, SIDE, 3)).sum(axis=0) - 255
    images = 128 + drawing_nhw[..., None]
    images = images + _amplitude(TINT, grades_n)[..., None] * tints // 2
    images += _amplitude(NOISE, grades_n)[..., None] * noise // 255
    pixels = torch.from_numpy(images.clip(0, 255).astype(np.uint8))
    return ImageSet(pixels, torch.from_numpy(labels_n.astype(np.int64))), grades_n


def _amplitude(ends: tuple[int, int], grades_n: Integers) -> Integers:
    """Go from the first to the second end as the grade rises: (N, 1, 1)."""
    easy, hard = ends
    levels_n = (easy * (GRADES - 1 - grades_n) + hard * grades_n) // (GRADES - 1)
    return levels_n.clip(0)[:, None, None]


def _placed_glyphs(split: str, labels_n: Integers, *, glyphs: Integers) -> Integers:
    """Return (N, SIDE, SIDE): each image's glyph, up to two pixels off the centre."""
    count, middle = len(labels_n), (SIDE - GLYPH_SIDE) // 2
    canvas = np.zeros((count, SIDE, SIDE), dtype=np.int64)
    shifts = _bytes(split, "shifts", shape=(2, count)) % 5 - 2
    for place, (label, top, left) in enumerate(zip(labels_n, *(middle + shifts), strict=True)):
        canvas[place, top : top + GLYPH_SIDE, left : left + GLYPH_SIDE] = glyphs[label]
    return canvas


def _placed_pieces(split: str, count: int, *, glyphs: Integers) -> Integers:
    """Return (N, SIDE, SIDE): two corners of random glyphs in each image, anywhere."""
    canvas = np.zeros((count, SIDE, SIDE), dtype=np.int64)
    draws = _bytes(split, "pieces", shape=(2, 3, count))
    for labels, tops, lefts in draws:
        spots = zip(
            labels % CLASSES,
            tops % (SIDE - PIECE_SIDE + 1),
            lefts % (SIDE - PIECE_SIDE + 1),
            strict=True,
        )
        for place, (label, top, left) in enumerate(spots):
            canvas[place, top : top + PIECE_SIDE, left : left + PIECE_SIDE] += glyphs[
                label, :PIECE_SIDE, :PIECE_SIDE
            ]
    return canvas


NAME = "graded_digits"
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
        name=NAME,
        title=DATASETS[NAME].title,
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
        return torch.from_numpy(drawn_bytes(NAME, split, what, shape=shape))

    scans_nhwc = scans.images_nhwc.repeat(COPIES[split], 1, 1, 1)
    images_nhwc, grades_n = _damaged(scans_nhwc[..., 0].long(), draws)
    return ImageSet(images_nhwc, scans.labels_n.repeat(COPIES[split]), scans_nhwc), grades_n


def _damaged(scans_nhw: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return damaged images (N, H, W, 1), and their grades (N,) from 0 to 255."""
    count, room = len(scans_nhw), GRADED_SIDE - scans_nhw.shape[1]
    grades_n = draws("grades", (count,))
    top_n, left_n = draws("shifts", (2, count)) % (room + 1)
    placed_nhw = _window(functional.pad(scans_nhw, (room,) * 4), top_n, left_n, side=GRADED_SIDE)
    images_nhw = _level(SCAN, grades_n) * placed_nhw // 255
    for number in range(SCAN_PIECES):
        named = partial(_numbered, draws, number)
        images_nhw = _covered(images_nhw, scans_nhw, _level(SCAN_PIECE, grades_n), named)
    noise_nhw = draws("noise", (2, *images_nhw.shape)).sum(0) - 255
    noisy_nhw = BACKGROUND + images_nhw + _level(SCAN_NOISE, grades_n) * noise_nhw // 255
    return noisy_nhw.clamp(0, 255).to(torch.uint8)[..., None], grades_n


def _level(ends: tuple[int, int], grades_n: Tensor) -> Tensor:
    """Go from the first to the second end as the grade rises: (N, 1, 1)."""
    easy, hard = ends
    return ((easy * (GRADES - 1 - grades_n) + hard * grades_n) // (GRADES - 1))[:, None, None]


def _window(images_nhw: Tensor, top_n: Tensor, left_n: Tensor, *, side: int) -> Tensor:
    """Cut a square out of each image: (N, side, side)."""
    across = torch.arange(side, device=images_nhw.device)
    rows, columns = (top_n[:, None] + across)[:, :, None], (left_n[:, None] + across)[:, None, :]
    numbers = torch.arange(len(images_nhw), device=images_nhw.device)[:, None, None]
    return images_nhw[numbers, rows, columns]


def _covered(images_nhw: Tensor, others_nhw: Tensor, bright_n11: Tensor, draws: Draws) -> Tensor:
    """Lay a piece of another image over each, anywhere, so bright; the brighter pixel shows."""
    count, inside = len(images_nhw), others_nhw.shape[1] - SCAN_PIECE_SIDE + 1
    chosen, spots = draws("others", (2, count)), draws("pieces", (4, count))
    others_nhw = others_nhw[(256 * chosen[0] + chosen[1]) % count]
    pieces_nhw = _window(others_nhw, *(spots[:2] % inside), side=SCAN_PIECE_SIDE)
    room = GRADED_SIDE - SCAN_PIECE_SIDE
    top_n, left_n = room - spots[2:] % (room + 1)
    placed_nhw = _window(functional.pad(pieces_nhw, (room,) * 4), top_n, left_n, side=GRADED_SIDE)
    return torch.maximum(images_nhw, bright_n11 * placed_nhw // 255)


def _numbered(draws: Draws, number: int, what: str, shape: tuple[int, ...]) -> Tensor:
    return draws(f"{what} {number}", shape)
