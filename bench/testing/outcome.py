"""What came of a check, as data; and the two ways in which a check ends early.

Owns no check and no terminal.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.errors import BenchError

Status = Literal["passed", "failed", "exempt", "not tried"]
_ROOM = Path(__file__).parent


class Shortfall(Exception):
    """A check failed: `detail` gives the numbers, `cause` what is likely behind them."""

    def __init__(self, detail: str, cause: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.cause = cause


class NotTried(Exception):
    """A check needs what another one failed to make; the message says which."""


class DoesNotApply(Exception):
    """A check has nothing to try on this network; the message says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one check of one method.

    `detail` holds the numbers of a failure, or the reason why it was exempt or not tried. `error`
    is the exception behind a failure, for a traceback.
    """

    method: str
    check: str
    proves: str
    status: Status
    detail: str = ""
    cause: str = ""
    error: Exception | None = field(default=None, repr=False, compare=False)

    def require(self) -> None:
        """Do nothing if the check passed or is exempt.

        Raises:
            AssertionError: it failed or was not tried; the message has the numbers and the likely
                cause.
        """
        if self.status in ("failed", "not tried"):
            raise AssertionError(str(self))

    def __str__(self) -> str:
        lines = [f"{self.method}: '{self.check}' {self.status}. {self.proves}"]
        if self.detail:
            lines.append(self.detail)
        if self.cause:
            lines.append(f"Likely cause: {self.cause}")
        return "\n".join(lines)


def shortfall_of(error: Exception) -> Shortfall:
    """Return what an exception that a method raised says of it, and where it was raised."""
    if isinstance(error, Shortfall):
        return error
    if isinstance(error, BenchError):
        found = Shortfall(f"{type(error).__name__}: {error.message}", error.hint or "")
    else:
        said = (str(error).strip() or "no message").splitlines()[0]
        found = Shortfall(f"It raised {type(error).__name__}: {said}{_place_of(error)}")
    found.__cause__ = error
    return found


def _place_of(error: Exception) -> str:
    """Name the last line outside of this room and of libraries."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if "site-packages" not in path.parts and _ROOM not in path.parents and path.is_file():
            return f" ({path.name}, line {frame.lineno})"
    return ""
