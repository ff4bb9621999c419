"""On a CUDA device: every method trains, and its skipping path equals its masked path."""

from pathlib import Path

import pytest
import torch
from commands import run_options

from bench.data.load import load_dataset
from bench.engine.building import Workplace
from bench.engine.plan import make_plan
from bench.engine.single import perform
from bench.measure.latency.cells import measure_latency
from bench.measure.latency.profiles import PROFILES
from bench.measure.latency.rounds import NetworkToTime, Setup
from bench.method import METHODS
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone
from bench.records.store import RunStore
from bench.runtimes.eager import Eager
from bench.testing.synthetic import images
from bench.training.reporter import Reporter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_method_trains_and_really_skips_on_cuda(
    name: str, precision: str, tmp_path: Path
) -> None:
    data = load_dataset("digits", data_dir=tmp_path)
    asked = {"methods": (name,), "backbone": "resnet14", "recipe": "smoke", "controls": "none"}
    options = run_options({**asked, "epochs": 2, "precision": precision})
    place = Workplace(data, RunStore(tmp_path), torch.device("cuda"), Reporter())
    for item in make_plan(options, data.info, train_size=len(data.train), weights=None):
        if item.needs is not None:
            perform(item.needs, place)
        record = perform(item.spec, place)
    assert record.status == "finished"
    assert "identical masks" in record.points[0].equivalence


@pytest.mark.parametrize("name", ["resnet", "sgad", "convnet_aig", "branchynet", "act", "sact"])
def test_networks_are_timed_on_cuda_after_their_proof(name: str, tmp_path: Path) -> None:
    backbone = Backbone("resnet14", 10, (3, 16, 16))
    method = METHODS.get(name)()
    net = method.build(backbone, method.Config()).cuda().eval()
    x_nchw = images(256, seed=1, shape=(3, 16, 16)).cuda()
    dense = GatedResNet(backbone).cuda().eval()
    cells = measure_latency(
        {"dense": NetworkToTime(dense, "dense"), "subject": NetworkToTime(net, "dense")},
        Eager(),
        Setup(x_nchw, PROFILES["smoke"], torch.device("cuda"), (1, 8, 128)),
    )
    for cell in cells["subject"]:
        assert cell.record.reason == "" and cell.record.latency_ms is not None
        assert cell.record.device.startswith("cuda")
