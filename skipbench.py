"""The command `bench`, found under a name that hardly any folder of a user's has.

A folder `bench` before skipbench's own on Python's path would else end in "No module named
bench.cli". Owns that one check; the command is bench.cli.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Run the command line, if `bench` is skipbench's."""
    own = Path(__file__).absolute().with_name("bench")
    spec = importlib.util.find_spec("bench")
    found = None if spec is None else next(iter(spec.submodule_search_locations or [spec.origin]))
    if found is None or Path(found).resolve() != own.resolve():
        sys.exit(
            f"Python imports 'bench' from {found}, which hides skipbench's own in {own}.\n"
            f"Rename it, or take {Path(str(found)).parent} out of PYTHONPATH."
        )
    from bench.cli import main as run

    run()
