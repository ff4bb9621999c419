"""Files of trials that were done where the results folder is not seen."""

from pathlib import Path

import pytest
from sweep_parts import job_of

from bench.errors import RecordError
from bench.sweep.options import Objective
from bench.sweep.worker import TrialJob, collect, place_of, sign, store_files


def _job(results: Path, shared: Path) -> TrialJob:
    return TrialJob(job_of({}, results), Objective(None, 10), str(shared))


def test_who_sees_the_results_folder_works_there(tmp_path: Path) -> None:
    with sign(tmp_path) as shared:
        trial = _job(tmp_path, shared)
        with place_of(trial) as job:
            assert job is trial.job
    assert list((tmp_path / "sweeps").iterdir()) == []


def test_who_does_not_sends_what_was_made(tmp_path: Path) -> None:
    trial = _job(tmp_path / "far away", tmp_path / "not here")
    with place_of(trial) as job:
        run = Path(job.results_dir) / "runs" / "a-run"
        run.mkdir(parents=True)
        (run / "record.json").write_bytes(b"{}")
        (run / "point0.npz").write_bytes(b"numbers")
        (run / ".record.json.tmp").write_bytes(b"half")
        files = collect(Path(job.results_dir))
    assert files == {"a-run/record.json": b"{}", "a-run/point0.npz": b"numbers"}
    assert not Path(job.results_dir).exists()
    store_files(files, tmp_path / "home")
    assert (tmp_path / "home/runs/a-run/point0.npz").read_bytes() == b"numbers"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "x", "a/b/c", "/etc/x", "../record.json"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match="not taken"):
        store_files({name: b""}, tmp_path / "home")
    assert list(tmp_path.rglob("x")) == []
