"""Encoding and packing on Ray against raw ``encode_batch_fast`` of the tokenizers library, on the same cores.

Ours is the whole stage ``tokens``: curated Parquet files in a store are read, encoded on Ray Data, packed, counted and
published. The peer is one call on texts that are already in memory, with a thread for each core. Ray is running before
the first round, as it is when a recipe reaches this stage, and each side first encodes a few documents unmeasured. The
sides take turns, and their tokens are compared.

    python benchmarks/training_encode.py [--data FOLDER] [--megabytes N] [--rounds N] [--cores N] [--quick]
                                         [--without-ray]

``--without-ray`` compares the CPU time of encoding a table and packing it, in this process on one thread: what another
load on the machine changes least.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILES = 8
DOCUMENT_CHARACTERS = 3000
VOCABULARY = 16_384
VOCABULARY_BYTES = 4_000_000
"""Text to learn the vocabulary from."""


def make_documents(data: Path | None, megabytes: float) -> list[str]:
    """Documents of a few thousand characters: the folder's texts, then the sources of Python and its packages."""
    from benchmarks.curation_minhash import stored_texts

    documents: list[str] = []
    held, size, wanted = "", 0, int(megabytes * 1e6)

    def texts() -> Iterator[str]:
        if data is not None:
            yield from stored_texts(data)
        yield from installed_sources()

    for text in texts():
        held += text + "\n\n"
        whole = len(held) - len(held) % DOCUMENT_CHARACTERS
        for first in range(0, whole, DOCUMENT_CHARACTERS):
            documents.append(held[first : first + DOCUMENT_CHARACTERS])
            size += len(documents[-1].encode("utf-8", "surrogatepass"))
        held = held[whole:]
        if size >= wanted:
            break
    return [text.encode("utf-8", "replace").decode("utf-8") for text in documents]


def installed_sources() -> Iterator[str]:
    """The source files of the installed Python, with their documentation: two hundred megabytes and more."""
    for folder in (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]):
        for path in sorted(Path(folder).rglob("*.py")):
            yield path.read_text(encoding="utf-8", errors="replace")


def publish_corpus(store: Any, documents: list[str], name: str) -> Any:
    """The documents as curation leaves them: Parquet files below train/ and validation/."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cluster.artifact import Artifact, Identity
    from cluster.attempt import Attempt

    rows = [
        {"id": f"{number:08d}", "text": text, "source": "benchmark", "language": "en"}
        for number, text in enumerate(documents)
    ]
    identity = Identity("Corpus", name, 1, {"documents": len(rows)}, {})
    with Attempt(store, identity.id) as attempt:
        pq.write_table(pa.Table.from_pylist(rows[:1]), attempt.path("validation/part-00000.parquet"))
        for part in range(FILES):
            table = pa.Table.from_pylist(rows[1 + part :: FILES])
            pq.write_table(table, attempt.path(f"train/part-{part:05d}.parquet"))
        record = Artifact(
            kind="Corpus",
            name=name,
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
            counts={"documents": len(rows)},
        )
        return attempt.publish(record)


def publish_tokenizer(store: Any, documents: list[str]) -> Any:
    """A byte-level BPE learned from some of the documents."""
    from cluster.artifact import Artifact, Identity
    from cluster.attempt import Attempt
    from pipelines.tokens.folder import write_folder
    from pipelines.tokens.learn import learn_bpe

    sizes = itertools.accumulate(len(text) for text in documents)
    few = [text for text, size in zip(documents, sizes, strict=True) if size <= VOCABULARY_BYTES] or documents[:1]
    identity = Identity("Tokenizer", "tokenizer", 1, {}, {})
    with Attempt(store, identity.id) as attempt:
        write_folder(learn_bpe(few, VOCABULARY, 2), attempt.path("tokenizer.json").parent)
        record = Artifact(
            kind="Tokenizer",
            name="tokenizer",
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
        )
        return attempt.publish(record)


def encode_ours(store: Any, corpus: Any, tokenizer: Any, cores: int) -> tuple[float, Any]:
    """Seconds of the stage, and its artifact."""
    from cluster.progress import Progress
    from cluster.stage import execute, identify
    from pipelines.tokens.config import TOKENS_STAGE, TokensConfig

    config = TokensConfig(workers=cores)
    inputs = {"corpus": corpus, "tokenizer": tokenizer}
    identity = identify(TOKENS_STAGE, config, {role: each.fingerprint for role, each in inputs.items()}, corpus.name)
    with Progress().track("tokens") as tracker:
        began = time.perf_counter()
        result = execute(TOKENS_STAGE, identity, config, inputs, store, tracker, force=True)
        return time.perf_counter() - began, result.artifact


def encode_here(tokenizer: str, corpus: str) -> None:
    """The peer, in this process: prints its seconds, and a digest of the tokens in the order of the documents' ids."""
    import numpy as np
    import pyarrow.parquet as pq

    from pipelines.tokens.folder import corpus_encoder

    encoder = corpus_encoder(Path(tokenizer).read_text(encoding="utf-8"))
    tables = [pq.read_table(path, columns=["id", "text"]) for path in sorted(Path(corpus).rglob("*.parquet"))]
    rows = sorted((row for table in tables for row in table.to_pylist()), key=lambda row: str(row["id"]))
    texts = [row["text"] for row in rows]
    encoder.encode_batch_fast(texts[:20], add_special_tokens=False)
    began = time.perf_counter()
    encodings = encoder.encode_batch_fast(texts, add_special_tokens=False)
    seconds = time.perf_counter() - began
    digest = hashlib.sha256()
    for each in encodings:
        digest.update(np.asarray(each.ids, np.uint32).tobytes())
    print(json.dumps({"seconds": seconds, "tokens": sum(map(len, encodings)), "digest": digest.hexdigest()}))


