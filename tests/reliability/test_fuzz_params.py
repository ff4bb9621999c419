"""Ranges of a sweep may be anything: they are searched, or refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bench.data.load import load_dataset
from bench.errors import BenchError
from bench.options import read_options
from bench.records.sweep import load_sweep, load_sweeps
from bench.spaces import parse_params
from bench.sweep.options import SweepOptions
from bench.sweep.trials import planner, proposals, spaces_of

pytestmark = pytest.mark.reliability

DIGITS = load_dataset("digits", data_dir=Path("unused"))
ENDS = st.one_of(
    st.sampled_from(["0", "1", "-1", "nan", "inf", "1e308", "1e-320", "9" * 400, "", "0x1", "1_0"]),
    st.floats().map(str),
    st.integers(-(2**70), 2**70).map(str),
)
RANGES = st.one_of(
    st.builds("{}:{}:{}".format, st.sampled_from(["uniform", "loguniform", "int"]), ENDS, ENDS),
    st.lists(ENDS, max_size=4).map(",".join),
    st.sampled_from(["[[1]]", "{a: 1}", "true,false", "~", "&a [1],*a", "!!set {a}", "[" * 3000]),
    st.text(max_size=30),
)
NAMES = st.one_of(
    st.sampled_from(
        [
            *("sgad.gamma", "sgad.d_max", "sgad.bmnet", "sgad.sgnet_depth", "train.lr"),
            *("train.batch_size", "train.kind", "sgad.__class__", "resnet.x", "nobody.x"),
        ]
    ),
    st.text(max_size=20),
)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=NAMES, text=RANGES, search=st.sampled_from(["", "grid", "random", "optuna"]))
@example(name="train.batch_size", text="int:1:1e300", search="random")
@example(name="train.batch_size", text="int:1:1e300", search="optuna")
@example(name="sgad.gamma", text="uniform:-1e308:1e308", search="optuna")
@example(name="sgad.gamma", text="[1],[2]", search="optuna")
def test_a_range_is_searched_or_refused_in_words(name: str, text: str, search: str) -> None:
    samples = None if search in {"", "grid"} else 3
    try:
        params = {key: str(space) for key, space in parse_params([f"{name}={text}"]).items()}
        given_options = {"params": params, "search": search, "samples": samples}
        options = read_options(SweepOptions, given_options)
        plan = planner(options, DIGITS, None)
        found = proposals(search, "sgad", spaces_of("sgad", options), samples=samples)
        for tried in iter(found.ask, None):
            for trial in plan.trials(tried, [0]):
                assert trial.spec.run == Path(trial.spec.run).name
            found.tell(tried, [0.5])
    except BenchError as error:
        assert len(error.message) < 2000


OPTIONS = st.dictionaries(
    st.sampled_from([*SweepOptions.model_fields, "nothing"]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=20),
        st.lists(st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=3),
        st.dictionaries(NAMES, st.one_of(st.integers(), RANGES, st.lists(ENDS)), max_size=2),
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(given_options=OPTIONS)
def test_options_of_a_sweep_are_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, given_options: dict[str, Any]
) -> None:
    file = tmp_path_factory.mktemp("options") / "sweep.yaml"
    file.write_text(json.dumps(given_options))
    try:
        options = read_options(SweepOptions, {}, file=file)
    except BenchError as error:
        assert len(error.message) < 2000
    else:
        assert options.latency == "off"
        assert options.methods and options.seeds


@settings(max_examples=300, deadline=None)
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
@example(content=b'{"version": 1}')
@example(content=b"null")
@example(content=b"[" * 100_000)
def test_documents_of_sweeps_are_read_or_listed_as_problems(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("results")
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "odd.json").write_bytes(content)
    found, problems = load_sweeps(folder)
    assert (len(found), len(problems)) == (0, 1)
    with pytest.raises(BenchError):
        load_sweep(folder, "odd")
