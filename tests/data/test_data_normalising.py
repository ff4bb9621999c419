"""Constants by name: for colour and grey images, and numbers that are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.data.images import DatasetInfo
from bench.data.normalising import IMAGENET, constants_named, usual_constants
from bench.errors import ConfigError

COLOUR = DatasetInfo(
    *("folder-x", "Images", ("a", "b"), 3, 8, 8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    pad=1,
    flip=True,
    synthetic=False,
    fingerprint="0",
)
GREY = replace(COLOUR, channels=1, mean=(0.3,), std=(0.4,))


def test_names_and_numbers_are_spread_over_the_channels() -> None:
    assert constants_named("imagenet", COLOUR) == IMAGENET
    cifar10 = constants_named("cifar", COLOUR)
    assert constants_named("cifar", replace(COLOUR, name="cifar10")) == cifar10
    assert constants_named("cifar", replace(COLOUR, name="cifar100")) != cifar10
    assert constants_named("0.5/0.25", COLOUR) == ((0.5,) * 3, (0.25,) * 3)
    assert constants_named("0.1,0.2,0.3/1", COLOUR) == ((0.1, 0.2, 0.3), (1.0,) * 3)


def test_grey_images_get_one_value() -> None:
    (mean,), (std,) = constants_named("imagenet", GREY)
    assert (mean, std) == pytest.approx((0.449, 0.226))
    assert constants_named("0.1307/0.3081", GREY) == ((0.1307,), (0.3081,))


@pytest.mark.parametrize("info", [COLOUR, GREY])
def test_what_is_called_usual_can_be_asked_for_by_that_name(info: DatasetInfo) -> None:
    usual = usual_constants(info)
    assert (info.mean, info.std) in usual.values()
    for name, constants in usual.items():
        mean, std = constants_named(name, info)
        assert mean == pytest.approx(constants[0], rel=1e-3)
        assert std == pytest.approx(constants[1], rel=1e-3)


@pytest.mark.parametrize(
    "text", ["", "imagenett", "0.5", "/", "0.5/0", "0.5/-1", "nan/1", "0.5/inf", "1,2/1", "1/1/1"]
)
def test_what_is_neither_a_name_nor_constants_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--normalise"):
        constants_named(text, COLOUR)
