"""A mirror: benchmark datasets in the Hub's layout with ``manifest.json``, in a folder or behind s3://.

``manifest.json`` gives each file's size and SHA-256. It is written last, so a mirror that was cut off half-way is none.
One on S3 is copied to a node once, and every file is checked whenever it is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.cache import cache_folder
from cluster.errors import UserError
from cluster.store import Store, open_store

MANIFEST = "manifest.json"
README = "README.md"


@dataclass(frozen=True)
class MirroredFile:
    """What a manifest says of one file."""

    bytes: int
    sha256: str


Manifest = dict[str, MirroredFile]
"""Path below the mirror's root -> the file."""


def hash_files(root: Path, datasets: Iterable[str]) -> Manifest:
    """Every file below the datasets' folders, in path order; hidden ones (``.git``, ``.cache``) do not count."""
    found: Manifest = {}
    for dataset in datasets:
        for path in (root / dataset).rglob("*"):
            relative = path.relative_to(root).as_posix()
            if path.is_file() and not any(part.startswith(".") for part in relative.split("/")):
                found[relative] = _hash(path)
    return dict(sorted(found.items()))


def _hash(path: Path) -> MirroredFile:
    with path.open("rb") as file:
        return MirroredFile(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def manifest_sha256(files: Manifest) -> str:
    """SHA-256 over the sorted (path, file's SHA-256): a set's identity, wherever it lies."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{files[path].sha256}\n".encode())
    return digest.hexdigest()


def read_manifest(text: bytes, where: str) -> Manifest:
    """A ``manifest.json``.

    Raises:
        UserError: it is not one.
    """
    try:
        entries = json.loads(text)
        return {str(path): MirroredFile(int(entry["bytes"]), str(entry["sha256"])) for path, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            "is not a mirror's manifest", where=where, next_step="make the mirror anew with `raymill benchmarks mirror`"
        ) from None


def check_hashes(root: Path, found: Manifest, datasets: Iterable[str]) -> None:
    """Compare a folder's files with its manifest; a folder without one (a copy made by hand) has nothing to compare.

    Raises:
        UserError: a file is missing, or is not what the manifest says.
    """
    place = root / MANIFEST
    if not place.is_file():
        return
    folders = tuple(f"{dataset}/" for dataset in datasets)
    listed = read_manifest(place.read_bytes(), str(place))
    for path, entry in listed.items():
        if not path.startswith(folders):
            continue
        if path not in found:
            problem = "is missing"
        elif found[path] != entry:
            problem = f"has SHA-256 {found[path].sha256[:12]}…, and {MANIFEST} says {entry.sha256[:12]}…"
        else:
            continue
        raise UserError(
            problem,
            where=str(root / path),
            next_step="copy the file again from where the mirror came from, or make the mirror anew with"
            " `raymill benchmarks mirror`",
        )


def fetch_mirror(url: str, datasets: Iterable[str], cache: Path | None = None) -> Path:
    """A local folder with the datasets of a mirror on S3; made once a node, by one process at a time.

    Args:
        cache: by default RAYMILL_CACHE, or else the user's cache folder.

    Raises:
        UserError: there is no mirror, or a file there is not what its manifest says.
    """
    store = open_store(url)
    try:
        text = store.read(MANIFEST)
    except FileNotFoundError:
        raise UserError(
            f"is not a mirror: it has no {MANIFEST}",
            where=url,
            next_step=f"`raymill benchmarks mirror {url}` makes one",
        ) from None
    root = cache_folder(cache) / "benchmarks" / hashlib.sha256(text).hexdigest()[:16]
    root.mkdir(parents=True, exist_ok=True)
    folders = tuple(f"{dataset}/" for dataset in datasets)
    with _locked(root / ".lock"):
        for path, entry in read_manifest(text, f"{url}/{MANIFEST}").items():
            target = root / path
            if path.startswith(folders) and not (target.is_file() and _hash(target) == entry):
                _download(store, path, target, entry)
        (root / MANIFEST).write_bytes(text)
    return root


def _download(store: Store, path: str, target: Path, entry: MirroredFile) -> None:
    problem = ""
    try:
        store.download(path, target)
    except FileNotFoundError:
        problem = f"is missing, and {MANIFEST} names it"
    if not problem and (found := _hash(target)) != entry:
        target.unlink()
        problem = f"has SHA-256 {found.sha256[:12]}…, and {MANIFEST} says {entry.sha256[:12]}…"
    if problem:
        raise UserError(
            problem, where=store.uri(path), next_step="make the mirror anew with `raymill benchmarks mirror`"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_mirror(source: Path, files: Iterable[str], destination: str) -> Manifest:
    """Copy files of a folder to a mirror, its manifest last; files that are there already and right are left.

    A mirror that exists keeps its other datasets.

    Args:
        files: paths below ``source``.
        destination: a folder or s3://bucket/prefix.
    """
    store = open_store(destination)
    try:
        old = read_manifest(store.read(MANIFEST), store.uri(MANIFEST))
    except FileNotFoundError:
        old = {}
    copied: Manifest = {}
    for path in sorted(files):
        copied[path] = _hash(source / path)
        if old.get(path) != copied[path] or not _is_there(store, path, copied[path]):
            store.upload(source / path, path)
    # Files of the same datasets that the source no longer has would otherwise stay in the set.
    renewed = tuple({"/".join(path.split("/")[:2]) + "/" for path in copied})
    kept = {path: entry for path, entry in old.items() if not path.startswith(renewed) or path in copied}
    for path in old.keys() - kept.keys():
        store.delete(path)
    manifest = dict(sorted({**kept, **copied}.items()))
    text = json.dumps({path: asdict(entry) for path, entry in manifest.items()}, indent=1, sort_keys=True)
    store.write(MANIFEST, text.encode() + b"\n")
    return manifest


def _is_there(store: Store, path: str, entry: MirroredFile) -> bool:
    try:
        return store.sha256(path) == (entry.sha256, entry.bytes)
    except FileNotFoundError:
        return False
