"""What must hold for every registered method, on networks that a few real steps have trained.

A method may be exempt from a check by name, with a reason, in its tags.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor

from bench.engine.plan import METHODS, method_config
from bench.errors import ConfigError
from bench.measure.cost import counted_macs, macs_per_image, unit_macs
from bench.method import Batch, Budget, DynamicNet, Method, MethodConfig, Phase
from bench.networks.gated import GatedResNet
from bench.networks.resnet import Backbone
from bench.recipes import RECIPES
from bench.training.optimizer import build_optimizer

NAMES = METHODS.names()
BACKBONES = ("resnet8", "resnet14")
SHAPE = (3, 16, 16)
CLASSES = 5
CHECKS = {
    "execution",
    "batch_independence",
    "repeatable",
    "round_trip",
    "macs",
    "gradient",
    "all_on",
    "budget",
    "options",
    "inference_net",
}
over_networks = pytest.mark.parametrize(
    ("name", "backbone"), [(name, backbone) for name in NAMES for backbone in BACKBONES]
)


@dataclass(frozen=True, slots=True)
class Trained:
    """A network after a few steps, its settings, and the parameters that received gradient."""

    method: Method
    config: MethodConfig
    backbone: Backbone
    net: DynamicNet
    reached: frozenset[str]

    def points(self) -> list[DynamicNet]:
        return [point.net for point in self.method.operating_points(self.net, self.config)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(count: int, seed: int = 0) -> Tensor:
    """Return images of different contrast and tint, so that policies have something to tell."""
    draws = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *SHAPE, generator=draws)
    contrast = 0.2 + 1.6 * torch.rand(count, 1, 1, 1, generator=draws)
    tint = torch.randn(count, 3, 1, 1, generator=draws)
    return (contrast * noise + tint).contiguous(memory_format=torch.channels_last)


def batch_of(count: int, seed: int) -> Batch:
    labels_n = torch.arange(count) % CLASSES
    return Batch(images(count, seed), labels_n, torch.arange(count))


def budget_of(epochs: int, method: Method, config: MethodConfig, recipe: str = "quick") -> Budget:
    published = method.published_epochs(config)
    return RECIPES[recipe].budget(train_size=400, published_epochs=published, epochs=epochs)


@torch.enable_grad()
def trained_steps(net: DynamicNet, phase: Phase, steps: int) -> set[str]:
    """Do what the training loop does for some steps; return the parameters with gradient."""
    groups = phase.groups(net)
    chosen = {id(p) for group in groups for p in group.parameters}
    for parameter in net.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    optimizer = build_optimizer(groups, phase.optimizer)
    phase.set_modes(net)
    reached: set[str] = set()
    for step in range(steps):
        terms = phase.loss(net, batch_of(8, seed=step), (step + 0.5) / steps)
        assert torch.isfinite(terms.total)
        optimizer.zero_grad(set_to_none=True)
        terms.total.backward()  # type: ignore[no-untyped-call]
        reached |= {n for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    for parameter in net.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    return reached


def gated_columns(net: DynamicNet) -> list[int]:
    return [column for column, unit in enumerate(net.units()) if not unit.always_on]


def decides(net: DynamicNet) -> bool:
    """Tell whether the masks of some images are mixed and differ from image to image."""
    with torch.no_grad():
        gates_ng = net(images(32, seed=77)).executed[:, gated_columns(net)]
    return 0.1 < float(gates_ng.mean()) < 0.9 and len(gates_ng.unique(dim=0)) > 2


def stir(net: DynamicNet) -> None:
    """Shake what decides until it decides differently for different images."""
    deciding = [p for n, p in net.named_parameters() if not n.startswith(("trunk", "training"))]
    before = [p.detach().clone() for p in deciding]
    draws = torch.Generator().manual_seed(9)
    for scale in (0.0, 0.1, 0.3, 1.0, 3.0) * 20:
        with torch.no_grad():
            for parameter, old in zip(deciding, before, strict=True):
                parameter.copy_(old + scale * torch.randn(old.shape, generator=draws))
        if decides(net):
            return
    raise AssertionError("no shaking makes this network decide; its checks would prove nothing")


@functools.cache
def trained(name: str, backbone_name: str) -> Trained:
    torch.manual_seed(4)
    method = METHODS.get(name)()
    config = method.Config()
    backbone = Backbone(backbone_name, CLASSES, SHAPE, "B")
    net = method.build(backbone, config)
    reached: set[str] = set()
    for phase in method.phases(config, budget_of(4, method, config)):
        reached |= trained_steps(net, phase, steps=2)
    net.eval()
    if gated_columns(net):
        stir(net)
    return Trained(method, config, backbone, net, frozenset(reached))


def subject(name: str, backbone: str, check: str) -> Trained:
    assert check in CHECKS
    exempt = METHODS.get(name).tags.exempt
    if check in exempt:
        pytest.skip(f"{name} is exempt from '{check}': {exempt[check]}")
    return trained(name, backbone)


@over_networks
@torch.no_grad()
def test_skipping_gives_what_masking_gives(name: str, backbone: str) -> None:
    for net in subject(name, backbone, "execution").points():
        x = images(41, seed=5)
        for part in (x, x[:1], x[7:9]):
            masked, skipping = net(part), net.execute(part)
            assert torch.equal(skipping.executed, masked.executed)
            torch.testing.assert_close(skipping.logits, masked.logits, atol=1e-4, rtol=0)


@over_networks
@torch.no_grad()
def test_a_decision_depends_neither_on_batch_mates_nor_on_the_batch_size(
    name: str, backbone: str
) -> None:
    for net in subject(name, backbone, "batch_independence").points():
        x = images(24, seed=6)
        order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
        for run in (net.forward, net.execute):
            whole = run(x)
            for size in (1, 5, 24):
                parts = [run(part) for part in torch.split(x[order], size)]
                executed_nu = torch.cat([part.executed for part in parts])
                logits_nk = torch.cat([part.logits for part in parts])
                assert torch.equal(executed_nu, whole.executed[order])
                torch.testing.assert_close(logits_nk, whole.logits[order], atol=1e-5, rtol=1e-5)


@over_networks
@torch.no_grad()
def test_two_evaluations_agree_and_leave_the_network_and_the_images_alone(
    name: str, backbone: str
) -> None:
    for net in subject(name, backbone, "repeatable").points():
        x = images(16, seed=7)
        before = [x.clone(), *(value.clone() for value in net.state_dict().values())]
        for run in (net.forward, net.execute):
            first, second = run(x), run(x)
            assert torch.equal(first.logits, second.logits)
            assert torch.equal(first.executed, second.executed)
        for old, new in zip(before, [x, *net.state_dict().values()], strict=True):
            assert torch.equal(old, new)


@over_networks
@torch.no_grad()
def test_a_network_comes_back_from_its_state_dict(name: str, backbone: str) -> None:
    have = subject(name, backbone, "round_trip")
    file = io.BytesIO()
    torch.save(have.net.state_dict(), file)
    file.seek(0)
    twin = have.method.build(have.backbone, have.config).eval()
    twin.load_state_dict(torch.load(file, weights_only=True))
    x = images(8, seed=8)
    for ours, theirs in ((have.net(x), twin(x)), (have.net.execute(x), twin.execute(x))):
        assert torch.equal(ours.logits, theirs.logits)
        assert torch.equal(ours.executed, theirs.executed)


@over_networks
@torch.no_grad()
def test_macs_of_the_trace_are_the_macs_that_execution_really_spends(
    name: str, backbone: str
) -> None:
    for net in subject(name, backbone, "macs").points():
        costs, x = list(unit_macs(net).values()), images(12, seed=9)
        from_trace = macs_per_image(net(x).executed, costs)
        assert counted_macs(partial(net.execute, x)) == from_trace.sum()
        for n in range(3):
            assert counted_macs(partial(net.execute, x[n : n + 1])) == from_trace[n]


@over_networks
def test_every_parameter_receives_gradient_in_some_phase(name: str, backbone: str) -> None:
    have = subject(name, backbone, "gradient")
    assert {n for n, _ in have.net.named_parameters()} - have.reached == set()


@over_networks
@torch.no_grad()
def test_with_all_gates_open_it_is_the_dense_network_bit_for_bit(name: str, backbone: str) -> None:
    have = subject(name, backbone, "all_on")
    net, x = have.net, images(9, seed=10)
    assert isinstance(net.trunk, torch.nn.Module), "say in tags.exempt why it does not apply"
    plain = net.trunk(x)
    assert torch.equal(net.forward_all_on(x).logits, plain)
    if isinstance(net, GatedResNet):
        ones = torch.ones(9, have.backbone.num_blocks)
        assert torch.equal(net.execute_with(x, ones).logits, plain)


@over_networks
@torch.no_grad()
def test_what_is_shipped_computes_the_same(name: str, backbone: str) -> None:
    net = subject(name, backbone, "inference_net").net
    x = images(16, seed=11)
    output = net(x)
    columns = [(unit.name, column) for column, unit in enumerate(net.units()) if not unit.always_on]
    dead = frozenset(unit for unit, column in columns if not output.executed[:, column].any())
    shipped = net.inference_net(dead_blocks=dead)
    for run in (shipped.forward, shipped.execute):
        torch.testing.assert_close(run(x).logits, output.logits, atol=1e-4, rtol=0)
        assert torch.equal(run(x).executed, output.executed)
    assert set(shipped.state_dict()) <= set(net.state_dict())


def variants(name: str) -> list[dict[str, Any]]:
    """Return the default settings, and one with each other choice of each field."""
    found: list[dict[str, Any]] = [{}]
    for field, info in METHODS.get(name).Config.model_fields.items():
        if get_origin(info.annotation) is Literal:
            choices = get_args(info.annotation)
            found += [{field: choice} for choice in choices if choice != info.default]
    return found


over_variants = pytest.mark.parametrize(
    ("name", "given"),
    [(name, given) for name in NAMES for given in variants(name)],
    ids=lambda value: value if isinstance(value, str) else str(value).strip("{}"),
)


@over_variants
def test_the_epochs_of_all_phases_add_up_to_the_budget(name: str, given: dict[str, Any]) -> None:
    method = METHODS.get(name)()
    if "budget" in method.tags.exempt:
        pytest.skip(method.tags.exempt["budget"])
    config = method_config(type(method), given)
    published = method.published_epochs(config)
    assert published > 0
    for recipe in RECIPES:
        for epochs in (0, 1, 2, 3, 8, 30, 160, published):
            phases = method.phases(config, budget_of(epochs, method, config, recipe))
            assert sum(phase.epochs for phase in phases) == epochs
            assert all(phase.epochs >= 0 and phase.batch_size >= 1 for phase in phases)
            assert len({phase.name for phase in phases}) == len(phases)


@over_variants
def test_every_choice_of_every_setting_trains(name: str, given: dict[str, Any]) -> None:
    method = METHODS.get(name)()
    if "options" in method.tags.exempt:
        pytest.skip(method.tags.exempt["options"])
    torch.manual_seed(0)
    config = method_config(type(method), given)
    net = method.build(Backbone("resnet8", CLASSES, (3, 8, 8)), config)
    for phase in method.phases(config, budget_of(4, method, config)):
        phase.set_modes(net)
        labels_n = torch.arange(4)
        batch = Batch(torch.randn(4, 3, 8, 8), labels_n, labels_n)
        terms = phase.loss(net, batch, 0.5)
        terms.total.backward()  # type: ignore[no-untyped-call]
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
        assert all(value.ndim == 0 and torch.isfinite(value) for value in terms.parts.values())


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_are_not_finite_are_refused(name: str) -> None:
    method = METHODS.get(name)
    numbers = [f for f, info in method.Config.model_fields.items() if info.annotation is float]
    for field in numbers:
        for value in (math.inf, -math.inf, math.nan):
            with pytest.raises(ConfigError, match=f"{name}.{field} ="):
                method_config(method, {field: value})
    with pytest.raises(ConfigError, match="has no setting 'no_such_setting'"):
        method_config(method, {"no_such_setting": math.inf})


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_where_it_comes_from_and_what_is_not_published(name: str) -> None:
    method = METHODS.get(name)
    reference, tags = method.reference, method.tags
    assert reference.title and reference.authors and reference.url.startswith("https://")
    assert 1990 < reference.year < 2100
    assert set(tags.reconstructed) <= set(method.Config.model_fields)
    assert set(tags.exempt) <= CHECKS and all(tags.exempt.values())
    assert (tags.decision == "static") is not bool(gated_columns(trained(name, "resnet14").net))
