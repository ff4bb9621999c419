"""On a CUDA device: every method trains, and its skipping path equals its masked path."""

from pathlib import Path

import pytest
import torch

from bench.data.load import load_dataset
from bench.engine.building import Workplace
from bench.engine.plan import METHODS, Request, make_plan
from bench.engine.single import perform
from bench.records.store import RunStore
from bench.training.reporter import Silent

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
    request = Request(
        methods=[name],
        backbone="resnet14",
        recipe="smoke",
        epochs=2,
        precision=precision,  # type: ignore[arg-type]
    )
    place = Workplace(data, RunStore(tmp_path), torch.device("cuda"), Silent())
    for item in make_plan(request, data.info, train_size=len(data.train), weights=None):
        if item.needs is not None:
            perform(item.needs, place)
        record = perform(item.spec, place)
    assert record.status == "finished"
    assert "identical masks" in record.points[0].equivalence
