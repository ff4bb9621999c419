"""Each method in each format: the best form is made, computes the same, and really branches."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from export_nets import BACKBONE, best, both_ways, described_net, images, names
from torch import Tensor

from bench.errors import EquivalenceError, WeightsError
from bench.export import load_exported
from bench.export.attempts import FileFormat, Made, attempts
from bench.export.checking import compare
from bench.export.description import KEY
from bench.export.exporting import _first_that_agrees
from bench.networks.tracing import deprecation_known
from bench.networks.unit import DynamicNet, Output
from bench.training.reporter import Silent

FORMS = {
    "static": ("plain", "any"),
    "up front": ("branches", "one"),
    "per unit": ("branches", "one"),
    "exit": ("branches", "one"),
    "halting": ("branches", "one"),
}
POSITIONS = ("masked", "any")
KINDS = ["resnet", "sgad", "skipnet", "convnet_aig", "cdl", "learned_exit", "act", "sact"]


def decision(name: str) -> str:
    from bench.engine.plan import METHODS

    return METHODS.get(name).tags.decision


def loaded(made: Made) -> Any:
    with deprecation_known():
        return torch.jit.load(io.BytesIO(made.data))  # type: ignore[no-untyped-call]


def form_of(made: Made) -> tuple[str, str]:
    return made.description.form, made.description.batch


@pytest.mark.parametrize("name", names())
def test_weights_come_back_as_the_same_network_to_the_last_bit(name: str, tmp_path: Any) -> None:
    net, _ = described_net(name)
    path = tmp_path / "net.safetensors"
    path.write_bytes(best(name, "safetensors").data)
    shipped = load_exported(path)
    with torch.no_grad():
        here, there = net.execute(images()), shipped.net.execute(images())
    assert torch.equal(here.logits, there.logits)
    assert torch.equal(here.executed, there.executed)
    assert shipped.description.method == name
    assert not any(key.startswith("training_only") for key in shipped.net.state_dict())


@pytest.mark.parametrize("name", names())
def test_torchscript_is_made_in_the_form_that_its_kind_allows(name: str) -> None:
    made = best(name, "torchscript")
    expected = FORMS[decision(name)]
    if name == "stochastic_depth":  # decides in training only
        expected = ("plain", "any")
    if name == "sact":
        expected = POSITIONS
    assert form_of(made) == expected
    assert made.description.folded
    branches = str(loaded(made).graph).count("prim::If")
    assert (branches > 1) == (made.description.form == "branches")


@pytest.mark.parametrize("name", KINDS)
def test_onnx_is_made_in_the_form_that_its_kind_allows(name: str) -> None:
    onnx = pytest.importorskip("onnx")
    made = best(name, "onnx")
    assert form_of(made) == (POSITIONS if name == "sact" else FORMS[decision(name)])
    model = onnx.load_model_from_string(made.data)
    has_branches = any(node.op_type == "If" for node in model.graph.node)
    assert has_branches == (made.description.form == "branches")
    assert made.description.sentence() in model.doc_string
    [document] = [item.value for item in model.metadata_props if item.key == KEY]
    assert json.loads(document)["method"] == name


@pytest.mark.parametrize("name", ["sgad", "skipnet", "convnet_aig", "blockdrop", "cdl", "act"])
def test_the_networks_of_these_tests_decide_both_ways(name: str) -> None:
    assert both_ways(described_net(name)[0])


class OfAnotherKind(DynamicNet):
    """A network as a plugin may bring it, which asks for the size of the batch in Python."""

    def __init__(self, inner: DynamicNet) -> None:
        super().__init__()
        self.inner = inner

    def units(self) -> Any:
        return self.inner.units()

    def forward(self, x_nchw: Tensor) -> Output:
        output = self.inner(x_nchw)
        return Output(output.logits + torch.zeros(len(x_nchw), 1), output.executed, {})

    def execute(self, x_nchw: Tensor) -> Output:
        return self.inner.execute(x_nchw)


@pytest.mark.parametrize("file_format", ["torchscript", "onnx"])
def test_a_network_of_another_kind_is_masked(file_format: FileFormat) -> None:
    if file_format == "onnx":
        pytest.importorskip("onnx")
    inner, described = described_net("convnet_aig")
    net = OfAnotherKind(inner)
    tries = attempts(net, described, x_nchw=images(), file_format=file_format)
    reporter = Notes()
    made, _ = _first_that_agrees(tries, net, images(), reporter=reporter)
    assert form_of(made) == ("masked", "one")
    assert "batches of any size" in "".join(reporter.notes)


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_network_that_no_graph_can_hold_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    net, described = described_net("random_skip")
    monkeypatch.setattr(torch, "view_copy", lambda x, dtype: x.view(dtype))
    for attempt in attempts(net, described, x_nchw=images(), file_format="torchscript"):
        with pytest.raises(RuntimeError):
            attempt.make()


def test_a_graph_of_one_image_refuses_a_batch() -> None:
    graph = loaded(best("sgad", "torchscript"))
    with pytest.raises(Exception, match="one image at a time"):
        graph(images()[:2])


def test_torchscript_says_in_the_file_what_it_is() -> None:
    extra = {f"{KEY}.json": ""}
    with deprecation_known():
        torch.jit.load(io.BytesIO(best("sgad", "torchscript").data), _extra_files=extra)  # type: ignore[no-untyped-call]
    document = json.loads(extra[f"{KEY}.json"])
    assert document["form"] == "branches" and document["mean"] == [0.5]
    assert document["image_shape"] == list(BACKBONE.image_shape)


def test_a_file_that_answers_something_else_is_refused() -> None:
    net, _ = described_net("sgad")

    def slightly_off(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        output = net.execute(x_nchw)
        return output.logits + 2e-4, output.executed

    with pytest.raises(EquivalenceError, match="would differ from the run"):
        compare(net, slightly_off, images())


def test_a_file_that_runs_other_blocks_is_refused() -> None:
    net, _ = described_net("sgad")

    def runs_all(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        output = net.execute(x_nchw)
        return output.logits, torch.ones_like(output.executed)

    with pytest.raises(EquivalenceError, match="other units"):
        compare(net, runs_all, images())


def test_a_file_of_another_kind_is_not_loaded(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="not written by bench export"):
        load_exported(path)
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a readable"):
        load_exported(path)
