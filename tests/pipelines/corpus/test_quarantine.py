"""Broken and hostile input: set aside with its reason, in bounded memory, until there is too much of it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard

from cluster.errors import UserError
from cluster.store import Store
from pipelines.corpus import part, quarantine
from pipelines.corpus.documents import Problem
from pipelines.corpus.quarantine import Bad
from pipelines.corpus.table import decode

RunCorpus = Callable[..., Any]
GOOD = b"".join(b'{"text": "good line %d"}\n' % number for number in range(50))
LONG_LINE_BYTES = 200 << 20


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JSON Lines in which half of the files are not what they should be."""
    folder = tmp_path_factory.mktemp("hostile")
    packed = gzip.compress(GOOD)
    files = {
        "good.jsonl": GOOD,
        "good.jsonl.zst": zstandard.compress(GOOD),
        "truncated.jsonl.gz": packed[:-20],
        "bomb.jsonl.gz": gzip.compress(bytes(64 << 20)),
        "bomb.jsonl.zst": zstandard.compress(GOOD + bytes(256 << 20)),
        "not-json.jsonl": GOOD + b"not json\n" + GOOD,
        "not-utf8.jsonl": GOOD + b'{"text": "\xff\xfe"}\n' + GOOD,
        "wrong-types.jsonl": b'{"text": 1}\n{"txt": "a"}\n[]\n' + GOOD,
        "empty.jsonl": b"",
        "named-only.jsonl.gz": GOOD,  # plain, whatever its name says
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with (folder / "long-line.jsonl").open("wb") as stream:
        stream.write(GOOD + b'{"text": "')
        stream.seek(LONG_LINE_BYTES, 1)
        stream.write(b'"}\n' + GOOD)
    return folder


def quarantined(store: Store, made: Any) -> list[dict[str, Any]]:
    names = [file.path for file in made.files if file.path.startswith("quarantine/")]
    return [row for name in names for row in decode(store.read(made.key(name))).to_pylist()]


def test_a_hostile_folder_costs_its_bad_inputs_only(hostile: Path, run_corpus: RunCorpus, store: Store) -> None:
    made, rows = run_corpus({"kind": "jsonl", "path": str(hostile), "name": "web"})
    table = quarantined(store, made)
    assert sorted((row["place"], row["reason"]) for row in table) == [
        ("bomb.jsonl.gz", "unpacks_too_far"),
        ("bomb.jsonl.zst", "unpacks_too_far"),
        ("long-line.jsonl:51", "too_large"),
        ("not-json.jsonl:51", "not_json"),
        ("not-utf8.jsonl:51", "not_utf8"),
        ("truncated.jsonl.gz", "truncated"),
        ("wrong-types.jsonl:1", "text_of_wrong_type"),
        ("wrong-types.jsonl:2", "no_text_field"),
        ("wrong-types.jsonl:3", "no_text_field"),
    ]
    files = Counter(row["path"].partition(":")[0].partition("@")[0] for row in rows)
    assert files.pop("truncated.jsonl.gz") >= 30
    assert files == {
        "good.jsonl": 50,
        "good.jsonl.zst": 50,
        "bomb.jsonl.zst": 50,
        "not-json.jsonl": 100,
        "not-utf8.jsonl": 100,
        "wrong-types.jsonl": 50,
        "named-only.jsonl.gz": 50,
        "long-line.jsonl": 100,
    }
    assert made.counts["quarantined.unpacks_too_far"] == 2
    assert made.details["sources"]["web"]["quarantined"] == dict(
        sorted(Counter(row["reason"] for row in table).items())
    )
    long = next(row for row in table if row["reason"] == "too_large")
    assert long["first_bytes"].startswith(b'{"text": "')
    assert len(long["first_bytes"]) <= 256
    page = store.read(made.key("report.html")).decode()
    assert "not-json.jsonl:51" in page


def test_past_the_fraction_one_message_names_the_worst(hostile: Path, run_corpus: RunCorpus, store: Store) -> None:
    with pytest.raises(UserError) as raised:
        run_corpus({"kind": "jsonl", "path": str(hostile)}, max_bad_fraction=0.01)
    message = str(raised.value)
    assert "corpus source jsonl: 9 of " in message
    assert "max_bad_fraction allows 1.0%" in message
    assert "no_text_field 2, unpacks_too_far 2" in message or "unpacks_too_far 2, no_text_field 2" in message
    assert "has no text in the field 'text'" in message
    assert all("/resume/" in file.key for file in store.files("Corpus"))


def test_the_fraction_counts_inputs(tmp_path: Path, run_corpus: RunCorpus) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' * 9 + b"bad\n")
    run_corpus({"kind": "jsonl", "path": str(tmp_path / "a.jsonl")}, max_bad_fraction=0.1)
    with pytest.raises(UserError, match=r"1 of 10 inputs \(10\.0%\)"):
        run_corpus({"kind": "jsonl", "path": str(tmp_path / "a.jsonl")}, max_bad_fraction=0.0999)


def test_all_may_be_bad_but_not_the_whole_corpus(tmp_path: Path, run_corpus: RunCorpus) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"bad\n" * 5)
    (tmp_path / "a.txt").write_text("good")
    sources = [{"kind": "jsonl", "path": str(tmp_path / "a.jsonl")}, {"kind": "text", "path": str(tmp_path / "a.txt")}]
    made, _ = run_corpus(*sources, max_bad_fraction=1)
    assert made.details["documents_by_source"] == {"jsonl": 0, "text": 1}
    with pytest.raises(UserError, match=r"the corpus is empty.*not_json 5"):
        run_corpus(sources[0], max_bad_fraction=1)


