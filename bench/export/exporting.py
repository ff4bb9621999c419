"""From a finished run to a file: rebuild, write down, read back, compare, and only then keep.

Owns the order of these steps and what is said of them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bench.engine.building import Workplace
from bench.engine.decisions import rebuilt_as_recorded
from bench.engine.evaluating import first_images
from bench.errors import BenchError, ConfigError, NotExecutable, Unsupported
from bench.export.checking import Agreement, compare
from bench.export.description import Description, describe
from bench.export.making import FileFormat, Made, make
from bench.export.onnx_file import require_onnx
from bench.measure.equivalence import IMAGES
from bench.measure.modes import evaluating
from bench.method import DynamicNet
from bench.records.record import RunRecord
from bench.storage import chosen_with_out, make_folder, write_atomically

SUFFIXES: dict[FileFormat, str] = {
    "onnx": ".onnx",
    "safetensors": ".safetensors",
}
FOLDER = "exports"
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written, what it says of itself, and how well it agrees with the run."""

    path: Path
    size_bytes: int
    description: Description
    agreement: Agreement

    def sentence(self) -> str:
        """Say all of this to a person."""
        return (
            f"{self.path} ({self.size_bytes / 1e6:.2f} MB): {self.description.sentence()};"
            f" largest difference to the run {self.agreement.largest_difference:.1e}"
            f" on {self.agreement.images} images."
        )


def export_record(
    record: RunRecord,
    place: Workplace,
    *,
    file_format: FileFormat,
    point: str | None = None,
    out: Path | str | None = None,
) -> Exported:
    """Write the inference network of one operating point, the first unless named.

    `out` is a file, or a folder if it is one or ends in a slash.

    Raises:
        ConfigError: there is no such point, a package is missing, or `out` has the suffix of
            another format.
        RecordError: today's code does not decide as it did in the run.
        Unsupported: the network cannot be written in this format; the message says why.
    """
    if out is not None:
        _check_suffix(out, file_format)
    if file_format == "onnx":
        require_onnx()
    number = _number_of(record, point)
    x_nchw = first_images(record.spec, place, count=IMAGES)
    run = rebuilt_as_recorded(record, place)[number].net
    _check_executable(record, run, x_nchw)
    described = describe(record, number, place, [unit.name for unit in run.units()])
    shipped = run.inference_net(dead_blocks=frozenset(described.dead_blocks))
    made, agreement = _made(shipped, described, run, x_nchw, file_format=file_format)
    name = _tame(f"{record.run}-{described.point}".rstrip("-")) + SUFFIXES[file_format]
    path = place.store.results_dir / FOLDER / name if out is None else Path(out)
    if out is not None and _is_folder(out):
        path = path / name
    with chosen_with_out(None if out is None else path):
        make_folder(path.parent)
        write_atomically(path, made.data)
    return Exported(path, len(made.data), made.description, agreement)


def _is_folder(out: Path | str) -> bool:
    return str(out).endswith(("/", os.sep)) or Path(out).is_dir()


def _check_suffix(out: Path | str, file_format: FileFormat) -> None:
    suffix, expected = Path(out).suffix.lower(), SUFFIXES[file_format]
    if suffix in SUFFIXES.values() and suffix != expected and not _is_folder(out):
        raise ConfigError(
            f"--out {out} has the suffix of another format than {file_format}.",
            hint=f"A {file_format} file ends in {expected}.",
        )


def _number_of(record: RunRecord, point: str | None) -> int:
    names = [measured.name for measured in record.points]
    if not names:
        raise ConfigError(f"{record.run} is not finished.", hint="Run it again.")
    if point is None:
        return 0
    if point not in names:
        known = ", ".join(filter(None, names)) or "only one, without a name"
        raise ConfigError(
            f"{record.run} has no operating point '{point}'.", hint=f"Its points: {known}."
        )
    return names.index(point)


def _check_executable(record: RunRecord, run: DynamicNet, x_nchw: Tensor) -> None:
    try:
        with evaluating(run):
            run.execute(x_nchw[:1])
    except NotExecutable as error:
        raise Unsupported(f"{record.run} cannot be exported: {error.message}.") from error


def _made(
    shipped: DynamicNet,
    described: Description,
    run: DynamicNet,
    x_nchw: Tensor,
    *,
    file_format: FileFormat,
) -> tuple[Made, Agreement]:
    try:
        made = make(shipped, described, x_nchw=x_nchw, file_format=file_format)
        return made, compare(run, made.answer, x_nchw)
    except Exception as error:  # a network is anybody's code: it fails with any exception
        raise Unsupported(
            f"The network cannot be exported in this format. {_one_line(error)}",
            hint="As safetensors any network with a skipping path can be.",
        ) from error


def _one_line(error: Exception) -> str:
    if isinstance(error, BenchError):
        return error.message
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_LONGEST_REASON]}"


def _tame(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", text)
