"""Fetching one file of known size and md5 over HTTP: mirrors in turn, resumed where it broke off.

Owns the network and the `.part` file. What is inside the file is not its business.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rich.progress import DownloadColumn, TransferSpeedColumn

from bench.console import progress
from bench.data.cache import storage_errors
from bench.errors import DataError

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
SCHEMES = ("https://", "http://", "file://")  # a mirror may be a folder that many share
MIRROR_VARIABLE = "BENCH_DATA_MIRROR"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file, what it must weigh and hash to, and the official place to get it."""

    name: str
    size_bytes: int
    md5: str
    official_url: str  # the folder of the file, as with mirrors


def places(file: RemoteFile) -> tuple[str, ...]:
    """Return the base URLs to try: those in $BENCH_DATA_MIRROR, then the official one."""
    given = os.environ.get(MIRROR_VARIABLE, "").split(",")
    return (*(url.strip() for url in given if url.strip()), file.official_url)


def md5_of(path: Path) -> str:
    """Return the md5 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(file: RemoteFile, *, folder: Path, bases: Sequence[str], hint: str) -> Path:
    """Fetch `file` into `folder` from the first of `bases` that gives it whole."""
    part, reasons = folder / f"{file.name}.part", []
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for base in bases:
        reason = _fetch(f"{base.rstrip('/')}/{file.name}", part, file)
        if not reason:
            with storage_errors(folder):
                os.replace(part, folder / file.name)
            return folder / file.name
        reasons.append(f"{_host(base)}: {reason}")
    raise DataError(f"Cannot download {file.name} ({'; '.join(reasons)}).", hint=hint)


def _fetch(url: str, part: Path, file: RemoteFile) -> str:
    """Fill `part`, asking again as long as every answer brings something new; what a wrong file
    left behind is thrown away and tried afresh. Return why that did not do, "" if it did."""
    had_leftover = _size_bytes(part) > 0
    while (before := _size_bytes(part)) < file.size_bytes:
        reason = _fetch_more(url, part, file)
        if _size_bytes(part) <= before:
            return reason or "the connection ended early"
    with storage_errors(part.parent):
        found = md5_of(part)
        if found == file.md5:
            return ""
        part.unlink()
    if had_leftover:
        return _fetch(url, part, file)
    return f"the file it gave has md5 {found}, expected {file.md5}"


def _fetch_more(url: str, part: Path, file: RemoteFile) -> str:
    """Append what one answer brings; return why it ended, if it did not end well."""
    if not url.lower().startswith(SCHEMES):
        return f"its address does not begin with one of {', '.join(SCHEMES)}"
    start = _size_bytes(part)
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        with closing(urllib.request.urlopen(request, timeout=TIMEOUT_S)) as response:
            if getattr(response, "status", None) != http.HTTPStatus.PARTIAL_CONTENT:
                start = 0  # it sends the file from its beginning
            elif not str(response.headers.get("Content-Range")).startswith(f"bytes {start}-"):
                return "it sent another part of the file than the one asked for"
            with storage_errors(part.parent):
                stream = part.open("ab" if start else "wb")
            columns = (DownloadColumn(), TransferSpeedColumn())
            with stream, progress(file.name, *columns, total=file.size_bytes, done=start) as shown:
                # More than the expected size is not our file: stop there, the md5 will tell.
                while stream.tell() <= file.size_bytes and (chunk := response.read(CHUNK_BYTES)):
                    with storage_errors(part.parent):
                        stream.write(chunk)
                        stream.flush()
                    shown(len(chunk))
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    except ValueError:
        return "its address is not a URL"
    return ""


def _host(base: str) -> str:
    """Return what of a base URL may be shown: the rest may hold a password."""
    try:
        return urlsplit(base).hostname or "the mirror"
    except ValueError:
        return "the mirror"


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
