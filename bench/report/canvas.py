"""What all print figures share: an empty figure, its frame and notes, and writing it to disk.

Same figure, same bytes: no dates, no random ids, no global state of pyplot. Owns no data.
"""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from bench.errors import ConfigError
from bench.report.style import GREY
from bench.storage import make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
_GLUED = "\N{NO-BREAK SPACE}%"
_METADATA: Mapping[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def literal(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a function draw names as they are written: a $ in one is a $, not a formula."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        try:
            import matplotlib
        except ImportError:
            return draw(*args, **kwargs)  # which says so
        with matplotlib.rc_context({"text.parse_math": False}):
            return draw(*args, **kwargs)

    return drawn


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure that lays itself out and needs no display.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "Figures need matplotlib, which is not installed.", hint="pip install matplotlib"
        ) from None
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure to `path`, by its extension: .png, .svg or .pdf; equal input, equal bytes.

    Raises:
        ConfigError: another extension.
        StorageError: the folder is read-only, full or gone.
    """
    import matplotlib

    kind = path.suffix.lower()
    if kind not in _METADATA:
        raise ConfigError(
            f"A figure cannot be written as '{path.name}'.",
            hint=f"Expected one of {', '.join(_METADATA)}; .html makes an interactive page.",
        )
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "skipbench"}):
        figure.savefig(buffer, format=kind[1:], dpi=150, metadata=_METADATA[kind])
    make_folder(path.parent)
    write_atomically(path, buffer.getvalue())
    return path


def frame(axes: Axes, x_label: str, y_label: str) -> None:
    """Name the axes and give them a quiet grid behind the data."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def write_notes(figure: Figure, notes: Sequence[str]) -> None:
    """Write small lines below everything else."""
    text = "\n".join(wrapped(note, 130) for note in notes)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color="#444444")


def stamp(axes: Axes, text: str) -> None:
    """Write `text` large and pale across the plot, behind the data."""
    axes.text(
        *(0.5, 0.5, text),
        transform=axes.transAxes,
        fontsize=30,
        color=GREY,
        alpha=0.3,
        ha="center",
        va="center",
        rotation=20,
        zorder=0,
    )


def wrapped(text: str, width: int) -> str:
    """Break `text` into lines of at most `width` characters, never before a percent sign."""
    kept = textwrap.wrap(text.replace(" %", _GLUED), width)
    return "\n".join(kept).replace(_GLUED, " %")
