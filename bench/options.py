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
from bench.plain_yaml import LONGEST_TEXT, UnreadableYamlError, read_yaml
from bench.recipes import Precision
from bench.spaces import setting_in
from bench.storage import read_limited, reason_of

DEMO_METHODS = ("resnet", "sgad", "blockdrop")
_SMALL_IMAGES = ("digits", "graded_digits", "synthetic")
_LONGEST_ERROR = 300
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
    merged: dict[str, Any] = {}
    if file is not None:  # checked by itself, so that an error can name the file
        of_file = _read_yaml(file)
        checked = _validated(model, of_file, source=f" in {file}")
        merged = {key: getattr(checked, key) for key in of_file}
    for key, value in given.items():
        if value is not None:
            if key == "settings":
                value = _laid_over(merged.get("settings", {}), value)
            if key == "params":
                value = {**merged.get("params", {}), **value}
            merged[key] = value
    return _validated(model, merged, source="")


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


def read_campaign(file: Path, *, weights_dir: Path | None = None) -> list[RunOptions]:
    """Return the options of each step of the campaign in `file`, in order.

    Weights that a step names and that do not lie there are looked for in `weights_dir`.

    Raises:
        ConfigError: the file cannot be read, or a step has an unknown option or a wrong value.
    """
    campaign = _validated(Campaign, _read_yaml(file), source=f" in {file}")
    common = _validated(RunOptions, campaign.common, source=f" in common of {file}").settings
    steps: list[RunOptions] = []
    for number, step in enumerate(campaign.steps, start=1):
        source = f" in step {number} of {file}"
        settings = _laid_over(common, _validated(RunOptions, step, source=source).settings)
        given = {**campaign.common, **step, "settings": settings}
        options = _validated(RunOptions, given, source=source)
        if options.pretrained is not None and not options.pretrained.exists():
            options = options.model_copy(update={"pretrained": _found(options, weights_dir, file)})
        steps.append(options)
    return steps


def _found(options: RunOptions, folder: Path | None, file: Path) -> Path:
    assert options.pretrained is not None
    name = options.pretrained.name
    if folder is not None and (folder / name).is_file():
        return folder / name
    raise ConfigError(
        f"The campaign {file} starts from {name}, which is not here.",
        hint="Give the folder in which it lies with --weights-dir.",
    )


def _laid_over(
    settings: dict[str, dict[str, Any]], given: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    return {group: settings.get(group, {}) | given.get(group, {}) for group in settings | given}


def refuse_truth_values(model: type[BaseModel], given: Mapping[str, Any]) -> None:
    """Refuse true and false where a field is meant for something else: they would count as 1 and 0.

    Raises:
        ConfigError: there is one; the message begins with the name of the field.
    """
    for key, value in given.items():
        field = model.model_fields.get(key)
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        if field is None or bool in kinds or Any in kinds:
            continue
        if any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value])):
            raise ConfigError(
                f"'{one_line(key, longest=80)}': true and false are no value of it.",
                hint="A word that looks like one goes in quotes.",
            )


def _validated(model: type[Options], given: Mapping[str, Any], *, source: str) -> Options:
    refuse_truth_values(model, given)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _refusal(model, error, source=source) from None


def _refusal(model: type[Frozen], error: ValidationError, *, source: str) -> ConfigError:
    """Return the first thing that is wrong, in the words of the command line or of a file."""
    problems = error.errors()
    if model is not Campaign and any(problem["loc"][:1] == ("steps",) for problem in problems):
        return ConfigError(
            f"There are steps{source}: it is a campaign.", hint="Start it with: bench campaign FILE"
        )
    first = problems[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        key = one_line(".".join(path), longest=_LONGEST_ERROR)
        return ConfigError(f"There is no option '{key}'{source}.", hint=_hint(model, key))
    key = path[0] if path else "options"
    name = f"'{key}'" if source else flag_of(key)
    reason = _SENTENCES.get(first["type"]) or first["msg"].replace("Input should", "it must")
    return ConfigError(
        f"{name}{source}: {shown(first.get('input'))} cannot be used:"
        f" {one_line(reason, longest=_LONGEST_ERROR)}.",
        hint=_SETTINGS if key == "settings" else None,
    )


def _hint(model: type[Frozen], key: str) -> str:
    if key in {"set", "--set"}:
        return _SETTINGS
    near = difflib.get_close_matches(key, model.model_fields, n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else f"Options: {', '.join(model.model_fields)}."


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        loaded = read_yaml(read_limited(file, limit_bytes=LONGEST_TEXT).decode())
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
