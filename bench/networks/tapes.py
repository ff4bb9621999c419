"""Work of an accelerator, recorded once and replayed with a single launch: CUDA graphs.

A tape holds kernels and addresses, nothing of Python: what it reads must lie where it lay, what it
gives lies where it lay, and nothing in it may wait for the device. Owns no network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

Result = TypeVar("Result")
Tape = Callable[[], None]


class Record(Protocol):
    """Records the kernels that `work` launches, and returns the tape and what `work` returned.

    Tensors in the result keep their addresses and get their values when the tape runs. `warm` is
    run before, so that nothing is done for the first time while recording; by default the work.
    """

    def __call__(
        self, work: Callable[[], Result], *, warm: Callable[[], object] | None = None
    ) -> tuple[Tape, Result]: ...


def recorder_of(device: torch.device) -> Record | None:
    """Return what records work of `device`; None where there are no tapes."""
    return CudaRecord() if device.type == "cuda" else None


class CudaRecord:
    """Records CUDA graphs that share one pool of memory.

    What a graph uses between its kernels may be used by another; its results are kept apart as
    long as somebody holds them, so the tapes may run in any order, one at a time.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self, work: Callable[[], Result], *, warm: Callable[[], object] | None = None
    ) -> tuple[Tape, Result]:
        # Lazy initialisation must be over, on a stream that is not the default one.
        stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            (warm or work)()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Only this thread records: others may ask the device how busy it is.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = work()
        return graph.replay, result
