"""The files that could be written of a network in one format, best form first, each in memory.

Owns which writer and reader belong to a format; whether an attempt is any good, others say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bench.export.checking import Answer, one_by_one
from bench.export.description import Batch, Description
from bench.export.forms import Candidate, candidates
from bench.export.onnx_file import onnx_answer, onnx_bytes
from bench.export.torchscript import torchscript_answer, torchscript_bytes
from bench.export.weights_file import weights_answer, weights_bytes
from bench.networks.unit import DynamicNet

FileFormat = Literal["torchscript", "onnx", "safetensors"]
_PROBE_IMAGES = 8


@dataclass(frozen=True, slots=True)
class Made:
    """A file in memory, what it says of itself, and what it answers when read back."""

    description: Description
    data: bytes
    answer: Answer


class Attempt(NamedTuple):
    """A description of what would be made, and the making, which may fail in any way."""

    description: Description
    make: Callable[[], Made]


class _Graphs(NamedTuple):
    """A format that holds a graph: how it is written, and read back."""

    write: Callable[[nn.Module, Tensor, Description], bytes]
    read: Callable[[bytes], Answer]


_GRAPHS = {
    "torchscript": _Graphs(torchscript_bytes, torchscript_answer),
    "onnx": _Graphs(onnx_bytes, onnx_answer),
}


def attempts(
    net: DynamicNet, described: Description, *, x_nchw: Tensor, file_format: FileFormat
) -> Iterator[Attempt]:
    """Yield what to try for an inference network; `x_nchw` are real images to try it with."""
    if file_format == "safetensors":
        yield Attempt(described, partial(_weights, net, described))
        return
    probe_nchw = x_nchw[:_PROBE_IMAGES]
    for candidate in candidates(net, probe_nchw):
        own = described.model_copy(
            update={
                "form": candidate.form,
                "batch": candidate.batch,
                "folded": candidate.folded,
            }
        )
        make = partial(_graph, candidate, own, probe_nchw, _GRAPHS[file_format])
        yield Attempt(own, make)


def _weights(net: DynamicNet, described: Description) -> Made:
    data = weights_bytes(net, described)
    return Made(described, data, weights_answer(data, described))


def _graph(
    candidate: Candidate, described: Description, probe_nchw: Tensor, graphs: _Graphs
) -> Made:
    with torch.no_grad():
        module = candidate.make()
        data = graphs.write(module, _example(probe_nchw, candidate.batch), described)
    answer = graphs.read(data)
    return Made(described, data, one_by_one(answer) if candidate.batch == "one" else answer)


def _example(probe_nchw: Tensor, batch: Batch) -> Tensor:
    """Return the images to trace with: two where the size of the batch is to stay open."""
    return probe_nchw[: 1 if batch == "one" else 2].contiguous(memory_format=torch.channels_last)
