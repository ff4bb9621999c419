"""What `bench run` can be told, from options, a YAML file, or Python; one model for all three.

Owns defaults and how the sources are laid over each other; resolves no names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, NonNegativeInt, ValidationError, field_validator

from bench.config import Frozen
from bench.errors import ConfigError
from bench.recipes import Precision

DEMO_METHODS = ("resnet", "sgad", "blockdrop")
_SMALL_IMAGES = ("digits", "synthetic")


class RunOptions(Frozen):
    """The options of `bench run`; the defaults are the demo."""

    methods: tuple[str, ...] = DEMO_METHODS
    dataset: str = "digits"
    backbone: str = ""
    shortcut: Literal["A", "B"] = "A"
    recipe: str = "quick"
    epochs: NonNegativeInt | None = None
    seeds: tuple[NonNegativeInt, ...] = Field((0,), min_length=1)
    device: str = "auto"
    pretrained: Path | None = None
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    precision: Precision = "fp32"
    compiled: bool = False
    held_out: NonNegativeInt = 0
    controls: tuple[str, ...] = ("all",)
    sources: tuple[str, ...] = ()
    latency: Literal["smoke", "default", "publish", "off"] = "smoke"

    @field_validator("methods", "seeds", "controls", "sources", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return (value,) if isinstance(value, int) else value

    @property
    def backbone_name(self) -> str:
        """The backbone asked for; small embedded images get a small one by default."""
        return self.backbone or ("resnet14" if self.dataset in _SMALL_IMAGES else "resnet32")


Options = TypeVar("Options", bound=RunOptions)


def run_options(given: Mapping[str, Any], *, file: Path | None = None) -> RunOptions:
    """Return the options of `bench run`; the rest as `read_options`."""
    return read_options(RunOptions, given, file=file)


def read_options(
    model: type[Options], given: Mapping[str, Any], *, file: Path | None = None
) -> Options:
    """Return the options in `given` (None means not given) laid over those of a YAML file.

    Raises:
        ConfigError: the file cannot be read, or an option is unknown or has a wrong value.
    """
    merged = _read_yaml(file) if file is not None else {}
    for key, value in given.items():
        if value is None:
            continue
        if key == "settings":
            groups = dict(merged.get("settings") or {})
            for group, fields in value.items():
                groups[group] = {**groups.get(group, {}), **fields}
            value = groups
        if key == "params":
            value = {**(merged.get("params") or {}), **value}
        merged[key] = value
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        source = f" in {file}" if file is not None else ""
        raise ConfigError(
            f"Option '{key}'{source}: {first['msg']} (given: {first.get('input')!r}).",
            hint=f"Options: {', '.join(model.model_fields)}.",
        ) from error


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {file} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"The configuration {file} is not YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"The configuration {file} must map options to values.",
            hint="Like:  methods: [resnet, sgad]",
        )
    return {str(key): value for key, value in loaded.items()}
