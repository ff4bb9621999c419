"""The campaigns of the reference runs: budgets that are equal, starts that are shared."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.data.images import DatasetInfo
from bench.engine.building import method_of
from bench.engine.plan import Planned, make_plan
from bench.networks.trunk import Backbone
from bench.options import RunOptions, read_campaign
from bench.plugins import load_plugin

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
SCRATCH, PAPER = REFERENCE / "scratch.yaml", REFERENCE / "paper.yaml"
VARIANTS = REFERENCE / "variants.yaml"
VIT = REFERENCE / "vit.yaml"
PRECISION = REFERENCE / "precision.yaml"
TRAINING_IMAGES = 50_000


def _info(step: RunOptions) -> DatasetInfo:
    classes = 100 if step.dataset == "cifar100" else 10
    return DatasetInfo(
        name=step.dataset,
        title="CIFAR",
        class_names=tuple(map(str, range(classes))),
        channels=3,
        height=32,
        width=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        flip=True,
        pad=4,
        fingerprint="0" * 16,
        synthetic=False,
    )


def _planned(file: Path) -> Iterator[list[Planned]]:
    for step in read_campaign(file):
        yield make_plan(step, _info(step), train_size=TRAINING_IMAGES, weights=None)


def test_every_method_gets_the_same_total_of_epochs_its_start_included() -> None:
    epochs = {item.spec.key: item.spec.budget.epochs for plan in _planned(SCRATCH) for item in plan}
    for plan in _planned(SCRATCH):
        judged = plan[-1]
        total, needs = judged.spec.budget.epochs, judged.needs
        if needs is not None:
            epochs[needs.key] = needs.budget.epochs
            total += needs.budget.epochs
        # Heads on a frozen trunk that has had the whole budget: three epochs without its backward.
        assert total == (33 if _is_on_frozen_trunk(judged) else 30)


def _is_on_frozen_trunk(item: Planned) -> bool:
    ic_only = item.spec.config.get("training") == "ic-only"
    return ic_only or item.spec.method in {"cdl", "learned_exit", "ztw"}


def test_exits_on_a_frozen_trunk_start_from_the_static_network_of_the_ladder() -> None:
    plans = list(_planned(SCRATCH))
    ladder = {item.spec.key for plan in plans for item in plan if item.spec.method == "resnet"}
    starts = {
        item.spec.method: item.needs.key
        for plan in plans
        for item in plan
        if item.needs is not None and _is_on_frozen_trunk(item)
    }
    assert len(starts) == 4
    assert set(starts.values()) <= ladder


def test_all_train_on_the_same_images_with_one_optimizer_and_hold_the_rest_out() -> None:
    specs = [item.spec for plan in _planned(SCRATCH) for item in plan]
    assert {spec.held_out for spec in specs} == {5000}
    assert len({spec.budget.optimizer for spec in specs}) == 1
    assert {spec.budget.recipe for spec in specs} == {"scratch"}


@pytest.mark.parametrize("number", range(len(read_campaign(PAPER))))
def test_each_step_of_the_papers_protocol_can_be_built_with_its_schedule(number: int) -> None:
    step = read_campaign(PAPER)[number]
    plan = make_plan(step, _info(step), train_size=TRAINING_IMAGES, weights=None)
    for spec in (item.spec for item in plan):
        method, config = method_of(spec)
        backbone = Backbone(spec.backbone.name, _info(step).num_classes, (3, 32, 32))
        phases = method.phases(config, spec.budget)
        assert spec.budget.published
        assert sum(phase.epochs for phase in phases) == method.published_epochs(config)
        assert all(phase.groups(method.build(backbone, config)) for phase in phases)


def test_the_variants_of_sgad_differ_in_their_settings_alone_and_hold_images_out() -> None:
    specs = [item.spec for plan in _planned(VARIANTS) for item in plan]
    assert len({spec.key for spec in specs}) == len(specs) == len(read_campaign(VARIANTS))
    assert {(s.method, s.backbone.name, s.budget.epochs, s.held_out) for s in specs} == {
        ("sgad", "resnet14", 20, 5000),
        ("resnet", "resnet14", 20, 5000),
        ("resnet", "resnet8", 20, 5000),
    }


def test_the_default_of_sgad_is_the_best_of_its_finished_variants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(REFERENCE.parents[1] / "docs" / "generate"))
    table = importlib.import_module("variant_table").variant_table()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    variants = [cells for cells in lines if not cells[0].startswith("static")]
    best = max(variants, key=lambda cells: float(cells[1]))
    assert best[0] == "default" and len(variants) >= 4 and len(lines) == len(variants) + 2


def test_both_precisions_get_the_same_trainings() -> None:
    plans = [[item.spec for item in plan] for plan in _planned(PRECISION)]
    bf16, fp32 = ({spec.model_copy(update={"precision": "fp32"}).key for spec in p} for p in plans)
    assert [{spec.precision for spec in plan} for plan in plans] == [{"bf16"}, {"fp32"}]
    assert bf16 == fp32 and len(bf16) == 3


def test_the_transformers_campaign_gives_all_the_same_total_on_the_same_images() -> None:
    pytest.importorskip("timm")
    load_plugin(REFERENCE.parents[1] / "docs" / "examples" / "small_vit.py")
    plans = list(_planned(VIT))
    for plan in plans:
        assert {item.spec.held_out for item in plan} == {5000}
        judged = plan[-1]
        start = 0 if judged.needs is None else judged.needs.budget.epochs
        frozen = _is_on_frozen_trunk(judged)
        assert judged.spec.budget.epochs + start == (22 if frozen else 20), judged.spec.run
    assert {plan[-1].spec.method for plan in plans} >= {"a_vit", "convnet_aig", "skipnet"}
