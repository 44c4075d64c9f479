"""Perplexity on text the model never saw: the curated corpus's validation split, beside a unigram baseline.

Method. Documents are taken in the order of SHA-256(seed, id), each cut to its first 20,000 characters, until they have
``heldout_tokens`` tokens: whole documents, the same ones whatever the files' layout. Every token is predicted once,
given what precedes it in its document (:meth:`evals.harness.ClusterLM.rolling_tokens` says how a document longer than
the context is cut). The baseline gives token t the probability (count(t) + 1) / (N + V): counts and N from the train
split, V the tokenizer's size (add-one smoothing). A model that has learnt anything of the order of words beats it.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.artifact import Artifact
from cluster.errors import InternalError, UserError
from cluster.progress import Tracker
from cluster.store import Store
from evals.pool import ScorerPool

if TYPE_CHECKING:
    from evals.harness import ClusterLM

LARGEST_LOSS = 700.0
"""Nats a token; e to the power of 710 overflows."""

DOCUMENT_CHARACTERS = 20_000
CANDIDATES = 20_000
"""Validation documents kept in memory while choosing; far more than ``heldout_tokens`` ever needs of usual length."""

TRAIN_CANDIDATES = 2_000
"""Documents at the beginning of the train split among which those to measure are chosen."""

SHOWN_CHARACTERS = 300

HELD_OUT, TRAINING = "held-out windows", "training windows"
"""What progress and the account of time and tokens call the two texts."""

UNIGRAM_BYTES = 64 << 20
"""Text of the train split to count tokens in, in file order; frequencies do not move beyond it."""


@dataclass(frozen=True)
class TextLoss:
    """One document: how long it is, how likely the model finds it (natural logarithm), and its beginning."""

    sha256: str
    tokens: int
    text_bytes: int
    log_likelihood: float
    beginning: str

    @property
    def bits_per_byte(self) -> float:
        """Its loss in bits a UTF-8 byte: comparable between models whatever their tokenizers."""
        return -self.log_likelihood / math.log(2) / self.text_bytes

    def row(self, number: int, task: str) -> dict[str, Any]:
        """A line of ``samples/<task>.jsonl``; it weighs its bytes, so that the mean is that of the whole text."""
        return {
            "task": task,
            "doc_id": number,
            "doc_hash": self.sha256,
            "doc": {"tokens": self.tokens, "bytes": self.text_bytes},
            "target": None,
            "prompt": self.beginning,
            "output": "",
            "metrics": {"bits_per_byte": self.bits_per_byte},
            "weight": self.text_bytes,
        }


@dataclass(frozen=True)
class HeldOut:
    """What was measured; ``metrics`` names the figures.

    Attributes:
        texts: the same by document.
        train: the same of text that the model did learn from, to tell overfitting; None where it was not measured.
        unanswered: documents that an endpoint did not answer; they are in none of the figures.
    """

    documents: int
    tokens: int
    text_bytes: int
    log_likelihood: float
    unigram_log_likelihood: float
    texts: tuple[TextLoss, ...] = ()
    train: HeldOut | None = None
    unanswered: int = 0

    @property
    def bits_per_byte(self) -> float:
        """The loss in bits a UTF-8 byte."""
        return -self.log_likelihood / math.log(2) / self.text_bytes

    @property
    def unigram_bits_per_byte(self) -> float:
        """What token frequencies alone need."""
        return -self.unigram_log_likelihood / math.log(2) / self.text_bytes

    def metrics(self) -> dict[str, float]:
        """Perplexities per token, their ratio (below 1: better than the baseline) and bits per UTF-8 byte.

        Raises:
            InternalError: the likelihood is not a number, or the perplexity beyond what a float can hold.
        """
        loss = -self.log_likelihood / self.tokens
        if not math.isfinite(loss) or loss > LARGEST_LOSS:
            raise InternalError(
                f"the loss on held-out text is {loss} nats a token: the model gives no usable probabilities",
                where="heldout.perplexity",
                next_step="check the model's weights with `raymill verify`, and its training curves",
            )
        perplexity = math.exp(loss)
        unigram = math.exp(-self.unigram_log_likelihood / self.tokens)
        found = {
            "heldout.perplexity": perplexity,
            "heldout.unigram_perplexity": unigram,
            "heldout.unigram_ratio": perplexity / unigram,
            "heldout.bits_per_byte": self.bits_per_byte,
        }
        if self.train is not None:
            own = self.train.metrics()
            found |= {f"heldout.train_{name}": own[f"heldout.{name}"] for name in ("perplexity", "bits_per_byte")}
        return found


def measure(
    lm: ClusterLM,
    pool: ScorerPool,
    store: Store,
    corpus: Artifact,
    tokens: int,
    seed: int,
    tracker: Tracker,
    *,
    with_train: bool = True,
) -> HeldOut:
    """Measure a model on a curated corpus: its validation split, and as much of its train split.

    Raises:
        UserError: the validation split is empty.
    """
    texts = choose_documents(store, corpus, seed)
    learned = choose_documents(store, corpus, seed, "train", TRAIN_CANDIDATES) if with_train else []
    if not any(texts):
        raise UserError(
            "the corpus has no validation documents to measure perplexity on",
            where=corpus.id,
            next_step="raise curate's validation share, or set evals.heldout to false",
        )
    counts = count_train_tokens(pool, store, corpus, tracker)
    found = measure_texts(lm, texts, tokens, counts, HELD_OUT)
    train = measure_texts(lm, learned, tokens, counts, TRAINING) if any(learned) else None
    return replace(found, train=train)


def measure_texts(
    lm: ClusterLM, texts: Iterable[str], tokens: int, counts: Mapping[int, int], label: str = "windows"
) -> HeldOut:
    """Measure a model on texts, in their order, until they have so many tokens.

    Args:
        counts: token -> frequency in the training text, for the unigram baseline.
    """
    chosen: list[tuple[str, list[int]]] = []
    total = 0
    for text in texts:
        encoded = lm.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        if encoded:
            chosen.append((text, encoded))
            total += len(encoded)
        if total >= tokens:
            break
    likelihoods = lm.rolling_tokens([encoded for _, encoded in chosen], label)
    answered = [
        (text, encoded, likelihood)
        for (text, encoded), likelihood in zip(chosen, likelihoods, strict=True)
        if likelihood is not None
    ]
    losses = tuple(
        TextLoss(hashlib.sha256(data).hexdigest(), len(encoded), len(data), likelihood, text[:SHOWN_CHARACTERS])
        for text, encoded, likelihood in answered
        for data in (text.encode("utf-8"),)
    )
    return HeldOut(
        len(losses),
        sum(loss.tokens for loss in losses),
        sum(loss.text_bytes for loss in losses),
        math.fsum(loss.log_likelihood for loss in losses),
        unigram_log_likelihood(counts, len(lm.tokenizer), [encoded for _, encoded, _ in answered]),
        losses,
        unanswered=len(chosen) - len(answered),
    )


def choose_documents(
    store: Store, corpus: Artifact, seed: int, split: str = "validation", among: int | None = None
) -> list[str]:
    """Texts of a split in the order of SHA-256(seed, id), each cut to DOCUMENT_CHARACTERS.

    Args:
        among: only of so many documents at the beginning, of a split too large to read for this.
    """

    def key(document: tuple[str, str]) -> tuple[str, str]:
        return hashlib.sha256(f"{seed}\0{document[0]}".encode()).hexdigest(), document[0]

    documents = itertools.islice(_documents(store, corpus, split), among)
    chosen = heapq.nsmallest(CANDIDATES, documents, key=key)
    return [text for _, text in chosen]


def _documents(store: Store, corpus: Artifact, split: str) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    for path in _parts(corpus, split):
        filesystem, place = store.arrow(corpus.key(path))
        with filesystem.open_input_file(place) as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=1024, columns=["id", "text"]):
                for document, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
                    yield document, text[:DOCUMENT_CHARACTERS]


def _parts(corpus: Artifact, split: str) -> list[str]:
    return sorted(
        entry.path for entry in corpus.files if entry.path.startswith(f"{split}/") and entry.path.endswith(".parquet")
    )


def count_train_tokens(pool: ScorerPool, store: Store, corpus: Artifact, tracker: Tracker) -> dict[int, int]:
    """Token -> frequency in the first UNIGRAM_BYTES of the train split, counted by the pool's actors."""
    pieces = _train_pieces(store, corpus)
    with tracker.step("counting train tokens", total=len(pieces), unit="pieces") as progress:
        counted = pool.map(
            [functools.partial(_ask_to_count, store, piece) for piece in pieces],
            lambda _: progress.update(advance=1),
        )
    totals: dict[int, int] = {}
    for counts in counted:
        for token, count in counts.items():
            totals[token] = totals.get(token, 0) + count
    return totals


