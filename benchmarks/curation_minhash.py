"""MinHash deduplication, all stages on one core: ours against datatrove, cold, on the same Parquet files.

Both sides read the files, sign every document (5-grams of words, 14 bands of 8 hashes), match, cluster and write what
is kept. Each side is a process of its own on one core, started anew for each round. Its time is the CPU time of the
whole process, imports and all, which other work on the machine changes least. Agreement is the share of documents that
stand in the same cluster on both sides. It needs datatrove (extra: dev).

    python benchmarks/curation_minhash.py [--quick] [--data FOLDER] [--documents N] [--rounds N]
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import random
import re
import statistics
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = 4
SEED = 20
PIECE_CHARACTERS = (300, 4000)


@dataclass(frozen=True)
class Measured:
    """One side of one round: CPU time, time on the clock, and the most memory that was resident."""

    seconds: float
    wall_seconds: float
    peak_mib: float


def stored_texts(data: Path) -> Iterator[str]:
    """Every text in a folder of .txt, .jsonl, .json and .raw files."""
    for path in sorted(data.rglob("*")):
        if path.suffix == ".txt" or path.name.endswith((".raw", ".tokens")):
            yield path.read_text(encoding="utf-8", errors="replace")
        elif path.suffix == ".jsonl":
            for line in path.read_text(encoding="utf-8").splitlines():
                yield "\n\n".join(value for value in json.loads(line).values() if isinstance(value, str))


def docstrings() -> Iterator[str]:
    """The documentation in the installed Python: the language reference, and docstrings."""
    from pydoc_data.topics import topics

    yield from topics.values()
    for folder in (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]):
        for path in sorted(Path(folder).rglob("*.py")):
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, RecursionError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    text = ast.get_docstring(node)
                    if text and len(text) > PIECE_CHARACTERS[0]:
                        yield text


def make_documents(data: Path | None, count: int) -> list[str]:
    """Real texts cut at blank lines; a fifth are edited copies of others, from a word changed to every fifth."""
    source = random.Random(SEED)
    originals: list[str] = []
    wanted = count - count // 5
    for text in _all_texts(data):
        held = ""
        target = source.randint(*PIECE_CHARACTERS)
        for paragraph in re.split(r"\n\s*\n", text):
            held = f"{held}\n\n{paragraph}" if held else paragraph
            if len(held) >= target:
                originals.append(held)
                held, target = "", source.randint(*PIECE_CHARACTERS)
        if len(held) >= PIECE_CHARACTERS[0]:
            originals.append(held)
        if len(originals) >= wanted:
            break
    originals = originals[:wanted]
    vocabulary = " ".join(originals[:200]).split()
    copies = []
    for _ in range(count - len(originals)):
        words = re.split(r"(\s+)", source.choice(originals))
        rate = source.choice([0.0, 0.005, 0.02, 0.05, 0.1, 0.2])
        copies.append("".join(source.choice(vocabulary) if source.random() < rate else word for word in words))
    documents = originals + copies
    source.shuffle(documents)
    return documents


def _all_texts(data: Path | None) -> Iterator[str]:
    if data is not None:
        yield from stored_texts(data)
    yield from docstrings()


def write_documents(documents: list[str], folder: Path) -> None:
    """Parquet files with the columns of a corpus."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for part in range(PARTS):
        rows = [
            {"id": f"{number:024x}", "text": documents[number], "source": "bench", "metadata": "{}"}
            for number in range(part, len(documents), PARTS)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"part-{part:05d}.parquet", compression="zstd")


def ours(inputs: Path, output: Path, words: str) -> None:
    """Every stage as curation runs it, with a plain loop in place of Ray."""
    import pyarrow as pa

    from cluster.store_local import LocalStore
    from pipelines.corpus.table import decode, encode
    from pipelines.curate.config import DedupConfig
    from pipelines.curate.dedup import Deduplication
    from pipelines.curate.signatures import sign

    store = LocalStore(output)
    config = DedupConfig.model_validate({"exact": False, "minhash": {"words": words}})
    files = sorted(inputs.glob("*.parquet"))
    signed = []
    for part, path in enumerate(files):
        rows = decode(path.read_bytes(), ["id", "text"]).to_pylist()
        signed.append(sign(rows, range(len(rows)), part, config, store, f"work/{part:05d}.parquet"))
    found = Deduplication(config, store, "work", lambda _, work, parts: map(work, parts), signed).find()
    for part, path in enumerate(files):
        table = decode(path.read_bytes())
        goes = found.decisions.load(store, part)
        kept = [row for row in range(len(table)) if row not in goes]
        store.write(f"kept/{part:05d}.parquet", encode(table.take(pa.array(kept, pa.int64()))))
        pairs = [[table.column("id")[row].as_py(), each.duplicate_of] for row, each in goes.items()]
        store.write(f"removed/{part:05d}.json", json.dumps(pairs).encode())


