"""TorchScript: a file that torch alone runs, `torch.jit.load`. Owns how it is written and read."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from bench.export.checking import Answer
from bench.export.description import KEY, Description
from bench.networks.tracing import deprecation_known, frozen, scripted, traced

_DOCUMENT = f"{KEY}.json"


class OneAtATime(nn.Module):
    """Refuses a batch: a graph of one image would give a wrong answer, not an error."""

    def __init__(self, graph: Any) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[0] != 1:
            raise ValueError("this network was exported for one image at a time")
        return self.graph(images)  # type: ignore[no-any-return]


class AnyNumber(nn.Module):
    """Only names the input, as in the other formats."""

    def __init__(self, graph: Any) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.graph(images)  # type: ignore[no-any-return]


def torchscript_bytes(module: nn.Module, example_nchw: Tensor, described: Description) -> bytes:
    """Return the file of a form of the network."""
    wrapper = OneAtATime if described.batch == "one" else AnyNumber
    graph = scripted(wrapper(traced(module.eval(), example_nchw)).eval())
    buffer = io.BytesIO()
    with deprecation_known(), torch.no_grad():
        extra = {_DOCUMENT: described.model_dump_json()}
        torch.jit.save(frozen(graph), buffer, _extra_files=extra)
    return buffer.getvalue()


def torchscript_answer(data: bytes) -> Answer:
    """Return what the file answers, from its bytes as they would be written."""
    with deprecation_known():
        graph: Any = torch.jit.load(io.BytesIO(data))  # type: ignore[no-untyped-call]

    def answer(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        logits_nk, executed_nu = graph(x_nchw)
        return logits_nk, executed_nu

    return answer
