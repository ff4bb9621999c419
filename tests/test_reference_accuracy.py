"""Backbone, data, weights and evaluation at once: trained ResNets reach their known accuracy.

Needs $BENCH_TEST_CIFAR10 (a folder with train/ and test/) and $BENCH_TEST_WEIGHTS (a folder with
the two weights files); skipped elsewhere.
"""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = os.environ.get("BENCH_TEST_CIFAR10")
    if not images or not os.environ.get("BENCH_TEST_WEIGHTS"):
        pytest.skip("needs $BENCH_TEST_CIFAR10 and $BENCH_TEST_WEIGHTS")
    folder = tmp_path_factory.mktemp("data")
    outcome = CliRunner().invoke(
        app, ["data", "import", "cifar10", images, "--data-dir", str(folder)]
    )
    assert outcome.exit_code == 0, outcome.stderr
    return folder


@pytest.mark.parametrize(
    ("backbone", "file", "accuracy"),
    [
        ("resnet20", "resnet20-12fca82f.th", 0.9173),
        ("resnet32", "resnet32-d509ac18.th", 0.9263),
    ],
)
def test_trained_weights_reach_their_known_accuracy_on_cifar10(
    backbone: str, file: str, accuracy: float, data_dir: Path, tmp_path: Path
) -> None:
    weights = Path(os.environ["BENCH_TEST_WEIGHTS"]) / file
    runner = CliRunner(env={"BENCH_RESULTS": str(tmp_path), "BENCH_DATA": str(data_dir)})
    outcome = runner.invoke(
        app,
        [
            *("run", "--methods", "resnet", "--dataset", "cifar10", "--backbone", backbone),
            *("--pretrained", str(weights), "--epochs", "0", "--latency", "off"),
        ],
    )
    assert outcome.exit_code == 0, outcome.stderr
    (row,) = json.loads(runner.invoke(app, ["results", "--format", "json"]).stdout)
    assert row["accuracy"] == pytest.approx(accuracy, abs=5e-4)
    assert row["nflops"] == 1
