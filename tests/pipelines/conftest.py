"""Fixtures of the training tests: a curated corpus made of this interpreter's own docstrings."""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.artifact import Artifact, Identity
from cluster.attempt import Attempt
from cluster.store import Store, open_store


def docstring_document(path: Path, module: str) -> str | None:
    """A module's docstrings as the corpus stage writes them: ``# module``, then ``## def …`` and ``## class …``."""
    tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
    parts = [f"# {module}", ast.get_docstring(tree) or ""]
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            text = ast.get_docstring(node)
            if text:
                word = "class" if isinstance(node, ast.ClassDef) else "def"
                arguments = ast.unparse(node.args) if isinstance(node, ast.FunctionDef) else ""
                parts.append(f"## {word} {node.name}({arguments})\n\n{text}")
    return "\n\n".join(part for part in parts if part) if len(parts) > 3 else None


def stdlib_documents(limit: int) -> list[dict[str, str]]:
    """Rows of a curated corpus from the standard library, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    rows = []
    for path in sorted(root.glob("*.py")) + sorted(root.glob("[a-z]*/*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        text = docstring_document(path, module)
        if text:
            rows.append(
                {
                    "id": hashlib.sha256(module.encode()).hexdigest()[:16],
                    "text": text,
                    "source": "python-docs",
                    "path": module,
                    "licence": "PSF-2.0",
                    "language": "en",
                    "metadata": json.dumps({"kind": "docstring", "package": "python", "version": "3"}),
                }
            )
        if len(rows) >= limit:
            break
    return rows


def publish_corpus(store: Store, rows: list[dict[str, str]], *, files: int = 2, validation_every: int = 10) -> Artifact:
    """A published curated corpus: every ``validation_every``-th row is held out, the rest lies in ``files`` files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    held_out = rows[::validation_every]
    training = [row for index, row in enumerate(rows) if index % validation_every]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    identity = Identity("Corpus", "curate", 1, {"rows": digest}, {})
    with Attempt(store, identity.id) as attempt:
        parts = {f"train/part-{n:05d}.parquet": training[n::files] for n in range(files)}
        for name, part in (parts | {"validation/part-00000.parquet": held_out}).items():
            if part:
                pq.write_table(pa.Table.from_pylist(part), attempt.path(name))
        record = Artifact(
            kind="Corpus",
            name="curate",
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
            counts={"documents": len(rows)},
            licences={"PSF-2.0": len(rows)},
        )
        return attempt.publish(record)


@pytest.fixture(scope="session")
def corpus_rows() -> list[dict[str, str]]:
    return stdlib_documents(160)


@pytest.fixture(scope="session")
def publish() -> Callable[..., Artifact]:
    """:func:`publish_corpus`, for tests that make corpora of their own."""
    return publish_corpus


@pytest.fixture(scope="module")
def training_ray() -> Iterator[None]:
    """An embedded Ray, started as `raymill run` starts it."""
    from cluster.session import ClusterConfig, connect

    with connect(ClusterConfig()):
        yield


@pytest.fixture(scope="session")
def training_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("training") / "store")
