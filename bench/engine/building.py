"""From a spec to its network: the method's own, one derived from a finished run, or one rebuilt.

Owns where starting weights and sources come from; trains and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.config import RunSpec
from bench.data.images import Dataset
from bench.errors import DataError, NotApplicable, RecordError, WeightsError
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
from bench.plugins import method_config
from bench.records.record import RunRecord
from bench.records.store import TRUNK_FILE, WEIGHTS_FILE, RunStore
from bench.records.upkeep import checked_file
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
    method, config = method_of(spec)
    if isinstance(method, DerivedMethod):
        source = source_of(parent_of(spec, place), place)
        return _placed(method.derive(source, backbone_of(spec, place), config), place.device)
    weights = starting_weights(spec, place)
    if weights is not None:
        weights = fitted_to(weights, backbone_of(spec, place))
    state = None if weights is None else weights.state
    return _placed(method.build(backbone_of(spec, place, state), config), place.device)


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


def source_of(record: RunRecord, place: Workplace) -> Source:
    """Return what a control is derived from: the networks of a run and what was measured."""
    points = zip(rebuild(record, place), record.points, strict=True)
    return Source(
        record.spec.method,
        tuple(
            SourcePoint(point.name, point.net, measured.block_rates, measured.nflops)
            for point, measured in points
        ),
    )


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


def method_of(spec: RunSpec) -> tuple[Method, MethodConfig]:
    """Return the method of a spec and its settings."""
    method = METHODS.get(spec.method)
    return method(), method_config(method, spec.config)


def dense_net(spec: RunSpec, place: Workplace) -> DynamicNet:
    """Return the dense network that `spec` is compared with, weights from its start if any.

    Its time does not depend on its weights.
    """
    weights = _given_weights(spec, place)
    state = None if weights is None else weights.state
    return _placed(GatedResNet(backbone_of(spec, place, state)), place.device)


def backbone_of(
    spec: RunSpec, place: Workplace, weights: Mapping[str, Tensor] | None = None
) -> Backbone:
    """Return the backbone of `spec` on the images at hand."""
    info = place.dataset.info
    return Backbone(
        spec.backbone.name,
        info.num_classes,
        (info.channels, info.height, info.width),
        spec.backbone.shortcut,
        weights,
    )


def _placed(net: DynamicNet, device: torch.device) -> DynamicNet:
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def starting_weights(spec: RunSpec, place: Workplace) -> Weights | None:
    """Return the weights that training starts from, or None.

    Raises:
        WeightsError: they are missing or do not fit.
        RecordError: the run that they are of is missing.
    """
    if spec.initial is None:
        return None
    if spec.initial.kind == "run":
        return read_weights(checked_file(place.store, parent_of(spec, place), TRUNK_FILE))
    weights = _given_weights(spec, place)
    if weights is None:
        raise WeightsError(f"This run starts from the file {spec.initial.name}.")
    return weights


def _given_weights(spec: RunSpec, place: Workplace) -> Weights | None:
    """Return the user's weights as `spec` reads them, if they are the ones that it starts from."""
    given, initial = place.weights, spec.initial
    if given is None or initial is None or given.sha256 != initial.identity:
        return None
    if initial.zero_channels == "end":
        return with_zeros_at_end(fitted_to(given, backbone_of(spec, place)))
    return fitted_to(given, backbone_of(spec, place))
