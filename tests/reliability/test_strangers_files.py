"""Addresses of strangers: what is no mirror is refused, and leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.data.download import RemoteFile, download
from bench.errors import DataError

pytestmark = pytest.mark.reliability


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc", "ftp://[", "javascript:x", "http://[::1", "", "/etc", "http://a\nb"),
        *("http://\ud800", "data:,x"),
    ],
)
def test_an_odd_mirror_is_refused_and_leaves_nothing(url: str, tmp_path: Path) -> None:
    wanted = RemoteFile("passwd", os.path.getsize("/etc/passwd"), "0" * 32, "http://[")
    with pytest.raises(DataError, match="Cannot download"):
        download(wanted, folder=tmp_path, bases=[url], hint="")
    assert list(tmp_path.iterdir()) == []
