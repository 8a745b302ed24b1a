"""Downloads from a local server: a set arrives whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aurep import AurepError
from aurep.data import SOURCES, Source, load_data
from aurep.data.sources import locate


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; of `cut` names it sends half and then closes, or waits while `hold` is not set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.hold: set[str] = set()
        self.release, self.half_sent = threading.Event(), threading.Event()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        if name not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        if name in self.server.hold:
            self.wfile.flush()
            self.server.half_sent.set()
            self.server.release.wait(30)
        elif name not in self.server.cut:
            self.wfile.write(body[len(body) // 2 :])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.release.set()
        running.shutdown()
        thread.join()


def tar_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def tar_with_a_link() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        link = tarfile.TarInfo("animals/first.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    return stream.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return stream.getvalue()


def serve(server: Server, name: str, archive: bytes, checksum: str = "sha256") -> Source:
    server.files[name] = archive
    return Source(server.url(name), f"{checksum}:{hashlib.new(checksum, archive).hexdigest()}", "animals", "last.bin")


def noise(size: int) -> bytes:
    return np.random.default_rng(0).bytes(size)


GOOD = {"animals/first.bin": noise(200_000), "animals/last.bin": b"end"}


def assert_nothing_left(folder: Path) -> None:
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize(("pack", "checksum"), [(tar_of, "md5"), (zip_of, "sha256")])
def test_a_good_archive_is_unpacked_once(tmp_path: Path, server: Server, pack: object, checksum: str) -> None:
    source = serve(server, "animals.archive", pack(GOOD), checksum)
    folder = locate("animals", source, tmp_path / "new" / "data")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        key.removeprefix("animals/"): value for key, value in GOOD.items()
    }
    assert list(folder.parent.iterdir()) == [folder]  # neither the archive nor a temporary folder stays
    server.files.clear()
    assert locate("animals", source, folder.parent) == folder


def test_cifar10_is_downloaded_by_load_data(tmp_path: Path, server: Server) -> None:
    batch = pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 3]}, protocol=2)
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    source = serve(server, "cifar.tar.gz", tar_of({f"cifar-10-batches-py/{name}": batch for name in names}))
    sources = {"cifar10": replace(SOURCES["cifar10"], url=source.url, checksum=source.checksum)}
    assert len(load_data("cifar10", tmp_path, sources=sources).x_train) == 18


def expect_failure(source: Source, folder: Path, *words: str) -> None:
    with pytest.raises(AurepError) as caught:
        locate("animals", source, folder)
    message = str(caught.value)
    for word in ("'animals'", str(folder / "animals"), source.url, "--data-dir", *words):
        assert word in message, message
    assert "\n" not in message
    assert_nothing_left(folder)


def test_a_truncated_download_leaves_nothing(tmp_path: Path, server: Server) -> None:
    source = serve(server, "animals.tar.gz", tar_of(GOOD))
    server.cut.add("animals.tar.gz")
    expect_failure(source, tmp_path)


def test_a_wrong_file_leaves_nothing(tmp_path: Path, server: Server) -> None:
    source = serve(server, "animals.tar.gz", tar_of(GOOD))
    server.files["animals.tar.gz"] = tar_of({"animals/last.bin": b"something else"})
    expect_failure(source, tmp_path, "hash")


def test_a_file_that_the_server_lacks(tmp_path: Path, server: Server) -> None:
    expect_failure(Source(server.url("absent.tar.gz"), "md5:" + "0" * 32, "animals", "last.bin"), tmp_path, "404")


def test_no_server_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    source = Source("http://127.0.0.1:9/animals.tar.gz", "md5:" + "0" * 32, "animals", "last.bin")
    expect_failure(source, tmp_path)


@pytest.mark.parametrize(
    "archive",
    [
        tar_of({"../outside.bin": b"x", **GOOD}),
        zip_of({"../outside.bin": b"x", **GOOD}),
        tar_of({"cats/last.bin": b"x"}),
        b"neither tar nor zip",
        tar_of(GOOD)[:-1000],
        tar_with_a_link(),
    ],
    ids=["tar slip", "zip slip", "other folder", "no archive", "damaged", "link"],
)
def test_an_archive_that_cannot_be_used_leaves_nothing(tmp_path: Path, server: Server, archive: bytes) -> None:
    expect_failure(serve(server, "animals.archive", archive), tmp_path / "data")
    assert not (tmp_path / "outside.bin").exists()


def test_killed_midway_leaves_no_folder_that_is_taken_for_whole(tmp_path: Path, server: Server) -> None:
    source = serve(server, "animals.tar.gz", tar_of(GOOD))
    server.hold.add("animals.tar.gz")
    program = (
        "from pathlib import Path; from aurep.data.sources import Source, locate; "
        f"locate('animals', {source!r}, Path({str(tmp_path)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as process:
        assert server.half_sent.wait(30)
        process.kill()
    assert not (tmp_path / "animals").exists()
    (left,) = tmp_path.iterdir()
    server.hold.clear()
    assert (locate("animals", source, tmp_path) / "last.bin").read_bytes() == b"end"
    assert left.exists()  # it might have been a download that still ran
    (tmp_path / "animals" / "last.bin").unlink()
    (tmp_path / "animals" / "first.bin").unlink()
    (tmp_path / "animals").rmdir()
    two_days_ago = time.time() - 2 * 24 * 60 * 60
    os.utime(left, (two_days_ago, two_days_ago))
    locate("animals", source, tmp_path)
    assert not left.exists()


def test_an_incomplete_folder_is_not_replaced_but_named(tmp_path: Path, server: Server) -> None:
    source = serve(server, "animals.tar.gz", tar_of(GOOD))
    (tmp_path / "animals").mkdir()
    with pytest.raises(AurepError, match=r"animals is there but lacks last.bin"):
        locate("animals", source, tmp_path)


def test_without_permission_to_download_it_says_how_to_get_the_data(tmp_path: Path) -> None:
    with pytest.raises(AurepError) as caught:
        load_data("cifar10", tmp_path / "none", download=False)
    for word in (str(tmp_path / "none" / "cifar-10-batches-py"), "--data-dir", SOURCES["cifar10"].url):
        assert word in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_two_downloads_at_once_both_get_the_set(tmp_path: Path, server: Server) -> None:
    source = serve(server, "animals.tar.gz", tar_of(GOOD))
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(locate("animals", source, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [tmp_path / "animals"] * 3
