"""cuda_graphs: what lies between two decisions, recorded once on a GPU and replayed in one launch.

Not yet proven on a GPU. A network tells its decisions as branches (`DynamicNet.run`);
between them it runs the same kernels for every image, on the same memory. The host reads each
decision. A network with branches is called image by image; one without takes batches whole.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.errors import Unsupported
from bench.networks.splitting import Side, split, whole_images_only
from bench.networks.unit import Branch, DynamicNet
from bench.runtimes.contract import Run, Runtime
from bench.runtimes.eager import folded_copy


class CudaGraphs(Runtime):
    """Static stretches as CUDA graphs."""

    name = "cuda_graphs"
    summary = "stretches between decisions as CUDA graphs; not yet proven on a GPU"

    def refuses(self, net: DynamicNet, device: torch.device, threads: int) -> str | None:
        if device.type == "cuda":
            return None
        return f"CUDA graphs need a GPU, not {device.type}; they are not yet proven on one"

    def prepare(self, net: DynamicNet, example_nchw: Tensor) -> Run:
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        fast = folded_copy(net, example_nchw)
        with torch.inference_mode(), torch.cuda.stream(stream):
            fast.execute(example_nchw)  # whatever is set up lazily
        torch.cuda.synchronize()
        return replayed(fast, example_nchw, lambda: GraphStretch(pool, stream))


class Stretch(Protocol):
    """What ran while it was recorded, ready to run again on the same memory."""

    def recording(self) -> AbstractContextManager[None]: ...

    def replay(self) -> None: ...


class GraphStretch:
    """A stretch as a CUDA graph; `pool` is the memory of all stretches of a network."""

    def __init__(self, pool: Any, stream: torch.cuda.Stream) -> None:
        self._graph, self._pool, self._stream = torch.cuda.CUDAGraph(), pool, stream

    def recording(self) -> AbstractContextManager[None]:
        return torch.cuda.graph(self._graph, pool=self._pool, stream=self._stream)

    def replay(self) -> None:
        self._graph.replay()


@dataclass(frozen=True, slots=True)
class GraphChoice:
    """A decision, and what is replayed behind it where it is true and where not."""

    condition: Tensor
    then: list[Stretch | GraphChoice]
    otherwise: list[Stretch | GraphChoice]


class Recording:
    """A network on images of one shape: stretches, choices, and where logits and trace will lie."""

    def __init__(
        self,
        run: Callable[[Tensor, Branch], tuple[Tensor, Tensor]],
        image_nchw: Tensor,
        new_stretch: Callable[[], Stretch],
    ) -> None:
        self._image, self._new = image_nchw.clone(), new_stretch
        self._steps: list[Stretch | GraphChoice] = []
        self._begin()
        try:
            self._outs = run(self._image, self._branch)
        finally:
            self._end()

    def __call__(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and executed of images of the same shape."""
        self._image.copy_(x_nchw)
        _play(self._steps)
        logits, executed = self._outs
        return logits.clone(), executed.clone()

    def _begin(self) -> None:
        stretch = self._new()
        self._steps.append(stretch)
        self._open = stretch.recording()
        self._open.__enter__()

    def _end(self) -> None:
        self._open.__exit__(None, None, None)

    def _branch(
        self, condition: Tensor, then: Side, otherwise: Side, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """Record both sides; each ends by writing what it gives to the same memory."""
        whole_images_only(condition)
        self._end()
        before, sides = self._steps, []
        joined: tuple[Tensor, ...] = ()
        for side in (then, otherwise):
            self._steps = []
            self._begin()
            outs = side(*given)
            joined = joined or tuple(torch.empty_like(tensor) for tensor in outs)
            for out, tensor in zip(joined, outs, strict=True):
                out.copy_(tensor)
            self._end()
            sides.append(self._steps)
        self._steps = before
        self._steps.append(GraphChoice(condition, *sides))
        self._begin()
        return joined


def _play(steps: list[Stretch | GraphChoice]) -> None:
    for step in steps:
        if isinstance(step, GraphChoice):
            _play(step.then if bool(step.condition) else step.otherwise)
        else:
            step.replay()


def replayed(net: DynamicNet, example_nchw: Tensor, new_stretch: Callable[[], Stretch]) -> Run:
    """Return a network in eval mode that is recorded in stretches at the first call of a size.

    Raises:
        Unsupported: it does not tell its decisions, or does what cannot be recorded.
    """
    decides = any(unit.gated for unit in net.units())
    recordings: dict[torch.Size, Recording] = {}

    def call(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        if x_nchw.shape not in recordings:
            try:
                recordings[x_nchw.shape] = Recording(net.run, x_nchw, new_stretch)
            except RuntimeError as error:
                line = str(error).partition("\n")[0]
                raise Unsupported(f"the network cannot be recorded: {line}") from error
        return recordings[x_nchw.shape](x_nchw)

    @torch.inference_mode()
    def run(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        if len(x_nchw) == 0:
            return net.run(x_nchw, split)
        if not decides:
            return call(x_nchw)
        logits, executed = zip(*map(call, torch.split(x_nchw, 1)), strict=True)
        return torch.cat(logits), torch.cat(executed)

    run(example_nchw)
    return run