def digest_of(store: Any, artifact: Any) -> str:
    """The same digest of what the stage packed, without the marks around each document."""
    import numpy as np
    import pyarrow.parquet as pq

    from cluster.artifact import local_copy
    from pipelines.tokens.packing import DOCUMENTS, TokenBlocks

    folder = local_copy(store, artifact)
    found: list[tuple[str, Any]] = []
    for split in ("train", "validation"):
        stream = TokenBlocks(folder / split).stream()
        for row in pq.read_table(folder / split / DOCUMENTS).to_pylist():
            found.append((row["id"], stream[row["start"] + 1 : row["start"] + row["tokens"] - 1]))
    digest = hashlib.sha256()
    for _, tokens in sorted(found, key=lambda pair: pair[0]):
        digest.update(np.asarray(tokens, np.uint32).tobytes())
    return digest.hexdigest()


def _peer(tokenizer: Path, corpus: Path, cores: int) -> dict[str, Any]:
    threads = {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(cores), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).resolve()), "--peer", str(tokenizer), str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **threads})
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(documents: list[str], rounds: int, cores: int) -> dict[str, Any]:
    """The result ``encode``."""
    from cluster.artifact import local_copy
    from cluster.session import ClusterConfig, connect
    from cluster.store import open_store

    ours: list[float] = []
    peers: list[float] = []
    megabytes = sum(len(text.encode("utf-8")) for text in documents) / 1e6
    with tempfile.TemporaryDirectory(prefix="raymill-encode-") as folder, connect(ClusterConfig()):
        store = open_store(folder)
        tokenizer = publish_tokenizer(store, documents)
        corpus, few = publish_corpus(store, documents, "all"), publish_corpus(store, documents[: 4 * FILES], "few")
        places = local_copy(store, tokenizer) / "tokenizer.json", local_copy(store, corpus)
        encode_ours(store, few, tokenizer, cores)
        for number in range(rounds):
            for side in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
                if side == "ours":
                    seconds, artifact = encode_ours(store, corpus, tokenizer, cores)
                    ours.append(seconds)
                else:
                    peer = _peer(*places, cores)
                    peers.append(peer["seconds"])
                print(f"  {side}: {(ours if side == 'ours' else peers)[-1]:.2f} s", file=sys.stderr)
        agreement = digest_of(store, artifact) == peer["digest"]
    return {
        "name": "encode",
        "ours": megabytes / statistics.median(ours),
        "peer": "tokenizers.encode_batch_fast",
        "peer_value": megabytes / statistics.median(peers),
        "unit": "MB/s",
        "ratio": statistics.median(b / a for a, b in zip(ours, peers, strict=True)),
        "megabytes": megabytes,
        "documents": len(documents),
        "tokens": peer["tokens"],
        "agreement": float(agreement),
    }


