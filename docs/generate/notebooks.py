"""A notebook as a page: its text, its code and what it printed. Runs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def as_markdown(notebook: Path) -> str:
    """Return the cells of `notebook` and the printed output that is stored in it."""
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join(_cell(cell) for cell in cells) + "\n"


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    printed = "".join("".join(output.get("text", [])) for output in cell["outputs"])
    shown = f"\n\n```text\n{printed.rstrip()}\n```" if printed else ""
    return f"```python\n{source}\n```{shown}"
