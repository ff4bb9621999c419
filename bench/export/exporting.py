"""From a finished run to a file: rebuild, write down, read back, compare, and only then keep.

Owns the order of these steps and what is said of them.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from safetensors.torch import load, save
from torch import Tensor

from bench.engine.building import Workplace
from bench.engine.decisions import rebuilt_as_recorded
from bench.engine.evaluating import first_images
from bench.errors import BenchError, ConfigError, NotExecutable, Unsupported
from bench.export.weights_file import KEY, Description, describe, restored
from bench.measure.equivalence import IMAGES, check_execution, executed
from bench.measure.modes import evaluating
from bench.networks.unit import DynamicNet
from bench.plain_text import one_line
from bench.records.record import RunRecord
from bench.runtimes.contract import Run
from bench.runtimes.eager import folded_copy
from bench.runtimes.onnx import OnnxSession, has_branches, missing_packages, onnx_model
from bench.runtimes.program import program_of
from bench.storage import chosen_with_out, make_folder, write_atomically

FileFormat = Literal["onnx", "safetensors"]
FOLDER = "exports"
_EXAMPLE_IMAGES = 8


class ExportedFile(NamedTuple):
    """A file in memory, what it says of itself, and what it answers when read back."""

    description: Description
    data: bytes
    answer: Run


class Exported(NamedTuple):
    """A file that was written, what it says of itself, and the proof that it equals the run."""

    path: Path
    size_bytes: int
    description: Description
    proof: str

    def sentence(self) -> str:
        """Return all of this in a sentence."""
        size_mb = self.size_bytes / 1e6
        return f"{self.path} ({size_mb:.2f} MB): {self.description.sentence()}; {self.proof}."


def export_record(
    record: RunRecord,
    place: Workplace,
    *,
    file_format: FileFormat,
    point: str | None = None,
    out: Path | str | None = None,
) -> Exported:
    """Write the inference network of one operating point, the first unless named.

    `out` is a file or an existing folder.

    Raises:
        ConfigError: there is no such point, a package is missing, or `out` has the suffix of
            another format.
        RecordError: today's code does not decide as it did in the run.
        Unsupported: the network cannot be written in this format; the message says why.
    """
    path = place.store.results_dir / FOLDER if out is None else Path(out)
    if path.suffix[1:].lower() in {*get_args(FileFormat)} - {file_format}:
        raise ConfigError(
            f"--out {out} has the suffix of another format than {file_format}.",
            hint=f"A {file_format} file ends in .{file_format}.",
        )
    missing = missing_packages() if file_format == "onnx" else []
    if missing:
        raise ConfigError(
            f"Export to ONNX needs {' and '.join(missing)}.",
            hint='Install with: pip install "skipbench[export]"',
        )
    number = _number_of(record, point)
    x_nchw = first_images(record.spec, place, count=IMAGES)
    run = rebuilt_as_recorded(record, place)[number].net
    described = describe(record, number, place.dataset.info, [unit.name for unit in run.units()])
    made, proof = _made(run, described, x_nchw, file_format=file_format)
    if out is None or path.is_dir():
        name = re.sub(r"[^A-Za-z0-9_.=-]+", "_", f"{record.run}-{described.point}".rstrip("-"))
        path = path / f"{name}.{file_format}"
    with chosen_with_out(None if out is None else path):
        make_folder(path.parent)
        write_atomically(path, made.data)
    return Exported(path, len(made.data), made.description, proof)


def _number_of(record: RunRecord, point: str | None) -> int:
    names = [measured.name for measured in record.points]
    if point is not None and point not in names:
        known = ", ".join(filter(None, names)) or "only one, without a name"
        raise ConfigError(
            f"{record.run} has no operating point '{point}'.", hint=f"Its points: {known}."
        )
    return 0 if point is None else names.index(point)


def _made(
    run: DynamicNet, described: Description, x_nchw: Tensor, *, file_format: FileFormat
) -> tuple[ExportedFile, str]:
    try:
        with evaluating(run):
            run.execute(x_nchw[:1])
        shipped = run.inference_net(dead_blocks=frozenset(described.dead_blocks))
        made = make(shipped, described, x_nchw=x_nchw, file_format=file_format)
        return made, check_execution(run, x_nchw, run=made.answer)
    except NotExecutable as error:
        raise Unsupported(f"{described.run} cannot be exported: {error.message}.") from error
    except Exception as error:  # a network is foreign code: it may raise any exception
        said = one_line(f"{type(error).__name__}: {error}", longest=200)
        said = error.message if isinstance(error, BenchError) else said
        raise Unsupported(
            f"The network cannot be exported in this format. {said}",
            hint="The other format may be able to hold it.",
        ) from error


def make(
    net: DynamicNet, described: Description, *, x_nchw: Tensor, file_format: FileFormat
) -> ExportedFile:
    """Return the file of an inference network; `x_nchw` are some real images.

    Raises:
        Unsupported: the format cannot hold the network; the message says why.
    """
    if file_format == "safetensors":
        state = {key: value.cpu().contiguous() for key, value in net.state_dict().items()}
        data = save(state, metadata={KEY: described.model_dump_json()})
        return ExportedFile(described, data, partial(executed, restored(described, load(data)).net))
    import onnx

    example_nchw = x_nchw[:_EXAMPLE_IMAGES]
    program = program_of(folded_copy(net, example_nchw), example_nchw)
    decides = has_branches(program)
    form = {"form": "branches", "batch": "one"} if decides else {"form": "plain", "batch": "any"}
    own = described.model_copy(update={**form, "folded": True})
    model = onnx_model(program)
    model.doc_string = f"{own.run}: {own.sentence()}"
    onnx.helper.set_model_props(model, {KEY: own.model_dump_json()})
    data = model.SerializeToString()
    return ExportedFile(own, data, OnnxSession(data))
