"""A record as bytes: JSON wrapped with a checksum, so that damage on disk is noticed.

    {"sha256": "<of the canonical JSON of record>", "record": {...}}

Owns the encoding and the reasons why a document is refused; owns no disk access.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from pydantic import ValidationError

from bench.config import canonical_json
from bench.errors import RecordError
from bench.plain_text import one_line, shown
from bench.records.record import SCHEMA_VERSION, RunRecord

LARGEST_BYTES = 64 << 20
"""A record has some kilobytes; its arrays lie elsewhere."""


def encode(record: RunRecord) -> bytes:
    """Return the document of `record`: readable JSON, UTF-8.

    Keys keep their order: blocks stand as they are executed. Numbers that are not finite (the loss
    of a diverged run) become "nan" and "inf", which pydantic reads back as the same numbers.
    """
    content = _spell_out(record.model_dump(mode="json"))
    document = {"sha256": _sha256(content), "record": content}
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def content_sha256(record: RunRecord) -> str:
    """Return the checksum that `encode` writes: it changes with any value of the record."""
    return _sha256(_spell_out(record.model_dump(mode="json")))


def decode(data: bytes) -> RunRecord:
    """Return the record in `data`.

    Raises:
        RecordError: truncated, changed since it was written, or of another schema; the message is
            the reason in a few words.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise RecordError("not JSON: truncated or overwritten") from None
    content = document.get("record") if isinstance(document, dict) else None
    if not isinstance(content, dict) or not isinstance(document.get("sha256"), str):
        raise RecordError("not a record of this program: no checksum")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"has schema version {shown(version)}, this program reads {SCHEMA_VERSION}"
        )
    if _sha256(content) != document["sha256"]:
        raise RecordError("its content does not match its checksum: changed after it was written")
    try:
        record = RunRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(
            f"does not fit the schema: {one_line(where, longest=100)}: {one_line(first['msg'])}"
        ) from None
    _check_sense(record)
    return record


def _check_sense(record: RunRecord) -> None:
    """Refuse what fits the schema, field by field, and cannot have been measured."""
    if record.run != record.spec.run:
        raise RecordError("its name is not that of its spec")
    for point in record.points:
        total = record.test_images
        if point.correct > total or abs(point.accuracy * total - point.correct) > 0.51:
            raise RecordError(
                f"its accuracy {point.accuracy:.4g} is not {point.correct} of {total} images"
            )
    mean, std = record.spec.normalisation
    if not 0 < len(mean) == len(std) or min(std) <= 0:
        raise RecordError("its normalisation is not one mean and one deviation per channel")


def _sha256(content: object) -> str:
    try:
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()
    # A NaN written by another program, half a letter, or lists in lists without end.
    except (ValueError, RecursionError):
        return ""


def _spell_out(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _spell_out(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_spell_out(item) for item in value]
    return value
