"""From a spec to its network: the method's own, one derived from a finished run, or one rebuilt.

Owns where starting weights and sources come from, and which weights `build` brings along, whose
training cost is unknown; trains and measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.config import RunSpec
from bench.data.images import Dataset
from bench.errors import ConfigError, DataError, NotApplicable, RecordError, WeightsError
from bench.method import (
    METHODS,
    DerivedMethod,
    DynamicNet,
    Method,
    MethodConfig,
    Point,
    Source,
    SourcePoint,
)
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone
from bench.networks.weights import Weights, fitted_to, read_weights, with_zeros_at_end
from bench.plain_text import shown
from bench.plugins import method_config
from bench.records.record import RunRecord
from bench.records.store import TRUNK_FILE, WEIGHTS_FILE, RunStore
from bench.records.upkeep import checked_file
from bench.seeding import seeded
from bench.training.reporter import Reporter


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a run needs besides its spec: the images, the store, the device, a listener.

    `weights` is the user's file when the spec starts from one.
    """

    dataset: Dataset
    store: RunStore
    device: torch.device
    reporter: Reporter
    weights: Weights | None = None


def build(spec: RunSpec, place: Workplace) -> DynamicNet:
    """Return the network of `spec` before its training, on the device.

    Raises:
        WeightsError: the starting weights are missing or do not fit.
        RecordError: the run it starts from is missing.
    """
    return _placed(_built(spec, place, start=lambda value: value), place.device)


def _built(spec: RunSpec, place: Workplace, *, start: Callable[[Tensor], Tensor]) -> DynamicNet:
    """Return the network of `spec` as its method builds it, of what `start` makes of each tensor
    that it starts from."""
    method, config = method_of(spec)
    backbone = backbone_of(spec, place)
    if isinstance(method, DerivedMethod):
        parent = parent_of(spec, place)
        measured = zip(rebuild(parent, place), parent.points, strict=True)
        points = tuple(
            SourcePoint(point.name, point.net, found.block_rates, found.nflops)
            for point, found in measured
        )
        for point in points:
            for value in (*point.net.parameters(), *point.net.buffers()):
                value.data = start(value.data)
        return method.derive(Source(parent.spec.method, points), backbone, config)
    weights = starting_weights(spec, place)
    if weights is not None:
        state = {name: start(value) for name, value in weights.state.items()}
        backbone = replace(backbone, weights=state)
    return method.build(backbone, config)


def rebuild(record: RunRecord, place: Workplace) -> list[Point]:
    """Return the operating points of a finished run, with its weights, on the device.

    Raises:
        WeightsError: the run's weights are missing or broken.
        RecordError: they were changed since, the run it was derived from is missing, or its
            points are not the record's.
    """
    method, config = method_of(record.spec)
    if isinstance(method, DerivedMethod):
        net = build(record.spec, place)
    else:
        net = _placed(method.build(backbone_of(record.spec, place), config), place.device)
    path = checked_file(place.store, record, WEIGHTS_FILE)
    if not path.exists():
        raise WeightsError(
            f"The weights of the run {record.run} are not here: records may come without them.",
            hint=f"Training again makes them: bench run --methods {record.spec.method} --fresh, "
            "with the other options of that run.",
        )
    try:
        net.load_state_dict(load_file(path))
    except Exception as error:
        raise WeightsError(
            f"The weights of the run {record.run} cannot be read: {error}"
        ) from error
    points = list(method.operating_points(net, config))
    if [point.name for point in points] != [measured.name for measured in record.points]:
        raise RecordError(
            f"The record of {record.run} has other operating points than its network.",
            hint="Run it again with --fresh.",
        )
    return points


def parent_of(spec: RunSpec, place: Workplace) -> RunRecord:
    """Return the finished run that `spec` starts from.

    Raises:
        NotApplicable: so was that run.
        RecordError: it is not there, or another run lies in its place.
    """
    assert spec.initial is not None
    parent = place.store.get(spec.initial.name)
    if parent.status == "not applicable" and parent.spec.key == spec.initial.identity:
        raise NotApplicable(f"nor is its source, {parent.spec.method}: {parent.reason}")
    if parent.status != "finished" or parent.spec.key != spec.initial.identity:
        raise RecordError(
            f"The run {spec.initial.name}, from which this one is made, is not finished.",
            hint="Run it first; the same command does both.",
        )
    return parent


