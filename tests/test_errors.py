"""The exception tree: exit statuses, what a user reads, and travel between processes."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from bench import errors
from bench.errors import BenchError, RunFailed, UnknownNameError, UserError

TREE = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BenchError)
]
LEAVES = [kind for kind in TREE if not {*kind.__subclasses__()} & {*TREE}]


def example(kind: type[BenchError]) -> BenchError:
    if kind is UnknownNameError:
        return UnknownNameError("method", "sgda", ["sgad", "resnet"])
    return kind("It went wrong.", hint="Try this.")


@pytest.mark.parametrize("kind", LEAVES)
def test_bad_input_exits_with_2_and_a_failed_run_with_1(kind: type[BenchError]) -> None:
    assert issubclass(kind, UserError) is not issubclass(kind, RunFailed)
    assert example(kind).exit_status == (2 if issubclass(kind, UserError) else 1)


@pytest.mark.parametrize("kind", TREE)
def test_an_error_survives_pickling_and_copying(kind: type[BenchError]) -> None:
    error = example(kind)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert (twin.message, twin.hint, twin.args) == (error.message, error.hint, error.args)
        assert str(twin) == str(error)


def test_a_user_reads_the_message_and_then_the_way_out() -> None:
    assert str(UserError("It is broken.", hint="Mend it.")) == "It is broken.\nMend it."
    assert str(UserError("It is broken.")) == "It is broken."


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("sgda", "Did you mean 'sgad'?"),
        ("resnet21", "Did you mean 'resnet20' or 'resnet32'?"),
        ("xyzzy", "Known: resnet8, resnet20, resnet32, sgad."),
    ],
)
def test_an_unknown_name_comes_with_near_names_or_all_names(given: str, hint: str) -> None:
    error = UnknownNameError("method", given, {"sgad", "resnet32", "resnet8", "resnet20"})
    assert error.message == f"Unknown method '{given}'."
    assert error.hint == hint


def test_where_nothing_is_known_the_error_says_so() -> None:
    assert UnknownNameError("method", "sgad", []).hint == "Known: none."
