"""The whole stage with gates, audit and mixture: what is published, what is written down, and that it adds up."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from cluster.artifact import Artifact, Identity, read_json, verify_artifact
from cluster.attempt import Attempt
from cluster.errors import InternalError, UserError
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store import Store
from cluster.store_local import LocalStore
from evals.config import BENCHMARK_TEXT_STAGE, BenchmarkTextConfig
from pipelines.corpus.documents import Document
from pipelines.corpus.table import decode, encode, part_name, to_table
from pipelines.curate import stage
from pipelines.curate.config import STAGE, CurateConfig

OFF: dict[str, Any] = {
    "language": [],
    "repetition": None,
    "quality": [],
    "redact": [],
    "dedup": {"minhash": None},
    "validation_fraction": 0,
}
Texts = list[tuple[str, str, str]]
"""source, licence and text of each document."""


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(function: Callable[[Any], Any], parts: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
        return map(function, parts)

    monkeypatch.setattr(stage, "map_parts", plain)


def publish(store: Store, texts: Texts, in_part: int) -> Artifact:
    identity = Identity("Corpus", "corpus", 1, {"texts": repr(texts), "in_part": in_part}, {})
    numbered = [(source, Document(f"{n:03d}", text, licence, {})) for n, (source, licence, text) in enumerate(texts)]
    counted: dict[str, Counter[str]] = {}
    for source, licence, _ in texts:
        counted.setdefault(source, Counter())[licence] += 1
    with Attempt(store, identity.id) as attempt:
        number = 0
        for source in counted:
            own = [document for name, document in numbered if name == source]
            for start in range(0, len(own), in_part):
                table = to_table(own[start : start + in_part], source)
                store.write(attempt.key(part_name("data", number)), encode(table))
                number += 1
        return attempt.publish(
            Artifact(
                kind="Corpus",
                name="corpus",
                fingerprint=identity.fingerprint,
                identity=identity.fields(),
                attempt=attempt.name,
                files=attempt.seal(),
                counts={"documents": len(texts)},
                details={"sources": {name: {"licences": dict(each)} for name, each in counted.items()}},
            )
        )


@pytest.fixture
def curate(store: Store) -> Callable[..., Artifact]:
    def run(texts: Texts, in_part: int = 3, benchmarks: Artifact | None = None, **settings: Any) -> Artifact:
        config = CurateConfig.model_validate(OFF | settings)
        inputs = {"corpus": publish(store, texts, in_part)} | ({"benchmarks": benchmarks} if benchmarks else {})
        identity = identify(STAGE, config, {role: each.fingerprint for role, each in inputs.items()})
        with Progress(io.StringIO(), live=False).track("curate") as tracker:
            return execute(STAGE, identity, config, inputs, store, tracker).artifact

    return run


def rows(store: Store, artifact: Artifact, folder: str) -> list[dict[str, Any]]:
    names = [each.path for each in artifact.files if each.path.startswith(f"{folder}/")]
    return [row for name in names for row in decode(store.read(artifact.key(name))).to_pylist()]


def page(store: Store, artifact: Artifact) -> str:
    return store.read(artifact.key("report.html")).decode()


def assert_adds_up(store: Store, made: Artifact, documents: int) -> dict[str, Any]:
    assert verify_artifact(store, made) == []
    funnel: dict[str, Any] = read_json(store, made, "funnel.json")
    dropped = Counter(row["drop_reason"] for row in rows(store, made, "dropped"))
    assert funnel["documents_in"] == documents == funnel["kept"] + sum(funnel["dropped"].values())
    assert funnel["dropped"] == dropped
    ids = {row["id"].partition(".")[0] for split in ("train", "validation") for row in rows(store, made, split)}
    assert len(ids) == funnel["kept"] == made.counts["documents"]
    return funnel


def texts_of(source: str, licence: str, count: int) -> Texts:
    return [
        (source, licence, f"{source} has many words to say, of which number {n} is this, {'x' * n}.")
        for n in range(count)
    ]


@pytest.fixture
def questions(store: Store) -> Artifact:
    config = BenchmarkTextConfig(suites=("arc_easy", "truthfulqa_mc1"), benchmarks="sample")
    with Progress(io.StringIO(), live=False).track("benchmark-text") as tracker:
        identity = identify(BENCHMARK_TEXT_STAGE, config, {})
        return execute(BENCHMARK_TEXT_STAGE, identity, config, {}, store, tracker).artifact


def test_questions_of_the_evaluation_are_taken_out_and_counted(
    curate: Callable[..., Artifact], questions: Artifact, store: Store
) -> None:
    leak = "Mara hangs a wet towel on a clothesline on a sunny day. By evening the towel is dry. What happened to the"
    texts = [
        *texts_of("web", "MIT", 5),
        ("web", "MIT", f"A quiz for you. {leak} It evaporated."),
        ("web", "MIT", f"The same quiz elsewhere. {leak.upper()} It evaporated."),
        ("web", "MIT", f"The same quiz elsewhere! {leak.upper()} It evaporated."),
    ]
    made = curate(texts, benchmarks=questions, decontaminate=True)
    funnel = assert_adds_up(store, made, 8)
    assert funnel["dropped"] == {"contaminated.arc_easy": 3}  # before duplicates are looked for
    written = read_json(store, made, "contamination.json")
    assert (written["benchmarks"], written["documents_checked"], written["documents_removed"]) == ("sample", 8, 3)
    easy = written["suites"]["arc_easy"]
    assert (easy["found"], easy["left"], easy["documents"]) == (1, 0, 3)
    assert easy["rate"] == 1 / easy["questions"] == made.metrics["contamination.arc_easy"]
    assert written["suites"]["truthfulqa_mc1"]["found"] == 0
    html = page(store, made)
    assert "<mark>Mara hangs a wet towel on a clothesline on a sunny day. By" in html
    assert "Contamination by benchmarks" in html

    reported = curate(texts, benchmarks=questions, decontaminate={"remove": False})
    assert read_json(store, reported, "contamination.json")["suites"]["arc_easy"]["left"] == 1
    assert "dropped.contaminated.arc_easy" not in reported.counts
    plain = curate(texts)
    assert not any(each.path in ("contamination.json", "audit.json") for each in plain.files)


def test_decontamination_without_questions_is_a_defect(curate: Callable[..., Artifact]) -> None:
    with pytest.raises(InternalError, match="no input `benchmarks`"):
        curate(texts_of("web", "MIT", 2), decontaminate=True)


def test_the_mixture_is_for_training_only_and_adds_up(curate: Callable[..., Artifact], store: Store) -> None:
    texts = [*texts_of("large", "MIT", 40), *texts_of("small", "Apache-2.0", 10)]
    mix = {"sources": {"large": {"weight": 0.5}, "small": {"weight": 3}}}
    made = curate(texts, validation_fraction=0.2, mix=mix)
    plain = curate(texts, validation_fraction=0.2)
    assert rows(store, made, "validation") == rows(store, plain, "validation")
    funnel = assert_adds_up(store, made, 50)
    train = Counter(row["source"] for row in rows(store, made, "train"))
    before = Counter(row["source"] for row in rows(store, plain, "train"))
    assert train["small"] == 3 * before["small"]
    assert 0.4 * before["large"] < train["large"] < 0.6 * before["large"]
    assert funnel["dropped"] == {"mix.weight": before["large"] - train["large"]}
    account = {row["source"]: row for row in made.details["mix"]}
    assert (account["small"]["repeats"], made.counts["repeats"]) == (2 * before["small"], 2 * before["small"])
    assert account["small"]["licences"] == {"Apache-2.0": 10}
    assert account["large"]["licences"] == {"MIT": account["large"]["documents"]}
    held_out = sum(row["source"] == "large" for row in rows(store, made, "validation"))
    assert account["large"]["documents"] == train["large"] + held_out
    assert made.licences == {"MIT": train["large"] + held_out, "Apache-2.0": 10}
    whole = sum(len(row["text"]) for row in rows(store, made, "train"))
    own = sum(len(row["text"]) for row in rows(store, made, "train") if row["source"] == "small")
    assert account["small"]["train"]["share"] == pytest.approx(own / whole)
    assert "Mixture of the training split" in page(store, made)
    assert {row["weight"] for row in plain.details["mix"]} == {1.0}


def test_parts_do_not_change_the_mixture(curate: Callable[..., Artifact], store: Store) -> None:
    texts = [*texts_of("a", "MIT", 11), *texts_of("b", "MIT", 4)]
    mix = {"temperature": 3, "max_repeats": 3, "sources": {"a": {"max_documents": 6}}}
    seen = []
    for in_part in (2, 5, 100):
        made = curate(texts, in_part, mix=mix)
        seen.append(sorted(map(str, rows(store, made, "train"))))
        assert "dropped.mix.cap" in made.counts
    assert seen[0] == seen[1] == seen[2]


def test_redactions_are_counted_by_source(curate: Callable[..., Artifact], store: Store) -> None:
    texts = [
        ("web", "MIT", "Ask ann@example.org or bob@example.net, at 8.8.8.8."),
        ("web", "MIT", "Ask eve@example.com about the other thing that was said."),
        ("mail", "MIT", "From joe@example.org to all who read this, with regards."),
        ("books", "MIT", "A text in which nobody can be written to at any address."),
    ]
    made = curate(texts, redact=["email", "ip"])
    funnel = assert_adds_up(store, made, 4)
    assert funnel["redacted_by_source"] == {"mail": {"email": 1}, "web": {"email": 3, "ip": 1}}
    assert funnel["redacted"] == {"email": 4, "ip": 1}
    html = page(store, made)
    table = html[html.index("Placeholders by source") :]
    cells = re.findall(r"<t[dh][^>]*>([^<]*)", table[: table.index("</table>")])
    assert cells == ["source", "email", "ip", "web", "3", "1", "mail", "1", "0"]


def test_no_file_of_the_corpus_is_read_again_for_its_checksum(
    curate: Callable[..., Artifact], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    summed = LocalStore.sha256

    def watched(self: LocalStore, key: str) -> tuple[str, int]:
        read.append(key)
        return summed(self, key)

    monkeypatch.setattr(LocalStore, "sha256", watched)
    mix = {"sources": {"web": {"max_documents": 2}}}
    made = curate(texts_of("web", "MIT", 7), mix=mix, validation_fraction=0.4)
    sealed = {key.removeprefix(f"{made.data_prefix}/") for key in read}
    assert sealed & {each.path for each in made.files} == {"funnel.json", "report.html"}
    assert {each.path.partition("/")[0] for each in made.files} > {"train", "validation", "dropped", "scores"}


def test_a_forbidden_licence_publishes_nothing(curate: Callable[..., Artifact], store: Store) -> None:
    texts = [*texts_of("web", "unknown", 3), *texts_of("docs", "MIT", 2)]
    with pytest.raises(UserError, match=r"web: 3 documents under unknown \(unknown\)") as caught:
        curate(texts, licences={"allow": ["MIT"]})
    assert caught.value.exit_code == 2
    made = curate(texts, licences={"allow": ["MIT"], "on_refusal": "drop"})
    assert assert_adds_up(store, made, 5)["dropped"] == {"licence": 3}
    assert made.licences == {"MIT": 2}


def test_the_audit_changes_nothing_unless_it_is_told_to(curate: Callable[..., Artifact], store: Store) -> None:
    texts = [
        *texts_of("web", "MIT", 4),
        ("web", "MIT", "You stupid idiot, she said to the men."),
        ("docs", "MIT", "She is kind."),
    ]
    plain, made = curate(texts), curate(texts, audit=True)
    assert rows(store, made, "train") == rows(store, plain, "train")
    audit = read_json(store, made, "audit.json")
    assert audit["documents"] == 6
    lists = {each["name"]: each for each in audit["lists"]}
    assert (lists["women"]["mentions"], lists["men"]["mentions"], lists["toxic"]["mentions"]) == (2, 1, 2)
    assert lists["women"]["near"]["toxic"]["mentions"] == 1
    assert lists["women"]["by_source"]["docs"]["share"] == 0.5
    assert "Word lists: Written for Raymill" in page(store, made)

    halved = curate(texts, audit=True, mix={"sources": {"web": {"max_documents": 2}}})
    published = rows(store, halved, "train")
    audit = read_json(store, halved, "audit.json")
    assert (audit["documents"], len(published)) == (3, 3)
    toxic = sum("stupid" in row["text"] for row in published)
    assert {each["name"]: each["mentions"] for each in audit["lists"]}["toxic"] == 2 * toxic

    filtered = curate(texts, audit={"drop_above": 100})
    assert assert_adds_up(store, filtered, 6)["dropped"] == {"audit.toxic": 1}
    assert read_json(store, filtered, "audit.json")["documents"] == 5


def longer_than(document: Any, least: int) -> str | None:
    return None if len(document["text"]) > least else "too_short"


def test_your_own_filter_is_counted(
    curate: Callable[..., Artifact], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    module = types.ModuleType("my_filters")
    module.longer_than = longer_than  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_filters", module)
    made = curate(
        [("web", "MIT", "short"), *texts_of("web", "MIT", 3)],
        filters=[{"function": "my_filters:longer_than", "options": {"least": 20}}],
    )
    assert assert_adds_up(store, made, 4)["dropped"] == {"filter.longer_than.too_short": 1}
