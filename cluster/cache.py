"""Copies of stored artifacts on this machine: made once, shared by its processes, and no more than there is room for.

A copy lies in ``<cache>/<artifact id>/<attempt>/``; ``.complete`` in it says how large it is and, by its time, when it
was last asked for. One process makes it while others wait. Every process that was given it holds a shared lock until it
ends, and a copy that is held is not removed; the kernel lets go of the locks of killed ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import UserError, explain_os_error

if TYPE_CHECKING:
    from cluster.artifact import FileEntry
    from cluster.store import Store

COMPLETE = ".complete"
LOCKS = ".locks"
_GONE = "gone-"
SHARE_OF_DISK = 0.5
"""Of the disk that holds the cache, where RAYMILL_CACHE_BYTES does not say how much copies may take."""
_PARALLEL = 4
_held: dict[Path, int] = {}
"""Descriptors of the locks of the copies that this process was given."""
_holding = threading.Lock()


def cache_folder(given: Path | None = None) -> Path:
    """Where copies are kept: as given, or RAYMILL_CACHE, or the user's cache folder."""
    return given or Path(os.environ.get("RAYMILL_CACHE") or Path.home() / ".cache" / "raymill")


def cache_limit_bytes(base: Path) -> int:
    """What copies may take together: RAYMILL_CACHE_BYTES, by default half of the disk.

    Raises:
        UserError: the variable is not a number.
    """
    text = os.environ.get("RAYMILL_CACHE_BYTES", "")
    try:
        return int(float(text)) if text else int(shutil.disk_usage(base).total * SHARE_OF_DISK)
    except (ValueError, OverflowError):
        raise UserError(
            f"is not a number of bytes: {text}", where="RAYMILL_CACHE_BYTES", next_step="write for example 200e9"
        ) from None


def cached_copy(store: Store, prefix: str, files: Sequence[FileEntry], cache: Path | None = None) -> Path:
    """A local folder with the files, checked against their recorded SHA-256; this process holds it until it ends.

    Copies that nobody holds are removed, the one least recently asked for first, while all together are over the limit.

    Args:
        prefix: the store key of the folder with the files.
        files: what is in it.

    Raises:
        UserError: a file is not what its record says, or the cache cannot be written.
        InfraError: the disk is full, or the store does not answer.
    """
    base = cache_folder(cache)
    target = base / prefix
    if _is_complete(target) and not os.access(base, os.W_OK):
        return target  # carried in with an image; nobody can remove it either
    try:
        base.mkdir(parents=True, exist_ok=True)
        lock = _lock_of(base, prefix)
        with _locked(lock):
            if not _is_complete(target):
                size = sum(entry.size_bytes for entry in files)
                _make_room(base, size, besides=prefix)
                _copy(store, prefix, files, target)
                (target / COMPLETE).write_text(json.dumps({"bytes": size}))
            os.utime(target / COMPLETE)
            _hold(lock)
    except OSError as error:
        if isinstance(error, FileNotFoundError):  # in the store
            raise
        if isinstance(explain_os_error(error), UserError):
            raise UserError(
                f"the local cache cannot be written: {error.strerror}",
                where=str(base),
                next_step="name a folder that you may write in RAYMILL_CACHE",
            ) from None
        raise explain_os_error(error, str(base)) or error from error
    return target


def _is_complete(target: Path) -> bool:
    return (target / COMPLETE).exists()


def _copy(store: Store, prefix: str, files: Sequence[FileEntry], target: Path) -> None:
    """Bring every file that is not there yet, or not right; an earlier process may have been killed in between."""

    def bring(entry: FileEntry) -> None:
        path = target / entry.path
        if path.is_file() and _sha256(path) == entry.sha256:
            return
        store.download(f"{prefix}/{entry.path}", path)
        if _sha256(path) != entry.sha256:
            path.unlink()
            raise UserError(
                "the file does not match its recorded checksum",
                where=store.uri(f"{prefix}/{entry.path}"),
                next_step=f"`raymill verify {prefix.rpartition('/')[0]}`, then make it anew with --force",
            )

    target.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        for _ in pool.map(bring, files):
            pass


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock_of(base: Path, prefix: str) -> Path:
    """The lock's file, which is never removed: a process that waits for it would hold another than the next one."""
    folder = base / LOCKS
    folder.mkdir(exist_ok=True)
    return folder / hashlib.sha256(prefix.encode()).hexdigest()[:32]


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Alone among those that make or remove a copy, in all processes and threads; those who hold it go on."""
    with (lock.parent / f"{lock.name}.making").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hold(lock: Path) -> None:
    with _holding:
        if lock not in _held:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _held[lock] = descriptor


@dataclass(frozen=True)
class _Copy:
    """A copy, whole or not: when it was last asked for, and its size."""

    prefix: str
    asked_s: float
    size_bytes: int


def _copies(base: Path) -> list[_Copy]:
    """All copies, those that were never finished first, then the one longest not asked for."""
    found = []
    for folder in base.glob("[A-Z]*/*/*/"):
        try:
            text, asked_s = (folder / COMPLETE).read_text(), (folder / COMPLETE).stat().st_mtime
            size = json.loads(text)["bytes"] if text else _size(folder)  # of an older version, which wrote nothing
        except (FileNotFoundError, ValueError):
            asked_s, size = 0.0, _size(folder)
        found.append(_Copy(folder.relative_to(base).as_posix(), asked_s, size))
    return sorted(found, key=lambda each: (each.asked_s, each.prefix))


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # another process finished or removed it
            continue
    return total


def _make_room(base: Path, size_bytes: int, besides: str) -> None:
    """Remove copies that nobody holds or makes until another of this size fits; one that never will is made as well."""
    for left in (base / LOCKS).glob(f"{_GONE}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    others = [each for each in _copies(base) if each.prefix != besides]
    there = sum(each.size_bytes for each in others)
    limit = min(cache_limit_bytes(base), there + shutil.disk_usage(base).free)
    total = size_bytes + there
    for each in others:
        if total <= limit:
            return
        if _remove(base, each.prefix):
            total -= each.size_bytes


def _remove(base: Path, prefix: str) -> bool:
    """Remove a copy; False where a process holds or makes it."""
    lock = _lock_of(base, prefix)
    with (lock.parent / f"{lock.name}.making").open("w") as making, lock.open("a") as held:
        for file in (making, held):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        gone = lock.parent / f"{_GONE}{uuid.uuid4().hex}"
        try:
            (base / prefix).rename(gone)  # at once: a process that is killed here leaves no half of a copy
        except FileNotFoundError:
            return True
    shutil.rmtree(gone, ignore_errors=True)
    return True
