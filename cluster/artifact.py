"""What a stage publishes: data files, and one record that says how they came to be.

An artifact lives in ``<kind>/<name>-<first 12 of its fingerprint>/``. Each try writes below a folder of its own
there; ``artifact.json``, written last and atomically, names the try that won. Without a record there is no artifact.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from cluster.config import StrictModel
from cluster.errors import InternalError, UserError
from cluster.store import Store

RECORD = "artifact.json"
COMPARED = "compared with"
"""How the role of a parent begins that decided about the content, and of which nothing was taken."""
KINDS = (
    "Corpus",
    "Tokenizer",
    "Tokens",
    "Model",
    "Adapter",
    "Classifier",
    "ClassifierAdapter",
    "Seq2SeqAdapter",
    "RewardModel",
    "BenchmarkText",
    "EvalReport",
    "Decision",
    "RolloutRecord",
    "FeedbackSet",
)


@dataclass(frozen=True)
class Identity:
    """What an artifact is: everything that decides its content, and nothing about where or how fast it was made.

    Attributes:
        kind: one of KINDS.
        name: the stage's name, or the stage's and what it was applied to (``evals-pretrain``).
        version: the stage's integer version, raised when its semantics change.
        config: the configuration fields that change the result, resolved.
        inputs: role -> fingerprint of each input.
    """

    kind: str
    name: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    def fields(self) -> dict[str, Any]:
        """The identity as plain JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "version": self.version,
            "config": dict(self.config),
            "inputs": dict(self.inputs),
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the identity in canonical JSON (sorted keys, no spaces, RFC 8785's spirit)."""
        text = json.dumps(self.fields(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    @property
    def id(self) -> str:
        """The artifact's place in a store."""
        return f"{self.kind}/{self.name}-{self.fingerprint[:12]}"


class FileEntry(StrictModel):
    """One data file: its path relative to the attempt's folder, size and SHA-256."""

    path: str
    size_bytes: int
    sha256: str


class InputEntry(StrictModel):
    """One parent: its id in the store and its whole fingerprint."""

    id: str
    fingerprint: str


class Artifact(StrictModel):
    """The record of one artifact; see the module's text.

    Attributes:
        identity: as :meth:`Identity.fields` gives it.
        attempt: the folder below the artifact's own that holds the data.
        counts: whole numbers about the content (documents, tokens, …).
        metrics: measured results, dotted names to numbers.
        licences: licence -> number of documents under it.
        details: anything else a later stage or a reader needs, as plain JSON.
        provenance: code and library versions, command, times; never part of the identity.
        record_sha256: SHA-256 of the rest of the record in canonical JSON, set when it is stored.
    """

    schema_version: int = 1
    kind: str
    name: str
    fingerprint: str
    identity: dict[str, Any]
    inputs: dict[str, InputEntry] = Field(default_factory=dict)
    attempt: str
    files: list[FileEntry]
    counts: dict[str, int] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    licences: dict[str, int] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    record_sha256: str = ""

    @property
    def id(self) -> str:
        """The artifact's place in its store."""
        return f"{self.kind}/{self.name}-{self.fingerprint[:12]}"

    @property
    def data_prefix(self) -> str:
        """The key of the folder that holds the data files."""
        return f"{self.id}/{self.attempt}"

    def key(self, path: str) -> str:
        """The store key of one of the data files."""
        return f"{self.data_prefix}/{path}"

    def encode(self) -> bytes:
        """The record as it is stored."""
        return self.model_dump_json(indent=1).encode("utf-8")

    def sealed(self) -> Artifact:
        """The record with its own checksum."""
        return self.model_copy(update={"record_sha256": self.checksum()})

    def checksum(self) -> str:
        """What ``record_sha256`` has to be."""
        rest = self.model_dump(mode="json", exclude={"record_sha256"})
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode("utf-8")).hexdigest()


def load_artifact(store: Store, artifact_id: str) -> Artifact | None:
    """The artifact at an id, or None where none is published.

    Raises:
        UserError: the record is there but is not a readable one.
    """
    try:
        data = store.read(f"{artifact_id}/{RECORD}")
    except FileNotFoundError:
        return None
    try:
        artifact = Artifact.model_validate_json(data)
        problem = "" if artifact.checksum() == artifact.record_sha256 else "it does not match its own checksum"
    except ValidationError as error:
        problem = str(error.errors()[0]["msg"])
    if problem:
        raise UserError(
            f"the record is damaged, or of another version: {problem}",
            where=store.uri(f"{artifact_id}/{RECORD}"),
            next_step="restore it from a copy, or delete the artifact's folder and run its stage again",
        )
    return artifact


def list_artifacts(
    store: Store, kind: str | None = None, name: str | None = None, damaged: list[UserError] | None = None
) -> list[Artifact]:
    """Every published artifact, newest last, optionally of one kind and stage name.

    Args:
        damaged: takes the error of each record that cannot be read. One bad record must not hide the others, so
            without it they are left out; ``raymill show`` and ``verify`` report them.
    """
    found = []
    for each_kind in (kind,) if kind else KINDS:
        for folder in store.folders(each_kind):
            if name is None or folder.rpartition("-")[0] == name:
                try:
                    artifact = load_artifact(store, f"{each_kind}/{folder}")
                except UserError as error:
                    if damaged is not None:
                        damaged.append(error)
                    continue
                if artifact is not None:
                    found.append(artifact)
    return sorted(found, key=lambda artifact: (str(artifact.provenance.get("finished", "")), artifact.id))


def find_artifact(store: Store, reference: str) -> Artifact:
    """The artifact a person means: by id, ``name-fingerprint``, a fingerprint's beginning, or a stage's name (newest).

    Raises:
        UserError: nothing fits, or a fingerprint's beginning fits several.
    """
    exact = load_artifact(store, reference) if re.fullmatch(r"[A-Za-z]+/[\w.-]+", reference) else None
    if exact:
        return exact
    everything = list_artifacts(store)
    named = [artifact for artifact in everything if artifact.name == reference]
    if named:
        return named[-1]
    fits = [
        artifact
        for artifact in everything
        if artifact.id.startswith(reference)
        or artifact.id.rpartition("/")[2].startswith(reference)
        or (len(reference) >= 4 and artifact.fingerprint.startswith(reference))
    ]
    if len(fits) == 1:
        return fits[0]
    known = ", ".join(artifact.id for artifact in (fits or everything)[-8:]) or "none yet"
    problem = "fits several artifacts" if fits else "no such artifact"
    raise UserError(f"{problem}: {reference}", where=store.url, next_step=f"artifacts here: {known}")


@dataclass(frozen=True)
class Damage:
    """One file that does not match its record: where, and how."""

    key: str
    problem: str


def verify_artifact(store: Store, artifact: Artifact) -> list[Damage]:
    """Check the identity against the fingerprint and every file against its recorded size and SHA-256.

    The record's own checksum is checked whenever it is read.
    """
    identity = Identity(**artifact.identity)
    damage = []
    if identity.fingerprint != artifact.fingerprint:
        damage.append(Damage(f"{artifact.id}/{RECORD}", "the identity does not give the recorded fingerprint"))

    def check(entry: FileEntry) -> Damage | None:
        key = artifact.key(entry.path)
        try:
            digest, size = store.sha256(key)
        except FileNotFoundError:
            return Damage(key, "missing")
        if size != entry.size_bytes:
            return Damage(key, f"{size:,} bytes, recorded {entry.size_bytes:,}")
        if digest != entry.sha256:
            return Damage(key, f"SHA-256 {digest[:12]}…, recorded {entry.sha256[:12]}…")
        return None

    with ThreadPoolExecutor(8) as pool:
        damage.extend(found for found in pool.map(check, artifact.files) if found)
    return damage


def local_copy(store: Store, artifact: Artifact, cache: Path | None = None) -> Path:
    """A local folder with the artifact's files: the store's own where it is local, otherwise a checked copy.

    Args:
        cache: where copies are kept; by default RAYMILL_CACHE, or else the user's cache folder. A copy is made once
            a machine, and stays at least until this process ends.
    """
    from cluster.cache import cached_copy

    direct = store.local_path(artifact.data_prefix)
    return direct if direct is not None else cached_copy(store, artifact.data_prefix, artifact.files, cache)


def ancestors(store: Store, artifact: Artifact) -> Iterator[tuple[int, str, Artifact | None]]:
    """The lineage as (depth, role, artifact), the artifact itself first; None for a parent that is gone.

    An artifact that was met before is given again, its own parents are not.
    """
    seen: set[str] = set()

    def walk(current: Artifact, depth: int, role: str) -> Iterator[tuple[int, str, Artifact | None]]:
        yield depth, role, current
        if current.id in seen:
            return
        seen.add(current.id)
        for parent_role, entry in current.inputs.items():
            parent = load_artifact(store, entry.id)
            if parent is None:
                yield depth + 1, f"{parent_role} {entry.id}", None
            else:
                yield from walk(parent, depth + 1, parent_role)

    return walk(artifact, 0, "")


def contributors(
    lineage: Iterable[tuple[int, str, Artifact | None]],
) -> Iterator[tuple[int, str, Artifact | None]]:
    """A lineage without what was only compared with, and without the parents of that: nothing of it is in there."""
    passed_over: int | None = None
    for depth, role, artifact in lineage:
        if passed_over is not None and depth > passed_over:
            continue
        passed_over = depth if role.startswith(COMPARED) else None
        if passed_over is None:
            yield depth, role, artifact


def read_json(store: Store, artifact: Artifact, path: str) -> Any:
    """One of the artifact's JSON files, decoded.

    Raises:
        InternalError: the artifact has no such file.
    """
    try:
        return json.loads(store.read(artifact.key(path)))
    except FileNotFoundError:
        raise InternalError(
            f"{path} is missing", where=store.uri(artifact.data_prefix), next_step=f"`raymill verify {artifact.id}`"
        ) from None
