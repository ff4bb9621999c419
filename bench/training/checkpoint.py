"""Checkpoints of a training in progress: written atomically, checked by hash, never unpickled.

The file is a SHA-256 in hex, a line feed, and a torch file that the weights-only reader accepts.
Owns no decision about when to write one.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.errors import CheckpointError
from bench.storage import write_atomically

_DIGEST_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Position:
    """Where training stands: the phase and the epoch to do next, and all state it needs.

    `log` is JSON of what has been recorded so far.
    """

    phase: int
    epoch: int
    net: dict[str, Any]
    optimizer: dict[str, Any]
    log: str


class Checkpoint:
    """The checkpoint file of one run; `identity` ties it to what is being trained."""

    def __init__(self, path: Path, *, identity: str) -> None:
        self.path = path
        self.identity = identity

    def save(self, position: Position) -> None:
        """Replace the checkpoint; a kill at any moment leaves the old or the new one whole."""
        buffer = io.BytesIO()
        fields = {name: getattr(position, name) for name in Position.__slots__}
        torch.save({"identity": self.identity, **fields}, buffer)
        data = buffer.getvalue()
        digest = hashlib.sha256(data).hexdigest().encode()
        write_atomically(self.path, digest + b"\n" + data)

    def load(self) -> Position | None:
        """Return the saved position, or None if there is none.

        Raises:
            CheckpointError: the file is broken or belongs to other settings.
        """
        if not self.path.exists():
            return None
        content = self.path.read_bytes()
        digest, data = content[:_DIGEST_LENGTH], content[_DIGEST_LENGTH + 1 :]
        if hashlib.sha256(data).hexdigest().encode() != digest:
            raise CheckpointError(f"The checkpoint {self.path} is truncated or damaged.")
        try:
            fields = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            identity, position = fields.pop("identity"), Position(**fields)
        except Exception as error:  # whole, and of another version of this program or of torch
            raise CheckpointError(f"The checkpoint {self.path} cannot be read: {error}.") from error
        if identity != self.identity:
            raise CheckpointError(f"The checkpoint {self.path} belongs to another run.")
        return position
