"""A network of every registered method on small images, deciding both ways; no tests here."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from bench.export.exporting import ExportedFile, FileFormat, make
from bench.export.weights_file import Description
from bench.method import METHODS, DerivedMethod, DynamicNet
from bench.networks.trunk import Backbone
from bench.plugins import code_of
from bench.testing import synthetic
from bench.testing.workbench import Workbench

BACKBONE = Backbone("resnet14", synthetic.CLASSES, synthetic.SHAPE, "B")
NOT_EXECUTABLE = "shuffled_masks"
_OF_TOKENS = Backbone("timm/vit_tiny_patch4_32@2", synthetic.CLASSES, synthetic.SHAPE)
_NO_POSITIONS, _NO_TOKENS = "no branch for some positions", "no instruction for dropping tokens"
REFUSED = {
    ("dynconv", "onnxruntime"): _NO_POSITIONS,
    ("a_vit", "onnxruntime"): _NO_TOKENS,
    ("a_vit", "native"): _NO_TOKENS,
}
"""What a runtime refuses, and why."""


@functools.cache
def images() -> Tensor:
    return synthetic.images(256, seed=31)


@functools.cache
def described_net(name: str) -> tuple[DynamicNet, Description]:
    """Return the first operating point of a perturbed network, and its description."""
    bench = Workbench(METHODS.get(name)(), None)
    backbone = _OF_TOKENS if name == "a_vit" else BACKBONE
    trained = bench._network(backbone.name, backbone.shortcut)
    point = trained.points[0]
    point.net.eval()
    return point.net, Description(
        skipbench="0",
        run=f"{name}-synthetic",
        **code_of(name)._asdict(),
        settings=bench.config.model_dump(mode="json"),
        variant="",
        point=point.name,
        backbone=backbone.name,
        shortcut=backbone.shortcut,
        num_classes=backbone.num_classes,
        class_names=("",) * backbone.num_classes,
        image_shape=backbone.image_shape,
        mean=(0.5,),
        std=(0.25,),
        units=tuple(unit.name for unit in point.net.units()),
        unit_macs={},
        dense_macs=1,
        dead_blocks=(),
    )


def best(name: str, file_format: FileFormat) -> ExportedFile:
    """Return the file of a format; it must agree."""
    net, described = described_net(name)
    shipped = net.inference_net()
    made = make(shipped, described, x_nchw=images(), file_format=file_format)
    with torch.no_grad():
        agree(net, made)
    return made


def agree(net: DynamicNet, made: ExportedFile) -> None:
    """Compare as the command does, but to the size of the logits: synthetic ones may be large."""
    logits_nk, executed_nu = made.answer(images())
    expected = net.execute(images())
    scale = max(1.0, float(expected.logits.abs().max()))
    # A position of SACT may stand on either side of its threshold.
    same_n = (executed_nu == expected.executed).all(dim=1)
    assert int(same_n.sum()) >= len(same_n) - 1
    difference_n = (logits_nk - expected.logits).abs().amax(dim=1)
    assert float(difference_n[same_n].max()) <= 1e-4 * scale


def both_ways(net: DynamicNet) -> bool:
    """Whether some image runs what another one skips."""
    with torch.no_grad():
        executed_nu = net.execute(images()).executed
    return bool((executed_nu != executed_nu[0]).any())


def names() -> list[str]:
    """Return all registered methods with a skipping path."""
    return [name for name in METHODS.names() if name != NOT_EXECUTABLE]


def rebuilt_names() -> list[str]:
    """Return those whose network is built from settings alone, not from a finished run."""
    return [name for name in names() if not issubclass(METHODS.get(name), DerivedMethod)]
