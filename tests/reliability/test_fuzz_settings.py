"""Settings and configuration files may be anything: they are read, or refused in words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import run_options
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bench.data.images import DatasetInfo
from bench.engine.plan import make_plan
from bench.errors import BenchError, ConfigError
from bench.options import RunOptions, parse_settings
from bench.plain_yaml import UnreadableYamlError, read_yaml

pytestmark = pytest.mark.reliability

DIGITS = DatasetInfo(
    "digits", "Digits", tuple("0123456789"), 1, 8, 8, (0.3,), (0.4,), 1, False, False, "0" * 16
)
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
ODD_VALUES = st.sampled_from(
    [
        *("nan", ".nan", ".inf", "-.inf", "true", "no", "~", "", "[]", "{}", "[1, 2]", "{a: 1}"),
        *("1e999", "-1", "0", "1" * 5000, "0x" + "f" * 6000, "1:60:60", "2001-13-45", "2024-01-01"),
        *("!!python/object/apply:os.system [echo]", "!!binary aGk=", "!!set {a}", "*a", "&a [*a]"),
        *(
            *("[" * 3000, "{a: " * 500, "<<: {a: 1}", "? [a]\n: b", "{a: 1, a: 2}", "=", "\x00"),
            "\x1b[",
        ),
        *("a" * 200_000, "99999999999999999999", "1e18", "0.5", "- 1", '"\\ud800"', "\ud800"),
        LAUGHS,
    ]
)
METHODS = st.sampled_from(
    ["resnet", "sgad", "blockdrop", "train", "act", "cdl", "skipnet", "__class__"]
)
KEYS = st.one_of(
    st.sampled_from(
        [
            *("d_max", "lr", "batch_size", "momentum", "milestones", "warmup_steps", "schedule"),
            *("__class__", "model_config", "a.b", "../x", "tau", "p", "alpha", "epochs", "kind"),
        ]
    ),
    st.text(min_size=1, max_size=20),
)
ITEMS = st.one_of(
    st.text(max_size=60),
    st.builds(
        "{}.{}={}".format,
        st.one_of(METHODS, st.text(min_size=1, max_size=10)),
        KEYS,
        st.one_of(ODD_VALUES, st.text(max_size=40)),
    ),
)


def planned(options: RunOptions) -> None:
    for item in make_plan(options, DIGITS, train_size=1297, weights=None):
        json.loads(item.spec.model_dump_json())
        assert len(item.spec.run) < 200 and "/" not in item.spec.run


def short(error: BenchError) -> None:
    assert error.message and len(str(error)) < 3000 and error.exit_status in (1, 2)


@settings(max_examples=400, deadline=None)
@example(items=["sgad.d_max=nan"])
@example(items=["resnet.=1", "train.lr=[]"])
@given(items=st.lists(ITEMS, max_size=3))
def test_any_settings_make_a_plan_or_are_refused(items: list[str]) -> None:
    try:
        parsed = parse_settings(items)
        chosen = tuple(name for name in parsed if name in ("sgad", "blockdrop", "act", "cdl"))
        given_ = {"methods": ("resnet", *chosen), "settings": parsed, "controls": "none"}
        planned(run_options(given_))
    except BenchError as error:
        short(error)


@pytest.mark.parametrize("name", ["sgad", "blockdrop", "act", "cdl", "skipnet", "train", "resnet"])
@settings(max_examples=60, deadline=None)
@given(value=st.one_of(ODD_VALUES, st.floats().map(str), st.integers().map(str)), data=st.data())
def test_every_setting_takes_any_value_or_refuses_it(name: str, value: str, data: Any) -> None:
    from bench.method import METHODS as REGISTRY
    from bench.recipes import OptimizerSpec

    model: Any = OptimizerSpec if name == "train" else REGISTRY.get(name).Config
    fields = sorted(model.model_fields) or ["none"]
    key = data.draw(st.sampled_from([*fields, "batch_size"]))
    methods = ("resnet",) if name == "train" else ("resnet", name)
    try:
        parsed = parse_settings([f"{name}.{key}={value}"])
        planned(run_options({"methods": methods, "settings": parsed, "controls": "none"}))
    except BenchError as error:
        short(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    given_=st.dictionaries(
        st.sampled_from([*RunOptions.model_fields, "colour", "__class__"]), JSON, max_size=5
    )
)
def test_a_file_with_wrong_types_is_refused_or_read(given_: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump(given_, allow_unicode=True), encoding="utf-8")
    _read_or_refused(file)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda t: t.encode(errors="surrogatepass")),
    )
)
@example(content=LAUGHS.encode())
@example(content=b"[" * 100_000)
@example(content=b"a: " * 10_000)
@example(content=b"\xff\xfe\x00")
@example(content=b"methods: !!python/object/apply:os.system ['touch x']")
@example(content=b"settings: 5")
@example(content=b"settings: {sgad: 5}")
@example(content=b"x: " + b"9" * 6000)
@example(content=b"- 1\n" * 400_000)
def test_any_bytes_are_a_configuration_or_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_bytes(content)
    _read_or_refused(file)


def _read_or_refused(file: Path) -> None:
    try:
        options = run_options({"settings": {"sgad": {"d_max": 0.5}}}, file=file)
    except ConfigError as error:
        short(error)
    else:
        assert options.settings["sgad"]["d_max"] == 0.5


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "it is a folder"),
        (_pipe, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (lambda path: path.symlink_to("/no/such/place"), "No such file"),
        (lambda path: path.write_bytes(b"#" * (2 << 20)), "larger than 1 MiB"),
        (lambda path: path.write_bytes(b"\xe4: 1"), "not UTF-8"),
    ],
)
def test_what_is_no_small_text_file_is_not_read(make: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    make(file)
    with pytest.raises(ConfigError, match=said):
        run_options({}, file=file)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(ODD_VALUES, st.text(max_size=80)))
def test_what_is_read_is_plain(text: str) -> None:
    try:
        value = read_yaml(text)
    except UnreadableYamlError:
        return
    _check_plain(value, depth=0)


def _check_plain(value: Any, *, depth: int) -> None:
    assert depth < 200
    if isinstance(value, list):
        for item in value:
            _check_plain(item, depth=depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str | int | float | type(None))
            _check_plain(item, depth=depth + 1)
    else:
        assert value is None or type(value) in (bool, int, float, str)