def peer(inputs: Path, output: Path) -> None:
    """datatrove's four stages, one after the other."""
    import xxhash
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from datatrove.utils.logging import logger

    logger.remove()
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, seed=1)
    place = {name: str(output / name) for name in ("signatures", "buckets", "removed", "kept")}

    def reader() -> Any:
        return ParquetReader(str(inputs), text_key="text", id_key="id")

    sign = MinhashDedupSignature(place["signatures"], config)
    sign._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())  # xxhash 4 takes no str, datatrove gives one
    for rank in range(PARTS):
        sign.run(reader().run(rank=rank, world_size=PARTS), rank, PARTS)
    for rank in range(config.num_buckets):
        MinhashDedupBuckets(place["signatures"], place["buckets"], config=config).run(None, rank, config.num_buckets)
    MinhashDedupCluster(place["buckets"], place["removed"], config).run(None, 0, 1)
    for rank in range(PARTS):
        kept = MinhashDedupFilter(place["removed"]).run(reader().run(rank=rank, world_size=PARTS), rank, PARTS)
        for _ in ParquetWriter(place["kept"]).run(kept, rank, PARTS):
            pass


def measure(side: str, inputs: Path, output: Path) -> Measured:
    """Run one side in a process of its own on one core."""
    command = [sys.executable, str(Path(__file__).resolve()), "--side", side, "--input", str(inputs)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--output", str(output)], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{side} failed: {status}")
    wall = time.perf_counter() - began
    return Measured(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024)


def clusters(output: Path, side: str, count: int) -> list[frozenset[int]]:
    """For each document the documents of its cluster."""
    joined: list[tuple[int, int]] = []
    if side == "peer":
        for path in (output / "buckets").rglob("*.dups"):
            for one, row, other, other_row in struct.iter_unpack("<4I", path.read_bytes()):
                joined.append((row * PARTS + one, other_row * PARTS + other))
    else:
        for path in (output / "removed").glob("*.json"):
            joined.extend((int(one, 16), int(other, 16)) for one, other in json.loads(path.read_text()))
    root = list(range(count))

    def find(node: int) -> int:
        while root[node] != node:
            node = root[node]
        return node

    for one, other in joined:
        low, high = sorted((find(one), find(other)))
        root[high] = low
    members: defaultdict[int, set[int]] = defaultdict(set)
    for node in range(count):
        members[find(node)].add(node)
    frozen = {key: frozenset(value) for key, value in members.items()}
    return [frozen[find(node)] for node in range(count)]


def run(data: Path | None, documents: int, rounds: int) -> list[dict[str, Any]]:
    """Measure; one result for words as the peer cuts them, and one for the faster cut."""
    sides = ("ours", "fast", "peer")
    with tempfile.TemporaryDirectory() as folder:
        texts = make_documents(data, documents)
        megabytes = sum(len(text.encode()) for text in texts) / 1e6
        inputs = Path(folder) / "input"
        write_documents(texts, inputs)
        print(f"{len(texts):,} documents, {megabytes:.1f} MB, {rounds} rounds", file=sys.stderr)
        measured: dict[str, list[Measured]] = {side: [] for side in sides}
        found = {}
        for number in range(rounds):
            for side in sides[number % 2 :] + sides[: number % 2]:
                output = Path(folder) / f"{side}-{number}"
                measured[side].append(measure(side, inputs, output))
                found[side] = clusters(output, side, len(texts))
                print(f"  {side}: {asdict(measured[side][-1])}", file=sys.stderr)
    return [
        _result(name, side, measured, found, len(texts), megabytes)
        for name, side in (("minhash", "ours"), ("minhash_fast", "fast"))
    ]


def _result(
    name: str,
    side: str,
    measured: dict[str, list[Measured]],
    found: dict[str, list[frozenset[int]]],
    documents: int,
    megabytes: float,
) -> dict[str, Any]:
    mine, theirs = measured[side], measured["peer"]
    seconds = statistics.median(each.seconds for each in mine)
    same = sum(one == other for one, other in zip(found[side], found["peer"], strict=True))
    return {
        "name": name,
        "ours": round(documents / seconds, 1),
        "peer": "datatrove",
        "peer_value": round(documents / statistics.median(each.seconds for each in theirs), 1),
        "unit": "documents/s",
        "ratio": round(statistics.median(b.seconds / a.seconds for a, b in zip(mine, theirs, strict=True)), 2),
        "mb_s": round(megabytes / seconds, 2),
        "peak_mib": round(max(each.peak_mib for each in mine)),
        "peer_peak_mib": round(max(each.peak_mib for each in theirs)),
        "agreement": round(same / documents, 6),
        "documents": documents,
        "wall_ratio": round(
            statistics.median(b.wall_seconds / a.wall_seconds for a, b in zip(mine, theirs, strict=True)), 2
        ),
        "removed": documents - len(set(found[side])),
        "peer_removed": documents - len(set(found["peer"])),
    }


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--data", type=Path, help="a folder of .txt and .jsonl files; by default Python's own documentation"
    )
    parser.add_argument("--documents", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smoke test in under a minute")
    parser.add_argument("--side", choices=["ours", "fast", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--input", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        if options.side == "peer":
            peer(options.input, options.output)
        else:
            ours(options.input, options.output, "reference" if options.side == "ours" else "fast")
        return
    if options.quick:
        options.documents, options.rounds = 1_000, 1
    results = run(options.data, options.documents, options.rounds)
    for each in results:
        print("  ".join(f"{key}={value}" for key, value in each.items()))
    versions = {name: metadata.version(name) for name in ("datatrove", "numpy", "numba", "spacy")}
    print(
        json.dumps(
            {
                "benchmark": "curation",
                "results": results,
                "machine": platform.processor() or platform.machine(),
                "versions": versions,
            }
        )
    )


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    main()
