"""A store in a local folder. Conditional writes use link(2) and an advisory lock, so they hold between processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import UserError, explain_os_error
from cluster.store import CHUNK_BYTES, Store, StoredFile

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_ASIDE = ".aside-"
"""Prefix of files that are still being written; listings never show them."""


class LocalStore(Store):
    """Objects as files below a folder; the folder is made at the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.url = str(self.root)

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    def _path(self, key: str) -> Path:
        path = Path(os.path.normpath(self.root / key))
        if not path.is_relative_to(self.root):
            raise UserError("the key leaves the store", where=key, next_step="use a key without '..'")
        return path

    def read(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except (IsADirectoryError, NotADirectoryError):
            raise FileNotFoundError(key) from None

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def stream(self, key: str) -> Iterator[bytes]:
        with self._path(key).open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece

    @contextmanager
    def _aside(self, key: str) -> Iterator[tuple[Path, Path]]:
        """The target path and a path beside it to write to first; what is left there is removed."""
        target = self._path(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, self.url) or UserError(
                f"the folder cannot be made: {error.strerror}", where=self.url, next_step="choose another `store:`"
            ) from error
        try:
            aside = target.parent / f"{_ASIDE}{uuid.uuid4().hex}"
            try:
                yield target, aside
            finally:
                aside.unlink(missing_ok=True)
        except OSError as error:
            raise explain_os_error(error, str(target)) or error from error

    def write(self, key: str, data: bytes) -> None:
        with self._aside(key) as (target, aside):
            _write_durably(aside, data)
            os.replace(aside, target)
            _sync(target.parent)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._aside(key) as (target, aside):
            _write_durably(aside, data)
            try:
                os.link(aside, target)
            except FileExistsError:
                return False
            _sync(target.parent)
            return True

    def put_if_match(self, key: str, data: bytes, expected: bytes) -> bool:
        with self._aside(key) as (target, aside):
            _write_durably(aside, data)
            with (target.parent / f"{_ASIDE}lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not target.is_file() or target.read_bytes() != expected:
                    return False
                os.replace(aside, target)
            _sync(target.parent)
            return True

    def files(self, prefix: str = "") -> Iterator[StoredFile]:
        base = self._path(prefix if prefix.endswith("/") else os.path.dirname(prefix))
        found = []
        for folder, _, names in os.walk(base):
            for name in names:
                path = Path(folder, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not name.startswith(_ASIDE):
                    found.append((key, path))
        for key, path in sorted(found):
            try:
                status = path.stat()
            except FileNotFoundError:  # removed since the walk
                continue
            yield StoredFile(key, status.st_size, status.st_mtime)

    def folders(self, prefix: str = "") -> list[str]:
        base = self._path(prefix)
        if not base.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(base) if entry.is_dir())

    def delete(self, key: str) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        self._prune(path.parent)

    def _prune(self, folder: Path) -> None:
        """Remove a folder and those above it, as far as they are empty: a folder is there while something is in it."""
        while folder != self.root and folder.is_relative_to(self.root):
            try:
                folder.rmdir()
            except OSError:  # not empty, or already gone: either way there is nothing to tidy
                return
            folder = folder.parent

    def delete_all(self, prefix: str) -> int:
        count = sum(1 for _ in self.files(prefix.rstrip("/") + "/"))
        path = self._path(prefix)
        if path == self.root:
            raise UserError("refusing to empty a whole store", where=self.url, next_step="name a folder in it")
        if path.is_dir():
            shutil.rmtree(path)
            self._prune(path.parent)
        return count

    def copy(self, source: str, target: str) -> None:
        path = self._path(source)
        with self._aside(target) as (place, aside):
            try:
                os.link(path, aside)  # `write` replaces files and never changes them, so both keys may share one
            except FileNotFoundError:
                raise
            except OSError:  # a file system without links, or one that allows no more of them
                shutil.copyfile(path, aside)
            os.replace(aside, place)

    def upload(self, source: Path, key: str) -> None:
        with self._aside(key) as (target, aside):
            shutil.copyfile(source, aside)
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, target)

    def download(self, key: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f"{_ASIDE}{uuid.uuid4().hex}"
        try:
            shutil.copyfile(self._path(key), aside)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)

    def local_path(self, key: str) -> Path:
        return self._path(key)

    def arrow(self, key: str) -> tuple[FileSystem, str]:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self._path(key))

    def make_durable(self, keys: list[str]) -> None:
        paths = [self._path(key) for key in keys]
        for path in (*paths, *sorted({path.parent for path in paths})):
            _sync(path)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
