"""Each method in each format: what is made computes the same, and really branches."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from export_nets import REFUSED, best, both_ways, described_net, images, names, rebuilt_names

from bench.errors import Unsupported, WeightsError
from bench.export import load_exported
from bench.export.exporting import ExportedFile
from bench.export.weights_file import KEY


def form_of(made: ExportedFile) -> tuple[str, str]:
    return made.description.form, made.description.batch


@pytest.mark.parametrize("name", rebuilt_names())
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
def test_onnx_is_made_in_the_form_that_its_kind_allows(name: str) -> None:
    onnx = pytest.importorskip("onnx")
    if (name, "onnxruntime") in REFUSED:
        with pytest.raises(Unsupported, match=REFUSED[name, "onnxruntime"]):
            best(name, "onnx")
        return
    made = best(name, "onnx")
    decides = any(unit.gated for unit in described_net(name)[0].units())
    assert form_of(made) == (("branches", "one") if decides else ("plain", "any"))
    assert made.description.folded
    model = onnx.load_model_from_string(made.data)
    assert any(node.op_type == "If" for node in model.graph.node) == decides
    assert made.description.sentence() in model.doc_string
    [document] = [item.value for item in model.metadata_props if item.key == KEY]
    assert json.loads(document)["method"] == name


@pytest.mark.parametrize("name", ["sgad", "skipnet", "convnet_aig", "blockdrop", "cdl", "act"])
def test_the_networks_of_these_tests_decide_both_ways(name: str) -> None:
    assert both_ways(described_net(name)[0])


def test_a_file_of_another_kind_is_not_loaded(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="not written by bench export"):
        load_exported(path)
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a readable"):
        load_exported(path)
