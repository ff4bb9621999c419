"""Images that are read when they are needed, by worker processes: for sets larger than memory.

Each image of an epoch has a seed of its own, from the epoch and its place in the source, so what an
epoch holds depends neither on the number of workers nor on what was read before. Owns no files.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from bench.data.augment import Trainable, drawn_seed, pad_images, whole_batches
from bench.data.images import Dataset, Images, ImageSet, Portion
from bench.errors import BenchError, DataError
from bench.plain_text import one_line
from bench.seeding import seed_globally, seeded

_HELD_BATCH = 64
_CPU = torch.device("cpu")


class ImageSource(Protocol):
    """Images by their place, as map-style data sets of torch have them; must fit into a pickle."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int) -> Any:
        """Return (image, label); the image as the views of the set take it."""


class Views(NamedTuple):
    """What becomes of an image before it is normalised, in training and in evaluation.

    Both return a PIL image, an array (H, W, C) or a tensor (C, H, W): uint8 or float32, one size.
    Random numbers of `random`, numpy and torch are seeded for each image.
    """

    training: Callable[[Any], Any]
    evaluation: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Streamed(Images):
    """A split out of memory; `place_n` says where in `source` each image lies."""

    source: ImageSource
    views: Views
    labels_n: Tensor
    place_n: Tensor
    seen_hw: tuple[int, int]
    workers: int
    device: torch.device = _CPU

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.seen_hw

    def to(self, device: torch.device | str) -> Streamed:
        """Return the split with its portions on `device`; labels and files stay where they are."""
        return replace(self, device=torch.device(device))

    def take(self, indices: Tensor) -> Streamed:
        """Return the images at `indices`, in that order; none is read."""
        chosen = indices.cpu()
        return replace(self, labels_n=self.labels_n[chosen], place_n=self.place_n[chosen])

    def portions(self, order_n: Tensor, *, batch_size: int) -> Iterator[Portion]:
        batches = torch.split(order_n.cpu(), batch_size)
        return self._read(batches, self.views.evaluation, seed=0)

    def epoch(self, *, batch_size: int, generator: torch.Generator) -> Iterator[Portion]:
        """Return all images in random order, each as the view of training has it."""
        order_n = torch.randperm(len(self), generator=generator)
        batches = whole_batches(order_n, batch_size=batch_size)
        return self._read(batches, self.views.training, seed=drawn_seed(generator))

    def held(self, device: torch.device | str) -> ImageSet:
        found = list(self.to(device).portions(torch.arange(len(self)), batch_size=_HELD_BATCH))
        images_nhwc = torch.cat([portion.images_nhwc for portion in found])
        return ImageSet(images_nhwc, self.labels_n.to(device))

    def _read(
        self, batches: Sequence[Tensor], view: Callable[[Any], Any], *, seed: int
    ) -> Iterator[Portion]:
        """Yield the images of each batch; workers are ahead by two batches each."""
        asked = [self.place_n[index_n].tolist() for index_n in batches]
        on_gpu = self.device.type == "cuda"
        for index_n, found in zip(batches, self._answers(asked, view, seed), strict=True):
            if isinstance(found, BenchError):
                raise found
            yield Portion(
                found.to(self.device, non_blocking=on_gpu),
                self.labels_n[index_n].to(self.device),
                index_n.to(self.device),
            )

    def _answers(
        self, asked: list[list[int]], view: Callable[[Any], Any], seed: int
    ) -> Iterator[Tensor | BenchError]:
        done = _Pass(self.source, view, seed)
        if len(asked) == 1 and len(asked[0]) <= _HELD_BATCH:  # done before a process has started
            with seeded(seed):
                return iter([done.__getitems__(asked[0])])
        # That there are more workers than cores was asked for.
        with warnings.catch_warnings(action="ignore"):
            loader: data.DataLoader[Tensor | BenchError] = data.DataLoader(
                done,
                batch_sampler=asked,
                num_workers=min(self.workers, len(asked)),
                collate_fn=torch.nn.Identity(),
                pin_memory=self.device.type == "cuda",
            )
            return iter(loader)


class _Pass(data.Dataset[Any]):
    """What a worker does: a batch at a time; what goes wrong is returned, to be raised in words."""

    def __init__(self, source: ImageSource, view: Callable[[Any], Any], seed: int) -> None:
        self._source, self._view, self._seed = source, view, seed

    def __getitems__(self, places: Sequence[int]) -> Tensor | BenchError:
        try:
            with warnings.catch_warnings(action="ignore"):  # Pillow's, of damaged metadata
                return torch.from_numpy(np.stack([self._image(place) for place in places]))
        except BenchError as error:
            return error

    def _image(self, place: int) -> np.ndarray[Any, Any]:
        seed_globally(self._seed, "image", place)
        try:
            return pixels_of(self._view(self._source[place][0]))
        except BenchError:
            raise
        except Exception as error:  # a plugin may raise anything
            said = one_line(f"{type(error).__name__}: {error}")
            raise DataError(f"Image {place} of the data set cannot be used: {said}.") from error


def pixels_of(image: Any) -> np.ndarray[Any, Any]:
    """Return a PIL image, an array (H, W, C) or a tensor (C, H, W) as an array (H, W, C)."""
    if isinstance(image, Tensor):
        return image.permute(1, 2, 0).contiguous().numpy()
    array = np.array(image)
    return array[..., None] if array.ndim == 2 else array


def trainable(train: Images, dataset: Dataset) -> Trainable:
    """Return a split of `dataset` to be trained on, augmented as the data set says."""
    if isinstance(train, ImageSet):
        info = dataset.info
        return pad_images(train, info.pad, flip=info.flip, augment=dataset.augment)
    assert isinstance(train, Streamed)
    return train