def _ask_to_count(store: Store, piece: tuple[str, list[int]], actor: Any) -> Any:
    return actor.count_tokens.remote(store, *piece)


def _train_pieces(store: Store, corpus: Artifact) -> list[tuple[str, list[int]]]:
    """(key, row groups) in file order, up to UNIGRAM_BYTES of uncompressed text."""
    import pyarrow.parquet as pq

    pieces: list[tuple[str, list[int]]] = []
    taken = 0
    for path in _parts(corpus, "train"):
        filesystem, place = store.arrow(corpus.key(path))
        with filesystem.open_input_file(place) as file:
            metadata = pq.ParquetFile(file).metadata
        column = metadata.schema.names.index("text")
        for group in range(metadata.num_row_groups):
            if taken >= UNIGRAM_BYTES:
                return pieces
            pieces.append((corpus.key(path), [group]))
            taken += metadata.row_group(group).column(column).total_uncompressed_size
    return pieces


def unigram_log_likelihood(counts: Mapping[int, int], vocabulary: int, documents: list[list[int]]) -> float:
    """Log-likelihood (natural logarithm) of all tokens under add-one smoothed frequencies."""
    total = sum(counts.values()) + vocabulary
    return math.fsum(math.log((counts.get(token, 0) + 1) / total) for tokens in documents for token in tokens)
