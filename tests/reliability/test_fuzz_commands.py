"""The real command line on hostile input: an answer, no traceback, and no file elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from bench_processes import QUICK
from typer.testing import CliRunner, Result

from bench.cli import app
from bench.records.document import _sha256

pytestmark = pytest.mark.reliability

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "runs"
RUN = ("run", *QUICK)


class Place:
    """An empty working directory and home, and folders for results and data elsewhere."""

    def __init__(self, root: Path) -> None:
        self.cwd, self.home, self.results, self.data = (
            root / name for name in ("cwd", "home", "results", "data")
        )
        self.cwd.mkdir()
        self.home.mkdir()

    def bench(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("BENCH_", "XDG_", "MPL"))}
        return subprocess.run(
            [sys.executable, "-c", "from bench.cli import main; main()", *arguments],
            env={
                **kept,
                "HOME": str(self.home),
                "PYTHONPATH": os.pathsep.join(sys.path),
                "BENCH_RESULTS": str(self.results),
                "BENCH_DATA": str(self.data),
                "OMP_NUM_THREADS": "1",
                "COLUMNS": "120",
            },
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def inside(self, *arguments: str) -> Result:
        """Run the command in this process: the same, without the seconds that a start takes."""
        environment = {"BENCH_RESULTS": str(self.results), "BENCH_DATA": str(self.data)}
        before = Path.cwd()
        os.chdir(self.cwd)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph")
                home = {"HOME": str(self.home), "COLUMNS": "120"}
                return CliRunner(env={**environment, **home}).invoke(app, list(arguments))
        finally:
            os.chdir(before)

    def elsewhere(self) -> list[str]:
        """Return the files outside the folders for results and data.

        Matplotlib keeps its list of fonts in a cache of its own, and the harness what it can make
        anew for this machine.
        """
        own = self.home / ".cache" / "skipbench"
        return sorted(
            str(path.relative_to(place))
            for place in (self.cwd, self.home)
            for path in place.rglob("*")
            if path.is_file() and path.parent.name != "matplotlib" and own not in path.parents
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def answered(done: subprocess.CompletedProcess[str] | Result, *, status: int) -> str:
    code = done.exit_code if isinstance(done, Result) else done.returncode
    assert code == status, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "fault in bench" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    if status == 2:
        assert done.stderr.lstrip().startswith(("Error: ", "Usage:")), done.stderr
    return done.stdout + done.stderr


def test_a_run_and_its_views_write_nowhere_else(place: Place) -> None:
    answered(place.bench(*RUN, "--methods", "resnet"), status=0)
    answered(place.bench("pareto", "--out", str(place.results / "a.png")), status=0)
    for command in (
        ("results",),
        ("results", "--format", "csv"),
        ("list", "runs"),
        ("pareto",),
        ("export", "resnet", "--format", "safetensors"),
    ):
        answered(place.inside(*command), status=0)
    assert place.elsewhere() == []
    assert place.results.is_dir()


def test_requests_that_fail_write_nowhere_else(place: Place, tmp_path: Path) -> None:
    pipe, zero, evil = tmp_path / "pipe", tmp_path / "zero", tmp_path / "evil.pth"
    os.mkfifo(pipe)
    zero.symlink_to("/dev/zero")
    torch.save({"state_dict": {"\x1b[2J": torch.zeros(1)}}, evil)
    bad = tmp_path / "bad.py"
    bad.write_text("import sys\nsys.exit(0)\n")
    for arguments in (
        ("run", "--config", str(pipe)),
        ("run", "--config", str(zero)),
        ("run", "--pretrained", str(pipe)),
        ("run", "--pretrained", str(zero)),
        ("run", "--pretrained", str(evil)),
        ("run", "--plugin", str(bad)),
        ("run", "--plugin", str(pipe)),
        ("run", "--dataset", str(tmp_path / "[red]\x1b[2J")),
        ("run", "--set", "sgad.d_max=" + "9" * 6000),
        ("run", "--set", "sgad.d_max=!!python/object/apply:os.getcwd []"),
        ("run", "--seeds", "9" * 30),
        ("run", "--device", "\x1b[2J"),
        ("data", "import", "cifar10", str(tmp_path)),
        ("export", "../../x", "--format", "onnx"),
        ("latency", "\x1b[2J"),
        ("pareto", "--dataset", "../../x"),
    ):
        answered(place.inside(*arguments), status=2)
    answered(place.bench("run", "--pretrained", str(evil)), status=2)
    assert place.elsewhere() == []


def test_records_of_strangers_are_shown_and_write_nowhere_else(place: Place) -> None:
    from bench.config import RunSpec

    word = "../../x\x1b[2J<script>[red]$\\frac{|=1"
    for number, path in enumerate(sorted(REFERENCE.glob("*/record.json"))[:5]):
        content = json.loads(path.read_text())["record"]
        spec = content["spec"]
        spec["dataset"]["name"] = spec["backbone"]["name"] = word
        spec["seed"] = number
        content["variant"] = content["reason"] = word
        if number == 4:
            content["points"][0]["accuracy"] = 7
        content["run"] = RunSpec.model_validate(spec).run
        folder = place.results / "runs" / content["run"]
        folder.mkdir(parents=True)
        document = {"sha256": _sha256(content), "record": content}
        (folder / "record.json").write_text(json.dumps(document))
    shown = " ".join(answered(place.bench("results"), status=0).split())
    assert "does not fit the schema" in shown
    for arguments in (
        ("results", "--format", "latex"),
        ("list", "runs"),
        ("pareto",),
        ("pareto", "--x", "macs", "--out", str(place.results / "a.png")),
    ):
        answered(place.inside(*arguments), status=0)
    name = json.loads(place.inside("results", "--format", "json").stdout)[0]["run"]
    said = answered(place.bench("latency", name), status=2)
    assert "no record keeps" in said
    answered(place.inside("export", name, "--format", "safetensors"), status=2)
    assert place.elsewhere() == []
