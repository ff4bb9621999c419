"""Controls beside a dynamic method: which, made from what, with which budget."""

from pathlib import Path

import pytest
from commands import run_options

from bench.config import RunSpec
from bench.data.load import load_dataset
from bench.engine.plan import (
    SHALLOWER,
    Planned,
    chosen_controls,
    known_controls,
    make_plan,
    resolved,
    shallower,
)
from bench.errors import ConfigError, UnknownNameError
from bench.networks.trunk import Backbone
from bench.networks.weights import Weights

INFO = load_dataset("digits", data_dir=Path("unused")).info
DERIVED = ("shuffled_masks", "static_projection")


def _plan(
    *methods: str,
    weights: Weights | None = None,
    sources: tuple[RunSpec, ...] = (),
    **options: object,
) -> list[Planned]:
    given = {"methods": methods, "backbone": "resnet14", "controls": DERIVED} | options
    plan = run_options(given)
    return make_plan(plan, INFO, train_size=100, weights=weights, sources=sources)


def _named(plan: list[Planned], method: str) -> list[Planned]:
    return [item for item in plan if item.spec.method == method]


def test_controls_are_made_from_each_dynamic_method_and_come_last() -> None:
    plan = _plan("sgad", "blockdrop")
    assert plan[0].spec.method == "resnet"
    assert [item.spec.method for item in plan[-4:]] == [
        *["shuffled_masks"] * 2,
        *["static_projection"] * 2,
    ]
    for control in DERIVED:
        sources = {item.needs.method for item in _named(plan, control) if item.needs}
        assert sources == {"sgad", "blockdrop"}


def test_a_control_starts_from_its_source_and_is_trained_as_long_or_not_at_all() -> None:
    plan = _plan("sgad", epochs=7, seeds=(3,))
    (source,), (still,), (trained,) = (_named(plan, n) for n in ("sgad", *DERIVED))
    for item in (still, trained):
        assert item.needs == source.spec
        assert item.spec.initial is not None
        assert item.spec.initial.identity == source.spec.key
        assert item.spec.seed == 3
    assert trained.spec.budget == source.spec.budget
    assert still.spec.budget.epochs == 0


def test_controls_of_different_sources_are_different_runs() -> None:
    plan = _plan("sgad", "blockdrop", seeds=(0, 1))
    keys = [item.spec.key for item in plan]
    assert len(set(keys)) == len(keys)
    assert len(_named(plan, "shuffled_masks")) == 4


def test_without_a_dynamic_method_nothing_stands_beside() -> None:
    assert [item.spec.method for item in _plan("resnet")] == ["resnet"]


def test_controls_can_be_switched_off() -> None:
    assert [item.spec.method for item in _plan("sgad", controls=())] == ["sgad"]
    assert resolved(run_options({"controls": "none"})).controls == ()


def test_by_default_all_controls_stand_beside() -> None:
    chosen = resolved(run_options({})).controls
    assert set(chosen) == {SHALLOWER, *known_controls()} > set(DERIVED)


def test_all_methods_are_all_but_the_controls() -> None:
    methods = resolved(run_options({"methods": "all"})).methods
    assert not set(methods) & set(known_controls())
    assert {"resnet", "sgad", "blockdrop"} <= set(methods)


def test_a_method_that_is_no_control_is_refused_as_one() -> None:
    with pytest.raises(ConfigError, match="'sgad' is no control"):
        chosen_controls(["sgad"])
    with pytest.raises(UnknownNameError, match="Did you mean 'shuffled_masks'"):
        chosen_controls(["shufled_masks"])


@pytest.mark.parametrize(
    ("backbone", "smaller"),
    [
        ("resnet8", []),
        ("resnet14", ["resnet8"]),
        ("resnet20", ["resnet8"]),
        ("resnet32", ["resnet20", "resnet14"]),
        ("resnet110", ["resnet62", "resnet44"]),
    ],
)
def test_shallower_networks_have_at_most_60_and_40_percent_of_the_blocks(
    backbone: str, smaller: list[str]
) -> None:
    assert shallower(Backbone(backbone, 10, (3, 32, 32))) == smaller


def test_shallower_networks_are_trained_like_the_dense_one_and_not_from_its_weights() -> None:
    plan = _plan("sgad", backbone="resnet32", controls=(SHALLOWER,))
    small = [item.spec for item in plan if item.spec.backbone.name != "resnet32"]
    assert [spec.backbone.name for spec in small] == ["resnet20", "resnet14"]
    dense = _named(plan, "resnet")[0].spec
    assert all(spec.budget == dense.budget and spec.initial is None for spec in small)
    state = Backbone("resnet14", 10, (1, 8, 8)).build().state_dict()
    weights = Weights(state, None, "ab" * 32, "resnet14.th")
    plan = _plan("sgad", recipe="finetune", controls=(SHALLOWER,), weights=weights)
    assert {item.spec.backbone.name for item in plan} == {"resnet14"}


def _source() -> RunSpec:
    (item,) = _plan("sgad", controls=(), epochs=4)
    return item.spec


def test_a_control_can_be_made_from_a_finished_run() -> None:
    (item,) = _plan("static_projection", sources=(_source(),))
    assert item.needs is None
    assert item.spec.initial is not None
    assert item.spec.initial.name == _source().run
    assert item.spec.budget.epochs == 4


def test_a_control_without_a_source_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match="made from a finished run") as caught:
        _plan("static_projection")
    assert "--source" in str(caught.value.hint)
    (dense,) = _plan("resnet")
    with pytest.raises(ConfigError, match="of a dynamic network"):
        _plan("static_projection", sources=(dense.spec,))
