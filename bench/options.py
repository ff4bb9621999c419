"""What `bench run` can be told, from options, a YAML file, or Python; one model for all three.

Owns defaults and how the sources are laid over each other; resolves no names.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError, field_validator

from bench.config import Frozen, Seed
from bench.errors import ConfigError
from bench.folders import from_home
from bench.plain_text import one_line, shown
from bench.plain_yaml import UnreadableYamlError, read_yaml
from bench.recipes import Precision
from bench.spaces import setting_in
from bench.storage import read_limited, reason_of

DEMO_METHODS = ("resnet", "sgad", "blockdrop")
_SMALL_IMAGES = ("digits", "graded_digits")
_LONGEST_ERROR = 300
_LONGEST_FILE = 1 << 20
_SETTINGS = "Settings stand in a file as  settings: {method: {key: value}}"
_FLAGS = {
    **{"settings": "--set", "compiled": "--compile", "sources": "--source"},
    **{"runtimes": "--runtime", "params": "--param", "time_limit_s": "--time-limit"},
}
"""Options of the command line whose names are not those of their fields."""

_SENTENCES = {
    "int_parsing": "it must be a whole number",
    "int_type": "it must be a whole number",
    "too_short": "at least one is needed",
    "dict_type": "it must map names to values",
}
Name = Annotated[str, Field(max_length=4096)]  # a path is the longest that a name can be
Epochs = Annotated[int, Field(ge=0, le=1_000_000)]


class RunOptions(Frozen):
    """The options of `bench run`; the defaults are the demo.

    A field with a description is an option of the command line. `threads` are those of each
    training; None: by the size of the images and the runs to do. `workers`: None: one a core.
    """

    methods: tuple[Name, ...] = Field(
        DEMO_METHODS,
        min_length=1,
        description="Names with commas, or all. Default: resnet,sgad,blockdrop.",
    )
    dataset: Name = Field(
        "graded_digits", description="A name or a folder of images. Default: graded_digits."
    )
    backbone: Name = Field("", description="Default: resnet32, or resnet14 for embedded data.")
    shortcut: Literal["A", "B"] = Field("A", description="At stage borders.")
    recipe: Name = Field("quick", description="See bench list recipes. Default: quick.")
    epochs: Epochs | None = Field(None, description="Instead of the recipe's.")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="With commas. Default: 0.")
    device: Name = Field("auto", description="auto, cpu or cuda.")
    pretrained: Path | None = Field(None, description="Weights of a trained network to start from.")
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="METHOD.KEY=VALUE or train.KEY=VALUE; repeatable."
    )
    precision: Precision | Literal["auto"] = Field(
        "fp32",
        description="auto: bf16 where a trial finds that this machine trains faster with it.",
    )
    compiled: bool = Field(False, description="Train with torch.compile.")
    held_out: NonNegativeInt = Field(0, description="Training images kept out, watched by epoch.")
    normalise: Name = Field(
        "", description="imagenet, cifar or MEAN/STD. Default: of the weights or the data."
    )
    controls: tuple[Name, ...] = Field(
        ("all",), description="Beside dynamic methods: all, none, or names with commas."
    )
    sources: tuple[Name, ...] = Field(
        (), description="A finished run that a control is made from; repeatable."
    )
    latency: Literal["smoke", "default", "publish", "off"] = Field(
        "smoke", description="How thoroughly to time. Default: smoke."
    )
    threads: PositiveInt | None = Field(
        None,
        description="CPU threads of each training. Default: by the size of the images and the "
        "runs.",
    )
    workers: PositiveInt | None = Field(
        None, description="Processes that read images too many for memory. Default: one a core."
    )
    runtimes: tuple[Name, ...] = Field(
        (), description="With commas, or all. Default: all that fit."
    )

    @field_validator("methods", "seeds", "controls", "sources", "runtimes", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return (value,) if isinstance(value, int) else value

    @field_validator("pretrained")
    @classmethod
    def _from_home(cls, value: Path | None) -> Path | None:
        return None if value is None else Path(from_home(str(value)))

    @property
    def backbone_name(self) -> str:
        """The backbone asked for; small embedded images get a small one by default."""
        return self.backbone or ("resnet14" if self.dataset in _SMALL_IMAGES else "resnet32")


Options = TypeVar("Options", bound=Frozen)
M = TypeVar("M", bound=BaseModel)


def flag_of(field: str) -> str:
    """Return the option of the command line that stands for a field."""
    return _FLAGS.get(field, f"--{field.replace('_', '-')}")


def read_options(
    model: type[Options], given: Mapping[str, Any], *, file: Path | None = None
) -> Options:
    """Return the options in `given` (None means not given) laid over those of a YAML file.

    Raises:
        ConfigError: the file cannot be read, or an option is unknown or has a wrong value.
    """
    told = {key: value for key, value in given.items() if value is not None}
    if file is not None:
        of_file = _read_yaml(file)
        validated(model, of_file, where=f" in {file}")  # by itself: an error can name the file
        told = _laid_over(of_file, told)
    return validated(model, told)


def _laid_over(under: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options `given` over those `under`; settings and ranges one by one."""
    groups = dict(under.get("settings", {}))
    for group, settings in given.get("settings", {}).items():
        groups[group] = {**groups.get(group, {}), **settings}
    merged = {**under, **given, "settings": groups}
    if "params" in merged:
        merged["params"] = {**under.get("params", {}), **given.get("params", {})}
    return merged