def measure_without_ray(documents: list[str], rounds: int) -> dict[str, Any]:
    """The result ``encode_cpu``: CPU seconds of the stage's own work on a table and of its packing, one thread."""
    import pyarrow as pa

    from pipelines.tokens.encode import encode_table
    from pipelines.tokens.folder import corpus_encoder
    from pipelines.tokens.learn import learn_bpe
    from pipelines.tokens.marks import Marks
    from pipelines.tokens.packing import Packer

    few = documents[: max(len(documents) // 4, 1)]
    tokenizer = learn_bpe(few, VOCABULARY, 2).to_str()
    encoder, marks = corpus_encoder(tokenizer), Marks(0, 1, 2, None, (), frozenset([0, 1, 2]))
    same: dict[str, Any] = {name: [name] * len(documents) for name in ("source", "language")}
    table = pa.table({"id": [f"{n:08d}" for n in range(len(documents))], "text": documents, **same})

    def ours() -> int:
        batch = encode_table(table, "train", tokenizer, marks)
        with tempfile.TemporaryDirectory() as folder:
            packer = Packer(Path(folder), vocab_size=VOCABULARY, bos_id=0, eos_id=1, pad_id=2)
            start = 0
            for name, length in zip(batch.ids, batch.lengths.tolist(), strict=True):
                packer.add(name, batch.tokens[start : start + length])
                start += length
            return packer.finish(512).tokens - 2 * len(documents)

    def peer() -> int:
        return sum(map(len, encoder.encode_batch_fast(documents, add_special_tokens=False)))

    def timed(side: Callable[[], int]) -> tuple[float, int]:
        began = time.process_time()
        tokens = side()
        return time.process_time() - began, tokens

    counts = timed(ours)[1], timed(peer)[1]
    pairs = []
    for number in range(rounds):
        first, second = (ours, peer) if number % 2 == 0 else (peer, ours)
        seconds = {first: timed(first)[0], second: timed(second)[0]}
        pairs.append((seconds[ours], seconds[peer]))
    megabytes = sum(len(text.encode("utf-8")) for text in documents) / 1e6
    return {
        "name": "encode_cpu",
        "ours": megabytes / statistics.median(a for a, _ in pairs),
        "peer": "tokenizers.encode_batch_fast",
        "peer_value": megabytes / statistics.median(b for _, b in pairs),
        "unit": "MB per CPU second",
        "ratio": statistics.median(b / a for a, b in pairs),
        "megabytes": megabytes,
        "documents": len(documents),
        "tokens": counts[1],
        "agreement": float(counts[0] == counts[1]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of .txt and .jsonl files, read before Python's sources")
    parser.add_argument("--megabytes", type=float, default=120.0, help="at least 30, or starting matters more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=0, help="by default all that this process may use")
    parser.add_argument("--quick", action="store_true", help="2 megabytes, one round")
    parser.add_argument("--without-ray", action="store_true", help="CPU time of the stage's work in one process")
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        encode_here(*options.peer)
        return 0
    from cluster.machine import available_cores

    cores = options.cores or available_cores()
    documents = make_documents(options.data, 2.0 if options.quick else options.megabytes)
    rounds = 1 if options.quick else options.rounds
    if options.without_ray:
        os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
        cores, result = 1, measure_without_ray(documents, rounds)
    else:
        result = measure(documents, rounds, cores)
    print(f"{'':<10}{'MB/s':>8}{'peer':>8}{'ratio':>8}{'same tokens':>14}")
    print(
        f"{result['name']:<10}{result['ours']:>8.2f}{result['peer_value']:>8.2f}{result['ratio']:>8.2f}"
        f"{'yes' if result['agreement'] else 'NO':>14}"
    )
    versions = {name: version(name) for name in ("ray", "tokenizers")} | {"python": platform.python_version()}
    machine = f"{platform.machine()}, {cores} cores"
    print(json.dumps({"benchmark": "training", "results": [result], "machine": machine, "versions": versions}))
    return 0 if result["agreement"] else 1


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    sys.exit(main())
