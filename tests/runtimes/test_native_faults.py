"""The C++ of the native runtime: compiled once, never trusted, no harm from any misuse."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gated_nets import images, per_unit_net
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import StorageError, Unsupported
from bench.measure.environment import describe_environment
from bench.runtimes.eager import folded_copy
from bench.runtimes.native import Native, NativeProgram, build
from bench.runtimes.native.encoding import Encoded, encoded
from bench.runtimes.native.fusing import fused
from bench.runtimes.program import program_of

pytestmark = pytest.mark.skipif(
    build.library().loaded is None, reason=f"needs a C++ compiler: {build.library().reason}"
)
QUICK = "import sys; open(sys.argv[sys.argv.index('-o') + 1], 'wb').write(b'no library')"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache and a process that has not looked for a library yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.library.cache_clear()
    yield tmp_path
    build.library.cache_clear()


@pytest.fixture
def like_new(fresh: Path) -> Path:
    """The same with the library of this machine in the cache."""
    os.environ["XDG_CACHE_HOME"], own = _ORIGINAL, os.environ["XDG_CACHE_HOME"]
    whole = build._path(build._compiler())
    os.environ["XDG_CACHE_HOME"] = own
    folder = fresh / "cache" / "skipbench" / "native"
    folder.mkdir(parents=True)
    (folder / whole.name).write_bytes(whole.read_bytes())
    return folder / whole.name


_ORIGINAL = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))


@pytest.mark.parametrize(
    ("compiler", "words"),
    [
        ("/nowhere/g++", "no C++ compiler: none of /nowhere/g++"),
        ("false", "false failed"),
        ("g++ 'unbalanced", "$CXX cannot be read"),
        ("{odd}", "{odd} failed"),
    ],
)
def test_without_a_compiler_there_is_a_reason_and_the_rest_works(
    compiler: str, words: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = fresh / "odd-words"
    odd.write_bytes(b"#!/bin/sh\nprintf 'error: \\377\\376 \\351' >&2; printf '\\377'; exit 1\n")
    odd.chmod(0o700)
    monkeypatch.setenv("CXX", compiler.format(odd=odd))
    build.to_be_compiled()
    found = build.library()
    assert found.loaded is None and words.format(odd=odd) in found.reason
    net = per_unit_net("residual", "A")
    with pytest.raises(Unsupported, match="cannot be compiled here"):
        Native().prepare(net, images(2))


def test_a_library_is_not_compiled_again(like_new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_compiled", lambda *_: pytest.fail("compiled again"))
    assert build.library().loaded is not None and not build.to_be_compiled()


def test_a_cache_that_cannot_be_written_is_a_reason(
    like_new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (like_new.parent.parent / "other").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(like_new.parent.parent / "other"))
    found = build.library()
    assert found.loaded is None and "other" in found.reason


def test_a_library_of_another_processor_or_compiler_is_not_taken(
    like_new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not build.to_be_compiled()
    with monkeypatch.context() as patch:
        patch.setattr(build, "_instructions", lambda: "flags: of another processor")
        assert build.to_be_compiled()
    monkeypatch.setenv("CXX", "true")
    assert build.to_be_compiled()


def test_a_full_disk_is_a_reason(like_new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise StorageError(f"{path} cannot be written: no space left on device.")

    monkeypatch.setattr(build, "_compiled", lambda _: b"whole")
    monkeypatch.setattr(build, "write_atomically", full)
    like_new.unlink()
    assert "no space left" in build.library().reason


def test_describing_the_environment_compiles_nothing(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_compiled", lambda *_: pytest.fail("compiled"))
    describe_environment("cpu")
    assert Native().refuses(per_unit_net("output", "A"), torch.device("cpu"), 1) is None
    assert build.to_be_compiled() and Native().delay()


def test_nothing_of_torch_is_needed_to_compile() -> None:
    folder = Path(build.__file__).parent
    for name in build.SOURCES:
        assert "torch" not in (folder / name).read_text().lower()
    linked = subprocess.run(
        ["ldd", build._path(build._compiler())],
        capture_output=True,
        text=True,
    ).stdout
    assert "libc10" not in linked and "libtorch" not in linked


@functools.cache
def program() -> Encoded:
    net = per_unit_net("residual", "B")
    return encoded(fused(program_of(folded_copy(net, images(2)), images(2))))


def loaded(made: Encoded) -> NativeProgram:
    columns = len(per_unit_net("residual", "B").units())
    return NativeProgram(made, (3, 8, 8), (10, columns))


@pytest.mark.parametrize(
    "given_nchw",
    [
        torch.zeros(2, 3, 8, 8, dtype=torch.float64),
        torch.zeros(2, 3, 8, 9),
        torch.zeros(2, 4, 8, 8),
        torch.zeros(3, 8, 8),
        torch.zeros(2, 3, 8, 8, device="meta"),
    ],
)
def test_images_of_another_form_are_refused(given_nchw: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        loaded(program())(given_nchw)


def test_wrong_sizes_are_refused_before_anything_is_touched() -> None:
    run = loaded(program())
    numbers = np.zeros(4, dtype=np.float32)
    address = numbers.ctypes.data
    assert run._library.skipbench_run(run._handle, address, 4, 1, address, 4, address, 4) == 1
    assert run._library.skipbench_run(run._handle, address, 0, -1, address, 0, address, 0) == 1


@given(
    place=st.integers(0, 10**6),
    word=st.one_of(
        st.integers(-(2**63), 2**63 - 1), st.integers(-3, 70), st.sampled_from([2**31, 2**40])
    ),
)
@settings(deadline=None, max_examples=300, derandomize=True)
def test_a_program_with_any_word_changed_is_refused_or_runs_within_its_memory(
    place: int, word: int
) -> None:
    made = program()
    words = made.words.copy()
    words[place % len(words)] = word
    try:
        run = loaded(made._replace(words=words))
    except Unsupported:
        return
    run(images(2))  # may be wrong, must not touch what is not its own


@given(cut=st.integers(0, 10**6))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_a_program_that_ends_early_is_refused(cut: int) -> None:
    made = program()
    words = made.words[: cut % len(made.words)].copy()
    with pytest.raises(Unsupported, match="refuses the program"):
        loaded(made._replace(words=words))


def test_two_processes_may_compile_at_once(fresh: Path) -> None:
    script = (
        "from bench.runtimes.native.build import library\n"
        "found = library()\nassert found.loaded is not None, found.reason\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    left = sorted(path.suffix for path in (fresh / "cache" / "skipbench" / "native").iterdir())
    assert left == [".so"]
