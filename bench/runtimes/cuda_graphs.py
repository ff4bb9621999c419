"""cuda_graphs: what lies between two decisions, recorded once on a GPU and replayed in one launch.

Not yet proven on a GPU. A network tells its decisions as branches (`DynamicNet.run`);
between them it runs the same kernels for every image, on the same memory. The host reads each
decision. A network with branches is called image by image; one without takes batches whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from bench.errors import Unsupported
from bench.networks.splitting import Side, split, whole_images_only
from bench.networks.unit import DynamicNet
from bench.runtimes.contract import Run, Runtime
from bench.runtimes.eager import folded_copy

Replay = Callable[[], None]
Record = Callable[[], AbstractContextManager[Replay]]
"""Opens a stretch; what runs inside runs again, on the same memory, when what it gives is called
after it has been closed."""


class CudaGraphs(Runtime):
    """Static stretches as CUDA graphs."""

    name = "cuda_graphs"
    summary = "stretches between decisions as CUDA graphs; not yet proven on a GPU"

    def refuses(self, net: DynamicNet, device: torch.device, threads: int) -> str | None:
        if device.type == "cuda":
            return None
        return f"CUDA graphs need a GPU, not {device.type}; they are not yet proven on one"

    def prepare(self, net: DynamicNet, example_nchw: Tensor) -> Run:
        pool = torch.cuda.graph_pool_handle()  # the memory of all stretches of the network
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

        @contextmanager
        def stretch() -> Iterator[Replay]:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                yield graph.replay

        fast = folded_copy(net, example_nchw)
        with torch.inference_mode(), torch.cuda.stream(stream):
            fast.execute(example_nchw)  # whatever is set up lazily
        torch.cuda.synchronize()
        return replayed(fast, example_nchw, stretch)


class Recording:
    """A network on images of one shape: what to replay, and where logits and trace will lie."""

    def __init__(self, net: DynamicNet, image_nchw: Tensor, record: Record) -> None:
        self._image, self._record = image_nchw.clone(), record
        self._steps: list[Replay] = []
        self._begin()
        try:
            self._outs = net.run(self._image, self._branch)
        finally:
            self._end()

    def __call__(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and executed of images of the same shape."""
        self._image.copy_(x_nchw)
        _play(self._steps)
        logits, executed = self._outs
        return logits.clone(), executed.clone()

    def _begin(self) -> None:
        self._open = self._record()
        self._steps.append(self._open.__enter__())

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
        first, second = sides
        self._steps = before
        self._steps.append(lambda: _play(first if bool(condition) else second))
        self._begin()
        return joined


def _play(steps: list[Replay]) -> None:
    for step in steps:
        step()


def replayed(net: DynamicNet, example_nchw: Tensor, record: Record) -> Run:
    """Return a network in eval mode that is recorded in stretches at the first call of a size.

    Raises:
        Unsupported: it does not tell its decisions, or does what cannot be recorded.
    """
    decides = any(unit.gated for unit in net.units())
    recordings: dict[torch.Size, Recording] = {}

    def call(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        if x_nchw.shape not in recordings:
            try:
                recordings[x_nchw.shape] = Recording(net, x_nchw, record)
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
