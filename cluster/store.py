"""Where artifacts live: a local folder or an S3 bucket, behind one small interface.

A store offers bytes under ``/``-separated keys, listing, and two conditional writes: ``put_if_absent`` and
``put_if_match``. Those two are what makes publishing atomic; everything else may be repeated.
``open_store`` picks the implementation from the address.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class StoredFile:
    """One object: its key in the store, its size, and when it was last written (seconds since the epoch).

    ``tag`` is S3's entity tag, which another content would change; empty for local files.
    """

    key: str
    size_bytes: int
    modified_s: float
    tag: str = ""


@dataclass(frozen=True)
class Written:
    """Size and SHA-256 of an object, from the bytes that were in the hands of whoever wrote it."""

    size_bytes: int
    sha256: str


class Store(ABC):
    """Bytes under keys; see the module's text. Implementations pickle, so that workers can open them.

    Attributes:
        url: the address that opens the same store elsewhere.
    """

    url: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The object's bytes; FileNotFoundError where there is none."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Write an object, replacing what is there; a reader sees the old bytes or the new, never a part."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write only where no object is; False where one is. Of two racing writers exactly one gets True."""

    @abstractmethod
    def put_if_match(self, key: str, data: bytes, expected: bytes) -> bool:
        """Replace only where the object still holds ``expected``; False where it changed or is gone."""

    @abstractmethod
    def files(self, prefix: str = "") -> Iterator[StoredFile]:
        """Every object whose key begins with ``prefix``, in key order."""

    @abstractmethod
    def folders(self, prefix: str = "") -> list[str]:
        """Names directly under the folder ``prefix`` that have something below them."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""

    def write_summed(self, key: str, data: bytes) -> Written:
        """Write an object; what the record of an artifact says of it, so that nobody reads it again for that."""
        self.write(key, data)
        return Written(len(data), hashlib.sha256(data).hexdigest())

    def copy(self, source: str, target: str) -> None:
        """Put an object under a second key; FileNotFoundError where there is none.

        Each of the two may be written anew or removed and leaves the other as it is.
        """
        self.write(target, self.read(source))

    @abstractmethod
    def upload(self, source: Path, key: str) -> None:
        """Copy a local file into the store."""

    @abstractmethod
    def download(self, key: str, target: Path) -> None:
        """Copy an object to a local file, which appears only when it is whole."""

    @abstractmethod
    def local_path(self, key: str) -> Path | None:
        """The path of a key where the store is a local folder, otherwise None."""

    @abstractmethod
    def arrow(self, key: str) -> tuple[FileSystem, str]:
        """The pyarrow file system and the path in it, for Ray Data and pyarrow readers and writers."""

    def make_durable(self, keys: list[str]) -> None:
        """Return when these objects survive a power cut; nothing to do where every write already does."""
        return

    def check_writable(self) -> None:
        """Make sure that objects can be written, and only once where that is asked.

        Raises:
            UserError, InfraError: they cannot; the message says why.
        """
        from cluster.errors import UserError

        key = f".probe-{uuid.uuid4().hex}"
        written = [self.put_if_absent(key, data) for data in (b"first", b"second")]
        self.delete(key)
        if written != [True, False]:
            raise UserError(
                "the store does not support writing an object only once, which publishing relies on",
                where=self.url,
                next_step="use an S3 server with conditional writes (If-None-Match), or a local folder",
            )

    @abstractmethod
    def stream(self, key: str) -> Iterator[bytes]:
        """The object's bytes in pieces of at most CHUNK_BYTES."""

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        try:
            self.read(key)
        except FileNotFoundError:
            return False
        return True

    def sha256(self, key: str) -> tuple[str, int]:
        """The object's SHA-256 as hex digits and its size in bytes, read in pieces."""
        digest = hashlib.sha256()
        size = 0
        for piece in self.stream(key):
            digest.update(piece)
            size += len(piece)
        return digest.hexdigest(), size

    def uri(self, key: str = "") -> str:
        """The address of a key, as a person would write it."""
        return f"{self.url}/{key}" if key else self.url

    def delete_all(self, prefix: str) -> int:
        """Remove every object under a folder; the number removed."""
        keys = [item.key for item in self.files(prefix.rstrip("/") + "/")]
        for key in keys:
            self.delete(key)
        return len(keys)

    def download_all(self, prefix: str, target: Path) -> Path:
        """Copy every object under a folder into a local folder, keeping their relative names."""
        folder = prefix.rstrip("/") + "/"
        for item in self.files(folder):
            self.download(item.key, target / item.key[len(folder) :])
        return target


def open_store(url: str | os.PathLike[str]) -> Store:
    """The store at an address: ``s3://bucket/prefix``, a local path, or ``file://`` and a path.

    Raises:
        UserError: the scheme is none of these.
    """
    from cluster.errors import UserError

    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "s3":
        from cluster.store_s3 import S3Store

        return S3Store.open(text)
    if separator and scheme != "file":
        raise UserError(
            f"unknown kind of store {scheme}://", where=text, next_step="use a local folder or s3://bucket/prefix"
        )
    from cluster.store_local import LocalStore

    return LocalStore(Path(rest if separator else text))
