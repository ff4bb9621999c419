"""Weights that a method's build brings along: found, whatever else it builds; nobody else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import run, run_options
from safetensors.torch import load_file, save_file

from baselines.resnet import DenseResNet
from bench.data.load import load_dataset
from bench.engine.building import Workplace, brought_along, build
from bench.engine.plan import make_plan
from bench.folders import Folders
from bench.method import METHODS, Backbone, DerivedMethod, DynamicNet, Method, MethodConfig
from bench.networks.weights import Weights
from bench.records.store import RunStore
from bench.report.data.rows import rows
from bench.seeding import random_fingerprint, seed_globally
from bench.training.reporter import Reporter

DIGITS = load_dataset("digits", data_dir=Path("unused"))
FILE = "trained.safetensors"


class Borrower(DenseResNet):
    """A dense ResNet whose build loads a file that somebody trained."""

    name = "borrower"
    file = Path(FILE)

    def build(self, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        net = super().build(backbone, config)
        net.load_state_dict(load_file(self.file))
        return net


@pytest.fixture
def borrower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Method]]:
    seed_globally(3, "somebody")
    trained = DenseResNet().build(Backbone("resnet8", 10, (1, 8, 8)), MethodConfig())
    save_file({k: v.contiguous() for k, v in trained.state_dict().items()}, tmp_path / FILE)
    monkeypatch.setattr(Borrower, "file", tmp_path / FILE)
    monkeypatch.setattr(METHODS, "_added", {})
    METHODS.add(Borrower, source="here")
    yield Borrower


def _brought(name: str, folder: Path, *, weights: Weights | None = None) -> str:
    recipe = "finetune" if weights is not None else "smoke"
    asked = {"methods": name, "backbone": _backbone(name), "recipe": recipe, "controls": "none"}
    # The last one: before it comes the dense run that it may start from.
    spec = make_plan(run_options(asked), DIGITS.info, train_size=1000, weights=weights)[-1].spec
    if weights is None:
        spec = spec.model_copy(update={"initial": None})
    place = Workplace(DIGITS, RunStore(folder), torch.device("cpu"), Reporter(), weights)
    seed_globally(spec.seed, "build")
    net = build(spec, place)
    before = random_fingerprint()
    found = brought_along(net, spec, place)
    assert random_fingerprint() == before
    return found


def _backbone(name: str) -> str:
    special = {"cascade": "resnet14", "a_vit": "timm/vit_tiny_patch4_32@2"}
    return special.get(name, "resnet8")  # which has no smaller one, and no tokens


def _trained(backbone: str = "resnet8") -> Weights:
    seed_globally(5, "trained")
    state = Backbone(backbone, 10, (1, 8, 8)).build().state_dict()
    return Weights(state, ((0.5,), (0.5,)), "ab" * 32, "resnet8.th")


BUILT_IN = [name for name in METHODS.names() if not issubclass(METHODS.get(name), DerivedMethod)]


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_method_of_this_project_brings_weights_along(name: str, tmp_path: Path) -> None:
    assert _brought(name, tmp_path) == ""
    assert _brought(name, tmp_path, weights=_trained(_backbone(name))) == ""


def test_a_build_that_loads_a_file_is_found_out(borrower: type[Method], tmp_path: Path) -> None:
    found = _brought(borrower.name, tmp_path)
    assert "neither on the seed nor on the start: trunk." in found
    # BN layers are as new in every net.
    assert found.endswith("more")


def test_its_training_cost_is_unknown_and_not_nothing(
    borrower: type[Method], tmp_path: Path
) -> None:
    outcome = run(Folders(tmp_path / "results", tmp_path / "data"), borrower.name)
    (row,) = rows(outcome.records)
    assert row.total_dense_epochs is None
    assert row.train_dense_epochs == pytest.approx(1, abs=0.02)
    assert "brings weights along" in (row.outside or "")
