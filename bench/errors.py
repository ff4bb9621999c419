"""The exceptions a user may meet; nothing else raises across rooms.

A UserError ends a command with status 2, any other with 1.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class BenchError(Exception):
    """Base of all errors shown to users: what went wrong, then what to try next."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[BenchError], message: str, hint: str | None) -> BenchError:
    error = kind.__new__(kind)
    BenchError.__init__(error, message, hint=hint)
    return error


class UserError(BenchError):
    """The request cannot be served as given."""

    exit_status = 2


class UnknownNameError(UserError):
    """A name that is not registered, with the nearest valid ones, or with what `hint` says."""

    def __init__(self, kind: str, given: str, known: Iterable[str], *, hint: str = "") -> None:
        names = sorted(known, key=_naturally)
        near = _same_but_number(given, names) or difflib.get_close_matches(
            given, names, n=3, cutoff=0.5
        )
        either = " or ".join(f"'{name}'" for name in near)
        nearest = f"Did you mean {either}?" if near else f"Known: {', '.join(names) or 'none'}."
        super().__init__(f"Unknown {kind} '{given}'.", hint=hint or nearest)


def _naturally(name: str) -> list[tuple[int, str]]:
    """Return a key by which resnet8 comes before resnet20."""
    parts: list[str] = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _same_but_number(given: str, names: list[str]) -> list[str]:
    """Return the names, two at most, that end in the numbers nearest to the one given."""
    apart: dict[str, int] = {}
    word, number = _word_and_number(given)
    for name in names:
        its_word, its_number = _word_and_number(name)
        if word and its_word == word and number is not None and its_number is not None:
            apart[name] = abs(its_number - number)
    return sorted(apart, key=apart.__getitem__)[:2]


def _word_and_number(name: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(.*?\D)(\d{1,9})", name)
    return (found[1], int(found[2])) if found else (name, None)


class ConfigError(UserError):
    """A setting has an unknown key or a wrong value."""


class DataError(UserError):
    """A data set is missing, broken or unreachable."""


class WeightsError(UserError):
    """A weights file is broken or does not fit the network."""


class PluginError(UserError):
    """A plugin cannot be imported or breaks the contract."""


class RecordError(UserError):
    """A record on disk is broken or not found."""


class StorageError(UserError):
    """A folder is read-only, full or gone."""


class RunFailed(BenchError):
    """The work started and could not be finished."""


class DivergedError(RunFailed):
    """The loss is not a number."""


class CheckpointError(RunFailed):
    """A checkpoint cannot be read back."""


class NotExecutable(RunFailed):
    """The network has no path that really skips; `message` is the reason."""


class Unsupported(RunFailed):
    """The network cannot be run in the way that was asked for; `message` says why."""


class ConformanceError(RunFailed):
    """A network breaks what must hold for every method; `message` names the check."""


class NotApplicable(RunFailed):
    """A control cannot be made of its source; `message` is the reason. It fails no command."""


class EquivalenceError(RunFailed):
    """The skipping path disagrees with the masked path."""
