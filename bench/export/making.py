"""The file of a network in one format, in memory, and what it answers when read back.

Owns which writer and reader belong to a format; whether the answer is any good, others say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bench.export.checking import Answer
from bench.export.description import Description
from bench.export.onnx_file import onnx_bytes
from bench.export.weights_file import weights_answer, weights_bytes
from bench.networks.unit import DynamicNet
from bench.runtimes.eager import folded_copy
from bench.runtimes.onnx import OnnxSession, has_branches
from bench.runtimes.program import program_of

FileFormat = Literal["onnx", "safetensors"]
_EXAMPLE_IMAGES = 8


@dataclass(frozen=True, slots=True)
class Made:
    """A file in memory, what it says of itself, and what it answers when read back."""

    description: Description
    data: bytes
    answer: Answer


def make(
    net: DynamicNet, described: Description, *, x_nchw: Tensor, file_format: FileFormat
) -> Made:
    """Return the file of an inference network; `x_nchw` are some real images.

    Raises:
        Unsupported: the format cannot hold the network; the message says why.
    """
    if file_format == "safetensors":
        data = weights_bytes(net, described)
        return Made(described, data, weights_answer(data, described))
    example_nchw = x_nchw[:_EXAMPLE_IMAGES]
    program = program_of(folded_copy(net, example_nchw), example_nchw)
    decides = has_branches(program)
    form = {"form": "branches", "batch": "one"} if decides else {"form": "plain", "batch": "any"}
    own = described.model_copy(update={**form, "folded": True})
    data = onnx_bytes(program, own)
    return Made(own, data, OnnxSession(data))
