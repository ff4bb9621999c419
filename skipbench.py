"""The command `bench`, found under a name that hardly any folder of a user's has.

A folder `bench`, `methods` or `baselines` before skipbench's own on Python's path would else end in
"No module named bench.cli". Owns that one check; the command is bench.cli.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Run the command line, if its packages are skipbench's."""
    for package in ("bench", "methods", "baselines"):
        own = Path(__file__).absolute().with_name(package)
        spec = importlib.util.find_spec(package)
        places = [] if spec is None else spec.submodule_search_locations or [spec.origin]
        found = Path(str(next(iter(places), None)))
        if found.resolve() != own.resolve():
            sys.exit(
                f"Python imports '{package}' from {found}, which hides skipbench's own in {own}.\n"
                f"Rename it, or take {found.parent} out of PYTHONPATH."
            )
    from bench.cli import main as run

    run()
