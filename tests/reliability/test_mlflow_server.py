"""An MLflow server that is away, dies, comes back: in the end every run is there once."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from bench_processes import RESNET, WITHOUT, Nursery
from fault_counts import Faults
from mlflow.tracking import MlflowClient

from bench.records.mlflow_connection import EXPERIMENT
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.records.tracking import RUN_TAG

RECORDS = 12


class Server:
    """A real MLflow server that can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        store = ("--backend-store-uri", f"sqlite:///{self.folder}/server.db")
        artifacts = ("--artifacts-destination", str(self.folder / "artifacts"))
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1")
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *store, *artifacts, *where],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )
        end = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < end, (self.folder / "server.log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """Send SIGKILL to it and its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def wait_for(self, *, runs: int) -> None:
        """Wait until so many runs have arrived, whole or not."""
        end = time.monotonic() + 120
        with closing(sqlite3.connect(self.folder / "server.db", timeout=60)) as database:
            while database.execute("SELECT COUNT(*) FROM runs").fetchone()[0] < runs:
                assert time.monotonic() < end
                time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    found = Server(tmp_path / "server")
    yield found
    found.kill()


def test_a_server_away_at_the_start_gone_in_the_middle_and_back_has_every_run_once(
    server: Server,
    tmp_path: Path,
    nursery: Nursery,
    make_record: Callable[..., RunRecord],
    faults: Faults,
) -> None:
    results, variables = tmp_path / "r", {"MLFLOW_TRACKING_URI": server.uri}
    with faults.during("MLflow server away at the start"):
        away = nursery.run(*RESNET, results=results, absent=WITHOUT[1:], variables=variables)
        assert away.wait() == 0 and "Traceback" not in away.said, away.said
        assert f"MLflow at {server.uri} did not take the record" in away.said
        assert len(list(results.glob("runs/*/record.json"))) == 1

    store = RunStore(results)
    for seed in range(RECORDS - 1):
        store.save(make_record(seed=seed))
    sync = ("mlflow", "sync")
    for logged in (2, 5):
        with faults.during("MLflow server killed in the middle of a sync"):
            server.start()
            syncing = nursery.start(*sync, results=results, absent=(), variables=variables)
            server.wait_for(runs=logged)
            server.kill()
            assert syncing.wait() == 1 and "Traceback" not in syncing.said, syncing.said

    with faults.during("driver killed in the middle of a sync"):
        server.start()
        syncing = nursery.start(*sync, results=results, absent=(), variables=variables)
        server.wait_for(runs=8)
        syncing.kill()
        assert syncing.wait() == -9

    with faults.during("two syncs at once"):
        both = [nursery.start(*sync, results=results, absent=(), variables=variables) for _ in "ab"]
        assert [one.wait() for one in both] == [0, 0], both[0].said + both[1].said
    _assert_each_once(server, store)


def _assert_each_once(server: Server, store: RunStore) -> None:
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    logged = client.search_runs([experiment.experiment_id], max_results=1000)
    names = Counter(run.data.tags[RUN_TAG] for run in logged)
    assert names == Counter(store.names()) and len(names) == RECORDS
    for run in logged:
        record = store.get(run.data.tags[RUN_TAG])
        assert run.info.status == "FINISHED"
        assert run.data.metrics["accuracy"] == record.points[0].accuracy
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
        assert steps == list(range(len(record.history)))
        artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert "record.json" in artifacts
