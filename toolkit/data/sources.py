"""Where the public data sets come from, and how one gets onto disk: checked, unpacked, and whole or not at all."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests  # what pooch itself downloads with

from aurep.errors import AurepError

_TIMEOUT = 60  # seconds without an answer
_STALE = 24 * 60 * 60  # seconds


@dataclass(frozen=True)
class Source:
    """A downloadable data set.

    Args:
        url: of a .tar.gz or .zip archive.
        checksum: of the archive, as ``md5:...`` or ``sha256:...``.
        folder: the one that the archive unpacks to.
        marker: a path inside `folder` that only a complete one of this kind has.
    """

    url: str
    checksum: str
    folder: str
    marker: str


SOURCES: Mapping[str, Source] = {
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "md5:c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
        "test_batch",
    ),
    "cifar100": Source(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "md5:eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python",
        "meta",
    ),
    "tiny-imagenet": Source(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "md5:90528d7ca1a48142e341f4ef8d21d0de",
        "tiny-imagenet-200",
        "val/val_annotations.txt",
    ),
}


def default_data_dir() -> Path:
    """`$AUREP_DATA`, or this user's cache folder."""
    named = os.environ.get("AUREP_DATA")
    return Path(named).expanduser() if named else Path(pooch.os_cache("aurep"))


def locate(name: str, source: Source, data_dir: Path, *, download: bool = True) -> Path:
    """The folder of data set `name`: `data_dir` itself, the folder in it, or there after a download.

    Raises:
        AurepError: it is not there, and downloading it is not allowed or fails. Nothing half done is left behind.
    """
    candidates = (data_dir / source.folder, data_dir)
    for candidate in candidates:
        if (candidate / source.marker).is_file():
            return candidate
    if candidates[0].exists():
        raise AurepError(
            f"{candidates[0]} is there but lacks {source.marker}; it is incomplete: remove it, or unpack it again."
        )
    looked = f"data {name!r} was looked for in {candidates[0]} and in {data_dir} itself, and is not there"
    remedy = f"pass --data-dir with the folder that holds {source.folder}"
    if not download:
        raise AurepError(f"{looked}; {remedy}, or allow the download of {source.url}.")
    try:
        _download(source, data_dir)
    except (OSError, ValueError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise AurepError(
            f"{looked}, and getting it from {source.url} failed ({type(error).__name__}: {_one_line(error)}); "
            f"{remedy}, or unpack that archive there yourself."
        ) from error
    return candidates[0]


def _download(source: Source, data_dir: Path) -> None:
    # Everything happens in a hidden folder beside the destination; the last step is a rename, which is all or nothing.
    data_dir.mkdir(parents=True, exist_ok=True)
    _remove_stale(source, data_dir)
    work = Path(tempfile.mkdtemp(dir=data_dir, prefix=f".{source.folder}."))
    try:
        archive = Path(pooch.retrieve(source.url, source.checksum, fname="archive", path=work, downloader=_fetch))
        _unpack(archive, work / "unpacked")
        unpacked = work / "unpacked" / source.folder
        if not (unpacked / source.marker).is_file():
            raise ValueError(f"the archive holds no {source.folder}/{source.marker}")
        try:
            unpacked.rename(data_dir / source.folder)
        except OSError:
            # Another process may have finished the same download meanwhile; its folder is as good.
            if not (data_dir / source.folder / source.marker).is_file():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch(url: str, file: str, _pooch: object) -> None:
    # pooch's own downloader leaves the connection open when an answer breaks off.
    with requests.get(url, stream=True, timeout=_TIMEOUT) as answer, Path(file).open("wb") as stream:
        answer.raise_for_status()
        for chunk in answer.iter_content(1 << 20):
            stream.write(chunk)


def _remove_stale(source: Source, data_dir: Path) -> None:
    """Remove what downloads that were killed left behind; a day is more than any that still runs has taken."""
    for left in data_dir.glob(f".{source.folder}.*"):
        if time.time() - left.stat().st_mtime > _STALE:
            shutil.rmtree(left, ignore_errors=True)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip archive, refusing members that would land outside `folder` or are no plain files."""
    folder.mkdir()
    if tarfile.is_tarfile(archive):
        with tarfile.open(
            archive
        ) as tar:  # extractall knows no filter before Python 3.11.4, and warns without since 3.12
            for member in tar:
                _place(member, tar, _inside(folder, member.name))
        return
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            _inside(folder, name)
        packed.extractall(folder)


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the archive's member {name!r} would land outside its folder")
    return path


def _place(member: tarfile.TarInfo, tar: tarfile.TarFile, path: Path) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    content = tar.extractfile(member) if member.isfile() else None
    if content is None:
        raise ValueError(f"the archive's member {member.name!r} is neither a file nor a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("wb") as stream:
        shutil.copyfileobj(content, stream)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