def test_a_hopeless_source_is_not_read_to_its_end(
    tmp_path: Path, run_corpus: RunCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "HOPELESS", 10)
    for number in range(40):
        (tmp_path / f"{number}.jsonl").write_bytes(b'{"title": "x"}\n' * 10_000)
    with pytest.raises(UserError) as raised:
        run_corpus({"kind": "jsonl", "path": str(tmp_path)})
    assert "cannot be used" in raised.value.what
    seen = int(raised.value.what.split(" of ")[0].replace(",", ""))
    assert seen < 40 * 10_000 / 4


def test_only_a_source_without_any_document_is_hopeless() -> None:
    assert quarantine.is_hopeless(0, quarantine.HOPELESS, 0.5)
    assert not quarantine.is_hopeless(0, quarantine.HOPELESS - 1, 0.5)
    assert not quarantine.is_hopeless(1, quarantine.HOPELESS, 0.5)
    assert not quarantine.is_hopeless(0, quarantine.HOPELESS, 1)


def test_a_file_of_junk_is_given_up(
    tmp_path: Path, run_corpus: RunCorpus, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setattr(part, "GIVEN_UP_AFTER", 50)
    good = [json.dumps({"text": f"line {number}"}) + "\n" for number in range(1000)]
    (tmp_path / "junk.jsonl").write_text("x\n" * 10_000 + good[0])
    (tmp_path / "good.jsonl").write_text("x\n" * 49 + "".join(good) + "x\n" * 60)
    made, rows = run_corpus({"kind": "jsonl", "path": str(tmp_path)}, max_bad_fraction=0.2)
    assert made.counts["documents"] == len(rows) == 1000
    assert made.details["sources"]["jsonl"]["quarantined"] == {"given_up": 1, "not_json": 159}


def test_a_summary_stays_small() -> None:
    bad = Bad()
    for number in range(10_000):
        bad.add(Problem(str(number), "what", "reason"))
    whole = Bad.total([bad, bad])
    assert whole.count == 20_000
    assert [problem.where for problem in whole.samples["reason"]] == ["0", "1", "2"]


@pytest.mark.parametrize("part_bytes", [1 << 16, 1 << 25])
def test_files_of_the_corpus_are_bounded(tmp_path: Path, run_corpus: RunCorpus, store: Store, part_bytes: int) -> None:
    text = "some words of a line that is not very long "
    lines = [json.dumps({"text": f"{text}{number}"}) + "\n" for number in range(8_000)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode(), 1))
    made, rows = run_corpus({"kind": "jsonl", "path": str(tmp_path / "a.jsonl.gz")}, part_bytes=part_bytes)
    assert [row["text"] for row in rows] == [f"{text}{number}" for number in range(8_000)]
    sizes = [
        sum(len(each.as_py()) for each in pq.read_table(store.local_path(made.key(file.path))).column("text"))
        for file in made.files
        if file.path.startswith("data/")
    ]
    assert max(sizes) <= part_bytes
    assert len(sizes) >= sum(sizes) // part_bytes


