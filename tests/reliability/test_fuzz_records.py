"""Records with a right checksum and wrong content: counted with safe output, or listed as problems.

Starts from records in results/reference and synthetic ones, changes values anywhere, and
gives each the checksum that belongs to it, as somebody who means harm would.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import drawing
from bench.commands.listings import listing
from bench.errors import RecordError
from bench.folders import Folders
from bench.records import arrays as arrays_room
from bench.records.arrays import read_arrays
from bench.records.document import _sha256, decode
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.report.data.rows import rows
from bench.report.tables.results import render, rich_table

pytestmark = [pytest.mark.reliability, pytest.mark.filterwarnings("ignore:Glyph")]

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "runs"
NAMES = sorted(path.name for path in REFERENCE.iterdir() if (path / "record.json").exists())
CONTENT = {
    name: json.loads((REFERENCE / name / "record.json").read_text())["record"] for name in NAMES
}
HOSTILE = [
    *(float("nan"), float("inf"), -float("inf"), -1, -0.5, 1e308, 5e-324, 2**63, -(2**63), 10**30),
    *(
        *(0, 1, True, None, "", [], {}, "nan", "inf", "-inf", "1e400", "../../x", "a/b", "\0"),
        "\x1b[2J",
    ),
    *("<script>alert(1)</script>", "[red]x[/red]", "$(touch x)", "`id`", "; rm -rf", "|", "%"),
    *("=1+1", "@x", "\\input{x}", "$\\frac{", "\u202eabc", "\ud800", "a\nb\r\nc", "x" * 100_000),
    *([[[]]], {"a": {"b": 1}}, ["block999"], ["block0", "x"], {"block0": 2.0}, {"block0": -1}),
    *("2026-13-99", "block", "/etc/passwd", "record.json", "C:\\x", "finished", "failed"),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for number, (key, item) in enumerate(inner):
        if number < 4:  # of long histories the first are like the others
            yield from places(item, (*path, key))


PLACES = {name: list(places(content))[1:] for name, content in CONTENT.items()}


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(content))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


def named_like_its_spec(content: Any) -> Any:
    """Give the record the name that belongs to its spec: the check of names is passed too."""
    from bench.config import RunSpec

    try:
        return {**content, "run": RunSpec.model_validate(content["spec"]).run}
    except Exception:
        return content


def document(content: Any) -> bytes:
    return json.dumps({"sha256": _sha256(content), "record": content}).encode()


def checked(text: str) -> None:
    assert "\x1b" not in text and "\0" not in text and "\u202e" not in text
    assert "<script" not in text.lower() or "&lt;script" in text.lower()


def shown_in_every_form(records: list[RunRecord]) -> None:
    from rich.console import Console

    found = rows(records)
    for form in ("csv", "json", "md", "latex"):
        text = render(found, form)
        assert "\x1b" not in text and "\0" not in text and "\u202e" not in text
    console = Console(file=io.StringIO(), width=100)
    console.print(rich_table(found))
    assert "\x1b" not in console.file.getvalue()  # type: ignore[attr-defined]
    list(csv.reader(io.StringIO(render(found, "csv"))))
    for row in json.loads(render(found, "json")):
        assert row["accuracy"] is None or 0 <= row["accuracy"] <= 1


mutation = st.sampled_from(NAMES).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.lists(
            st.tuples(st.sampled_from(PLACES[name]), st.sampled_from(HOSTILE)),
            min_size=1,
            max_size=3,
        ),
        st.booleans(),
    )
)


def mutated(recipe: tuple[str, list[tuple[tuple[Any, ...], Any]], bool]) -> Any:
    name, changes, renamed = recipe
    content = CONTENT[name]
    for path, value in changes:
        try:
            content = changed(content, path, value)
        except (KeyError, TypeError, IndexError, UnicodeError, ValueError):
            continue
    return named_like_its_spec(content) if renamed else content


def decoded(content: Any) -> RunRecord | None:
    try:
        return decode(document(content))
    except RecordError as error:
        assert error.message and len(error.message) < 2000
        return None


@settings(max_examples=350, deadline=None)
@given(recipe=mutation)
def test_a_changed_record_is_refused_or_shown_safely(recipe: Any) -> None:
    record = decoded(mutated(recipe))
    if record is not None:
        shown_in_every_form([record, decode(document(CONTENT[TIMED]))])


@pytest.mark.parametrize("name", [NAMES[0], NAMES[-1]])
def test_every_place_with_every_hostile_value_is_decoded_or_refused(name: str) -> None:
    counted = 0
    for number, path in enumerate(PLACES[name]):
        for value in HOSTILE[number % 3 :: 3]:
            record = decoded(changed(CONTENT[name], path, value))
            if record is not None:
                rows([record])
                counted += 1
    assert counted


@settings(max_examples=300, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.sampled_from(
            [
                *(b"[" * 200_000, b"1" * 6000, b'{"sha256": "", "record": {}}', b"\xff", b"null"),
                b'{"record": {"a": NaN}, "sha256": ""}',
            ]
        ),
    )
)
def test_any_bytes_are_no_record(content: bytes) -> None:
    with pytest.raises(RecordError):
        decode(content)


def test_lists_in_lists_without_end_are_refused() -> None:
    deep = '{"sha256": "0", "record": {"schema_version": 1, "x": ' + "[" * 900 + "]" * 900 + "}}"
    with pytest.raises(RecordError):
        decode(deep.encode())


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "results", tmp_path / "data")


def put(folders: Folders, content: Any) -> Path:
    folder = folders.results / "runs" / content["run"]
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(document(content))
    return folder


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(recipes=st.lists(mutation, min_size=2, max_size=5))
def test_every_view_of_a_folder_of_changed_records_answers(recipes: Any, tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        folders = Folders(Path(name) / "results", Path(name) / "data")
        for recipe in recipes:
            content = mutated(recipe)
            plain = isinstance(content.get("run"), str) and content["run"] in NAMES
            folder = folders.results / "runs" / (content["run"] if plain else recipe[0])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "record.json").write_bytes(document(content))
        every_view(folders)
        assert sorted(p.name for p in Path(name).iterdir()) == ["results"]


def every_view(folders: Folders) -> None:
    found, problems = drawing.results(folders)
    for problem in problems:
        assert problem.reason
    shown_in_every_form(RunStore(folders.results).load_all().records)
    listing("runs", folders.results)
    known = {row.dataset for row in found if row.accuracy is not None}
    for name in sorted(known):
        for x, suffix in (("nflops", "html"), ("latency_ms", "png"), ("macs", "png")):
            out = folders.results / f"{x}.{suffix}"
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph")
                drawing.pareto(folders, x=x, dataset=name, out=out, published=True)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        drawing.draw_latency(RunStore(folders.results).load_all().records, folders)


TIMED = next(name for name in NAMES if CONTENT[name]["points"][0]["latency"])


def bad_arrays() -> dict[str, dict[str, Any]]:
    calls, images = 50, 10_000
    good = {
        "image_nb": np.arange(calls)[:, None],
        "ms_n": np.ones(calls),
        "macs_n": np.full(images, 5e7),
        "loss_n": np.ones(images),
    }
    return {
        "nothing": {},
        "text": {key: np.array(["a"] * len(value)) for key, value in good.items()},
        "another length": {**good, "ms_n": np.ones(calls + 1)},
        "no calls": {**good, "ms_n": np.ones(0), "image_nb": np.zeros((0, 1), int)},
        "images that are not there": {**good, "image_nb": np.full((calls, 1), 10**9)},
        "negative images": {**good, "image_nb": np.full((calls, 1), -1)},
        "fractions of images": {**good, "image_nb": np.full((calls, 1), 0.5)},
        "flat": {**good, "image_nb": np.arange(calls)},
        "no axes": {key: np.array(1.0) for key in good},
        "complex": {key: value.astype(complex) for key, value in good.items()},
        "not numbers": {**good, "ms_n": np.full(calls, np.nan)},
        "no time": {**good, "ms_n": np.zeros(calls)},
        "negative times": {**good, "ms_n": -np.ones(calls)},
        "infinite costs": {**good, "macs_n": np.full(images, np.inf)},
        "negative costs": {**good, "macs_n": np.full(images, -1.0)},
        "no costs": {**good, "macs_n": np.zeros(images)},
        "dates": {**good, "ms_n": np.zeros(calls, "datetime64[s]")},
        "records": {**good, "ms_n": np.zeros(calls, [("a", int)])},
    }


@pytest.mark.parametrize("what", bad_arrays())
def test_arrays_of_another_kind_are_left_out_of_the_figures(what: str, folders: Folders) -> None:
    folder = put(folders, CONTENT[TIMED])
    arrays = bad_arrays()[what]
    for point in CONTENT[TIMED]["points"]:
        for name in (point["arrays_file"], *(cell["raw_file"] for cell in point["latency"])):
            np.savez(folder / name, **arrays)
    drawing.draw_latency(RunStore(folders.results).load_all().records, folders)


def test_arrays_that_hold_code_bombs_or_lie_elsewhere_are_refused(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import os

    folder = put(folders, CONTENT[TIMED])
    monkeypatch.setattr(arrays_room, "LARGEST_BYTES", 1 << 20)
    np.savez(folder / "code.npz", x=np.array([Path("x")], dtype=object))
    np.savez_compressed(folder / "bomb.npz", x=np.zeros(8 << 20, np.uint8))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)}
    )
    with zipfile.ZipFile(folder / "claims.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    os.mkfifo(folder / "pipe.npz")
    (folder / "folder.npz").mkdir()
    (folder / "cut.npz").write_bytes((folder / "bomb.npz").read_bytes()[:100])
    (folder / "text.npz").write_text("hello")
    np.savez(tmp_path / "elsewhere.npz", x=np.zeros(1))
    for name in ("code", "bomb", "claims", "pipe", "folder", "cut", "text", "absent"):
        with pytest.raises(RecordError):
            read_arrays(folder, f"{name}.npz")
    for name in ("../../../elsewhere.npz", str(tmp_path / "elsewhere.npz"), "", "..", "a\0b"):
        with pytest.raises(RecordError):
            read_arrays(folder, name)


def test_the_reference_records_are_all_counted(folders: Folders) -> None:
    shutil.copytree(REFERENCE, folders.results / "runs")
    found, problems = drawing.results(folders)
    assert problems == [] and {row.run for row in found} == set(NAMES)
