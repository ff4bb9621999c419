"""YAML as users mean it: words stay words, numbers are decimal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import run_options

from bench.data.images import DatasetInfo
from bench.engine.plan import make_plan
from bench.errors import ConfigError
from bench.plain_yaml import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("off", "no", "on", "Yes", "1:30", "1_000", "2024-01-01")),
        *(("true", True), ("False", False), ("~", None), ("", None), ("null", None)),
        *(("010", 10), ("007", 7), ("-08", -8), ("+1", 1), ("0", 0), ("00", 0), ("0x1f", 31)),
        *(("1e-3", 0.001), ("0.10", 0.1), (".5", 0.5), ("5.", 5.0), (".inf", float("inf"))),
        *(("'010'", "010"), ('"true"', "true"), ("=", "="), ("[off, 010]", ["off", 10])),
    ],
)
def test_values_without_quotes_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    read = read_yaml(text)
    assert (read, type(read)) == (value, type(value))


def options_in(text: str, folder: Path) -> Any:
    file = folder / "options.yaml"
    file.write_text(text)
    return run_options({}, file=file)


def test_words_and_numbers_in_a_file_mean_what_they_say(tmp_path: Path) -> None:
    options = options_in("latency: off\nseeds: [00, 010]\nepochs: 03\ncompiled: no\n", tmp_path)
    assert (options.latency, options.seeds, options.epochs) == ("off", (0, 10), 3)
    assert options.compiled is False


@pytest.mark.parametrize(
    "text", ["epochs: true", "seeds: [false]", "held_out: True", "latency: false", "backbone: true"]
)
def test_true_and_false_are_no_numbers_and_no_words(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="true and false are no value"):
        options_in(text, tmp_path)


def test_true_is_no_number_in_the_settings_of_a_method_either(tmp_path: Path) -> None:
    info = DatasetInfo(
        "digits", "Digits", tuple("0123456789"), 1, 8, 8, (0.3,), (0.4,), 1, False, False, "0" * 16
    )
    for setting in ("sgad: {d_max: true}", "train: {lr: true}"):
        options = options_in(f"methods: [sgad]\nsettings: {{{setting}}}\n", tmp_path)
        with pytest.raises(ConfigError, match="true and false are no value"):
            make_plan(options, info, train_size=100, weights=None)


def test_paths_in_a_file_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    options = options_in("pretrained: ~/net.pth\n", tmp_path)
    assert options.pretrained == tmp_path / "home" / "net.pth"
