"""ONNX: a file for onnxruntime and its like: the model that the runtime of that name is timed with,
and what it says of itself.
"""

from __future__ import annotations

from bench.errors import ConfigError
from bench.export.description import KEY, Description
from bench.runtimes.instructions import Program
from bench.runtimes.onnx import missing_packages, onnx_model


def require_onnx() -> None:
    """Check that what writes and reads ONNX is installed.

    Raises:
        ConfigError: it is not.
    """
    missing = missing_packages()
    if missing:
        raise ConfigError(
            f"Export to ONNX needs {' and '.join(missing)}.",
            hint='Install with: pip install "skipbench[export]"',
        )


def onnx_bytes(program: Program, described: Description) -> bytes:
    """Return the file of a program.

    Raises:
        Unsupported: ONNX has no operator for one of its instructions.
    """
    import onnx

    model = onnx_model(program)
    model.doc_string = f"{described.run}: {described.sentence()}"
    onnx.helper.set_model_props(model, {KEY: described.model_dump_json()})
    return bytes(model.SerializeToString())
