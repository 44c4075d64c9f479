"""The stages ``tokenizer`` and ``tokens``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from cluster.artifact import Artifact
from cluster.errors import InternalError, UserError
from cluster.report import Page
from cluster.stage import Outcome, StageContext
from cluster.store import Store
from pipelines.tokens.config import TokenizerConfig, TokensConfig
from pipelines.tokens.special import BOS, EOS, PAD


def train_tokenizer(config: TokenizerConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Learn a vocabulary from the curated training split.

    Raises:
        UserError: the split is empty.
    """
    from pipelines.tokens.bpe import learn_bpe, write_folder
    from pipelines.tokens.special import SPECIAL_TOKENS

    corpus = inputs["corpus"]
    chosen, text_bytes = _choose_documents(context.store, corpus, config.max_training_bytes)
    if not chosen:
        raise UserError(
            "there is no training text to learn a vocabulary from",
            where=context.store.uri(corpus.id),
            next_step="look at the curation report for what dropped the documents, and relax it or add sources",
        )
    with context.progress.step("learn the vocabulary", len(chosen), "documents") as tracker:
        done = 0

        def texts() -> Iterator[str]:
            nonlocal done
            for document_id, text in _documents(context.store, corpus):
                if document_id in chosen:
                    done += 1
                    tracker.update(done)
                    yield text

        tokenizer = learn_bpe(texts(), config.vocab_size, config.min_frequency)
    size = tokenizer.get_vocab_size()
    if size < config.vocab_size:
        context.progress.note(
            f"the corpus gives {size:,} tokens, fewer than vocab_size {config.vocab_size:,}: "
            f"no further pair occurs {config.min_frequency} times"
        )
    write_folder(tokenizer, context.output.path("tokenizer.json").parent)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    page = Page("Tokenizer", f"byte-level BPE learned from {len(chosen):,} documents of {corpus.id}")
    page.figures({"tokens": size, "documents": len(chosen), "megabytes of text": text_bytes / 1e6})
    page.heading("Special tokens")
    page.table([{"token": token, "id": tokenizer.token_to_id(token)} for token in SPECIAL_TOKENS])
    page.heading("The longest tokens learned")
    longest = sorted(vocabulary, key=lambda item: (-len(item[0]), item[1]))[:40]
    page.table([{"id": number, "token": tokenizer.decode([number])} for _, number in longest])
    context.output.write_text("report.html", page.render())
    return Outcome(
        counts={"vocab_size": size, "training_documents": len(chosen), "training_bytes": text_bytes},
        licences=dict(corpus.licences),
        details={"special_tokens": {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}},
    )


