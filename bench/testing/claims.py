"""Checks of what a method says of itself: reference, tags, settings, who decides.

Each takes the workbench and raises a Shortfall; what it proves is said in suite.py.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

from bench.errors import BenchError
from bench.method import CONTRACT, Method, MethodConfig, Tags
from bench.registry import NAME, RESERVED_NAMES
from bench.testing.outcome import Shortfall
from bench.testing.perturbation import gated_columns
from bench.testing.workbench import Subject, Workbench


def metadata(bench: Workbench, known_checks: Iterable[str]) -> None:
    method = bench.method
    if not NAME.fullmatch(method.name) or method.name in RESERVED_NAMES:
        raise Shortfall(
            f"'{method.name}' cannot be a method's name.",
            f"letters, digits, - and _ only, and none of {', '.join(RESERVED_NAMES)}.",
        )
    if method.contract != CONTRACT:
        raise Shortfall(
            f"It was written for version {method.contract} of the contract; this is {CONTRACT}.",
            "CHANGELOG.md says what changed under *Contract*; adapt it, then set `contract`.",
        )
    _require_reference(method)
    _require_tags(method.tags)
    fields = list(method.Config.model_fields)
    for name in method.tags.reconstructed:
        if name not in fields:
            raise Shortfall(
                f"Tags.reconstructed names '{name}', which is no setting.", _nearest(name, fields)
            )
    _require_exemptions(method.tags, list(known_checks))
    overrides = type(method).calibrate is not Method.calibrate
    if overrides is not method.tags.calibrates:
        raise Shortfall(
            f"It {'has' if overrides else 'lacks'} a calibrate of its own, and Tags.calibrates is"
            f" {method.tags.calibrates}.",
            "calibrate is called where the tag is set, and nowhere else.",
        )


def _require_reference(method: Method) -> None:
    reference = method.reference
    for field in ("title", "authors"):
        if not getattr(reference, field).strip():
            raise Shortfall(f"The reference has no {field}.")
    if not 1950 < reference.year < 2100:
        raise Shortfall(f"The year of the reference is {reference.year}.")
    if reference.url and not reference.url.startswith(("https://", "http://")):
        raise Shortfall(f"The address of the reference, '{reference.url}', cannot be opened.")


def _require_tags(tags: Tags) -> None:
    hints = get_type_hints(Tags)
    for field in ("decision", "role"):
        given, known = getattr(tags, field), [str(choice) for choice in get_args(hints[field])]
        if given not in known:
            raise Shortfall(f"Tags.{field} is '{given}'.", f"it is one of {', '.join(known)}.")
    if tags.role == "dense" and tags.decision != "static":
        raise Shortfall(f"Its role is dense, and it decides {tags.decision}.")


def _require_exemptions(tags: Tags, known: list[str]) -> None:
    for name, reason in tags.exempt.items():
        if name == "metadata":
            raise Shortfall("No method is exempt from 'metadata'.")
        if name not in known:
            raise Shortfall(
                f"Tags.exempt names '{name}', which is no check.", _nearest(name, known)
            )
        if not reason.strip():
            raise Shortfall(f"Tags.exempt gives no reason why '{name}' does not apply.")


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"'{near[0]}' was meant." if near else f"known are {', '.join(known) or 'none'}."


def settings(bench: Workbench) -> None:
    Config = bench.method.Config  # noqa: N806
    if not issubclass(Config, MethodConfig):
        raise Shortfall("Config is no subclass of MethodConfig, which refuses what is wrong.")
    for field, info in Config.model_fields.items():
        if info.annotation is float or float in get_args(info.annotation):
            for value in (math.inf, -math.inf, math.nan):
                _require_refused(Config, {field: value}, "not finite is not JSON")
    _require_refused(Config, {"no_such_setting": 1}, "a misspelt setting would be ignored")
    back = Config.model_validate(bench.config.model_dump(mode="json"))
    if back != bench.config:
        raise Shortfall(
            "The settings do not come back from their own JSON.",
            "a validator changes them each time, or a type has no JSON form.",
        )


def _require_refused(config: type[MethodConfig], given: dict[str, Any], why: str) -> None:
    try:
        config.model_validate(given)
    except (ValueError, BenchError):
        return
    (field, value), *_ = given.items()
    raise Shortfall(
        f"The setting {field}={value} is accepted; {why}.",
        "model_config is replaced, or a validator runs before the field's own check.",
    )


def decisions(bench: Workbench) -> None:
    tags = bench.method.tags
    subjects = bench.subjects()
    for subject in subjects:
        gated = gated_columns(subject.net)
        if tags.decision == "static" and gated:
            names = [subject.net.units()[column].name for column in gated]
            raise Shortfall(
                f"{subject.backbone.name}: {len(gated)} units have a gate, from '{names[0]}' on,"
                " and Tags.decision is static.",
                "say when it decides, or mark the units as always on.",
            )
    if tags.decision != "static":
        _require_decides(subjects[0])


def _require_decides(subject: Subject) -> None:
    where, gated = subject.backbone.name, gated_columns(subject.net)
    if not gated:
        raise Shortfall(
            f"{where}: every unit always runs, and Tags.decision is not static.",
            "Policy.always_on is True for all blocks, or units() says so.",
        )
    if not subject.spread.differs:
        raise Shortfall(
            f"{where}: the same units run for all of 32 images of different contrast and colour"
            f" ({subject.spread.share:.0%} of the gated ones), however the parameters are shaken.",
            "the decision does not depend on the image.",
        )
