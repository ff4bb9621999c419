"""How MLflow is reached: its address, without the password where it is shown, and the experiment.

What is written there is tracking.py's and mlflow_content.py's.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_plus, unquote

from bench.folders import from_home

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "skipbench"
# In any address; one with a @ in it ends at the last.
_PASSWORD = re.compile(r"(://[^\s/:@'\"]*:)([^\s'\"]+)@")
_SHORTEST_SECRET = 4
_ADDRESS = "MLFLOW_TRACKING_URI"
# An absent server must not hold up a run: MLflow alone would try for minutes.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def default_uri(results_dir: Path) -> str:
    """Return $MLFLOW_TRACKING_URI, else the database in the results folder."""
    given = os.environ.get(_ADDRESS) or f"sqlite:///{results_dir.absolute()}/mlflow.db"
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
def session(uri: str) -> Iterator[MlflowClient]:
    """Give a client of the MLflow at `uri`, which meanwhile is MLflow's own default: a client's
    address does not reach its registry. It prints, warns and reports nothing."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow
            from mlflow.tracking import MlflowClient

            address, default = os.environ.get(_ADDRESS), mlflow.get_tracking_uri()
            mlflow.set_tracking_uri(uri)
            try:
                yield MlflowClient(tracking_uri=uri)
            finally:
                mlflow.set_tracking_uri(default)
                os.environ.pop(_ADDRESS, None)  # MLflow sets it, too
                if address is not None:
                    os.environ[_ADDRESS] = address
    finally:
        logging.disable(before)


def experiment_id(client: MlflowClient, uri: str, results_dir: Path) -> str:
    """Return the id of the experiment; made if there is none, restored if it was deleted."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)
    # Without a location, artifacts of a local database land in the current directory.
    remote = uri.startswith(("http:", "https:", "databricks"))
    location = None if remote else (results_dir.absolute() / "mlruns").as_uri()
    # Its pages are then about models, not about agents.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return str(client.create_experiment(EXPERIMENT, location, tags=tags))
