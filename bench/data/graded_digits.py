"""The digits scans made harder by degrees, the default of `bench run`: real, under known damage.

Every image has a grade from 0 (easy) to 1 (hard). The higher it is, the less contrast has the scan,
the brighter are pieces of other scans laid over it, and the stronger is the noise. So a shallow
network can tell the easy images and depth pays on the hard ones. Training damages the scans anew in
every epoch: 1,297 images are learned by heart, and then depth does not pay. Owns no files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from bench.data.catalogue import DATASETS
from bench.data.digits import load_digits
from bench.data.identity import described
from bench.data.images import Dataset, ImageSet
from bench.data.synthetic import GRADES, drawn_bytes

NAME = "graded_digits"
COPIES = {"train": 1, "test": 2}  # of each scan, each with a grade of its own
SIDE = 10  # of the images; scans are 8 x 8, and up to one pixel off the centre
PIECES, PIECE_SIDE = 2, 5

# Grey levels, at grade 0 and at grade 1.
BACKGROUND = 40
SCAN = (176, 140)
PIECE = (0, 176)
NOISE = (0, 60)

Draws = Callable[[str, tuple[int, ...]], Tensor]
"""Random integers from 0 to 255, by what they are for and their shape."""


def load_graded_digits() -> Dataset:
    """Return the damaged digits: always the same pixels, on every machine."""
    digits = load_digits()
    train, _ = _split("train", digits.train.held("cpu"))
    test, grades_n = _split("test", digits.test.held("cpu"))
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


def _split(split: str, scans: ImageSet) -> tuple[ImageSet, Tensor]:
    """Return damaged images of every scan, and their grades from 0 to 255."""

    def draws(what: str, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(drawn_bytes(NAME, split, what, shape=shape))

    scans_nhwc = scans.images_nhwc.repeat(COPIES[split], 1, 1, 1)
    images_nhwc, grades_n = _damaged(scans_nhwc[..., 0].long(), draws)
    return ImageSet(images_nhwc, scans.labels_n.repeat(COPIES[split]), scans_nhwc), grades_n


def _damaged(scans_nhw: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return damaged images (N, SIDE, SIDE, 1), and their grades (N,) from 0 to 255."""
    count, room = len(scans_nhw), SIDE - scans_nhw.shape[1]
    grades_n = draws("grades", (count,))
    top_n, left_n = draws("shifts", (2, count)) % (room + 1)
    placed_nhw = _window(functional.pad(scans_nhw, (room,) * 4), top_n, left_n, side=SIDE)
    images_nhw = _level(SCAN, grades_n) * placed_nhw // 255
    for number in range(PIECES):
        named = partial(_numbered, draws, number)
        images_nhw = _covered(images_nhw, scans_nhw, _level(PIECE, grades_n), named)
    noise_nhw = draws("noise", (2, *images_nhw.shape)).sum(0) - 255
    noisy_nhw = BACKGROUND + images_nhw + _level(NOISE, grades_n) * noise_nhw // 255
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
    count, inside = len(images_nhw), others_nhw.shape[1] - PIECE_SIDE + 1
    chosen, spots = draws("others", (2, count)), draws("pieces", (4, count))
    others_nhw = others_nhw[(256 * chosen[0] + chosen[1]) % count]
    pieces_nhw = _window(others_nhw, *(spots[:2] % inside), side=PIECE_SIDE)
    room = SIDE - PIECE_SIDE
    top_n, left_n = room - spots[2:] % (room + 1)
    placed_nhw = _window(functional.pad(pieces_nhw, (room,) * 4), top_n, left_n, side=SIDE)
    return torch.maximum(images_nhw, bright_n11 * placed_nhw // 255)


def _numbered(draws: Draws, number: int, what: str, shape: tuple[int, ...]) -> Tensor:
    return draws(f"{what} {number}", shape)
