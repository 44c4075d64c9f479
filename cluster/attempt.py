"""One try at making an artifact: a folder of its own, a lease that says it is alive, and publication.

Nothing written here is visible until :meth:`Attempt.publish` puts the record. Files under ``resume/`` outlive a
failed try, so that the next one continues from them; they are never part of the artifact.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cluster.artifact import RECORD, Artifact, FileEntry, load_artifact
from cluster.errors import InternalError, RaymillError, UserError
from cluster.store import Store, Written

LEASE = "lease.json"
LEASE_SECONDS = 120.0
RESUME = "resume"
GC_AGE_SECONDS = 24 * 3600.0


class Attempt:
    """See the module's text. Use as a context manager: leaving it without publishing abandons the try.

    Attributes:
        prefix: the store key of this try's folder.
        fresh: start from nothing even where an earlier try left something to continue from.
        name: the folder's name below the artifact's.
        guard: called right before publishing; it raises where this process must not write any more.
    """

    def __init__(
        self, store: Store, artifact_id: str, *, fresh: bool = False, guard: Callable[[], None] = lambda: None
    ) -> None:
        self.store = store
        self.guard = guard
        self.fresh = fresh
        self.artifact_id = artifact_id
        self.name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        self.prefix = f"{artifact_id}/{self.name}"
        self.published = False
        self._staging: Path | None = None
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease {self.name}", daemon=True)

    def __enter__(self) -> Attempt:
        self._renew()
        self._heart.start()
        return self

    def __exit__(self, kind: object, failure: BaseException | None, trace: object) -> None:
        self._stop.set()
        self._heart.join(timeout=5)
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
        try:
            if not self.published and not self._may_be_published():
                self.discard(keep_resume=True)
            self.store.delete(f"{self.prefix}/{LEASE}")
        except (OSError, RaymillError):
            if failure is None:
                raise
            # The user must read why the try failed. What could not be removed is garbage that no record names.

    def _may_be_published(self) -> bool:
        """Whether the record names this try although publishing was cut off before it could say so.

        Where the store cannot be asked it may: the files then stay, and garbage collection decides later.
        """
        try:
            record = load_artifact(self.store, self.artifact_id)
        except (OSError, RaymillError):
            return True
        return record is not None and record.attempt == self.name

    def key(self, path: str) -> str:
        """The store key of a file of this try; workers on other nodes write here through ``store.arrow``."""
        return f"{self.prefix}/{path}"

    def path(self, path: str) -> Path:
        """A local path to write a file to: in the store where that is local, otherwise in a folder uploaded later."""
        local = self.store.local_path(self.key(path))
        if local is None:
            if self._staging is None:
                self._staging = Path(tempfile.mkdtemp(prefix="raymill-attempt-"))
            local = self._staging / path
        local.parent.mkdir(parents=True, exist_ok=True)
        return local

    def write_json(self, path: str, value: Any) -> None:
        """Write a JSON file, keys sorted."""
        self.path(path).write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")

    def write_text(self, path: str, text: str) -> None:
        """Write a text file in UTF-8."""
        self.path(path).write_text(text, encoding="utf-8")

    def resume_key(self, path: str = "") -> str:
        """The store key of a file that the next try may continue from."""
        return self.key(f"{RESUME}/{path}" if path else RESUME)

    def earlier(self) -> list[str]:
        """Prefixes of earlier tries at this artifact that left something to resume from, newest first."""
        return [] if self.fresh else self._others()

    def _others(self) -> list[str]:
        names = [name for name in self.store.folders(self.artifact_id) if name != self.name]
        return [
            f"{self.artifact_id}/{name}"
            for name in sorted(names, reverse=True)
            if RESUME in self.store.folders(f"{self.artifact_id}/{name}")
        ]

    def seal(self, written: Mapping[str, Written] | None = None) -> list[FileEntry]:
        """Move staged files into the store and list everything written, with sizes and checksums, in path order.

        Args:
            written: path -> what a worker said of the file when it wrote it. Such a file must have that size, and is
                not read again: the others are, by this process. ``raymill verify`` reads them all.

        Raises:
            InternalError: such a file is not there, or has another size.
        """
        known = written or {}
        if self._staging is not None:
            staging = self._staging
            staged = [path for path in sorted(staging.rglob("*")) if path.is_file()]
            with ThreadPoolExecutor(8) as pool:
                list(
                    pool.map(
                        lambda path: self.store.upload(path, self.key(path.relative_to(staging).as_posix())), staged
                    )
                )
        start = len(self.prefix) + 1
        found = {item.key[start:]: item.size_bytes for item in self.store.files(f"{self.prefix}/")}
        data = {path: size for path, size in found.items() if path != LEASE and not path.startswith(f"{RESUME}/")}
        for name, said in known.items():
            if data.get(name) != said.size_bytes:
                there = f"has {data[name]:,}" if name in data else "is gone"
                raise InternalError(
                    f"a file of {said.size_bytes:,} bytes was written and {there}",
                    where=self.store.uri(self.key(name)),
                    next_step="nothing was published; repeat the command, and report it if that does not help",
                )
        self.store.make_durable([self.key(path) for path in data])

        def entry(path: str) -> FileEntry:
            if path in known:
                return FileEntry(path=path, size_bytes=known[path].size_bytes, sha256=known[path].sha256)
            digest, size = self.store.sha256(self.key(path))
            return FileEntry(path=path, size_bytes=size, sha256=digest)

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(entry, sorted(data)))

    def publish(self, record: Artifact, *, replace: Artifact | None = None) -> Artifact:
        """Make this try the artifact; where another run published first, give theirs back and drop this one.

        Args:
            replace: the record this one supersedes (``--force``); only that very record is replaced.
        """
        key = f"{self.artifact_id}/{RECORD}"
        record = record.sealed()
        self.guard()
        if replace is None:
            won = self.store.put_if_absent(key, record.encode())
        else:
            won = self.store.put_if_match(key, record.encode(), replace.encode())
        if not won:
            other = load_artifact(self.store, self.artifact_id)
            if other is not None:
                self.discard(keep_resume=False)
                self.published = True
                return other
            return self.publish(record)  # the record we meant to replace was removed meanwhile
        self.published = True
        self.store.delete_all(f"{self.prefix}/{RESUME}")
        for prefix in self._others():
            if not is_alive(self.store, prefix):
                self.store.delete_all(prefix)
        return record

    def discard(self, *, keep_resume: bool) -> None:
        """Remove what this try wrote, except (if asked) what the next try can continue from."""
        kept = f"{self.prefix}/{RESUME}/"
        for item in list(self.store.files(f"{self.prefix}/")):
            if not (keep_resume and item.key.startswith(kept)):
                self.store.delete(item.key)

    def _renew(self) -> None:
        lease = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": _process_started(os.getpid()),
            "expires": time.time() + LEASE_SECONDS,
        }
        self.store.write(f"{self.prefix}/{LEASE}", json.dumps(lease).encode())

    def _beat(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 4):
            try:
                self._renew()
            except (OSError, RaymillError):
                # A missed beat only shortens the lease; a store that is really gone fails the stage itself.
                continue


def is_alive(store: Store, prefix: str, now: float | None = None) -> bool:
    """Whether the try at a prefix holds a lease that has not run out, by a process not known to be gone."""
    try:
        lease = json.loads(store.read(f"{prefix}/{LEASE}"))
    except (FileNotFoundError, ValueError):
        return False
    if lease.get("host") == socket.gethostname() and _process_started(lease["pid"]) != lease["process_started"]:
        return False  # killed on this machine: no need to wait for the lease to run out
    return float(lease["expires"]) > (time.time() if now is None else now)


def _process_started(pid: int) -> float | None:
    """When a process of this machine began (an id alone may be somebody else's by now); None where there is none."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def collect_garbage(
    store: Store,
    *,
    age_s: float = GC_AGE_SECONDS,
    dry_run: bool = False,
    now: float | None = None,
    on_remove: Callable[[str, int], None] | None = None,
) -> int:
    """Remove tries that no record names, that hold no live lease and whose newest file is over ``age_s`` old.

    Returns:
        bytes freed (with ``dry_run``: that would be).
    """
    from cluster.artifact import KINDS

    moment = time.time() if now is None else now
    freed = 0
    for kind in KINDS:
        for folder in store.folders(kind):
            artifact_id = f"{kind}/{folder}"
            try:
                record = load_artifact(store, artifact_id)
            except UserError:
                continue  # a damaged record may name any of them: `verify` says so, nothing is removed
            for name in store.folders(artifact_id):
                prefix = f"{artifact_id}/{name}"
                if record is not None and record.attempt == name:
                    continue
                files = list(store.files(f"{prefix}/"))
                newest = max((item.modified_s for item in files), default=0.0)
                if is_alive(store, prefix, moment) or moment - newest < age_s:
                    continue
                size = sum(item.size_bytes for item in files)
                if on_remove:
                    on_remove(prefix, size)
                if not dry_run:
                    store.delete_all(prefix)
                freed += size
    return freed
