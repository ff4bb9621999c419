"""Ten thousand runs in one results folder: every command that looks at them answers in seconds.

Seconds of this process, modules loaded before: what else runs on the machine does not count, and
neither does a disk that has to be waited for.
"""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from many_records import write_many
from rich.console import Console

from bench import drawing
from bench.commands.listings import listing
from bench.engine.judging import judge
from bench.folders import Folders
from bench.records.record import Dynamics
from bench.records.store import RunStore
from bench.report.tables.results import render, rich_table

pytestmark = pytest.mark.perf

COUNT = 10_000
AIM_S, AIM_NAMES_S = 20.0, 2.0
"""When all records are read; and when only their names are."""
AIM_PAGE_MB, AIM_PEAK_MIB = 3.0, 600.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folder = tmp_path_factory.mktemp("many")
    write_many(folder, COUNT)
    return Folders(folder, folder)


def took_s(what: str, work: Callable[[], object]) -> float:
    started = time.perf_counter(), time.process_time()
    work()
    wall_s, cpu_s = time.perf_counter() - started[0], time.process_time() - started[1]
    print(f"\n{what}: {cpu_s:.2f} s of computing, {wall_s:.2f} s by the clock", end="")
    return cpu_s


def show(folders: Folders) -> None:
    rows, problems = drawing.results(folders)
    assert len({row.run for row in rows}) == COUNT
    assert problems == []
    Console(file=io.StringIO(), width=120).print(rich_table(rows, width=120))


def test_results_lists_and_json(folders: Folders) -> None:
    def list_runs() -> None:
        Console(file=io.StringIO(), width=120).print(listing("runs", folders.results))

    assert took_s("results", lambda: show(folders)) < AIM_S
    as_json = took_s("results as JSON", lambda: render(drawing.results(folders)[0], "json"))
    assert as_json < AIM_S
    assert took_s("list runs", list_runs) < AIM_S


@pytest.mark.parametrize("kind", ["html", "png"])
def test_pareto(folders: Folders, tmp_path: Path, kind: str) -> None:
    import matplotlib.backends.backend_agg

    assert matplotlib.backends.backend_agg
    out = tmp_path / f"pareto.{kind}"
    assert took_s(f"pareto {kind}", lambda: drawing.pareto(folders, out=out)) < AIM_S
    size_mb = out.stat().st_size / 1e6
    print(f", {size_mb:.1f} MB", end="")
    assert size_mb < AIM_PAGE_MB


def test_what_a_run_asks_of_the_store(folders: Folders) -> None:
    store = RunStore(folders.results)
    name = next(name for name in store.names() if name.startswith("convnet_aig"))
    record = store.get(name)
    waiting = tuple(p.model_copy(update={"dynamics": Dynamics()}) for p in record.points)
    record = record.model_copy(update={"points": waiting})

    def ask() -> None:
        assert store.find(record.spec) is not None
        assert store.get(name).run == name
        assert judge([record], store)[0].points[0].dynamics != Dynamics()

    assert took_s("find, get and judge", ask) < AIM_S
    assert took_s("names", store.names) < AIM_NAMES_S


def test_memory_stays_sane(folders: Folders) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("reads /proc")
    script = (
        "import sys\n"
        "from bench.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(next(line for line in lines if 'VmHWM' in line), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, "results", "--format", "json"]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--results-dir", str(folders.results)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    wall_s = time.perf_counter() - started
    peak_mib = int(done.stderr.split()[-2]) / 1024  # VmHWM: 123456 kB
    print(f"\nbench results --format json: {wall_s:.1f} s with imports, peak {peak_mib:.0f} MiB")
    assert peak_mib < AIM_PEAK_MIB