def parse_settings(items: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parse `METHOD.KEY=VALUE` items; values are read as YAML.

    Raises:
        ConfigError: an item has another form, or its value cannot be read.
    """
    parsed: dict[str, dict[str, Any]] = {}
    for item in items:
        group, key, text = setting_in(item, "--set", form="VALUE", like="sgad.d_max=0.8")
        try:
            parsed.setdefault(group, {})[key] = read_yaml(text)
        except UnreadableYamlError as error:
            said = one_line(item, longest=80)
            raise ConfigError(f"--set {said}: the value cannot be read: {error}.") from None
    return parsed


class Campaign(Frozen):
    """Many commands in one file: each of `steps` is the options of one `bench run`, laid over
    `common`."""

    about: str = ""
    common: dict[str, Any] = Field(default_factory=dict)
    steps: tuple[dict[str, Any], ...] = Field(min_length=1)


def read_campaign(file: Path) -> list[RunOptions]:
    """Return the options of each step of the campaign in `file`, in order.

    Raises:
        ConfigError: the file cannot be read, or a step has an unknown option or a wrong value.
    """
    campaign = validated(Campaign, _read_yaml(file), where=f" in {file}")
    validated(RunOptions, campaign.common, where=f" in common of {file}")
    steps: list[RunOptions] = []
    for number, step in enumerate(campaign.steps, start=1):
        where = f" in step {number} of {file}"
        validated(RunOptions, step, where=where)
        steps.append(validated(RunOptions, _laid_over(campaign.common, step), where=where))
    return steps


def validated(model: type[M], given: Mapping[str, Any], *, owner: str = "", where: str = "") -> M:
    """Return a model of the values given, with messages for a person.

    They are options, or the settings of the method `owner`; `where` says in which file they stand.

    Raises:
        ConfigError: a key does not exist or a value is wrong.
    """
    for key, value in given.items():
        field = model.model_fields.get(key)
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        values = value if isinstance(value, list) else [value]
        # They would count as 1 and 0.
        if kinds and not {bool, Any} & {*kinds} and any(isinstance(one, bool) for one in values):
            raise ConfigError(
                f"'{one_line(key, longest=80)}': true and false are no value of it.",
                hint="A word that looks like one goes in quotes.",
            )
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    kind, known = "setting" if owner else "option", list(model.model_fields)
    if first["type"] == "extra_forbidden":
        key = one_line(".".join(path), longest=_LONGEST_ERROR)
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
        nearest = f"Did you mean {' or '.join(map(repr, near))}?"
        raise ConfigError(
            f"'{owner}' has no setting '{key}'."
            if owner
            else f"There is no option '{key}'{where}.",
            hint=nearest if near else f"The {kind}s: {', '.join(known) or 'none'}.",
        )
    key = path[0] if path else "options"
    name = f"{owner}.{key}" if owner else f"'{key}'" if where else flag_of(key)
    reason = _SENTENCES.get(first["type"]) or first["msg"].replace("Input should", "it must")
    raise ConfigError(
        f"{name}{where}: {shown(first.get('input'))} cannot be used:"
        f" {one_line(reason, longest=_LONGEST_ERROR)}.",
        hint=_SETTINGS if key == "settings" else None,
    )


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        loaded = read_yaml(read_limited(file, limit_bytes=_LONGEST_FILE).decode())
    except (OSError, UnicodeDecodeError, UnreadableYamlError) as error:
        why = reason_of(error) if isinstance(error, OSError) else str(error)
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else why
        raise ConfigError(f"The configuration {file} cannot be read: {why}.") from None
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"The configuration {file} must map options to values.",
            hint="Like:  methods: [resnet, sgad]",
        )
    return {str(key): value for key, value in loaded.items()}
