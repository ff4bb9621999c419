"""How MLflow is reached: its address, without the password where it is shown, and the experiment.

Also its database in the results folder, which holds nothing that the records do not: a damaged one
is set aside and built anew. What is written there is tracking.py's and mlflow_content.py's.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote_plus, unquote

from bench.errors import RecordError
from bench.folders import from_home
from bench.storage import set_aside

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Deleted = Literal["refuse", "restore"]
EXPERIMENT = "skipbench"
# In any address; one with a @ in it ends at the last.
_PASSWORD = re.compile(r"(://[^\s/:@'\"]*:)([^\s'\"]+)@")
_SHORTEST_SECRET = 4
# An absent server must not hold up a run: MLflow alone would try for minutes.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def default_uri(results_dir: Path) -> str:
    """Return $MLFLOW_TRACKING_URI, else the database in the results folder."""
    given = os.environ.get("MLFLOW_TRACKING_URI") or uri_of(results_dir)
    scheme, separator, rest = given.partition(":///")
    return f"{scheme}{separator}{from_home(rest)}" if separator else from_home(given)


def without_password(text: str, uri: str) -> str:
    """Return `text` without the password in `uri`, in whatever form it is quoted."""
    given = _PASSWORD.search(uri)
    secret = "" if given is None else given[2]
    for form in {secret, unquote(secret), quote_plus(unquote(secret))}:
        if len(form) >= _SHORTEST_SECRET:
            text = text.replace(form, "***")
    return _PASSWORD.sub(r"\1***@", text)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow from printing, warning and phoning home while it is loaded and used."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def connect(uri: str, results_dir: Path, *, deleted: Deleted) -> tuple[MlflowClient, str]:
    """Return a client and the id of the experiment, which is made if there is none.

    Raises:
        RecordError: it was deleted, and is not to be restored.
    """
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        if experiment.lifecycle_stage == "deleted":
            if deleted == "refuse":
                raise RecordError(
                    f"the experiment '{EXPERIMENT}' was deleted in MLflow; bench mlflow sync "
                    "restores it and logs what is missing"
                )
            client.restore_experiment(experiment.experiment_id)
        return client, str(experiment.experiment_id)
    # Without a location, artifacts of a local database land in the current directory.
    remote = uri.startswith(("http:", "https:", "databricks"))
    location = None if remote else (results_dir.absolute() / "mlruns").as_uri()
    # Its pages are then about models, not about agents.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return client, str(client.create_experiment(EXPERIMENT, location, tags=tags))


@contextmanager
def as_default(uri: str) -> Iterator[None]:
    """Let MLflow itself look there: a client's own address does not reach its registry."""
    import mlflow

    name = "MLFLOW_TRACKING_URI"
    before, told = mlflow.get_tracking_uri(), os.environ.get(name)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop(name, None)
        if told is not None:
            os.environ[name] = told


DATABASE_FILE = "mlflow.db"
_BUSY_S = 20.0


def uri_of(results_dir: Path) -> str:
    """Return how MLflow is told of the database."""
    return f"sqlite:///{results_dir.absolute()}/{DATABASE_FILE}"


def is_damaged(results_dir: Path) -> bool:
    """Whether there is a database whose structure is broken; a wrong value in it is not seen."""
    path = results_dir / DATABASE_FILE
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_S)) as database:
            found: list[tuple[str]] = database.execute("PRAGMA integrity_check(1)").fetchall()
            (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
        # Cut within a page SQLite reads zeros instead of complaining.
        return found != [("ok",)] or path.stat().st_size % page_bytes > 0
    except sqlite3.OperationalError as error:
        # Locked or not to be opened says nothing of its content.
        return "malformed" in str(error)
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return True
    except OSError:
        return False


def set_database_aside(results_dir: Path) -> Path | None:
    """Rename the database, with its journal; return its new place, None if it is gone.

    Raises:
        StorageError: the folder is read-only.
    """
    path = results_dir / DATABASE_FILE
    # First: a journal is replayed into whatever has the name of its database.
    for ending in ("-journal", "-wal", "-shm"):
        set_aside(path.with_name(path.name + ending))
    return set_aside(path)
