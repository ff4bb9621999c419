"""`bench.run` and `bench.evaluate` take classes and modules, and record what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bench
from baselines.resnet import DenseResNet
from bench.backbone import Backbone
from bench.data.augment import eval_batches
from bench.data.load import load_dataset
from bench.errors import ConfigError, RunFailed
from bench.networks.gated import GatedResNet
from bench.records.store import RunStore
from bench.testing.synthetic import ByTint

DIGITS = Backbone("resnet8", 10, (1, 8, 8))


class Plain(nn.Module):
    """A network of no known structure."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, width, 3), nn.Linear(width * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.conv(x).relu().flatten(1))
        return out


def test_a_dynamic_network_is_judged_beside_the_dense_one_it_came_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = ByTint(DIGITS)
    net = GatedResNet(DIGITS, policy).eval()
    dense = DIGITS.build()
    dense.load_state_dict(net.trunk.state_dict())
    digits = load_dataset("digits", data_dir=tmp_path)
    mean, std = digits.info.mean, digits.info.std
    (batch,) = eval_batches(digits.test, batch_size=len(digits.test), mean=mean, std=std)
    policy.centre(net.trunk.stem(batch.x_nchw))
    rows = bench.evaluate(net, digits, dense=dense, name="mine", results=tmp_path)
    found = rows.set_index("method")
    assert sorted(found.index) == ["mine", "resnet"]
    assert found.nflops["resnet"] == 1 and found.train_epochs.max() == 0
    assert found.speedup_b1.notna().all()
    record = RunStore(tmp_path).get(found.run["mine"])
    assert record.points[0].equivalence.startswith("execute == forward")
    assert record.points[0].dynamics.shuffled_accuracy is not None
    again = bench.evaluate(net, digits, dense=dense, name="mine", results=tmp_path)
    assert set(again.run) == set(rows.run), "the same weights are the same run"
    policy.score.bias.data += 5.0
    other = bench.evaluate(net, digits, dense=dense, name="mine", results=tmp_path, latency="off")
    assert set(other.run) & set(rows.run) == {found.run["resnet"]}, "other weights are another one"


def test_networks_of_no_known_structure_are_counted_whole(tmp_path: Path) -> None:
    rows = bench.evaluate(
        Plain(3), "digits", dense=Plain(6), name="narrow", results=tmp_path, latency="off"
    ).set_index("method")
    by_hand = {width: 36 * 9 * width + 36 * width * 10 for width in (3, 6)}
    assert rows.macs.to_dict() == {"narrow": by_hand[3], "resnet": by_hand[6]}
    assert rows.nflops["narrow"] == pytest.approx(0.5)


def test_a_run_takes_classes_and_a_network_to_start_from(tmp_path: Path) -> None:
    start = DIGITS.build()
    rows = bench.run(
        DenseResNet, "digits", backbone=start, results=tmp_path, epochs=0, latency="off"
    )
    kept = RunStore(tmp_path).folder(RunStore(tmp_path).get(rows.run.item()).spec)
    from safetensors.torch import load_file

    weights = load_file(kept / "trunk.safetensors")
    assert torch.equal(weights["head.linear.weight"], start.state_dict()["head.linear.weight"])


def test_what_cannot_be_served_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not take images of 1x8x8"):
        bench.evaluate(Plain(3), "digits", dense=nn.Linear(3, 4), name="x", results=tmp_path)

    class Random(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(len(x), 10)

    with pytest.raises(RunFailed, match="repeatable"):
        bench.evaluate(Random(3), "digits", dense=Plain(6), name="random", results=tmp_path)
