"""A run needs neither ray nor mlflow nor a plotting library: some machines lack them."""

import os
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys
for name in ("ray", "mlflow", "matplotlib"):
    sys.modules[name] = None
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "matplotlib" else found(name, *a)
from bench.cli import app
app(["run", "--methods", "sgad", "--backbone", "resnet8", "--recipe", "smoke"])
"""


def test_a_run_is_complete_without_ray_mlflow_and_plots(tmp_path: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env={**os.environ, "BENCH_RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "sgad" in outcome.stdout
    assert "bench mlflow sync" in outcome.stderr
    assert len(list(tmp_path.glob("runs/sgad-*/record.json"))) == 1