def check_same_data(spec: RunSpec, dataset: Dataset) -> None:
    """Check that `dataset` holds the images of `spec`.

    Raises:
        DataError: they are others of the same name.
    """
    if spec.dataset.fingerprint != dataset.info.fingerprint:
        raise DataError(
            f"{spec.run} was trained on other images called '{spec.dataset.name}'.",
            hint="Point --data-dir to the data set of that run.",
        )


def given_weights(path: Path | str | None) -> Weights | None:
    """Return the weights in the file that a user named, if there is one."""
    return None if path is None else read_weights(Path(path))


def method_of(spec: RunSpec) -> tuple[Method, MethodConfig]:
    """Return the method of a spec and its settings."""
    method = METHODS.get(spec.method)
    return method(), method_config(method, spec.config)


def dense_net(spec: RunSpec, place: Workplace) -> DynamicNet:
    """Return the dense network that `spec` is compared with, untrained: weights take no time."""
    return _placed(GatedResNet(backbone_of(spec, place)), place.device)


def backbone_of(spec: RunSpec, place: Workplace) -> Backbone:
    """Return the backbone of `spec` on the images at hand, without weights."""
    info, asked = place.dataset.info, spec.backbone
    shape = (info.channels, info.height, info.width)
    return Backbone(asked.name, info.num_classes, shape, asked.shortcut)


def _placed(net: DynamicNet, device: torch.device) -> DynamicNet:
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def starting_weights(spec: RunSpec, place: Workplace) -> Weights | None:
    """Return the weights that training starts from, fitted to the backbone, or None.

    Raises:
        WeightsError: they are missing or do not fit.
        RecordError: the run that they are of is missing.
    """
    if spec.initial is None:
        return None
    if spec.initial.kind == "run":
        own = read_weights(checked_file(place.store, parent_of(spec, place), TRUNK_FILE))
        return fitted_to(own, backbone_of(spec, place))
    given = place.weights
    if given is None or given.sha256 != spec.initial.identity:
        raise WeightsError(f"This run starts from the file {spec.initial.name}.")
    fitted = fitted_to(given, backbone_of(spec, place))
    return with_zeros_at_end(fitted) if spec.initial.zero_channels == "end" else fitted


_FEWEST_VALUES = 16
"""Constants and patterns (ones, a forget gate's bias) have fewer different values than weights."""

_STATISTICS = ("running_mean", "running_var")


def brought_along(net: DynamicNet, spec: RunSpec, place: Workplace) -> str:
    """Say which weights of `net`, as it was built, come neither from its seed nor from its start;
    '' if all do. The random state is afterwards as it was."""
    with seeded(spec.seed, "twin"):
        other = _weights(_built(spec, place, start=_other))
    same = [
        name
        for name, value in _weights(net).items()
        if name in other
        and torch.equal(value, other[name])
        and len(torch.unique(value)) > _FEWEST_VALUES
    ]
    more = f" and {len(same) - 1} more" if len(same) > 1 else ""
    said = "its build brings weights along that depend neither on the seed nor on the start"
    return f"{said}: {same[0]}{more}" if same else ""


def _other(value: Tensor) -> Tensor:
    """Return another value of the same kind: a variance stays positive."""
    return value * 1.01 + 0.001 if value.is_floating_point() else value


def _weights(net: nn.Module) -> Mapping[str, Tensor]:
    """Return parameters, and the statistics of norms, by name, on the CPU."""
    found: dict[str, Tensor] = dict(net.named_parameters())
    found |= {n: b for n, b in net.named_buffers() if n.rpartition(".")[2] in _STATISTICS}
    return {name: value.detach().cpu() for name, value in found.items()}


def pick_device(name: str) -> torch.device:
    """Return the torch device called auto, cpu, cuda or cuda:N.

    Raises:
        ConfigError: there is no such device on this machine, or it is of another kind.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        said = f"{shown(name)} is not a device."
        raise ConfigError(said, hint="Use auto, cpu or cuda.") from error
    count = torch.cuda.device_count()
    if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < count):
        return device
    raise ConfigError(
        f"There is no device {name} here.", hint=f"Use auto or cpu; CUDA devices here: {count}."
    )
