"""Fixtures of the training tests: a curated corpus made of this interpreter's own docstrings."""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.artifact import Artifact, Identity
from cluster.attempt import Attempt
from cluster.store import Store, open_store

if TYPE_CHECKING:
    from tests.pipelines.train_driver import Uninterrupted


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


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, corpus_rows: list[dict[str, str]]) -> Uninterrupted:
    """What the runs that something happens to are compared with."""
    from cluster.session import ClusterConfig, connect
    from tests.pipelines.train_driver import GENTLE, Uninterrupted, artifact_of, driver, end_well, publish_inputs

    folder = tmp_path_factory.mktemp("uninterrupted")
    with connect(ClusterConfig()):
        inputs = publish_inputs(open_store(folder / "store"), corpus_rows[:60], publish_corpus)
    with driver(inputs.store, inputs, GENTLE, folder / "log") as process:
        end_well(process, folder / "log")
    return Uninterrupted(inputs, artifact_of(inputs.store))


def publish_folder(store: Store, folder: Path, kind: str, name: str) -> Artifact:
    """A folder's files as an artifact."""
    identity = Identity(kind, name, 1, {"of": name}, {})
    with Attempt(store, identity.id) as attempt:
        for path in sorted(folder.iterdir()):
            attempt.path(path.name).write_bytes(path.read_bytes())
        record = Artifact(
            kind=kind,
            name=name,
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
        )
        return attempt.publish(record)


@pytest.fixture(scope="session")
def publish_model() -> Callable[..., Artifact]:
    """:func:`publish_folder`."""
    return publish_folder


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small llama with fresh weights and a tokenizer with a chat template."""
    import torch

    from pipelines.models.export import export_model
    from pipelines.models.llama import build_llama
    from pipelines.models.shapes import Shape
    from pipelines.tokens.folder import write_folder
    from pipelines.tokens.learn import learn_bpe

    folder = tmp_path_factory.mktemp("chat")
    (folder / "tokenizer").mkdir()
    write_folder(learn_bpe(["red green blue cold warm old new long"] * 4, 300, 2), folder / "tokenizer")
    torch.manual_seed(0)
    shape = Shape(hidden=32, layers=2, heads=1, kv_heads=1, intermediate=48)
    model = build_llama(shape, vocab_size=300, max_positions=96, bos_id=0, eos_id=1, pad_id=2)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 4
    export_model(model, folder / "tokenizer", folder / "model", torch.randint(0, 300, (1, 8)))
    return folder / "model"


@pytest.fixture(scope="session")
def preference_rows() -> dict[str, str]:
    """Split -> preferences as JSON lines, with a rule: the better answer is a colour."""
    from pipelines.finetune.examples.records import Preference, asked, to_jsonl

    colours, others = ("red", "green", "blue"), ("cold", "warm", "old", "new", "long")

    def pairs(first: int, count: int) -> list[Preference]:
        return [
            Preference(asked(f"say {number}"), colours[number % 3], others[number % 5], f"rows.jsonl:{number}")
            for number in range(first, first + count)
        ]

    return {"train": to_jsonl(pairs(1, 24)), "validation": to_jsonl(pairs(101, 8))}
