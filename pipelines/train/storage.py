"""torch.distributed.checkpoint's files in a store, local or S3, and what each process wrote with its checksum."""

from __future__ import annotations

import hashlib
import io
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter

from cluster.store import Store

# A group of one saves and loads without torch.distributed on purpose.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


class Witness(io.BufferedIOBase):
    """A file that is written from beginning to end, and the checksum of what was meant to be in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        count = self._file.write(data)
        self.size += count
        return count

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()


class StoreFiles(FileSystemBase):
    """A store as the file system that torch's readers and writers ask for; paths are keys.

    Attributes:
        written: key -> (SHA-256, bytes) of every file as it was meant to be.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.written: dict[str, tuple[str, int]] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Generator[Any, None, None]:
        """A local file: uploaded when it is closed without an error, or downloaded before it is opened."""
        key = str(path)
        local = self.store.local_path(key)
        with tempfile.TemporaryDirectory(prefix="raymill-checkpoint-") as folder:
            aside = Path(folder) / "file"
            if mode == "rb":
                if local is None:
                    self.store.download(key, aside)
                with (local or aside).open("rb") as file:
                    yield file
                return
            if local is not None:
                local.parent.mkdir(parents=True, exist_ok=True)
            target = local or aside
            with target.open("wb") as file:
                witness = Witness(file)
                yield witness
            if local is None:
                self.store.upload(target, key)
            self.written[key] = (witness.digest.hexdigest(), witness.size)

    def concat_path(self, path: Any, suffix: str) -> str:
        return str(PurePosixPath(str(path)) / suffix)

    def init_path(self, path: Any) -> str:
        return str(path)

    def rename(self, path: Any, new_path: Any) -> None:
        self.store.write(str(new_path), self.store.read(str(path)))
        self.store.delete(str(path))
        self.written[str(new_path)] = self.written.pop(str(path))

    def mkdir(self, path: Any) -> None:
        return

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    def exists(self, path: Any) -> bool:
        return self.store.exists(str(path))

    def rm_file(self, path: Any) -> None:
        self.store.delete(str(path))


def writer(store: Store, key: str) -> tuple[FileSystemWriter, StoreFiles]:
    """Writes a checkpoint below a key; the second tells what was written."""
    made = FileSystemWriter(key, sync_files=store.local_path(key) is not None)
    files = StoreFiles(store)
    made.fs = files
    made.path = key
    return made, files


def reader(store: Store, key: str) -> FileSystemReader:
    """Reads the checkpoint below a key."""
    made = FileSystemReader(key)
    made.fs = StoreFiles(store)
    made.path = key
    return made
