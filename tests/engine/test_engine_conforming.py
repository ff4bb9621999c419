"""Every run checks its own network: what breaks the contract fails, before or after training."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run
from PIL import Image
from rich.console import Console
from torch import Tensor

from bench import api
from bench.engine import conforming, single
from bench.engine.conforming import IN_RUNS
from bench.method import (
    METHODS,
    Backbone,
    Budget,
    DynamicNet,
    Method,
    MethodConfig,
    Phase,
    Reference,
    Tags,
    Unit,
)
from bench.networks.gated import GatedResNet
from bench.networks.policy import Decisions, Policy, UpFront
from bench.phases import CrossEntropy
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.report.data.rows import rows
from bench.report.tables.results import render, rich_table
from bench.scaffold.example import Gates, LearnedGates
from bench.testing import CHECKS
from bench.testing.outcome import Shortfall, Specimen


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(METHODS, "_added", {})
    yield
    for name in [name for name in sys.modules if name.startswith("bench_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def folders(tmp_path: Path) -> api.Folders:
    return api.Folders(tmp_path / "results", tmp_path / "data")


class ByContrast(Policy):
    """Images of little contrast skip every second block; `median` makes it one of the batch."""

    median = False

    def __init__(self, backbone: Backbone) -> None:
        super().__init__([block % 2 == 0 for block in range(backbone.num_blocks)])
        self.register_buffer("threshold", torch.full((), 0.9))

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        contrast_n = x_nchw.std(dim=(1, 2, 3))
        threshold = contrast_n.median() if self.median else self.threshold
        gates_ng = (contrast_n >= threshold).float()[:, None].expand(-1, len(self.gated))
        return UpFront(self.spread(gates_ng), always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return ()


class ByMedian(ByContrast):
    median = True


class AfterTraining(ByContrast):
    """Reads the batch once a buffer says that training has begun."""

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        if self.training:
            self.threshold.zero_()
        self.median = not bool(self.threshold)
        return super().begin(x_nchw, stem_nchw)


class FreeGates(Gates):
    def units(self) -> Sequence[Unit]:
        return ()


class HardGates(Gates):
    """Rounds without an estimator: nothing learns how to decide."""

    def decide(self, index: int, h_nchw: Tensor) -> Tensor:
        return super().decide(index, h_nchw).detach()


class Columns(Gates):
    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> Decisions:
        gates_nb1 = x_nchw.new_ones(len(x_nchw), len(self.always_on), 1)
        return UpFront(gates_nb1, always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return ()


class OtherNames(GatedResNet):
    def units(self) -> Sequence[Unit]:
        return [unit._replace(name=unit.name.replace("block", "Block")) for unit in super().units()]


class NoUnits(GatedResNet):
    def units(self) -> Sequence[Unit]:
        return ()


def plugin(make: Callable[[Backbone], DynamicNet], **changed: Any) -> type[Method]:
    """Register a method of one phase of cross-entropy that trains the network of `make`."""

    class Stranger(Method):
        name = "stranger"
        reference = Reference("Stranger", "Nobody", 2026, "")
        tags = Tags(decision="up front")

        def published_epochs(self, config: MethodConfig) -> int:
            return 1

        def build(self, backbone: Backbone, config: MethodConfig) -> DynamicNet:
            return make(backbone)

        def phases(self, config: MethodConfig, budget: Budget) -> Sequence[Phase]:
            size, optimizer = budget.batch_size, budget.optimizer
            return [
                CrossEntropy("main", epochs=budget.epochs, batch_size=size, optimizer=optimizer)
            ]

    method = type("Stranger", (Stranger,), changed)
    METHODS.add(method, source="here")
    return method


def gated(policy: type[Policy]) -> Callable[[Backbone], DynamicNet]:
    return lambda backbone: GatedResNet(backbone, policy(backbone))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("make", "check", "words"),
    [
        (gated(ByMedian), "batch_independence", "run other units for .* over the batch"),
        (gated(FreeGates), "macs", "64 per image too few.* units.. does not list"),
        (gated(HardGates), "gradient", r"receive no gradient.*policy\..*straight-through"),
        (gated(Columns), "outputs", r"gates have shape \(1, 3, 1\), not \(N, B\)"),
        (OtherNames, "record", "a record cannot hold block_rates.*block0, block1"),
        (NoUnits, "outputs", r"units\(\) lists 0 of 3 blocks"),
    ],
)
def test_what_breaks_the_contract_fails_before_training_with_numbers_and_cause(
    make: Callable[[Backbone], DynamicNet], check: str, words: str, folders: api.Folders
) -> None:
    plugin(make)
    (failure,) = run(folders, "stranger").failures
    record = RunStore(folders.results).get("stranger")
    assert record.status == "failed" and record.reason == failure.reason
    assert f"stranger fails the check '{check}' before training: " in failure.reason
    assert not record.history, "nothing was trained"
    assert re.search(words, failure.reason), failure.reason
    assert "bench method check stranger" in failure.reason


def test_what_breaks_the_contract_only_once_trained_fails_after_training(
    folders: api.Folders,
) -> None:
    plugin(gated(AfterTraining))
    (failure,) = run(folders, "stranger").failures
    assert "fails the check 'batch_independence' after training" in failure.reason


def finished(outcome: api.CommandResult) -> RunRecord:
    assert not outcome.failures, outcome.failures
    (record,) = outcome.records
    return record


def test_a_record_says_which_checks_its_network_passed_and_what_was_left_out(
    folders: api.Folders,
) -> None:
    reason = "the median is what this is about"
    tags = Tags(decision="up front", exempt={"batch_independence": reason, "all_on": "never"})
    plugin(gated(ByMedian), tags=tags)
    found = finished(run(folders, "stranger")).conformance
    assert found is not None and found.skipbench == version("skipbench")
    assert found.exempt == {"batch_independence": reason}
    assert set(found.passed) == {*IN_RUNS} - {"batch_independence"}
    table = rows([RunStore(folders.results).get("stranger")])
    assert table[0].unchecked == ("batch_independence",)
    assert "batch_independence" in render(table, "csv")
    with (console := Console(width=120)).capture() as said:
        console.print(rich_table(table, width=120))
    assert "unchecked, as the method says: stranger batch_independence" in said.get()


def test_heads_on_a_trunk_that_was_trained_before_leave_no_check_out(folders: api.Folders) -> None:
    outcome = run(folders, "sdn", settings={"sdn": {"training": "ic-only"}})
    heads = next(record for record in outcome.records if record.spec.method == "sdn")
    assert not outcome.failures and heads.conformance is not None
    assert set(heads.conformance.passed) == {*IN_RUNS}


def test_the_checks_are_those_of_the_suite() -> None:
    assert set(IN_RUNS) <= set(CHECKS)


@pytest.mark.parametrize("method", ["sgad", "random_skip", "stochastic_depth"])
def test_a_run_gives_the_same_numbers_as_without_checks(
    method: str, folders: api.Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = finished(run(folders, method, seeds="3"))
    monkeypatch.setattr(single, "check_untrained", lambda net, context: None)
    monkeypatch.setattr(single, "check_trained", lambda net, context: None)
    other = api.Folders(tmp_path / "unchecked", folders.data)
    unchecked = finished(run(other, method, seeds="3"))
    assert unchecked.conformance is None and checked.conformance is not None
    for file in ("weights.safetensors", "point0.npz"):
        assert checked.files[file] == unchecked.files[file], "the same to the last bit"
    assert checked.points == unchecked.points


class Doubtful:
    """A check that fails in float32; `also` makes it fail in float64 too."""

    def __init__(self, *, also: bool) -> None:
        self.also = also

    def __call__(self, tried: Specimen) -> None:
        if tried.x_nchw.dtype == torch.float32 or self.also:
            raise Shortfall(str(tried.x_nchw.dtype))


def test_what_rounding_explains_is_no_failure() -> None:
    net = GatedResNet(Backbone("resnet8", 10, (1, 8, 8)))
    tried = Specimen("here", net, torch.zeros(2, 1, 8, 8), 10, dict)
    conforming._but_for_rounding(Doubtful(also=False), tried)
    with pytest.raises(Shortfall, match="float32"):
        conforming._but_for_rounding(Doubtful(also=True), tried)
    assert net.trunk.head.linear.weight.dtype == torch.float32


def folder_of_images(root: Path, *, test: int) -> Path:
    draws = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("test", test)):
        for label, name in enumerate("abc"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 120, (8, 8, 3), generator=draws, dtype=torch.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return root


@pytest.mark.parametrize("test", [1, 5])
def test_few_test_images_are_enough_for_a_record(
    test: int, folders: api.Folders, tmp_path: Path
) -> None:
    dataset = str(folder_of_images(tmp_path / "few", test=test))
    record = finished(run(folders, "sgad", dataset=dataset, latency="smoke"))
    (point,) = record.points
    assert record.test_images == 3 * test and point.correct == round(point.accuracy * 3 * test)
    assert f"on {3 * test} images" in point.equivalence
    assert {cell.runtime for cell in point.latency} >= {"eager"}
    for cell in point.latency:
        if cell.batch_size == 1:
            assert cell.latency_ms is not None, cell.reason
        else:
            assert cell.reason == f"batches of 256 need as many images; there are {3 * test}"


def test_every_method_that_is_built_in_passes_untrained(folders: api.Folders) -> None:
    METHODS.add(LearnedGates, source="here")
    names = "act,sact,branchynet,skipnet,convnet_aig,learned_gates"
    outcome = run(folders, names, epochs=0)
    assert not outcome.failures, outcome.failures
    assert all(record.conformance for record in outcome.records)
