"""MLflow's database in the results folder: where it lies, and whether SQLite finds it damaged.

It holds nothing that the records do not, so a damaged one is set aside and built anew. Knows
nothing of MLflow.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from bench.storage import set_aside

DATABASE_FILE = "mlflow.db"
_BUSY_S = 20.0
_HEADER_BYTES = 100


def uri_of(results_dir: Path) -> str:
    """Return how MLflow is told of the database."""
    return f"sqlite:///{results_dir.absolute()}/{DATABASE_FILE}"


def is_damaged(results_dir: Path) -> bool:
    """Whether there is a database whose structure is broken; a wrong value in it is not seen."""
    path = results_dir / DATABASE_FILE
    if not path.is_file():
        return False
    try:
        if _ends_within_a_page(path):
            return True
        with closing(sqlite3.connect(path, timeout=_BUSY_S)) as database:
            found: list[tuple[str]] = database.execute("PRAGMA integrity_check(1)").fetchall()
            return found != [("ok",)]
    except sqlite3.OperationalError as error:
        # Locked or not to be opened says nothing of its content.
        return "malformed" in str(error)
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return True
    except OSError:
        return False


def _ends_within_a_page(path: Path) -> bool:
    """Whether the file was cut where SQLite would read zeros instead of complaining."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    size_bytes = path.stat().st_size
    # Two bytes at 16; 1 stands for 65,536, which has no room in them.
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else max(page_bytes, 1)
    return 0 < size_bytes < _HEADER_BYTES or size_bytes % page_bytes > 0


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