def test_a_cap_inside_a_large_file_reads_no_further(tmp_path: Path, run_corpus: RunCorpus, store: Store) -> None:
    lines = [json.dumps({"text": f"line {number:06d}"}) + "\n" for number in range(20_000)]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("".join(lines).encode(), 1) + b"damage that is never met")
    made, rows = run_corpus({"kind": "jsonl", "path": str(path), "max_bytes": 110_005}, part_bytes=1 << 16)
    assert [row["text"] for row in rows] == [f"line {number:06d}" for number in range(10_000)]
    assert made.counts == {"documents": 10_000, "bytes": 110_000}
    assert made.details["sources"]["jsonl"]["documents"] == 10_000


def test_what_the_recipe_says_of_a_source_is_kept(tmp_path: Path, run_corpus: RunCorpus) -> None:
    (tmp_path / "a.txt").write_text("text")
    source = {"kind": "text", "path": str(tmp_path), "licence": "MIT", "language": "de"}
    made, rows = run_corpus(source | {"metadata": {"team": "sales", "kind": "mine"}})
    assert rows[0]["language"] == "de"
    assert json.loads(rows[0]["metadata"]) == {"team": "sales", "kind": "text"}
    assert made.details["sources"]["text"] == {
        "kind": "text",
        "licence": "MIT",
        "licences": {"MIT": 1},
        "language": "de",
        "metadata": {"team": "sales", "kind": "mine"},
        "documents": 1,
        "bytes": 4,
        "quarantined": {},
        "passed_over": {},
    }


MEASURE = """
import resource, sys
from pathlib import Path
from cluster.store_local import LocalStore
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.part import Part, read_part
from pipelines.corpus.sources import SOURCES

folder = Path(sys.argv[1])

def read(kind, size):
    keys = {"kind": kind, "path": f"{folder}/{size}.{kind}", "max_unpack_ratio": 1e6}
    (source,) = CorpusConfig.model_validate({"sources": [keys]}).sources
    part = Part(0, tuple(SOURCES[type(source)].list_items(source, 1 << 30)))
    store = LocalStore(folder / "store")
    return read_part(part, source=source, name="x", part_bytes=1 << 20, store=store, prefix="p").tally.bytes

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

for kind in ("jsonl", "text"):
    read(kind, "small")
    before = peak()
    print(read(kind, "large"), (peak() - before) // 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Compressed files of 44 MB of text and of 5 MB, read one after the other by one process."""
    text = "some words of a line that is not very long\n\n" * 25
    compressor = zstandard.ZstdCompressor(level=1)
    for kind, unit in (("jsonl", json.dumps({"text": text}) + "\n"), ("text", text)):
        packed = compressor.compress(unit.encode() * 100)
        (tmp_path / f"small.{kind}").write_bytes(packed * 50)
        (tmp_path / f"large.{kind}").write_bytes(packed * 400)
    with (tmp_path / "large.jsonl").open("ab") as stream:
        stream.write(compressor.compress(b'{"text": "' + b"x" * (100 << 20) + b'"}\n'))
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        size, growth_mib = map(int, line.split())
        assert size == len(text) * 40_000
        assert growth_mib < 40  # the longest line that is held has 16 MiB
