"""ONNX: a file for onnxruntime and its like. Owns how it is written and read.

Written by torch's exporter of TorchScript graphs: it is in every supported torch, turns a branch of
a policy written in any Python into an `If`, and needs no package but onnx. The newer exporter wants
all of the network in torch.export's terms, policies included, and cannot write branches before
torch 2.7.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import ConfigError
from bench.export.checking import Answer
from bench.export.description import KEY, Description
from bench.networks.tracing import traced

_OPSET = 17
_OUTPUTS = ["logits", "executed"]
_KNOWN_WARNINGS = (
    (DeprecationWarning, "You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, "The feature will be removed"),
    (UserWarning, "no signature found for"),
    (UserWarning, "Constant folding"),
)


def require_onnx() -> None:
    """Check that what writes and reads ONNX is installed.

    Raises:
        ConfigError: it is not.
    """
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"Export to ONNX needs {' and '.join(missing)}.",
            hint='Install with: pip install "skipbench[export]"',
        )


def onnx_bytes(module: nn.Module, example_nchw: Tensor, described: Description) -> bytes:
    """Return the file of a form of the network."""
    import onnx

    graph = traced(module.eval(), example_nchw)
    names = ["images", *_OUTPUTS]
    axes = {} if described.batch == "one" else {name: {0: "batch"} for name in names}
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings(), _mute(), torch.no_grad():
        for category, start in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", start, category)
        torch.onnx.export(
            graph,
            (example_nchw,),
            buffer,
            dynamo=False,
            opset_version=_OPSET,
            input_names=names[:1],
            output_names=_OUTPUTS,
            dynamic_axes=axes,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    model.doc_string = f"{described.run}: {described.sentence()}"
    onnx.helper.set_model_props(model, {KEY: described.model_dump_json()})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def onnx_answer(data: bytes) -> Answer:
    """Return what the file answers, from its bytes as they would be written."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def answer(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        logits, executed = session.run(_OUTPUTS, {"images": x_nchw.contiguous().numpy()})
        return torch.from_numpy(logits), torch.from_numpy(executed)

    return answer


@contextmanager
def _mute() -> Iterator[None]:
    """Send what C++ prints to nowhere: an exporter that fails prints the whole graph."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
