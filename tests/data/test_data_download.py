"""Fetching a file from servers that behave and servers that do not, all on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.data import download as module
from bench.data.download import RemoteFile, download, places
from bench.errors import DataError

CONTENT = bytes(range(256)) * 400
FILE = RemoteFile(
    name="set.tar.gz",
    size_bytes=len(CONTENT),
    md5=hashlib.md5(CONTENT).hexdigest(),
    official_url="http://127.0.0.1:9/official",
)


class Server(ThreadingHTTPServer):
    """Serves `content`, and writes down what it was asked for."""

    content = CONTENT
    cut_bytes: int | None = None  # breaks off every answer after so many bytes
    knows_ranges = True
    announced_shift_bytes = 0  # says that its answer starts so much later than asked for
    asked: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mirror/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.path != f"/mirror/{FILE.name}":
            self.send_error(404)
            return
        whole = self.server.content
        start = int(wanted[6:-1]) if wanted and self.server.knows_ranges else 0
        self.send_response(206 if start else 200)
        if start:
            told = start + self.server.announced_shift_bytes
            self.send_header("Content-Range", f"bytes {told}-{len(whole) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(whole) - start))
        self.end_headers()
        cut = self.server.cut_bytes
        self.wfile.write(whole[start : None if cut is None else start + cut])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Any]:
    running: list[tuple[Server, threading.Thread]] = []

    def start(**settings: Any) -> Server:
        server = Server(("127.0.0.1", 0), Handler)
        server.asked = []
        for key, value in settings.items():
            setattr(server, key, value)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def _get(folder: Path, *bases: str) -> bytes:
    path = download(FILE, folder=folder, bases=bases, hint="Put it there yourself.")
    assert [entry.name for entry in folder.iterdir()] == [FILE.name]
    return path.read_bytes()


def test_a_file_is_fetched_whole_into_a_new_folder(serve: Any, tmp_path: Path) -> None:
    server = serve()
    assert _get(tmp_path / "data", server.url) == CONTENT
    assert server.asked == [None]


def test_a_broken_off_download_is_resumed_where_it_ended(serve: Any, tmp_path: Path) -> None:
    server = serve()
    (tmp_path / f"{FILE.name}.part").write_bytes(CONTENT[:1000])
    assert _get(tmp_path, server.url) == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_a_server_that_keeps_breaking_off_is_asked_again(serve: Any, tmp_path: Path) -> None:
    server = serve(cut_bytes=len(CONTENT) // 3 + 1)
    assert _get(tmp_path, server.url) == CONTENT
    assert len(server.asked) == 3


def test_a_server_without_ranges_starts_from_the_beginning(serve: Any, tmp_path: Path) -> None:
    server = serve(knows_ranges=False)
    (tmp_path / f"{FILE.name}.part").write_bytes(b"x" * 1000)
    assert _get(tmp_path, server.url) == CONTENT


def test_another_part_than_the_one_asked_for_is_not_appended(serve: Any, tmp_path: Path) -> None:
    part = tmp_path / f"{FILE.name}.part"
    part.write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="another part of the file"):
        download(FILE, folder=tmp_path, bases=(serve(announced_shift_bytes=9).url,), hint="")
    assert part.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("size_bytes", [1000, len(CONTENT), len(CONTENT) + 5])
def test_a_wrong_leftover_is_thrown_away(serve: Any, tmp_path: Path, size_bytes: int) -> None:
    (tmp_path / f"{FILE.name}.part").write_bytes(b"x" * size_bytes)
    assert _get(tmp_path, serve().url) == CONTENT


@pytest.mark.parametrize(
    "settings",
    [
        {"content": b"wrong" + CONTENT[5:]},
        {"content": CONTENT + CONTENT},
        {"content": b"an html page that says sorry"},
        {"cut_bytes": 0},
    ],
)
def test_the_next_mirror_is_asked_when_one_gives_something_else(
    serve: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    wrong, right = serve(**settings), serve()
    assert _get(tmp_path, wrong.url, right.url) == CONTENT
    assert len(right.asked) >= 1


def test_failure_says_why_for_each_place_and_hides_passwords(serve: Any, tmp_path: Path) -> None:
    server = serve()
    bases = (
        server.url.replace("mirror", "elsewhere"),
        "http://user:secret@127.0.0.1:9",
        "no-url-at-all",
        "http://[half-an-address",
    )
    with pytest.raises(DataError) as caught:
        download(FILE, folder=tmp_path, bases=bases, hint="Put it there yourself.")
    text = str(caught.value)
    assert "HTTP 404" in text
    assert "127.0.0.1: " in text
    assert "the mirror: its address is not a URL" in text
    assert "Put it there yourself." in text
    assert FILE.name in text
    assert "secret" not in text


def test_a_wrong_file_from_the_only_place_is_an_error_with_both_md5s(
    serve: Any, tmp_path: Path
) -> None:
    server = serve(content=b"wrong" + CONTENT[5:])
    with pytest.raises(DataError, match=rf"md5 \w+, expected {FILE.md5}"):
        download(FILE, folder=tmp_path, bases=(server.url,), hint="")
    assert not list(tmp_path.iterdir())


def test_what_was_fetched_stays_when_the_connection_is_lost_for_good(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(cut_bytes=5000)
    original = module._fetch_more
    answers = iter([original, lambda *_, **__: "the cable was pulled"])
    monkeypatch.setattr(module, "_fetch_more", lambda *a, **k: next(answers)(*a, **k))
    with pytest.raises(DataError, match="the cable was pulled"):
        download(FILE, folder=tmp_path, bases=(server.url,), hint="")
    assert (tmp_path / f"{FILE.name}.part").read_bytes() == CONTENT[:5000]


def test_mirrors_from_the_environment_come_before_the_official_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BENCH_DATA_MIRROR", " http://a/x , ,http://b")
    assert places(FILE) == ("http://a/x", "http://b", FILE.official_url)
    monkeypatch.delenv("BENCH_DATA_MIRROR")
    assert places(FILE) == (FILE.official_url,)
