"""Generated images whose difficulty is known: easy ones give themselves away by their colour.

Every image has a grade from 0 (easy) to 1 (hard). Its class shows in two ways: by a tint of the
whole image, which fades to nothing at grade 1/2, and by a glyph, which loses contrast and drowns
in noise and in pieces of other glyphs. So a shallow network can tell the easy images and depth
pays on the hard ones, which is what dynamic inference is about. Owns no files.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from bench.data.catalogue import DATASETS
from bench.data.identity import described
from bench.data.images import Dataset, ImageSet
from bench.seeding import derive

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
