"""The RunSpec: a key that changes with every field, with nothing else, and a tame folder name."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.config import (
    SPEC_VERSION,
    BackboneSpec,
    DatasetSpec,
    InitialWeights,
    RunSpec,
    canonical_json,
)
from bench.recipes import Budget, OptimizerSpec

SPEC = RunSpec(
    method="sgad",
    config={"d_max": 0.6, "kappa": 5.0, "complexity": "mf"},
    dataset=DatasetSpec(name="cifar10", fingerprint="0123456789abcdef"),
    backbone=BackboneSpec(name="resnet32"),
    budget=Budget(recipe="quick", epochs=30, batch_size=128, optimizer=OptimizerSpec()),
    seed=0,
    normalisation=((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    initial=InitialWeights(kind="run", name="resnet", identity="0a1b"),
)

# One other value for each leaf of the spec; the test below proves that none is missing.
OTHER: dict[str, Any] = {
    "version": SPEC_VERSION + 1,
    "method": "blockdrop",
    "method_version": 2,
    "method_code": "0123456789abcdef",
    "config.d_max": 0.7,
    "config.kappa": 5.5,
    "config.complexity": "lf",
    "dataset.name": "cifar100",
    "dataset.fingerprint": "fedcba9876543210",
    "backbone.name": "resnet20",
    "backbone.shortcut": "B",
    "budget.recipe": "fair",
    "budget.epochs": 31,
    "budget.batch_size": 64,
    "budget.optimizer.kind": "adam",
    "budget.optimizer.lr": 0.2,
    "budget.optimizer.momentum": 0.8,
    "budget.optimizer.weight_decay": 5e-4,
    "budget.optimizer.schedule": "step",
    "budget.optimizer.milestones": [0.5],
    "budget.optimizer.decay": 0.2,
    "budget.optimizer.warmup_steps": 1,
    "budget.optimizer.warmup_from": 0.5,
    "budget.published": True,
    "seed": 1,
    "normalisation": [[0.5, 0.5, 0.5], [0.25, 0.25, 0.2]],
    "precision": "bf16",
    "compiled": True,
    "held_out": 1,
    "initial.kind": "file",
    "initial.name": "other",
    "initial.identity": "1b0a",
    "initial.zero_channels": "end",
}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= leaves(inner, f"{path}.{key}".lstrip("."))
    return found


def changed(path: str, value: Any) -> RunSpec:
    document = SPEC.model_dump(mode="json")
    *parents, last = path.split(".")
    place = document
    for parent in parents:
        place = place[parent]
    place[last] = value
    return RunSpec.model_validate(document)


def shuffled(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: shuffled(value[key]) for key in reversed(list(value))}


def test_the_table_of_other_values_has_every_field() -> None:
    younger = {*RunSpec.younger, *(f"initial.{name}" for name in InitialWeights.younger)}
    assert set(OTHER) == set(leaves(SPEC.model_dump(mode="json"))) | younger
    assert not younger & set(leaves(SPEC.model_dump(mode="json"))), "left out with their defaults"


@pytest.mark.parametrize("path", OTHER)
def test_the_key_changes_with_every_field(path: str) -> None:
    other = changed(path, OTHER[path])
    assert other.key != SPEC.key
    assert other.run != SPEC.run


def test_the_key_is_the_same_in_every_version_that_does_not_say_otherwise() -> None:
    # A changed key means that finished runs on disk are not found again: raise SPEC_VERSION then.
    assert SPEC_VERSION == 1
    assert SPEC.key == "f05a3c6f364a"


def test_a_spec_read_back_from_json_is_the_same_spec() -> None:
    for document in (SPEC.model_dump(mode="json"), json.loads(SPEC.model_dump_json())):
        twin = RunSpec.model_validate(shuffled(document))
        assert twin == SPEC
        assert (twin.key, twin.run) == (SPEC.key, SPEC.run)
    assert RunSpec.model_validate_json(SPEC.model_dump_json()).key == SPEC.key


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=json_values)
@settings(max_examples=40)
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    text = canonical_json(value)
    assert canonical_json(shuffled(value)) == text
    assert json.loads(text) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"lr": value})


@given(method=st.text(), dataset=st.text(), backbone=st.text(), seed=st.integers(0, 2**63))
def test_the_name_of_a_run_is_a_tame_folder_name(
    method: str, dataset: str, backbone: str, seed: int
) -> None:
    spec = SPEC.model_copy(
        update={
            "method": method,
            "dataset": DatasetSpec(name=dataset, fingerprint="0"),
            "backbone": BackboneSpec(name=backbone),
            "seed": seed,
        }
    )
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", spec.run)
    assert not spec.run.startswith((".", "-")) and not spec.run.endswith(".")
    assert len(spec.run) <= 200
    # The parts stay apart: no part brings a hyphen of its own.
    assert len(spec.run.split("-")) == 5
    assert spec.run.endswith(f"-{spec.key}")


def test_the_name_of_a_run_reads_from_the_method_to_the_key() -> None:
    assert SPEC.run == f"sgad-cifar10-resnet32-s0-{SPEC.key}"
    folder = SPEC.model_copy(update={"dataset": DatasetSpec(name="../my images", fingerprint="0")})
    assert folder.run == f"sgad-_my_images-resnet32-s0-{folder.key}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("seed", -1), ("held_out", -1), ("precision", "fp8"), ("backbone.shortcut", "C")),
        *(("initial.kind", "url"), ("budget.epochs", -1), ("budget.batch_size", 0)),
        *(("colour", "red"), ("dataset.colour", "red")),
    ],
)
def test_unknown_keys_and_impossible_values_are_refused(path: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=path.rpartition(".")[2]):
        changed(path, value)
