"""Constants that images are normalised with, by the names that people use. Owns no images."""

from __future__ import annotations

import math

from bench.data.cifar import SOURCES
from bench.data.images import Constants, DatasetInfo
from bench.errors import ConfigError
from bench.plain_text import shown

IMAGENET: Constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Widespread for CIFAR-10: means over images of the deviation within each, not that of all pixels.
_CIFAR_WITHIN_IMAGES: Constants = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_HALVES: Constants = ((0.5,), (0.5,))


def constants_named(text: str, info: DatasetInfo) -> Constants:
    """Return what `--normalise` names, for the channels of `info`.

    `cifar` is the data set's own if it is one of them, else CIFAR-10's. For grey images the three
    values of a name are averaged; one number stands for all channels.

    Raises:
        ConfigError: it is neither a name nor numbers, or numbers for other channels.
    """
    if text == "imagenet":
        return spread(IMAGENET, info.channels)
    if text == "cifar":
        source = SOURCES.get(info.name, SOURCES["cifar10"])
        return spread((source.mean, source.std), info.channels)
    try:
        mean, std = (tuple(float(n) for n in part.split(",")) for part in text.split("/"))
    except ValueError:
        mean, std = (), ()
    finite = all(map(math.isfinite, (*mean, *std)))
    if not (mean and finite and min(std) > 0 and {len(mean), len(std)} <= {1, info.channels}):
        raise ConfigError(
            f"--normalise {shown(text)}: no constants for images of {info.channels} channels.",
            hint="imagenet, cifar, or MEAN/STD for pixels from 0 to 1, with one number or one for "
            "each channel: 0.5/0.25 or 0.49,0.48,0.45/0.25,0.24,0.26",
        )
    return spread((mean, std), info.channels)


def usual_constants(info: DatasetInfo) -> dict[str, Constants]:
    """Return the constants that other trainers use, by what `--normalise` calls them."""
    known = {name: constants_named(name, info) for name in ("imagenet", "cifar")}
    for constants in (_CIFAR_WITHIN_IMAGES, _HALVES, ((0.0,), (1.0,)), (info.mean, info.std)):
        found = spread(constants, info.channels)
        if found not in known.values():
            known["/".join(map(_written, found))] = found
    return known


def _written(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4g}" for value in (values if len(set(values)) > 1 else values[:1]))


def spread(constants: Constants, channels: int) -> Constants:
    """Return constants for so many channels: those given, or their mean for each."""
    mean, std = (
        part if len(part) == channels else (sum(part) / len(part),) * channels for part in constants
    )
    return mean, std