def encode(config: TokensConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Encode and pack both splits.

    Raises:
        UserError: a split is empty or shorter than one prediction.
    """
    from tokenizers import Tokenizer

    from pipelines.tokens.encode import SPLITS, encode_splits
    from pipelines.tokens.packing import Packer, TokenBlocks
    from pipelines.tokens.statistics import CorpusStatistics, token_counts, unigram_loss

    corpus, tokenizer_artifact = inputs["corpus"], inputs["tokenizer"]
    tokenizer_json = context.store.read(tokenizer_artifact.key("tokenizer.json")).decode("utf-8")
    tokenizer = Tokenizer.from_str(tokenizer_json)
    vocab_size = tokenizer.get_vocab_size()
    marks = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD}
    ids: dict[str, int] = {}
    for name, token in marks.items():
        number = tokenizer.token_to_id(token)
        if number is None:
            raise InternalError(f"the tokenizer lacks the special token {token}", where=tokenizer_artifact.id)
        ids[name] = number
    folders = {split: context.output.path(f"{split}/index.json").parent for split in SPLITS}
    packers = {split: Packer(folder, vocab_size=vocab_size, **ids) for split, folder in folders.items()}
    statistics = CorpusStatistics()
    with context.progress.step("encode", corpus.counts.get("documents"), "documents") as tracker:
        tokens = 0
        for batch in encode_splits(context.store, corpus, tokenizer_json, config.workers):
            start = 0
            for split, document_id, length in zip(batch.splits, batch.ids, batch.lengths, strict=True):
                packers[split].add(document_id, batch.tokens[start : start + length])
                start += int(length)
            statistics.add(batch)
            tokens += start
            tracker.update(advance=len(batch.ids), tokens=tokens)
    indexes = {split: packer.finish(config.sequence_length) for split, packer in packers.items()}
    for split, index in indexes.items():
        if index.blocks == 0:
            raise UserError(
                f"the {split} split has no text",
                where=context.store.uri(corpus.id),
                next_step="raise curate.validation_fraction, relax curation, or add sources"
                if split == "validation"
                else "look at the curation report for what dropped the documents",
            )
    counted = {split: token_counts(TokenBlocks(folder), vocab_size) for split, folder in folders.items()}
    baseline = unigram_loss(counted["train"], counted["validation"])
    unused = [number for number in range(vocab_size) if counted["train"][number] + counted["validation"][number] == 0]
    counts = {f"{split}_{name}": value for split, index in indexes.items() for name, value in _sizes(index).items()}
    counts |= {"tokens": sum(index.tokens for index in indexes.values()), "unused_tokens": len(unused)}
    row = statistics.by_split["train"].row("train")
    metrics = {
        "train.tokens_per_word": row["tokens per word"],
        "train.bytes_per_token": row["bytes per token"],
        "validation.unigram_loss": baseline,
        "validation.unigram_perplexity": math.exp(baseline),
    }
    _report_tokens(context, config, statistics, counts, metrics, [tokenizer.decode([n]) or f"id {n}" for n in unused])
    return Outcome(
        counts=counts,
        metrics=metrics,
        licences=dict(corpus.licences),
        details={"splits": {split: asdict(index) for split, index in indexes.items()}},
    )


def _sizes(index: Any) -> dict[str, int]:
    return {"tokens": index.tokens, "blocks": index.blocks, "documents": index.documents}


def _documents(store: Store, corpus: Artifact) -> Iterator[tuple[str, str]]:
    """Id and text of every training document, in the order of the files."""
    import pyarrow.parquet as pq

    for entry in sorted(corpus.files, key=lambda entry: entry.path):
        if entry.path.startswith("train/") and entry.path.endswith(".parquet"):
            filesystem, path = store.arrow(corpus.key(entry.path))
            with filesystem.open_input_file(path) as source:
                for batch in pq.ParquetFile(source).iter_batches(1024, columns=["id", "text"]):
                    yield from zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True)


def _choose_documents(store: Store, corpus: Artifact, limit: int) -> tuple[set[str], int]:
    """Documents in the order of their hash until ``limit`` bytes; their ids and bytes."""
    from pipelines.tokens.packing import order_key

    sizes = {document_id: len(text.encode("utf-8")) for document_id, text in _documents(store, corpus)}
    chosen: set[str] = set()
    total = 0
    for document_id in sorted(sizes, key=lambda each: (order_key(each), each)):
        if chosen and total + sizes[document_id] > limit:
            break
        chosen.add(document_id)
        total += sizes[document_id]
    return chosen, total


def _report_tokens(
    context: StageContext,
    config: TokensConfig,
    statistics: Any,
    counts: Mapping[str, int],
    metrics: Mapping[str, float],
    unused: list[str],
) -> None:
    page = Page("Tokens", f"blocks of {config.sequence_length:,} tokens, document boundaries kept")
    page.figures(
        {
            "training tokens": counts["train_tokens"],
            "validation tokens": counts["validation_tokens"],
            "training blocks": counts["train_blocks"],
            "tokens per word": metrics["train.tokens_per_word"],
            "bytes per token": metrics["train.bytes_per_token"],
            "unigram perplexity": metrics["validation.unigram_perplexity"],
        }
    )
    page.heading("Fertility")
    page.table([tally.row(name) for name, tally in sorted(statistics.by_split.items())])
    page.table([tally.row(name) for name, tally in sorted(statistics.by_source.items())])
    page.heading("Lengths of documents")
    page.bar_chart("documents by length", statistics.length_histogram())
    page.heading("Unused tokens")
    page.paragraph(f"{len(unused):,} tokens of the vocabulary occur in neither split (special tokens among them).")
    if unused:
        page.sample("some of them", "  ".join(unused[:200]))
    context.output.write_text("report.html", page.render())
