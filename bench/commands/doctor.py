"""What works on this machine and what does not: `bench doctor`.

Every check does the thing it speaks of, in small. Only what is needed fails the command.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table
from rich.text import Text

from bench.errors import BenchError, Unsupported
from bench.plain_text import one_line
from bench.report.tables.cells import folding_table
from bench.storage import storage_errors

if TYPE_CHECKING:
    from bench.networks.gated import GatedResNet

_CORE = (
    *("skipbench", "torch", "torchvision", "numpy", "pandas", "pydantic", "rich", "typer"),
    *("safetensors", "ptflops", "pyyaml", "scikit-learn"),
)
_OPTIONAL = {
    "mlflow": "records are kept; they are not shown in MLflow",
    "ray": "sweeps need it; runs do not",
    "matplotlib": "no PNG, SVG or PDF plots",
    "onnx": "no export to ONNX",
    "onnxruntime": "no export to ONNX: files could not be checked",
    "optuna": "no sweeps with --search optuna",
}


class Probe(NamedTuple):
    """One line: what was tried, whether it works, what that means, and whether runs need it."""

    what: str
    works: bool
    detail: str
    needed: bool = False


def probe_table(found: list[Probe]) -> Table:
    """Return the table of checks."""
    table = folding_table("", "what", "detail")
    for check in found:
        wrong = "[red]no[/]" if check.needed else "[yellow]--[/]"
        mark = "[green]ok[/]" if check.works else wrong
        table.add_row(mark, check.what, Text(one_line(check.detail)))
    return table


def checks(results_dir: Path, data_dir: Path) -> list[Probe]:
    """Try everything that a run may need."""
    needed = [
        _tried("packages", lambda: ", ".join(f"{name} {version(name)}" for name in _CORE)),
        _tried("skipping path", _skipping),
        _tried("methods", _methods),
        _tried("results folder", partial(_writable, results_dir)),
    ]
    optional = [
        *(_tried(name, partial(_imported, name)) for name in _OPTIONAL),
        _tried("CUDA", _device),
        *(check._replace(what=f"runtime {check.what}") for check in runtime_checks()),
        _tried("data folder", partial(_writable, data_dir)),
        *(_tried(name, partial(_dataset, name, data_dir)) for name in ("cifar10", "cifar100")),
    ]
    return [check._replace(needed=True) for check in needed] + optional


def _tried(what: str, attempt: Callable[[], str]) -> Probe:
    """Return whether `attempt` works, and what it says."""
    try:
        return Probe(what, True, attempt())
    except Exception as error:
        said = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        return Probe(what, False, said)


def _imported(package: str) -> str:
    try:
        importlib.import_module(package)
    except Exception as error:
        raise Unsupported(f"{type(error).__name__}: {error} ({_OPTIONAL[package]})") from error
    return version(package)


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        raise Unsupported(f"none; {torch.get_num_threads()} CPU threads are used")
    return torch.cuda.get_device_name()


def runtime_checks() -> list[Probe]:
    """Return of each runtime whether it takes a network here, on a CPU with one thread."""
    from bench.runtimes.contract import RUNTIMES

    return [_tried(name, partial(_runtime, name)) for name in RUNTIMES.names()]


def _runtime(name: str) -> str:
    import torch

    from bench.runtimes.contract import RUNTIMES

    runtime = RUNTIMES.get(name)()
    refused = runtime.refuses(_small_net(), torch.device("cpu"), 1)
    if refused is not None:
        raise Unsupported(refused)
    return runtime.summary


def _small_net() -> GatedResNet:
    from bench.networks.gated import GatedResNet
    from bench.networks.trunk import Backbone

    return GatedResNet(Backbone("resnet8", 10, (3, 32, 32))).eval()


def _skipping() -> str:
    import torch

    from bench.measure.equivalence import check_execution

    return check_execution(_small_net(), torch.rand(256, 3, 32, 32))


def _methods() -> str:
    from bench.method import METHODS

    return ", ".join(METHODS.get(name).name for name in METHODS.names())


def _writable(folder: Path) -> str:
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with storage_errors(folder), tempfile.TemporaryFile(dir=nearest):
        return f"{folder} can be written"


def _dataset(name: str, data_dir: Path) -> str:
    from bench.data.load import load_dataset, summary

    return summary(load_dataset(name, data_dir=data_dir, network="forbidden"))
