"""Your own classes, modules and images in Python: `bench.run` and `bench.evaluate`.

What is given here is known in this process only: its records stay, but `bench latency` and
`bench export` do not find the network again. Owns how objects become names; what is done with them
is bench.api's.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.api import run as run_command
from bench.backbone import Backbone, Family, Trunk, trunk_of
from bench.data.images import Dataset
from bench.engine.plan import DENSE
from bench.errors import PluginError, RunFailed
from bench.folders import Folders, default_data_dir, default_results_dir
from bench.method import (
    METHODS,
    Budget,
    DynamicNet,
    Method,
    MethodConfig,
    Output,
    Phase,
    Reference,
    Tags,
    Unit,
)
from bench.networks.trunk import BACKBONES
from bench.notebook import load_results
from bench.options import RunOptions, read_options
from bench.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

Methods = str | type[Method] | Sequence[str | type[Method]]


def run(
    methods: Methods,
    data: str | Path | Dataset,
    *,
    backbone: str | type[Family] | nn.Module = "",
    results: str | Path | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Train, evaluate, count and time, as `bench run` does; return the rows of these runs.

    `methods` are names or classes, `backbone` is a name, a Family, or a network whose weights every
    run starts from; `data` a name, a folder, or a Dataset. `options` are those of `bench run`:
    `epochs=3, recipe="fair", settings={"sgad": {"d_max": 0.5}}`.

    Raises:
        UserError: it cannot be served as given.
        RunFailed: a run failed; the others are recorded.
    """
    listed = [methods] if isinstance(methods, str | type) else methods
    named = tuple(one if isinstance(one, str) else _known(METHODS, one) for one in listed)
    return _done(named, data, _backbone(backbone), results, options)


def evaluate(
    net: nn.Module,
    data: str | Path | Dataset,
    *,
    dense: str | type[Family] | nn.Module,
    name: str,
    results: str | Path | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Judge a trained network without training it: accuracy, MACs, dynamics, the proof that
    skipping equals masking, latency; return its row and that of the dense network.

    `net` is a DynamicNet, or any network that decides nothing. `dense` is what its cost and time
    are relative to: a network with its weights, or a backbone, whose own weights are random. The
    constants of the images are those of `data` unless `normalise` says otherwise. `bench.verdicts`
    of the rows judges it, where static networks of other costs are in the same results.

    Raises:
        UserError, RunFailed: as `run`.
    """
    given = _given(net, name)
    METHODS.remove(name)  # the same name again means what it means now
    METHODS.add(given, source="bench.evaluate")
    fixed = {"epochs": 0, "controls": ("none",), **options}
    return _done((DENSE, name), data, _backbone(dense), results, fixed)


def _done(
    methods: tuple[str, ...],
    data: str | Path | Dataset,
    backbone: str,
    results: str | Path | None,
    options: dict[str, Any],
) -> pd.DataFrame:
    at_hand = data if isinstance(data, Dataset) else None
    dataset = str(data) if at_hand is None else at_hand.info.name
    given = {**options, "methods": methods, "dataset": dataset, "backbone": backbone or None}
    asked = read_options(RunOptions, given)
    folder = default_results_dir() if results is None else Path(results)
    outcome = run_command(asked, Folders(folder, default_data_dir()), data=at_hand)
    if outcome.failures:
        failed = outcome.failures[0]
        raise RunFailed(f"{failed.run}: {failed.reason}", hint=failed.hint or None)
    rows = load_results(folder)
    return rows[rows["run"].isin([record.run for record in outcome.records])]


def _known(registry: Registry[Any], kind: type[Any]) -> str:
    name = str(kind.name)
    if name not in registry.names() or registry.get(name) is not kind:
        registry.add(kind, source="Python", code=_code_digest(kind))
    return name


def _backbone(given: str | type[Family] | nn.Module) -> str:
    """Return the name of a backbone, registered here if it has none yet."""
    if isinstance(given, str):
        return given
    if isinstance(given, type):
        return _known(BACKBONES, given)
    name = f"given-{_digest(given)}"
    if name not in BACKBONES.names():
        family = type("Given", (_Given,), {"name": name, "trunk": _trunk_of(given)})
        BACKBONES.add(family, source="Python", code=name)
    return name


def _trunk_of(net: nn.Module) -> Trunk:
    if isinstance(net, Trunk):
        return net
    copied = copy.deepcopy(net)
    try:
        return trunk_of(copied)
    except PluginError:
        return Trunk(nn.Identity(), (), copied)


class _Given(Family):
    """One network with its weights."""

    name = "given"
    summary = "given in Python"
    trunk: Trunk

    def build(self, backbone: Backbone) -> Trunk:
        return copy.deepcopy(self.trunk)


class UngatedNetwork(DynamicNet):
    """A network that decides nothing, as one unit."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.image_shape: tuple[int, ...] = ()

    def units(self) -> Sequence[Unit]:
        return [Unit("net", self.net, self.image_shape, True, "stem")]

    def forward(self, x_nchw: Tensor) -> Output:
        return Output(self.net(x_nchw), torch.ones(len(x_nchw), 1, device=x_nchw.device), {})

    execute = forward


def _given(net: nn.Module, name_: str) -> type[Method[Any]]:
    """Return the method whose network is `net`, trained elsewhere."""
    dynamic = net if isinstance(net, DynamicNet) else UngatedNetwork(net)
    decides = isinstance(net, DynamicNet) and any(unit.gated for unit in net.units())

    class GivenConfig(MethodConfig):
        """The weights, so that others are another run."""

        weights: str = _digest(net)

    class Given(Method[GivenConfig]):
        """A network given to bench.evaluate."""

        name = name_
        reference = Reference("given to bench.evaluate", "not published", 2026, "")
        tags = Tags(decision="per unit" if decides else "static")

        def published_epochs(self, config: GivenConfig) -> int:
            return 1

        def build(self, backbone: Backbone, config: GivenConfig) -> DynamicNet:
            built = copy.deepcopy(dynamic)
            if isinstance(built, UngatedNetwork):
                built.image_shape = backbone.image_shape
            return built

        def phases(self, config: GivenConfig, budget: Budget) -> Sequence[Phase]:
            return []

    return Given


def _code_digest(kind: type[Any]) -> str:
    """Return what tells the code of a class apart that may lie in no file, as in a notebook: its
    own functions, not what they call."""
    found = hashlib.sha256(kind.__qualname__.encode())
    for name, value in sorted(vars(kind).items()):
        code = getattr(value, "__code__", None)
        if code is not None:
            constants = [one for one in code.co_consts if not hasattr(one, "co_code")]
            found.update(f"{name} {code.co_names} {constants}".encode() + code.co_code)
    return found.hexdigest()


def _digest(net: nn.Module) -> str:
    """Return what tells networks and their weights apart: 12 hex digits."""
    found = hashlib.sha256(repr(net).encode())
    for name, tensor in net.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]
